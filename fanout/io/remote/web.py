"""Files of web servers, read by ranges (RFC 9110, section 14) of one version (section 13.1).

A server that knows neither ranges nor versions is asked once: its file is copied to a temporary one, and read there.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import closing
from hashlib import blake2b
from http.client import HTTPException, InvalidURL
from tempfile import TemporaryFile
from time import monotonic, sleep
from typing import IO, TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from weakref import finalize

from fanout._escape import escaped
from fanout._url import as_resolved, is_internal
from fanout.deadline import Deadline, WatchedRedirects, WatchedRequest, watched_opener
from fanout.io.remote.file import RemoteFile, Version, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from email.message import Message
    from http.client import HTTPMessage, HTTPResponse


_SECONDS = 60.0
_PIECE = 256 * 2**10

# Bytes per second below which a server counts as one that sends nothing: else a byte now and then would do.
_SLOWEST = 1024
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

# A request that brings nothing is repeated after these waits, about three minutes in all.
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 60.0)
_LONGEST_PUSHBACK = 120.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class WebFile(RemoteFile):
    """A file at an ``http(s)://`` URL.

    Args:
        url: the file's.
        headers: sent with each request, but not to another host that it is redirected to.
        version: if it is known already, of a server that knows ranges.
    """

    def __init__(self, url: str, headers: Mapping[str, str], version: Version | None = None) -> None:
        super().__init__(url, unquote(urlsplit(url).path), version)
        self._headers = dict(headers)
        self._opener = watched_opener(WatchedRedirects(check_redirect))
        self._copy: IO[bytes] | None = None

    def _look_up(self) -> Version:
        for download in self._attempts(lambda: {"Range": "bytes=0-0"}):
            response = download.response
            place, tag = _RANGE.fullmatch(response.headers.get("Content-Range", "")), _tag(response.headers)
            if response.status == 206 and place is not None and tag is not None:
                return Version(int(place[3]), tag)
            break
        return self._copied()

    def _read(self, start: int, stop: int) -> bytes:
        # Opening the file has looked up the version, and copied the file if that is necessary.
        if self._copy is not None:
            return os.pread(self._copy.fileno(), stop - start, start)
        data = bytearray()
        condition = _condition(self.version.tag)

        def wanted() -> dict[str, str]:
            return {"Range": f"bytes={start + len(data)}-{stop - 1}", **condition}

        while len(data) < stop - start:
            for download in self._attempts(wanted):
                self._require_range(download.response, start + len(data))
                for piece in download.pieces(stop - start - len(data)):
                    data += piece
                if download.is_quick:
                    break
        return bytes(data)

    def _require_range(self, response: HTTPResponse, at: int) -> None:
        """Raise `InputError` if a response is of another version, `OSError` if it is of another range."""
        place = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        tag = _tag(response.headers)
        size = self.version.size if place is None else int(place[3])
        if (tag is not None and tag != self.version.tag) or size != self.version.size:
            raise self._changed()
        if response.status != 206 or place is None or int(place[1]) != at:
            raise OSError(errno.EIO, "the server has answered a request for a range with something else", str(self))

    def _copied(self) -> Version:
        """Copy the whole file to a temporary one, without a name so that no kill can leave it behind."""
        copy = TemporaryFile()  # noqa: SIM115 - read as long as this object lives
        finalize(self, copy.close)
        for download in self._attempts(dict):
            if not download.has_an_end:
                raise OSError(errno.EIO, "the server sends no length, so that a missing end would not show", str(self))
            copy.seek(0)
            copy.truncate()
            digest = blake2b(digest_size=16)
            for piece in download.pieces():
                copy.write(piece)
                digest.update(piece)
            # Without ranges, a connection that breaks means to begin again.
            if download.is_whole:
                copy.flush()
                self._copy = copy
                return Version(copy.tell(), _tag(download.response.headers) or digest.hexdigest())
        raise AssertionError("the attempts end with an error")

    def _attempts(self, headers: Callable[[], Mapping[str, str]]) -> Iterator[_Download]:
        """Yield responses to a request until the caller has enough. Raises `OSError` once no attempt is left.

        A connection may break within a body: the caller takes the bytes before that, and asks for the next response.
        """
        reason = ""
        for wait in (*_WAITS, None):
            pushback = 0.0
            try:
                with Deadline(_SECONDS) as deadline:
                    download = self._open(headers(), deadline)
                    with closing(download.response):
                        yield download
                reason = download.problem
            except HTTPError as error:
                error.close()
                if error.code in (412, 416) and self._version is not None:
                    raise self._changed() from None
                # An empty file has no range.
                if error.code == 416:
                    return
                reason, pushback = f"HTTP {error.code}", _pushback(error.headers)
                if error.code not in _TRANSIENT or pushback > _LONGEST_PUSHBACK:
                    break
            except URLError as error:
                reason = escaped(str(error.reason))
                if isinstance(error.reason, _Refused):
                    break
            except (OSError, HTTPException) as error:
                reason = escaped(f"{type(error).__name__}: {error}")
            if wait is not None:
                sleep(max(wait, pushback))
        raise OSError(errno.EIO, reason, str(self))

    def _open(self, headers: Mapping[str, str], deadline: Deadline) -> _Download:
        fields = {"User-Agent": "fanout", "Accept-Encoding": "identity", **headers}
        request = WatchedRequest(self.url, deadline, fields)
        for name, value in self._headers.items():
            # urllib would send all other fields to the host of a redirect, too.
            request.add_unredirected_header(name, value)
        try:
            return _Download(self._opener.open(request, timeout=_SECONDS), deadline)
        # urllib cannot read the URL of a redirect, and its message may quote a part of it.
        except (ValueError, InvalidURL):
            raise URLError(_Refused("it is redirected to a URL that cannot be read")) from None
        except (OSError, HTTPException):
            if deadline.passed:
                raise TimeoutError(f"no response within {_SECONDS:g} s") from None
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        # Header fields hold credentials, which are never pickled. A copy stays here: another process makes its own.
        return WebFile, (self.url, {}, None if self._copy is not None else self._version)


class _Download:
    """A response whose body is being read, for as long as it comes quickly enough."""

    def __init__(self, response: HTTPResponse, deadline: Deadline) -> None:
        self.response = response
        self._deadline = deadline
        self._begun = monotonic()
        self._size = 0
        self._broken = False

    def pieces(self, size: int | None = None) -> Iterator[bytes]:
        """Yield the body, at most ``size`` bytes, until its connection ends or breaks."""
        renewed = 0
        while size is None or self._size < size:
            try:
                piece = self.response.read1(_PIECE if size is None else min(_PIECE, size - self._size))
            except (OSError, HTTPException):
                self._broken = True
                return
            if not piece:
                return
            self._size += len(piece)
            if self._size - renewed >= _SLOWEST * _SECONDS:
                self._deadline.renew()
                renewed = self._size
            yield piece

    @property
    def is_quick(self) -> bool:
        """True if the bytes that came are worth another request for the rest."""
        return self._size > 0 and self._size >= _SLOWEST * (monotonic() - self._begun)

    @property
    def has_an_end(self) -> bool:
        """True if the end of the body shows: by its length, or by its last chunk."""
        return self.response.chunked or self.response.length is not None

    @property
    def is_whole(self) -> bool:
        """True once a body that has an end has come to it."""
        return not (self.response.length or self._broken or self._deadline.passed)

    @property
    def problem(self) -> str:
        """The reason that the caller asks for another response."""
        if self._deadline.passed or (self._size and not self.is_quick):
            return f"the server sends fewer than {_SLOWEST:,} bytes per second"
        return "the connection was closed early"


class _Refused(Exception):  # noqa: N818 - the reason of a URLError
    """A redirect that is not followed."""


def check_redirect(old_url: str, new_url: str) -> None:
    """Refuse a redirect from https to http, and one from a public host to one inside the network."""
    old, new = urlsplit(old_url), urlsplit(new_url)
    if old.scheme == "https" and new.scheme != "https":
        raise URLError(_Refused(f"it is redirected to {shown(new_url)}, without encryption"))
    old_host, new_host = (as_resolved(url.hostname or "") for url in (old, new))
    if is_internal(new_host) and not is_internal(old_host):
        raise URLError(_Refused(f"it is redirected to {shown(new_url)}, which is no public host"))


def _tag(headers: HTTPMessage) -> str | None:
    """Return the server's name for the version that it has sent: the ETag, else the time of change."""
    tag: str | None = headers.get("ETag") or headers.get("Last-Modified")
    return tag


def _condition(tag: str) -> dict[str, str]:
    """Return the header field that asks for this version alone. A weak ETag matches none (RFC 9110, section 13.1.1)."""
    if tag.startswith('"'):
        return {"If-Match": tag}
    return {} if tag.startswith("W/") else {"If-Unmodified-Since": tag}


def _pushback(headers: Message[str, str]) -> float:
    """Return the seconds that a server asks to wait; 0 without, or if it names a time of day."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0.0
