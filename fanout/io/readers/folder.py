"""Files as rows: the contents of each file in a folder, with its name as the id of the row."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers.base import BLOCK_BYTES, SeekableSource
from fanout.io.readers.columns import ColumnOptions, select_columns
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.io.readers.file_cells import FileReader

FILE, NAME = "file", "name"
"""The columns: the bytes of a file, and its path below the folder."""

_BATCH = 256


class FolderSource(SeekableSource):
    """Rows that are the contents of files.

    Args:
        files: the files, in the order of the rows.
        folder: the folder that all of them are in.
        options: columns of the rows; the bytes alone if they name none.
        reader: reads the files.

    Raises:
        InputError: a column that is neither `FILE` nor `NAME`.
    """

    def __init__(self, files: Sequence[Path], folder: Path, options: ColumnOptions, reader: FileReader) -> None:
        if options.id is not None:
            raise InputError("the ids of files are their names: leave id out", key="input.id")
        self.files = self._paths = tuple(files)
        self.n_rows: int = len(files)
        self._folder = folder
        self._reader = reader
        names = options.column is None and options.columns is None and not options.needed
        options = ColumnOptions(column=FILE) if names else options
        self._selection = select_columns([FILE, NAME], options, file=str(folder))

    def blocks_from(self, row: int) -> Iterator[Block]:
        names: list[str] = []
        contents: list[Any] = []
        first, size = row, 0
        for file in self._paths[row:]:
            names.append(self._name(file))
            contents.append(self._reader.read(names[-1]))
            size += len(contents[-1]) if isinstance(contents[-1], bytes) else 0
            if size >= BLOCK_BYTES or len(names) == _BATCH:
                yield self._block(names, contents, first)
                first += len(names)
                names, contents, size = [], [], 0
        if names:
            yield self._block(names, contents, first)

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for file in self._paths:
            status = file.stat()
            digest.update(
                f"{self._name(file)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
        return {"format": "files", "n_rows": self.n_rows, "digest": digest.hexdigest(), **self._selection.as_json()}

    def _block(self, names: list[str], contents: list[Any], first: int) -> Block:
        bytes_or_reasons = np.empty(len(contents), object)
        bytes_or_reasons[:] = contents
        rows = self._selection.rows({FILE: bytes_or_reasons, NAME: names}, str(self._folder), first)
        return Block(rows, names)

    def _name(self, file: Path) -> str:
        return file.relative_to(self._folder).as_posix()
