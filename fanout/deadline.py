"""Deadlines for requests of the standard library's HTTP client, which knows only limits for each wait of a socket.

A server that sends a byte now and then keeps every such limit, in a header as in a body.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection
from threading import Lock, Timer
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from http.client import HTTPMessage
    from urllib.request import BaseHandler, OpenerDirector


class Deadline:
    """Breaks the connections that it watches once its time is over. A context; its end stops the watch.

    The search for an address cannot be broken: the system's resolver bounds it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = monotonic() + seconds
        self._socket: socket.socket | None = None
        self._lock = Lock()
        self._ended = False
        self._timer = self._started(seconds)

    @property
    def passed(self) -> bool:
        """True once the time is over."""
        return monotonic() >= self._ends

    def renew(self) -> None:
        """Begin to count the seconds anew, unless they are over."""
        if not self.passed:
            self._ends = monotonic() + self._seconds

    def watch(self, connected: socket.socket) -> None:
        """Break this connection once the time is over, whatever wraps its socket."""
        with self._lock:
            self._forget()
            self._socket = connected.dup()
        if self.passed:
            self._break()

    def end(self) -> None:
        """Stop the watch."""
        with self._lock:
            self._ended = True
            self._timer.cancel()
            self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _started(self, seconds: float) -> Timer:
        timer = Timer(seconds, self._look)
        timer.daemon = True
        timer.start()
        return timer

    def _look(self) -> None:
        with self._lock:
            left = self._ends - monotonic()
            if left > 0 and not self._ended:  # it was renewed
                self._timer = self._started(left)
                return
        self._break()

    def _break(self) -> None:
        with self._lock, suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


class WatchedRequest(Request):
    """A request with a deadline, for an opener of `watched_opener`."""

    def __init__(
        self, url: str, deadline: Deadline, headers: MutableMapping[str, str], data: bytes | None = None
    ) -> None:
        super().__init__(url, data, headers)
        self.deadline = deadline


class WatchedRedirects(HTTPRedirectHandler):
    """Follows redirects within the deadline of the request.

    Args:
        check: called with the old and the new URL; raises an exception in place of a redirect that it refuses.
    """

    def __init__(self, check: Callable[[str, str], None]) -> None:
        self._check = check

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self._check(req.full_url, newurl)
        # urllib would read the body of the redirect, which may have no end.
        fp.close()
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        if redirected is None:
            return None
        watched = WatchedRequest(redirected.full_url, req.deadline, redirected.headers)  # type: ignore[attr-defined]
        # These may be credentials, which are for the server that the user has named.
        if urlsplit(req.full_url)[:2] == urlsplit(newurl)[:2]:
            watched.unredirected_hdrs.update(req.unredirected_hdrs)
        return watched


def watched_opener(*handlers: BaseHandler) -> OpenerDirector:
    """Make an opener for instances of `WatchedRequest`, with more handlers."""
    return build_opener(*handlers, _Plain(), _Encrypted())


class _Watched(HTTPConnection):
    deadline: Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)

    def _tunnel(self) -> None:
        # A proxy's response comes within `connect`.
        self.deadline.watch(self.sock)
        super()._tunnel()  # type: ignore[misc]


class _WatchedTls(HTTPSConnection, _Watched):
    """In this order of the bases, the handshake comes after the connection is watched."""


def _connecting(kind: type[_Watched], request: Any) -> Any:
    def connection(host: str, **options: Any) -> _Watched:
        made = kind(host, **options)
        made.deadline = request.deadline
        return made

    return connection


class _Plain(HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_connecting(_Watched, req), req)


class _Encrypted(HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        return self.do_open(_connecting(_WatchedTls, req), req)
