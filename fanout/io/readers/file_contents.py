"""The contents of files in rows: cells with a path or a URL become the bytes of the file, or each file is a row.

A file that may not or cannot be read becomes an `UnreadableFile`, so that its row fails alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout._escape import is_unicode
from fanout.errors import InputError
from fanout.io.readers.base import BLOCK_BYTES, SeekableSource
from fanout.io.readers.columns import ColumnOptions, select_columns
from fanout.io.readers.fetching import Unfetched, UrlFetcher
from fanout.io.remote.file import RemoteFile
from fanout.rows import single_rows
from fanout.types import Block, PassedUrl, UnreadableFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from fanout.io.readers.base import Source
    from fanout.io.remote.file import InputPath
    from fanout.types import Array

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.IGNORECASE)

# Files that are read or fetched at once: enough to hide the latency of a network.
_AT_ONCE = 8
# A read of this size shows soon that a file has grown past its bound.
_PIECE = 2**20

FILE, NAME = "file", "name"
"""The columns: the bytes of a file, and its path below the folder."""

# Rows of a block at the most: small files would otherwise make one block of many thousands.
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Cells that name files, and the files that may be read for them.

    Attributes:
        columns: columns of the rows whose values are paths or URLs of files, or the bytes themselves.
        root: folder in which paths begin, and below which every file has to be once links are resolved.
        fetch_hosts: hosts from which URLs are fetched.
        fetch_timeout: seconds for one URL.
        max_bytes: largest file.

    Raises:
        InputError: the root is no folder.
    """

    columns: tuple[str, ...] = ()
    root: Path | None = None
    fetch_hosts: tuple[str, ...] = ()
    fetch_timeout: float = 30.0
    max_bytes: int = 32 * 2**20

    def __post_init__(self) -> None:
        if self.root is not None and not self.root.is_dir():
            raise InputError(f"{self.root.absolute()} is not a folder", key="input.files_root")

    def reader(self) -> FileReader:
        fetcher = UrlFetcher(self.fetch_hosts, self.fetch_timeout, self.max_bytes)
        root = self.root or Path()
        return FileReader(root, root, fetcher, self.max_bytes)


class FileReader:
    """Reads the files that cells name. It blocks, and may be used from several threads.

    Args:
        folder: in which paths begin.
        root: folder that no file may be outside of.
        fetcher: fetches URLs; None for cells that are paths only.
        most_bytes: largest file.
    """

    def __init__(self, folder: Path, root: Path, fetcher: UrlFetcher | None, most_bytes: int) -> None:
        self._folder = folder.absolute()
        self._root = root.absolute()
        self._real_root = root.resolve()
        self._fetcher = fetcher
        self._most_bytes = most_bytes

    def read(self, cell: Any) -> Any:
        """The bytes that a cell names or holds; the cell itself if it is empty (None, NaN)."""
        if isinstance(cell, dict) and cell.keys() == {"bytes", "path"}:  # an image of Hugging Face's datasets
            cell = cell["path"] if cell["bytes"] is None else cell["bytes"]
        if cell is None or isinstance(cell, bytes) or (isinstance(cell, float) and isnan(cell)):
            return cell
        if not isinstance(cell, str):
            return UnreadableFile(f"the file is named by {type(cell).__name__}, not by a path or a URL")
        try:
            if self._fetcher is None or not _URL.match(cell):
                return self._read_path(cell)
            return self._fetcher.fetch(cell) if self._fetcher.allows(cell) else PassedUrl(cell)
        except Unfetched as error:
            return UnreadableFile(f"the file {error}")

    def _read_path(self, cell: str) -> bytes | UnreadableFile:
        try:
            real = (self._folder / cell).resolve(strict=True)
            if not cell or not real.is_relative_to(self._real_root):
                reason = "is outside of input.files_root, once links are resolved" if cell else "has an empty path"
                return UnreadableFile(f"the file {cell!r} {reason}")
            return self._contents(real, cell)
        except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path, or a circle of links
            # The message must not show whether a file outside of the root exists.
            outside = not Path(os.path.normpath(self._folder / cell.replace("\0", ""))).is_relative_to(self._root)
            problem = "is outside of input.files_root" if outside else getattr(error, "strerror", None) or str(error)
            return UnreadableFile(f"the file {cell!r} cannot be read: {problem}")

    def _contents(self, path: Path, cell: str) -> bytes | UnreadableFile:
        # The path is resolved: a link at its end would have been put there since. A pipe must not block.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(path, "rb", opener=lambda name, _: os.open(name, flags), buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return UnreadableFile(f"the file {cell!r} is not a regular file")
            if status.st_size > self._most_bytes:
                size = f"{status.st_size:,} bytes, more than input.file_max_bytes = {self._most_bytes:,}"
                return UnreadableFile(f"the file {cell!r} has {size}")
            if not status.st_size:
                return UnreadableFile(f"the file {cell!r} is empty")
            # A file may grow while it is read: one byte more than the limit shows it.
            data = bytearray()
            while piece := file.read(min(_PIECE, self._most_bytes + 1 - len(data))):
                data += piece
            return bytes(data)


class FileCellsSource(SeekableSource):
    """The rows of another source, with the bytes of the files that their cells name.

    Args:
        source: rows of names.
        options: the columns with names. Rows of bare values are all names.
    """

    def __init__(self, source: Source, options: FileOptions) -> None:
        self._source = source
        self._options = options
        self._reader = options.reader()
        self.n_rows, self.repeatable, self.files = source.n_rows, source.repeatable, source.files

    def blocks_from(self, row: int) -> Iterator[Block]:
        pool = ThreadPoolExecutor(_AT_ONCE, "fanout files")
        try:
            for block in self._source.blocks_from(row):
                yield from self._filled(block, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def estimate_rows(self) -> int | None:
        return self._source.estimate_rows()

    def fingerprint(self) -> dict[str, Any] | None:
        known = self._source.fingerprint()
        # The fingerprint of several files, or of lines, has a key "files" already.
        return known and {**known, "file_columns": list(self._options.columns)}

    def _filled(self, block: Block, pool: ThreadPoolExecutor) -> Iterator[Block]:
        """The block in pieces of about the usual size, which the files may exceed many times."""
        rows = single_rows(block.rows)
        columns = self._options.columns
        names = self._names(rows)
        todo = iter(range(len(rows)))
        filled: list[Any] = []
        start = size = 0
        while group := list(islice(todo, _AT_ONCE)):
            cells = [[rows[i]] if names is None else [rows[i].get(name) for name in columns] for i in group]
            # In the order of the rows, whichever file comes first.
            files = list(pool.map(lambda row: [self._reader.read(cell) for cell in row], cells))
            for i, row in zip(group, files, strict=True):
                filled.append(row[0] if names is None else {**rows[i], **dict(zip(columns, row, strict=True))})
                size += sum(len(cell) for cell in row if isinstance(cell, bytes))
            if size >= BLOCK_BYTES or len(filled) + start == len(rows):
                # Rows that lack a column, as those of JSON lines may, stay dicts.
                yield Block(
                    _objects(filled) if names is None else filled, block.ids and block.ids[start : start + len(filled)]
                )
                start, size, filled = start + len(filled), 0, []

    def _names(self, rows: Sequence[Any]) -> tuple[str, ...] | None:
        """The names of the rows' columns; None for bare values. Raises `InputError` if a column of files is missing."""
        if not all(isinstance(row, dict) for row in rows) or set(rows[0]) == {"bytes", "path"}:
            return None
        known = tuple(dict.fromkeys(name for row in rows for name in row))
        for name in self._options.columns:
            if name not in known:
                raise InputError(
                    f'the rows have no column "{name}" with files; they have {", ".join(map(repr, known))}',
                    key="input.files",
                )
        return known


def _objects(values: list[Any]) -> Array:
    objects = np.empty(len(values), object)
    objects[:] = values
    return objects


class FolderSource(SeekableSource):
    """Rows that are the contents of files.

    Args:
        files: path of each file below the folder -> the file, in the order of the rows.
        folder: the folder, for messages.
        read: returns the bytes of the file at a path below the folder.
        options: columns of the rows; the bytes alone if they name none.

    Raises:
        InputError: a column that is neither `FILE` nor `NAME`.
    """

    def __init__(
        self, files: Mapping[str, InputPath], folder: str, read: Callable[[str], Any], options: ColumnOptions
    ) -> None:
        if options.id is not None:
            raise InputError("the ids of files are their names: leave id out", key="input.id")
        # A name is an id, and may be sent: other bytes than UTF-8 have no place in a text.
        if (odd := next((name for name in files if not is_unicode(name)), None)) is not None:
            raise InputError(f"the name of the file {odd!r} in {folder} is not UTF-8: rename it", key="input.path")
        self.files = tuple(files.values())
        self.n_rows: int = len(files)
        self._names, self._folder, self._read = list(files), folder, read
        is_bare = options.column is None and options.columns is None and not options.needed
        options = ColumnOptions(column=FILE) if is_bare else options
        self._selection = select_columns([FILE, NAME], options, file=folder)

    def blocks_from(self, row: int) -> Iterator[Block]:
        names: list[str] = []
        contents: list[Any] = []
        first, size = row, 0
        for name, content in zip(self._names[row:], _ahead(self._read, self._names[row:]), strict=True):
            names.append(name)
            contents.append(content)
            size += len(content) if isinstance(content, bytes) else 0
            if size >= BLOCK_BYTES or len(names) == _BATCH:
                yield self._block(names, contents, first)
                first += len(names)
                names, contents, size = [], [], 0
        if names:
            yield self._block(names, contents, first)

    def fingerprint(self) -> dict[str, Any]:
        # Sizes and times stand for the bytes, which a run reads only as it sends them.
        digest = hashlib.blake2b(digest_size=16)
        for name, file in zip(self._names, self.files, strict=True):
            tag = file.version.tag if isinstance(file, RemoteFile) else file.stat().st_mtime_ns
            digest.update(f"{name}\0{file.stat().st_size}\0{tag}\n".encode(errors="surrogateescape"))
        return {"format": "files", "n_rows": self.n_rows, "digest": digest.hexdigest(), **self._selection.as_json()}

    def _block(self, names: list[str], contents: list[Any], first: int) -> Block:
        rows = self._selection.rows({FILE: _objects(contents), NAME: names}, self._folder, first)
        return Block(rows, names)


def remote_contents(files: Mapping[str, RemoteFile], most_bytes: int, name: str) -> bytes | UnreadableFile:
    """Return the bytes of one of ``files``, if it has no more than ``most_bytes``."""
    try:
        if (size := files[name].version.size) > most_bytes:
            problem = f"has {size:,} bytes, more than input.file_max_bytes = {most_bytes:,}"
            return UnreadableFile(f"the file {name!r} {problem}")
        with files[name].open() as opened:
            return opened.read() or UnreadableFile(f"the file {name!r} is empty")
    except OSError as error:
        return UnreadableFile(f"the file {name!r} cannot be read: {error.strerror}")


def _ahead(read: Callable[[str], Any], names: Sequence[str]) -> Iterator[Any]:
    """Yield the contents of files in order, while the next ones are read."""
    pool = ThreadPoolExecutor(_AT_ONCE, "fanout files")
    waiting: deque[Future[Any]] = deque()
    try:
        for name in names:
            waiting.append(pool.submit(read, name))
            if len(waiting) == _AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
