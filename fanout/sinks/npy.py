"""Answers into ``.npy`` files, chunk by chunk, in any order."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from fanout.errors import ConfigError
from fanout.sinks.base import FileSink
from fanout.sinks.partial import Partial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.types import Array, Done, Result, Values

_FILL_BYTES = 2**20


class NpySink(FileSink):
    """Writes ``path``, or ``stem.NAME.npy`` beside it for each of several outputs.

    Rows without an answer hold NaN, 0 or False. The files are written with ``pwrite`` and not through a memory map:
    a map counts against the process's memory, and on a full disk it kills the process instead of raising.
    """

    _columns: dict[str, _Column] | None = None

    def write(self, done: Sequence[Done]) -> None:
        """Write some chunks to their places. Raises `ConfigError` for outputs that a ``.npy`` file cannot hold."""
        for chunk in done:
            if chunk.outputs is None:
                continue
            if self._columns is None:
                self._columns = self._open_columns(chunk.outputs)
            for name, column in self._columns.items():
                column.write(chunk.start, chunk.outputs[name])

    def close(self) -> None:
        """Let go of the files."""
        for column in (self._columns or {}).values():
            column.partial.close()
        super().close()

    def _publish(self, result: Result) -> tuple[Path, ...]:
        if self._columns is None:  # no rows: what np.save writes of an empty list
            buffer = io.BytesIO()
            np.save(buffer, np.empty(0))
            self._partial.append(buffer.getvalue())
            self._partial.publish()
            return (self.path,)
        for column in self._columns.values():
            for failure in result.failures:
                column.fill(failure.start, failure.stop)
            for chunk in result.pending:
                column.fill(chunk.start, chunk.stop)
        for column in self._columns.values():
            column.partial.publish()
        self._partial.discard()  # with several outputs it was but the lock
        return tuple(self._path_of(name, len(self._columns)) for name in self._columns)

    def _open_columns(self, outputs: Values) -> dict[str, _Column]:
        for name, array in outputs.items():
            self._require_writable(name, array)
        columns: dict[str, _Column] = {}
        try:
            for name, array in outputs.items():
                path = self._path_of(name, len(outputs))
                partial = self._partial if len(outputs) == 1 else Partial(path)
                columns[name] = _Column(partial, array.dtype, (self.n_rows, *array.shape[1:]))
                columns[name].reserve()
        except OSError:
            for column in columns.values():
                column.partial.close()
            raise
        return columns

    def _path_of(self, name: str, n_outputs: int) -> Path:
        # A server chooses its outputs' names: quoted, a "../" in one stays inside the file name.
        return self.path if n_outputs == 1 else self.path.with_name(f"{self.path.stem}.{quote(name, safe=' ')}.npy")

    def _require_writable(self, name: str, array: Array) -> None:
        what = f'output "{name}"' if name else "the output"
        remedy = f"write to {self.path.with_suffix('.jsonl').name}"
        if array.dtype.kind not in "biufc":
            kind = "texts" if array.dtype.kind in "TUS" else f"dtype {array.dtype}"
            raise ConfigError(
                f"{what} is {kind}, which a .npy file can hold only as a pickle: {remedy}", key="output.path"
            )
        if name == "ok":
            raise ConfigError(
                f'{what} would be written over the mask of rows, which is "ok" too: {remedy}', key="output.path"
            )


class _Column:
    """One output's file."""

    def __init__(self, partial: Partial, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.partial = partial
        self._dtype = dtype
        self._row_shape = shape[1:]
        self._row_bytes = dtype.itemsize * math.prod(shape[1:])
        self._header = _header(dtype, shape)
        self._size = len(self._header) + shape[0] * self._row_bytes

    def reserve(self) -> None:
        self.partial.reserve(self._size)
        self.partial.write_at(self._header, 0)

    def write(self, start: int, array: Array) -> None:
        # The engine has proven this. Here it would not be noticed, but shift bytes into other rows.
        assert array.dtype == self._dtype, f"{array.dtype} is not {self._dtype}"
        assert array.shape[1:] == self._row_shape, f"{array.shape[1:]} is not {self._row_shape}"
        if array.nbytes:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self.partial.write_at(data.data, self._offset(start))

    def fill(self, start: int, stop: int) -> None:
        """Write the value that stands for no answer, a bounded number of rows at a time."""
        step = max(1, _FILL_BYTES // max(1, self._row_bytes))
        value = math.nan if self._dtype.kind in "fc" else 0
        block = np.full((min(step, stop - start), *self._row_shape), value, self._dtype)
        for row in range(start, stop, step):
            self.write(row, block[: stop - row])

    def _offset(self, row: int) -> int:
        return len(self._header) + row * self._row_bytes


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header that np.save would write for a C-ordered array; its length is a multiple of 64."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
