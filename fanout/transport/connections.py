"""The pool of connections: it hands out none on which bytes have come that no request asked for."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp

from fanout.transport.aiohttp_names import unread_messages
from fanout.transport.base import SendAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from fanout.transport.base import Cooldown, RowsSent

# Requests of a connection whose rows are remembered.
_REMEMBERED = 100

# Turns of the event loop in which it reads the bytes in a socket, on every loop and through TLS.
_TURNS = 4


class PooledConnection:
    """A connection that may serve again, a look at its socket, and the rows that were answered over it."""

    __slots__ = ("_tls", "answered", "lease", "look", "protocol", "reused", "user")

    def __init__(self, protocol: ResponseHandler) -> None:
        transport = protocol.transport
        assert transport is not None
        socket = transport.get_extra_info("socket")
        self.look = _look_at(-1 if socket is None else socket.fileno())
        """Called with 0, true if bytes have come that the event loop has not read yet, or the connection's end."""

        self._tls = transport.get_extra_info("ssl_object") is not None
        self.protocol = protocol
        self.lease: Connection
        """aiohttp's handle, by which the connection is given back to its pool."""

        self.reused = False
        """It has served before."""

        self.user: object = None
        """The exchange that it was last handed out for, until that has ended."""

        self.answered: deque[RowsSent] = deque(maxlen=_REMEMBERED)

    @property
    def clean(self) -> bool:
        """The connection stands, and no part of a response has been read from it."""
        return self.protocol.is_connected() and not self.protocol.should_close

    async def read(self) -> bool:
        """Let the event loop read the bytes. True if they are nothing to HTTP, as TLS session tickets are."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if not (self.clean and self.look(0)):
                break
        return self._tls and self.clean and not self.look(0)


class ConnectionUse:
    """The connection of one exchange through aiohttp's session, which passes it by a context variable."""

    __slots__ = ("connection", "fresh", "reused")

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.reused = False
        self.connection: PooledConnection | None = None


CONNECTION_USE: ContextVar[ConnectionUse] = ContextVar("fanout_connection_use")


class CheckedConnector(aiohttp.BaseConnector):
    """Hands out no kept connection on which the server has already sent something.

    Bytes that arrive on an idle connection would be taken for the response to the next request, and every later
    response would be off by one (aiohttp#13656). The event loop may not have read them yet, so the socket itself is
    looked at. Only connections that have served are: a new one over TLS 1.3 holds session tickets.

    Args:
        cooldown: checked once there is a connection, since making one may take long; `SendAborted` is raised then.
        id_header: a header field in which a response names its request. An unsolicited response that has it proves
            nothing against the others: they had it too.
        options: those of aiohttp's connector.
    """

    def __init__(self, *, cooldown: Cooldown, id_header: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._known: dict[ResponseHandler, PooledConnection] = {}
        self._cooldown = cooldown
        self._id_header = id_header
        self.waiting = 0
        """Exchanges that wait for a connection of the pool. Once the pool is closed, it is never 0 again."""

        self.collect: Callable[[], None] = lambda: None
        """Called before an exchange waits: returns the connections that are lent out and idle."""

        self.on_second_answer: Callable[[Sequence[RowsSent]], None] = lambda _: None
        """Called when a server has answered a request twice, with the rows of the last responses on all connections.

        The other connections may have been given responses to other requests too, and nothing shows it yet.
        """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """`aiohttp.BaseConnector.connect`, which the session calls for every request."""
        use = CONNECTION_USE.get()
        lease, connection = await self.ask(req, traces, timeout, fresh=use.fresh)
        # It may be aiohttp's own second try, after a reused connection failed it.
        use.reused = connection is not None and connection.reused
        self.require_permission(lease)
        if connection is not None:
            connection.lease, connection.user = lease, use
            use.connection = connection
        return lease

    def ended(self, use: ConnectionUse, rows: RowsSent | None) -> None:
        """Note the end of an exchange through the session whose response was whole, with the rows that it answered."""
        connection = use.connection
        if connection is None:
            return
        if rows is not None:
            connection.answered.append(rows)
        if connection.user is use:  # else it has been looked at, and handed out, since
            connection.user = None
            if len(connection.protocol):
                self._look_behind(connection)

    async def look_over(self) -> None:
        """Report second responses that have come on idle connections."""
        idle = [connection for connection in self._known.values() if connection.user is None]
        if any(connection.clean and connection.look(0) for connection in idle):
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        for connection in idle:
            if connection.user is None and len(connection.protocol):
                self._look_behind(connection)

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close every connection, and report second responses that have come since the last look."""
        self.waiting += 1
        self.collect()
        await self.look_over()
        await super().close(abort_ssl=abort_ssl)

    async def ask(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout, *, fresh: bool
    ) -> tuple[Connection, PooledConnection | None]:
        """A connection of aiohttp's pool, new or clean; without a `PooledConnection` if it is lost already."""
        self.collect()
        self.waiting += 1
        try:
            while True:
                lease = await super().connect(req, traces, timeout)
                connection = None if lease.protocol is None else self._known.get(lease.protocol)
                if connection is None:
                    return lease, self._remember(lease.protocol)
                connection.lease = lease
                if not fresh and await self.serves_again(connection):
                    return lease, connection
                self.discard(connection)
        finally:
            self.waiting -= 1

    async def serves_again(self, connection: PooledConnection) -> bool:
        """True if the server has sent nothing on a connection that has served before."""
        try:
            clean = connection.clean and (not connection.look(0) or await connection.read())
        except BaseException:
            connection.lease.close()
            raise
        connection.reused = True
        return clean

    def require_permission(self, lease: Connection) -> None:
        """Raise `SendAborted` during a cooldown, and return the connection to the pool."""
        if self._cooldown.until > self._loop.time():
            lease.release()
            raise SendAborted

    def discard(self, connection: PooledConnection) -> None:
        """Close a connection that cannot serve again."""
        self._look_behind(connection)
        connection.protocol.abort()  # a peer that has sent too much gets no TLS farewell
        connection.lease.close()

    def _look_behind(self, connection: PooledConnection) -> None:
        """Never use this connection again, and report a second response if one has been read from it.

        Any other unsolicited response is harmless once the connection is closed, such as a 408 before it closes.
        """
        connection.protocol.force_close()
        for message in unread_messages(connection.protocol):
            if 200 <= message.code < 300 and (self._id_header is None or self._id_header not in message.headers):
                self.on_second_answer([rows for other in self._known.values() for rows in other.answered])
                return

    def take_back(self, connection: PooledConnection) -> None:
        """Return a connection to aiohttp's pool, which closes those that stay unused for long."""
        if len(connection.protocol):
            self._look_behind(connection)
        connection.lease.release()

    def _remember(self, protocol: ResponseHandler | None) -> PooledConnection | None:
        if protocol is None or protocol.transport is None or (closed := protocol.closed) is None:
            return None

        def forget(ended: asyncio.Future[None]) -> None:
            # aiohttp itself closes a connection on which a second response lies as it comes back to the pool.
            if connection.user is None and len(protocol):
                self._look_behind(connection)
            self._known.pop(protocol, None)
            if not ended.cancelled():
                ended.exception()  # retrieved, lest asyncio complains of an exception that no task awaits

        self._known[protocol] = connection = PooledConnection(protocol)
        closed.add_done_callback(forget)
        return connection


class Connector(CheckedConnector, aiohttp.TCPConnector):
    """Connections over TCP and TLS."""


class SocketConnector(CheckedConnector, aiohttp.UnixConnector):
    """Connections over a Unix socket."""


def _look_at(descriptor: int) -> Callable[[int], object]:
    """A function that says at once, called with 0, whether there is anything to be read."""
    if descriptor < 0:
        return lambda _: False
    if not hasattr(select, "poll"):  # Windows
        return lambda _: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll
