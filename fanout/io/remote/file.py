"""Files behind URLs, read by ranges. All bytes are of one version: a change while they are read is an error."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fanout._escape import escaped
from fanout.errors import InputError
from fanout.io.remote.urls import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Buffer

# The footers of most Parquet files fit into the first fetch; a long pass soon takes the largest ones.
_FIRST_BYTES = 128 * 2**10
_MOST_BYTES = 4 * 2**20
_KEPT_BYTES = 32 * 2**20


class Version(NamedTuple):
    """The version of a file: its size in bytes, and the server's name for its content (an ETag, for instance)."""

    size: int
    tag: str


class FileStatus(NamedTuple):
    """The part of a local file's status that a remote file has."""

    st_size: int


class RemoteFile(ABC):
    """A file behind a URL, with those methods of `pathlib.Path` that readers use.

    Its version is looked up once. Everything is read from that version.

    Args:
        url: the file's.
        path: the path in it, which decides the file's name.
        version: if it is known already.
        below: the end of the path, as `below`; the name if it is not given.

    Attributes:
        below: the path below the folder in which a pattern begins.
    """

    def __init__(self, url: str, path: str, version: Version | None = None, below: str = "") -> None:
        self.url = url
        self._path = PurePosixPath(path)
        self._version = version
        self.below = below or self.name

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.name or str(self)

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return self._path.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return self._path.parts

    def with_name(self, name: str) -> str:
        """Return the URL of another name in the same folder."""
        return f"{str(self).rpartition('/')[0]}/{name}"

    @property
    def version(self) -> Version:
        """The version that is read. Raises `OSError`."""
        if self._version is None:
            self._version = self._look_up()
        return self._version

    def stat(self) -> FileStatus:
        """Return the file's size. Raises `OSError`."""
        return FileStatus(self.version.size)

    def open(self, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
        """Open the file for reading, from any place. Raises `OSError`; reading raises `InputError` after a change."""
        assert mode == "rb"
        raw = RangedFile(self.version.size, self._read, first=_FIRST_BYTES)
        # Small reads, as those of a header, become one fetch.
        file: Any = io.BufferedReader(raw, _FIRST_BYTES) if buffering else raw
        return file  # type: ignore[no-any-return]

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON that identifies the file: its URL without credentials, its size and its tag."""
        size, tag = self.version
        # No credentials: they are renewed, and the input stays the same.
        return {"url": shown(self.url), "size": size, "etag": tag}

    def __str__(self) -> str:
        return escaped(shown(self.url))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    @abstractmethod
    def _look_up(self) -> Version:
        """Return the version that the file has now. Raises `OSError`."""

    @abstractmethod
    def _read(self, start: int, stop: int) -> bytes:
        """Return the bytes ``start <= i < stop`` of the version. Raises `OSError`, and `InputError` if it is gone."""

    def _changed(self) -> InputError:
        return InputError(f"{self} was changed while it was read: run again", key="input.path")


InputPath: TypeAlias = Path | RemoteFile
"""A file of an input."""


class RangedFile(io.RawIOBase):
    """A file that is read by ranges as they are needed, with a bounded read-ahead.

    Args:
        size: of the file in bytes.
        fetch: returns the bytes ``start <= i < stop``.
        first: bytes that the first read of a place fetches. Reads that go on from there fetch twice as much each time,
            so that a footer is cheap and a large file takes few requests.
        most: most bytes of one fetch.
        kept: bytes that are kept, since the columns of a Parquet file are read side by side.
    """

    def __init__(
        self,
        size: int,
        fetch: Callable[[int, int], bytes],
        *,
        first: int = _FIRST_BYTES,
        most: int = _MOST_BYTES,
        kept: int = _KEPT_BYTES,
    ) -> None:
        self._size = size
        self._fetch = fetch
        self._first, self._most, self._kept = first, most, kept
        self._position = 0
        # Start of each window -> its bytes, the one used last at the end.
        self._windows: dict[int, bytes] = {}

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]
        """Fill ``buffer``, or as much of it as one window holds; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(view):
            return 0
        start, window = self._window(self._position, len(view))
        part = memoryview(window)[self._position - start :][: len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _window(self, at: int, wanted: int) -> tuple[int, bytes]:
        """Return the start and the bytes of a window that holds the byte ``at``; fetch it if there is none."""
        size = self._first
        for start, window in self._windows.items():
            if start <= at < start + len(window):
                self._windows[start] = self._windows.pop(start)
                return start, window
            if at == start + len(window):
                size = 2 * len(window)
                # A pass over the file needs no window again that it has left.
                del self._windows[start]
                break
        window = self._fetch(at, min(at + min(max(size, wanted), self._most), self._size))
        self._windows[at] = window
        # The window used longest ago goes first; there are few of them, so that a sum is quick.
        while sum(map(len, self._windows.values())) > self._kept:
            del self._windows[next(iter(self._windows))]
        return at, window
