"""Files behind URLs, and the URLs themselves, in the place of paths.

A remote file is read by ranges. All bytes are of one version: a change while they are read is an error.
"""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from fanout._escape import escaped
from fanout._url import redact_url, require_web_url
from fanout.errors import ConfigError, InputError
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Buffer

STORES = ("s3", "gs", "az")
"""Schemes of object stores."""

WEB = ("http", "https")
STAGING = "fanout-uploads"
"""Folder of the outputs that are, or will be, uploaded."""

# A Path makes one slash of two: str(Path("s3://bucket/key")) is "s3:/bucket/key".
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)")
# Azure has containers such as $web.
_BUCKET = re.compile(r"[A-Za-z0-9$_][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ALIASES = {"gcs": "gs", "azure": "az"}

# The footers of most Parquet files fit into the first fetch; a long pass soon takes the largest ones.
_FIRST_BYTES = 128 * 2**10
_MOST_BYTES = 4 * 2**20
_KEPT_BYTES = 32 * 2**20


class StoreUrl(NamedTuple):
    """The place of an object, or of all objects whose keys begin with ``key``."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def url_of(path: str | os.PathLike[str], key: str = "input.path") -> str | None:
    """Return ``path`` if it is a URL, also one that was made a `Path`; None for a local path.

    Raises `ConfigError`, with ``key``, for a scheme that is not known, a URL without a host, and a name that no bucket
    and no object can have.
    """
    text = os.fspath(path)
    match = _URL.match(text)
    if match is None:
        return None
    scheme, rest = match[1].lower(), text[match.end() :]
    scheme = _ALIASES.get(scheme, scheme)
    if match[2] == "/" and (isinstance(path, str) or scheme not in (*STORES, *WEB)):
        return None
    if scheme not in (*STORES, *WEB):
        hint = did_you_mean(scheme, [*STORES, *WEB], "; did you mean {}?")
        known = "s3://, gs://, az:// and https://"
        raise ConfigError(f"{match[1]}:// is the scheme of no file that can be read or written: {known}{hint}", key=key)
    url = f"{scheme}://{rest}"
    if scheme in WEB:
        require_web_url(url, key)
    elif (problem := _problem_of(parts_of(url))) is not None:
        # Some tools take credentials before a bucket.
        raise ConfigError(f"{redact_url(url)} {problem}", key=key)
    return url


def _problem_of(place: StoreUrl) -> str | None:
    """Return the reason for which no object can be there; None if one can. obstore checks less, or panics."""
    kind = "container" if place.scheme == "az" else "bucket"
    if not place.bucket:
        return f"names no {kind}"
    if not _BUCKET.fullmatch(place.bucket):
        return f"does not begin with the name of a {kind}: letters, digits, dots, dashes and underscores"
    *folders, name = place.key.split("/")
    if not all(folders) or {".", ".."} & {*folders, name}:
        return "is not the name of a file: a part of it is empty, '.' or '..'"
    if _CONTROL.search(place.key):
        return "is not the name of a file: it has a control character"
    return None


def parts_of(url: str) -> StoreUrl:
    """Return the parts of a URL of an object store. A key is taken as it is: no part of it is a query or an escape."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return StoreUrl(scheme, bucket, key)


def is_web(url: str) -> bool:
    return url.partition("://")[0] in WEB


def shown(url: str) -> str:
    """Return a URL for messages and journals: without the userinfo and the query of a web server's."""
    return redact_url(url) if is_web(url) else url


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path, or a URL in its place, for messages."""
    url = url_of(path)
    return os.fspath(path) if url is None else shown(url)


def staged_path(url: str, folder: Path) -> Path:
    """Return the local file of an output: ``s3://bucket/a/y.npy`` -> ``FOLDER/fanout-uploads/s3/bucket/a/y.npy``.

    Raises `ConfigError` for a URL that nothing can be uploaded to, or that no file can have the name of.
    """
    if is_web(url):
        problem = "cannot be written: outputs go to s3://, gs:// or az://, or to a local file"
        raise ConfigError(f"{shown(url)} {problem}", key="output.path")
    scheme, bucket, key = parts_of(url)
    parts = [bucket, *key.split("/")]
    if not all(parts) or {".", ".."} & set(parts):
        raise ConfigError(f"{url} is not the name of a file: a part of it is empty, '.' or '..'", key="output.path")
    return folder.joinpath(STAGING, scheme, *(quote(part, safe=" !#$&'()+,;=@[]{}~%*") for part in parts))


class Version(NamedTuple):
    """The version of a file: its size in bytes, and the server's name for its content (an ETag, for instance)."""

    size: int
    tag: str


class FileStatus(NamedTuple):
    """The part of a local file's status that a remote file has."""

    st_size: int


class RemoteFile(ABC):
    """A file behind a URL, with those attributes and methods of `pathlib.Path` that readers use.

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
        self._version = version
        pure = PurePosixPath(path)
        self.name, self.stem, self.suffix, self.parts = pure.name or str(self), pure.stem, pure.suffix, pure.parts
        self.below = below or self.name

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
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
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
