"""The direct way: a small request written straight to a connection of the session's pool.

aiohttp's session makes every request for every case there is (redirects, cookies, proxies, uploads that stream), which
is more than half of what a small one costs. Here the head is made once, head and body go out in one write, and the
connections, their pool and the parser are aiohttp's, as ever. See docs/performance.md for what that saves.

Not all names that this takes from aiohttp are documented (see aiohttp_names.py). It is used only while nothing (a mock,
a recorder, a tracer) stands between the session and its requests.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import client, hdrs
from aiohttp.http_exceptions import HttpProcessingError

from fanout.transport.aiohttp_names import PlainRequest

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from multidict import CIMultiDict, CIMultiDictProxy
    from yarl import URL

    from fanout.transport.connector import ConnectionUse, Connector
    from fanout.transport.headers import HeadLimits
    from fanout.types import Buffer

SMALL = 64 * 2**10
"""Bytes of a body that goes the direct way: one that a socket takes in one piece, or not much more."""


class DirectResponse:
    """As much of an `aiohttp.ClientResponse` as the transport uses."""

    __slots__ = ("_connector", "_protocol", "connection", "content", "headers", "status", "version")

    def __init__(
        self, message: RawResponseMessage, content: aiohttp.StreamReader, connection: Connection, connector: Connector
    ) -> None:
        self._connector = connector
        self._protocol = connection.protocol
        self.status: int = message.code
        self.version = message.version
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self.connection: Connection | None = connection
        content.on_eof(self._release)

    def close(self) -> None:
        """Close the connection; if the answer is whole, and it went back to the pool, as soon as it is met there."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        elif self._protocol is not None:
            self._protocol.force_close()

    def _release(self) -> None:
        if self.connection is not None:
            self._connector.put_down(self.connection)
            self.connection = None


class Direct:
    """Posts small bodies to one URL over the connections of ``session``."""

    def __init__(self, session: aiohttp.ClientSession, connector: Connector, url: URL, limits: HeadLimits) -> None:
        self._usable = not session.trace_configs and url.raw_user is None and url.raw_password is None
        self._connector = connector
        self._limits = limits
        self._timeout = session.timeout
        self._request = PlainRequest(hdrs.METH_POST, url)
        self._start = f"{hdrs.METH_POST} {url.raw_path_qs} HTTP/1.1"
        self._defaults = [(name, value) for name, value in self._request.headers.items() if name != hdrs.CONTENT_LENGTH]
        self._headers: CIMultiDict[str] | None = None
        self._head: bytes | None = None

    def takes(self, headers: CIMultiDict[str], length: int) -> bool:
        """True if a request can go this way. ``headers`` may not be changed afterwards."""
        if not self._usable or length > SMALL or not _session_is_itself():
            return False
        if headers is not self._headers:  # most often the same as the last time
            self._headers, self._head = headers, self._head_with(headers)
        return True

    async def post(self, parts: tuple[Buffer, ...], length: int, use: ConnectionUse) -> DirectResponse:
        """Send what `takes` has just said yes to, and wait for the head of the answer. Raises aiohttp's errors."""
        assert self._head is not None
        request = b"".join((self._head, b"%d\r\n\r\n" % length, *parts))
        try:
            connection = await self._connector.lease(use, self._request, self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        try:
            protocol = connection.protocol
            if protocol is None or protocol.transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(read_until_eof=True, auto_decompress=False, **self._limits)
            protocol.transport.write(request)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            return DirectResponse(message, content, connection, self._connector)
        except BaseException as error:
            connection.close()
            if isinstance(error, HttpProcessingError):
                raise self._refused(error) from error
            raise

    def _head_with(self, headers: CIMultiDict[str]) -> bytes:
        """All of a request that stands before its length."""
        fields = [field for field in self._defaults if field[0] not in headers]
        lines = [self._start, *(f"{name}: {value}" for name, value in (*fields, *headers.items()))]
        return "\r\n".join((*lines, f"{hdrs.CONTENT_LENGTH}: ")).encode()

    def _refused(self, error: HttpProcessingError) -> aiohttp.ClientResponseError:
        info = self._request.request_info
        return aiohttp.ClientResponseError(info, (), status=error.code, message=error.message, headers=error.headers)


def _session_is_itself() -> bool:
    """True where nobody has replaced or wrapped what sends a session's requests."""
    return _untouched(aiohttp.ClientSession._request) and _untouched(aiohttp.ClientSession.request)  # noqa: SLF001


def _untouched(method: Any) -> bool:
    return type(method) is FunctionType and method.__code__.co_filename == client.__file__
