"""Rows from arrays of a ``.npz`` archive, unpacked as they are needed."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers import fingerprint
from fanout.io.readers.base import SeekableSource, rows_in_block
from fanout.io.readers.columns import choose
from fanout.io.readers.npy import fill, native, read_header, read_rows, reading_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fanout.io.readers.npy import Header
    from fanout.types import Array, Block

    Next = Callable[[int], Array]
    """The next rows of an array, as many as asked for."""

_ARRAY = b"\x93NUMPY"
_SKIPPED = 2**20
_SUFFIX = ".npy"


class NpzSource(SeekableSource):
    """The array called ``column`` of a ``.npz`` archive; several in step where ``column`` is a list of names.

    An array in Fortran's order is unpacked into a temporary file first, for its rows lie all over it.

    Raises:
        InputError: not an archive of arrays, no such array, or arrays that do not fit together.
    """

    uniform = True

    def __init__(
        self,
        path: Path,
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        self.path = path
        with path.open("rb") as file:
            if file.read(len(_ARRAY)) == _ARRAY:
                raise InputError(f"{path.name} is one array, not an archive: give it the suffix .npy", key="input.path")
        with _opened(path) as archive:
            names = [name.removesuffix(_SUFFIX) for name in archive.namelist()]
            self._columns = choose(names, column, id, file=path.name, what="array")
            self._headers = {name: _header(path, archive, name) for name in self._columns.all}
        if len({header.n_rows for header in self._headers.values()}) > 1:
            lengths = ", ".join(f'"{name}" {header.n_rows}' for name, header in self._headers.items())
            raise InputError(f"the columns have different numbers of rows: {lengths}", key="input.column")
        self.n_rows = self._headers[self._columns.names[0]].n_rows
        self.form = {name: self._headers[name].form for name in self._columns.names}

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""
        assert self.n_rows is not None
        size = rows_in_block(sum(header.row_bytes for header in self._headers.values()))
        with _opened(self.path) as archive, ExitStack() as stack:
            pullers = {
                name: stack.enter_context(_puller(self.path, archive, name, header, row))
                for name, header in self._headers.items()
            }
            for start in range(row, self.n_rows, size):
                taken = {name: pull(min(size, self.n_rows - start)) for name, pull in pullers.items()}
                yield self._columns.block(taken, self.path.name, start)

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        return {"format": "npz", "file": fingerprint.of_file(self.path), **self._columns.described()}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with reading_array(path, "a .npz archive"):
        try:
            with zipfile.ZipFile(path) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise ValueError(error) from None  # the last two: packed or encrypted in a way that is not known here


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> Header:
    if name + _SUFFIX not in archive.namelist():
        raise InputError(f'"{name}" in {path.name} is no array', key="input.column")
    with (
        reading_array(path, f'an archive with the array "{name}"', key="input.column"),
        archive.open(name + _SUFFIX) as member,
    ):
        header = read_header(member, f'"{name}" in {path.name}', key="input.column")
        there = archive.getinfo(name + _SUFFIX).file_size - header.offset
        if there < header.n_rows * header.row_bytes:
            raise ValueError(f"its head tells of {header.n_rows} rows, but only {there:,} bytes are there")
        return header


@contextmanager
def _puller(path: Path, archive: zipfile.ZipFile, name: str, header: Header, row: int) -> Iterator[Next]:
    """A function that gives the rows of one array, from ``row`` on."""
    with archive.open(name + _SUFFIX) as member:
        if header.by_column:
            with _spooled(member) as file:
                yield _seeking(file, header, row)
        else:
            _skip(member, header.offset + row * header.row_bytes)
            yield lambda n_rows: _streamed(member, header, n_rows)


def _skip(member: IO[bytes], n_bytes: int) -> None:
    """Read ``n_bytes`` and forget them. To seek would end zipfile's check of the sum, since Python 3.13."""
    while n_bytes:
        part = member.read(min(n_bytes, _SKIPPED))
        if not part:
            raise EOFError("it ends before its last row")
        n_bytes -= len(part)


@contextmanager
def _spooled(member: IO[bytes]) -> Iterator[IO[bytes]]:
    with TemporaryFile() as file:
        shutil.copyfileobj(member, file)
        yield file


def _seeking(file: IO[bytes], header: Header, row: int) -> Next:
    position = row

    def pull(n_rows: int) -> Array:
        nonlocal position
        position += n_rows
        return read_rows(file, header, position - n_rows, position)

    return pull


def _streamed(member: IO[bytes], header: Header, n_rows: int) -> Array:
    rows = np.empty((n_rows, *header.shape[1:]), header.dtype)
    fill(member, rows)
    return native(rows)
