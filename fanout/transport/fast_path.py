"""The fast path: a small request, written straight to a connection of aiohttp's pool.

aiohttp's session serves every case there is (redirects, cookies, proxies, uploads that stream), which is more than half
of the cost of a small request. Here the head is encoded once, head and body go out in one write, and the connections,
their pool and the parser are aiohttp's. See docs/performance.md for the gain.

Not all names that this takes from aiohttp are documented (see aiohttp_names.py).
"""

from __future__ import annotations

import asyncio
from types import FunctionType
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import client, hdrs
from aiohttp.http_exceptions import HttpProcessingError

from fanout.transport.aiohttp_names import PlainRequest
from fanout.transport.base import SendAborted
from fanout.transport.bodies import BYTE_ORDER_MARK, checked_body, length_of
from fanout.transport.failures import passes
from fanout.types import Response

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from multidict import CIMultiDictProxy
    from yarl import URL

    from fanout.transport.base import Cooldown, Request, RowsSent
    from fanout.transport.connections import CheckedConnector, PooledConnection
    from fanout.transport.http import HeadLimits, HttpTransport

# Bytes of the largest body for the fast path: a socket takes it in one piece, or in a few.
SMALL = 64 * 2**10

# Fields of a header whose size need not be measured: aiohttp bounds each.
_FEW_FIELDS = 64

# Seconds that a connection stays out of aiohttp's pool; far less than any server waits for the next request.
_MOMENT = 1.0

# The user of all connections of the fast path, which gives each back before another exchange can have it.
_FAST_PATH = object()


def _closed(connection: PooledConnection) -> bool:
    """Close ``connection``. True if it had served before."""
    connection.lease.close()
    return connection.reused


def _original(method: Any) -> Any:
    """``method`` of aiohttp's session; None if it has been replaced or wrapped before this module was imported."""
    own = type(method) is FunctionType and method.__code__.co_filename == client.__file__
    return method if own else None


_SEND, _PUBLIC_SEND = _original(aiohttp.ClientSession._request), _original(aiohttp.ClientSession.request)  # noqa: SLF001


class FastResponse:
    """The part of an `aiohttp.ClientResponse` that `read_body` uses."""

    __slots__ = ("connection", "content", "headers", "status", "version")

    def __init__(self, message: RawResponseMessage, content: aiohttp.StreamReader, connection: Connection) -> None:
        self.status: int = message.code
        self.version = message.version
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self.connection = connection

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class IdleConnections:
    """Keeps the connections of the fast path outside aiohttp's pool for a moment after each use.

    The way in and out of that pool costs a small request a tenth of its time. None stays outside while an exchange
    waits for the pool, so that exchange can do without.

    Args:
        connector: the pool.
        cooldown: while it lasts, no connection is handed out: `SendAborted` is raised.
    """

    def __init__(self, connector: CheckedConnector, cooldown: Cooldown) -> None:
        self._connector = connector
        self._cooldown = cooldown
        self._idle: list[PooledConnection] = []
        self._moment: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        connector.collect = self._let_go

    def take(self, *, fresh: bool) -> PooledConnection | None:
        """The connection that was used last; None for a ``fresh`` one, and if `acquire` has to look closer."""
        if fresh or not self._idle:
            return None
        connection = self._idle[-1]
        protocol = connection.protocol
        # As `clean` has it, without two more calls for every small request.
        if protocol.transport is None or protocol.transport.is_closing() or protocol.should_close or connection.look(0):
            return None
        if self._cooldown.until > self._loop.time():
            raise SendAborted
        self._idle.pop()
        connection.user = _FAST_PATH
        connection.reused = True
        return connection

    async def acquire(
        self, request: aiohttp.ClientRequest, timeout: aiohttp.ClientTimeout, *, fresh: bool
    ) -> PooledConnection:
        """A connection for one exchange, to be given to `put_back` or closed by its ``lease``.

        Raises `SendAborted`, and aiohttp's errors.
        """
        while self._idle and not fresh:
            connection = self._idle.pop()
            if await self._connector.serves_again(connection):
                return self._granted(connection)
            self._connector.discard(connection)
        try:
            lease, new = await self._connector.ask(request, [], timeout, fresh=fresh)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        if new is None:
            lease.close()
            raise aiohttp.ServerDisconnectedError
        new.lease = lease
        return self._granted(new)

    def put_back(self, connection: PooledConnection, rows: RowsSent | None) -> None:
        """Take a connection back whose response was whole, with the rows that it answered."""
        if rows is not None:
            connection.answered.append(rows)
        connection.user = None
        if self._connector.waiting or connection.protocol.should_close or connection.protocol.transport is None:
            self._connector.take_back(connection)
            return
        self._idle.append(connection)
        if self._moment is None:
            self._moment = self._loop.call_later(_MOMENT, self._let_go)

    def _granted(self, connection: PooledConnection) -> PooledConnection:
        self._connector.require_permission(connection.lease)
        connection.user = _FAST_PATH
        return connection

    def _let_go(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        while self._idle:
            self._connector.take_back(self._idle.pop())


class FastPath:
    """A transport that sends small POST requests to one URL itself, and all others through ``http``.

    Args:
        http: the HTTP transport whose connections it uses.
        idle: connections of that transport.
        url: the URL.
        timeout: ``connect`` in it bounds the making of a connection.
        limits: aiohttp's limits on the header of a response.
        id_header: a header field by which a response names its request.
    """

    def __init__(
        self,
        http: HttpTransport,
        idle: IdleConnections,
        url: URL,
        timeout: aiohttp.ClientTimeout,
        limits: HeadLimits,
        *,
        id_header: str | None = None,
    ) -> None:
        self._http = http
        self._idle = idle
        self._url = str(url)
        self._timeout = timeout
        self._limits = limits
        self._id_header = id_header
        self._request = PlainRequest(hdrs.METH_POST, url)
        self._start = f"{hdrs.METH_POST} {url.raw_path_qs} HTTP/1.1"
        self._defaults = [(name, value) for name, value in self._request.headers.items() if name != hdrs.CONTENT_LENGTH]
        self._headers: object = None
        self._head = b""

    async def send(self, request: Request) -> Response:
        """Send ``request``. Raises `TransportError`, and `SendAborted` if nothing was sent."""
        http, idle, parts, own = self._http, self._idle, request.body, request.own_fields
        length = len(parts[0]) if len(parts) == 1 and type(parts[0]) is bytes else length_of(parts)
        if (
            length > SMALL
            or request.method != "POST"
            or request.url != self._url
            # A mock, a recorder or a tracer that patches the session has to see every request, from now on.
            or aiohttp.ClientSession._request is not _SEND  # noqa: SLF001
            or aiohttp.ClientSession.request is not _PUBLIC_SEND
            or http.closed
        ):
            return await http.send(request)
        if request.headers is not self._headers:  # most often the same as the last time
            self._headers, self._head = request.headers, self._encoded(request)
        head = self._head  # another request may replace it while this one waits for a connection
        message = connection = None
        try:
            connection = idle.take(fresh=request.fresh)
            if connection is None:
                connection = await idle.acquire(self._request, self._timeout, fresh=request.fresh)
            protocol = connection.protocol
            if protocol.transport is None:
                raise aiohttp.ServerDisconnectedError
            # A new parser, so that bytes which came before this request cannot begin its response.
            protocol.set_response_params(read_until_eof=True, auto_decompress=False, **self._limits)
            end = f"{length}\r\n{own}\r\n".encode() if own else b"%d\r\n\r\n" % length
            protocol.transport.write(b"".join((head, end, *parts)))
            message, content = await protocol.read()
            # Interim responses come before the final one; 101 is final (RFC 9110, 15.2).
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            status, headers = message.code, message.headers
            if (
                content.is_eof()  # most often the body has come with the header
                and status == 200
                and hdrs.CONTENT_LENGTH in headers
                and hdrs.TRANSFER_ENCODING not in headers
                and hdrs.CONTENT_ENCODING not in headers
                and len(headers) <= _FEW_FIELDS
                and self._id_header is None
            ):
                body = content.read_nowait(-1)
                # The two rare cases alone cost a call.
                if len(body) > http.cap or body.startswith(BYTE_ORDER_MARK):
                    body = checked_body(body, headers, http.cap)
            else:
                body = await http.read(request, FastResponse(message, content, connection.lease))
        except BaseException as error:
            reused = connection is not None and _closed(connection) and message is None
            # The error that a protocol keeps would else keep a buffer through this frame.
            protocol = connection = None  # type: ignore[assignment]
            if passes(error):
                raise
            raise self._failure(error, reused=reused) from None
        idle.put_back(connection, request.rows if status < 300 else None)
        return Response(status=status, headers=headers, body=body, url=request.url)

    def _encoded(self, request: Request) -> bytes:
        """The head of a request up to the value of Content-Length, which comes last."""
        headers = request.headers
        fields = [field for field in self._defaults if field[0] not in headers]
        lines = [self._start, *(f"{name}: {value}" for name, value in (*fields, *headers.items()))]
        return "\r\n".join((*lines, f"{hdrs.CONTENT_LENGTH}: ")).encode()

    def _failure(self, error: BaseException, *, reused: bool) -> Exception:
        if isinstance(error, HttpProcessingError):  # as aiohttp's session words it
            info = self._request.request_info
            error = aiohttp.ClientResponseError(
                info, (), status=error.code, message=error.message, headers=error.headers
            )
        return self._http.failure(error, reused=reused)
