"""Files as rows: the contents of each file in a folder, with its name as the id of the row."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers.base import BLOCK_BYTES, SeekableSource
from fanout.io.readers.columns import ColumnOptions, select_columns
from fanout.types import Block, UnreadableFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from fanout.io.readers.file_cells import FileReader
    from fanout.io.remote import RemoteFile

FILE, NAME = "file", "name"
"""The columns: the bytes of a file, and its path below the folder."""

_BATCH = 256

# Remote files that are read at once: enough to hide the latency of a network.
_AT_ONCE = 8


class FolderSource(SeekableSource):
    """Rows that are the contents of files.

    Args:
        folder: the files.
        options: columns of the rows; the bytes alone if they name none.

    Raises:
        InputError: a column that is neither `FILE` nor `NAME`.
    """

    def __init__(self, folder: Folder | RemoteFolder, options: ColumnOptions) -> None:
        if options.id is not None:
            raise InputError("the ids of files are their names: leave id out", key="input.id")
        self.files = folder.files
        self.n_rows: int = len(folder.names)
        self._folder = folder
        names = options.column is None and options.columns is None and not options.needed
        options = ColumnOptions(column=FILE) if names else options
        self._selection = select_columns([FILE, NAME], options, file=folder.path)

    def blocks_from(self, row: int) -> Iterator[Block]:
        names: list[str] = []
        contents: list[Any] = []
        first, size = row, 0
        for name, content in self._folder.read(row):
            names.append(name)
            contents.append(content)
            size += len(contents[-1]) if isinstance(contents[-1], bytes) else 0
            if size >= BLOCK_BYTES or len(names) == _BATCH:
                yield self._block(names, contents, first)
                first += len(names)
                names, contents, size = [], [], 0
        if names:
            yield self._block(names, contents, first)

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for name, version in zip(self._folder.names, self._folder.versions(), strict=True):
            digest.update(f"{name}\0{version}\n".encode(errors="surrogateescape"))
        return {"format": "files", "n_rows": self.n_rows, "digest": digest.hexdigest(), **self._selection.as_json()}

    def _block(self, names: list[str], contents: list[Any], first: int) -> Block:
        bytes_or_reasons = np.empty(len(contents), object)
        bytes_or_reasons[:] = contents
        rows = self._selection.rows({FILE: bytes_or_reasons, NAME: names}, self._folder.path, first)
        return Block(rows, names)


class Folder:
    """Local files that are rows.

    Args:
        files: in the order of the rows.
        folder: the folder that all of them are in.
        reader: reads them.

    Attributes:
        path: the folder, for messages.
        names: path of each file below the folder.
    """

    def __init__(self, files: Sequence[Path], folder: Path, reader: FileReader) -> None:
        self.files = tuple(files)
        self.path = str(folder)
        self.names = [file.relative_to(folder).as_posix() for file in files]
        self._reader = reader

    def read(self, row: int) -> Iterator[tuple[str, Any]]:
        """Yield the name and the bytes of each file from number ``row`` on."""
        for name in self.names[row:]:
            yield name, self._reader.read(name)

    def versions(self) -> Iterator[str]:
        """Yield a text for each file that changes with its content."""
        for file in self.files:
            status = file.stat()
            yield f"{status.st_size}\0{status.st_mtime_ns}"


class RemoteFolder:
    """Remote files that are rows, with the attributes of `Folder`; ``most_bytes`` is the size of the largest one."""

    def __init__(self, files: Sequence[RemoteFile], url: str, most_bytes: int) -> None:
        self.files = tuple(files)
        self.path = url
        self.names = [file.below for file in files]
        self._most_bytes = most_bytes

    def read(self, row: int) -> Iterator[tuple[str, Any]]:
        """Yield the name and the bytes of each file from number ``row`` on; some are read ahead."""
        return zip(self.names[row:], _ahead(self._contents, self.files[row:]), strict=True)

    def versions(self) -> Iterator[str]:
        """Yield a text for each file that changes with its content."""
        for file in self.files:
            yield f"{file.version.size}\0{file.version.tag}"

    def _contents(self, file: RemoteFile) -> bytes | UnreadableFile:
        try:
            size = file.version.size
            if size > self._most_bytes:
                problem = f"has {size:,} bytes, more than input.file_max_bytes = {self._most_bytes:,}"
                return UnreadableFile(f"the file {file.below!r} {problem}")
            with file.open() as opened:
                return opened.read() or UnreadableFile(f"the file {file.below!r} is empty")
        except OSError as error:
            return UnreadableFile(f"the file {file.below!r} cannot be read: {error.strerror}")


def _ahead(read: Callable[[RemoteFile], Any], files: Iterable[RemoteFile]) -> Iterator[Any]:
    """Yield the contents of files in order, while the next ones are read."""
    pool = ThreadPoolExecutor(_AT_ONCE, "fanout files")
    waiting: deque[Future[Any]] = deque()
    try:
        for file in files:
            waiting.append(pool.submit(read, file))
            if len(waiting) == _AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
