"""Rows from numpy's files, ``.npy`` and ``.npz``, read as they are needed.

The files are never mapped into memory: mapped pages count against the process.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.kept import KEEP
from fanout.io.readers.base import FileSource, reading, rows_per_block
from fanout.io.readers.columns import ColumnOptions, require_unnamed, select_columns
from fanout.types import Array, Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.io.kept import Pieces
    from fanout.io.remote.file import InputPath

    RowReader = Callable[[int, int], Array]
    """Returns the rows ``start <= i < stop`` of an array; each call starts where the last one stopped."""

_OBJECTS = (
    "an array of objects, which only unpickling could read, and that may run any code; save the rows with a plain "
    "dtype instead, for instance np.save(path, np.stack(rows).astype(np.float32))"
)
_ZIP_MAGIC, _NPY_MAGIC = b"PK", b"\x93NUMPY"
_SUFFIX = ".npy"
_SKIPPED_BYTES = 2**20

_reading = partial(reading, plain=(ValueError, EOFError))


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of an array in numpy's format.

    Attributes:
        by_column: True if the first axis, that of the rows, varies fastest (Fortran order).
        offset: position of the first value in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_column: bool
    offset: int

    @property
    def n_rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def schema(self) -> str:
        kind = "texts" if self.dtype.kind in "US" else f"{self.dtype.newbyteorder('=')} values"
        return f"{kind} of shape {list(self.shape[1:])}"


class NpySource(FileSource):
    """The array of a ``.npy`` file; row i is ``array[i]``.

    Raises:
        InputError: not a ``.npy`` file, or one that is cut short; an array without rows that can be sent; or
            columns were named, which it does not have.
    """

    _format = "npy"
    uniform = True

    def __init__(self, path: InputPath, columns: ColumnOptions) -> None:
        require_unnamed(columns, f"{path.name} is one array without a name")
        self.path = path
        # Without a buffer, the bytes of a block are read straight into its array.
        with path.open("rb", buffering=0) as file, _reading(path, "a .npy file"):
            if file.read(2) == _ZIP_MAGIC:
                raise InputError(f"{path.name} is an archive of arrays: give it the suffix .npz", key="input.path")
            file.seek(0)
            self._header = _read_header(file, path.name, key="input.path")
            _require_whole(self._header, file.seek(0, os.SEEK_END))
        self.n_rows = self._header.n_rows
        self.schema = self._header.schema

    def blocks_from(self, row: int) -> Iterator[Block]:
        with self.path.open("rb", buffering=0) as file, _reading(self.path, "a .npy file"):
            size = rows_per_block(self._header.row_bytes)
            for start in range(row, self._header.n_rows, size):
                yield Block(_read_rows(file, self._header, start, min(start + size, self._header.n_rows)))

    def kept_pieces(self, columns: ColumnOptions) -> tuple[dict[str, Any], Iterator[Pieces]]:
        raise InputError(f"{self.path.name} is one array without columns that could be kept", key=KEEP)


class NpzSource(FileSource):
    """One array of a ``.npz`` archive, or several in step.

    Raises:
        InputError: not an archive of arrays, no such array, or arrays with different numbers of rows.
    """

    _format = "npz"
    uniform = True

    def __init__(self, path: InputPath, columns: ColumnOptions) -> None:
        self.path = path
        with path.open("rb") as file:
            if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
                raise InputError(f"{path.name} is one array, not an archive: give it the suffix .npy", key="input.path")
        with _open_archive(path) as archive:
            names = [name.removesuffix(_SUFFIX) for name in archive.namelist()]
            # An archive may hold other files, which are no arrays; they are refused when they are named.
            self._selection = selection = select_columns(names, columns, file=path.name, noun="array")
            self._headers = {name: _read_member_header(path, archive, name) for name in selection.all}
        if len({header.n_rows for header in self._headers.values()}) > 1:
            lengths = ", ".join(f'"{name}" {header.n_rows}' for name, header in self._headers.items())
            raise InputError(f"the columns have different numbers of rows: {lengths}", key="input.column")
        self.n_rows: int = self._headers[selection.names[0]].n_rows
        self.schema = {name: self._headers[name].schema for name in selection.names}

    def blocks_from(self, row: int) -> Iterator[Block]:
        assert self._selection is not None
        # All arrays are read in step, so a block counts the bytes of a row of each.
        size = rows_per_block(sum(header.row_bytes for header in self._headers.values()))
        with _open_archive(self.path) as archive, ExitStack() as stack:
            readers = {
                name: stack.enter_context(_row_reader(archive, name, header, row))
                for name, header in self._headers.items()
            }
            for start in range(row, self.n_rows, size):
                stop = min(start + size, self.n_rows)
                columns = {name: read(start, stop) for name, read in readers.items()}
                yield self._selection.block(columns, self.path.name, start)

    def kept_pieces(self, columns: ColumnOptions) -> tuple[dict[str, Any], Iterator[Pieces]]:
        kept = NpzSource(self.path, columns)
        if kept.n_rows != self.n_rows:
            problem = f"the kept arrays have {kept.n_rows:,} rows, those that are sent {self.n_rows:,}"
            raise InputError(f"{self.path.name}: {problem}", key=KEEP)
        # Arrays of one length are a mapping by name.
        pieces: Any = (block.rows for block in kept.blocks())
        return dict.fromkeys(kept.schema), pieces


def _read_header(file: IO[bytes], what: str, *, key: str) -> _Header:
    """Read the header of the array that begins at the position of ``file``.

    Raises:
        InputError: the array has no first axis, or values that no codec can send.
        ValueError: there is no header.
    """
    version = np.lib.format.read_magic(file)
    # Version 3 differs from 2 in the encoding of fields' names alone, and arrays with fields are refused below.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(file)
    if dtype.hasobject:
        raise InputError(f"{what} holds {_OBJECTS}", key=key)
    if not shape:
        raise InputError(f"{what} holds a single value, not rows: it needs a first axis", key=key)
    if dtype.kind == "V":
        raise InputError(f"{what} has dtype {dtype}, which no request can hold; use a plain one", key=key)
    if min(shape) < 0:
        raise ValueError(f"its shape is {list(shape)}")
    # The rows of a one-dimensional array are contiguous in both orders.
    return _Header(shape, dtype, by_column and len(shape) > 1, file.tell())


def _require_whole(header: _Header, size: int) -> None:
    """Raise `ValueError` if a file of ``size`` bytes does not hold all rows of its array."""
    n_bytes = size - header.offset
    if n_bytes < header.n_rows * header.row_bytes:
        whole = 0 if header.by_column else n_bytes // header.row_bytes
        raise ValueError(f"it is cut short: its header says {header.n_rows} rows, but only {whole} are whole")


def _read_rows(file: IO[bytes], header: _Header, start: int, stop: int) -> Array:
    """Read the rows ``start <= i < stop`` from a file that can seek; shape (stop - start, ...), native byte order."""
    if not header.by_column:
        file.seek(header.offset + start * header.row_bytes)
        return _read_next(file, header, stop - start)
    # The rows of one column are contiguous in the file. The block is filled column by column, then transposed.
    columns = np.empty((prod(header.shape[1:]), stop - start), header.dtype)
    for i, column in enumerate(columns):
        file.seek(header.offset + (i * header.n_rows + start) * header.dtype.itemsize)
        _fill(file, column)
    return _native(np.ascontiguousarray(columns.reshape(*header.shape[:0:-1], stop - start).T))


def _read_next(file: IO[bytes], header: _Header, n_rows: int) -> Array:
    rows = np.empty((n_rows, *header.shape[1:]), header.dtype)
    _fill(file, rows)
    return _native(rows)


def _fill(file: IO[bytes], array: Array) -> None:
    """Read the bytes of a contiguous array from the file's position. Raises `EOFError` if the file ends before."""
    if not array.nbytes:
        return
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        n_read = file.readinto(rest)  # type: ignore[attr-defined] # IO has no readinto
        if not n_read:
            raise EOFError("it ends before its last row")
        rest = rest[n_read:]


def _native(array: Array) -> Array:
    # Codecs send the bytes of an array as they are in memory.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextmanager
def _open_archive(path: InputPath) -> Iterator[zipfile.ZipFile]:
    with _reading(path, "a .npz archive"):
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                yield archive
        # zipfile raises the last two for unknown methods of compression and for encryption.
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise ValueError(error) from None


def _read_member_header(path: InputPath, archive: zipfile.ZipFile, name: str) -> _Header:
    member = name + _SUFFIX
    if member not in archive.namelist():
        raise InputError(f'"{name}" in {path.name} is no array', key="input.column")
    with _reading(path, f'an archive with the array "{name}"', key="input.column"), archive.open(member) as file:
        header = _read_header(file, f'"{name}" in {path.name}', key="input.column")
        _require_whole(header, archive.getinfo(member).file_size)
        return header


@contextmanager
def _row_reader(archive: zipfile.ZipFile, name: str, header: _Header, row: int) -> Iterator[RowReader]:
    """Open a reader of one array's rows from ``row`` on."""
    with archive.open(name + _SUFFIX) as member:
        if header.by_column:
            # The values of a row lie all over the array, and to seek in a compressed member reads it anew each time.
            with TemporaryFile() as file:
                shutil.copyfileobj(member, file)
                yield partial(_read_rows, file, header)
        else:
            _skip(member, header.offset + row * header.row_bytes)
            yield lambda start, stop: _read_next(member, header, stop - start)


def _skip(member: IO[bytes], n_bytes: int) -> None:
    """Read and drop ``n_bytes``: since Python 3.13, zipfile does not check the CRC of a member after a seek."""
    while n_bytes:
        part = member.read(min(n_bytes, _SKIPPED_BYTES))
        if not part:
            raise EOFError("it ends before its last row")
        n_bytes -= len(part)
