"""Rows from a ``.npy`` file, read as they are needed and never mapped: mapped pages count against the process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers import fingerprint
from fanout.io.readers.base import SeekableSource, rows_in_block
from fanout.types import Array, Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

OBJECTS = (
    "an array of objects, which only unpickling could read, and that may run any code; save the rows with a plain "
    "dtype instead, for instance np.save(path, np.stack(rows).astype(np.float32))"
)
_ARCHIVE = b"PK"


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of an array in numpy's format tells."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_column: bool
    """The first axis, that of the rows, varies fastest (Fortran's order)."""

    offset: int
    """Where the numbers begin."""

    @property
    def n_rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def form(self) -> str:
        """What every row looks like."""
        kind = "texts" if self.dtype.kind in "US" else f"{self.dtype.newbyteorder('=')} values"
        return f"{kind} of shape {list(self.shape[1:])}"


class NpySource(SeekableSource):
    """The array of a ``.npy`` file; row i is ``array[i]``.

    Raises:
        InputError: not a ``.npy`` file, one that is cut short, an array that has no rows to send, or a ``column`` or
            ``id``, which it cannot have.
    """

    uniform = True

    def __init__(
        self,
        path: Path,
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        for key, value in (("column", column), ("id", id)):
            if value is not None:
                raise InputError(f"{path.name} is one array without a name: leave {key} out", key=f"input.{key}")
        self.path = path
        with path.open("rb", buffering=0) as file, reading_array(path, "a .npy file"):
            if file.read(2) == _ARCHIVE:
                raise InputError(f"{path.name} is an archive of arrays: give it the suffix .npz", key="input.path")
            file.seek(0)
            self._header = read_header(file, path.name, key="input.path")
            _require_whole(path, self._header, os.fstat(file.fileno()).st_size)
        self.n_rows = self._header.n_rows
        self.form = self._header.form

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""
        with self.path.open("rb", buffering=0) as file, reading_array(self.path, "a .npy file"):
            size = rows_in_block(self._header.row_bytes)
            for start in range(row, self._header.n_rows, size):
                yield Block(read_rows(file, self._header, start, min(start + size, self._header.n_rows)))

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        return {"format": "npy", "file": fingerprint.of_file(self.path)}


def read_header(file: IO[bytes], what: str, *, key: str) -> Header:
    """The head of the array that begins where ``file`` is.

    Raises:
        InputError: an array that has no first axis, or holds what no codec can send.
        ValueError: no head of an array.
    """
    version = np.lib.format.read_magic(file)
    # Version 3 differs from 2 in the encoding of the names of fields, and arrays with fields are refused below.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(file)
    if dtype.hasobject:
        raise InputError(f"{what} holds {OBJECTS}", key=key)
    if not shape:
        raise InputError(f"{what} holds a single value, not rows: it needs a first axis", key=key)
    if dtype.kind == "V":
        raise InputError(f"{what} has dtype {dtype}, of which no request can be made; use a plain one", key=key)
    if min(shape) < 0:
        raise ValueError(f"its shape is {list(shape)}")
    return Header(shape, dtype, by_column and len(shape) > 1, file.tell())


def read_rows(file: IO[bytes], header: Header, start: int, stop: int) -> Array:
    """The rows ``start <= i < stop`` of the array in a file that can seek; shape (stop - start, ...), native."""
    width = header.dtype.itemsize
    if not header.by_column:
        rows = np.empty((stop - start, *header.shape[1:]), header.dtype)
        file.seek(header.offset + start * header.row_bytes)
        fill(file, rows)
        return native(rows)
    # Each column is in one piece; transposed, the columns of the block are too.
    columns = np.empty((prod(header.shape[1:]), stop - start), header.dtype)
    for i, column in enumerate(columns):
        file.seek(header.offset + (i * header.n_rows + start) * width)
        fill(file, column)
    return native(np.ascontiguousarray(columns.reshape(*header.shape[:0:-1], stop - start).T))


def fill(file: IO[bytes], array: Array) -> None:
    """Read ``array``'s bytes, which are contiguous, from where ``file`` is. Raises `EOFError` if it ends before."""
    if not array.nbytes:
        return
    left = array.reshape(-1).view(np.uint8).data
    while left:
        n_read = file.readinto(left)  # type: ignore[attr-defined] # binary files have it, their common type does not
        if not n_read:
            raise EOFError("it ends before its last row")
        left = left[n_read:]


def native(array: Array) -> Array:
    """``array`` in this machine's byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextmanager
def reading_array(path: Path, what: str, *, key: str = "input.path") -> Iterator[None]:
    """Raise `InputError` for what shows as the file is read."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", key="input.path") from None
    except Exception as error:  # noqa: BLE001 - a damaged head is Python that cannot be parsed, or a shape beyond memory
        text = " ".join(str(error).split())
        if "magic string" in text:
            text = "it does not begin as one does"
        if not isinstance(error, ValueError | EOFError):
            text = f"{type(error).__name__}: {text}"
        raise InputError(f"{path} cannot be read as {what}: {text}", key=key) from None


def _require_whole(path: Path, header: Header, size: int) -> None:
    there = size - header.offset
    if there >= header.n_rows * header.row_bytes:
        return
    rows = 0 if header.by_column else there // header.row_bytes
    told = f"it is cut short: its head tells of {header.n_rows} rows, but only {rows} are whole"
    raise InputError(f"{path} cannot be read as a .npy file: {told}", key="input.path")
