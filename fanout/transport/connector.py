"""Connections: pooled, and never handed out with an answer already on them that no request asked for."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

import aiohttp

from fanout.transport.aiohttp_names import unread_messages

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

RowsSent: TypeAlias = tuple[object, int, int]
"""Whose rows a request carries, in the caller's words, and which: start and stop."""

_MOMENT = 1.0
"""Seconds; far less than any server waits for the next request."""

_REMEMBERED = 100
"""Requests of a connection whose rows are remembered."""

_TURNS = 4
"""Turns of the event loop in which it reads what is in a socket, on every loop and through TLS."""


class Kept:
    """A connection that may serve again: a look at its socket, and the rows that were answered over it."""

    __slots__ = ("_tls", "answered", "look", "protocol", "user")

    def __init__(self, protocol: ResponseHandler) -> None:
        transport = protocol.transport
        assert transport is not None
        socket = transport.get_extra_info("socket")
        self.look = _look_at(-1 if socket is None else socket.fileno())
        """Called with 0, true if something has come that the event loop has not read yet, or the connection's end."""

        self._tls = transport.get_extra_info("ssl_object") is not None
        self.protocol = protocol
        self.user: ConnectionUse | None = None
        """The exchange that it was last handed out for, until that has ended."""

        self.answered: deque[RowsSent] = deque(maxlen=_REMEMBERED)

    @property
    def clean(self) -> bool:
        """The connection stands, and no part of an answer has been read from it."""
        return self.protocol.is_connected() and not self.protocol.should_close

    async def read(self) -> bool:
        """Let the event loop read what has come. True if that is nothing to HTTP, as TLS session tickets are."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if not (self.clean and self.look(0)):
                break
        return self._tls and self.clean and not self.look(0)


class ConnectionUse:
    """What the connector is asked for, and tells, about the connection of one exchange."""

    __slots__ = ("fresh", "kept", "reused")

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.reused = False
        self.kept: Kept | None = None


CONNECTION_USE: ContextVar[ConnectionUse] = ContextVar("fanout_connection_use")


class SendAborted(Exception):  # noqa: N818 - no fault of anybody's
    """A connection is there, but the request may not be sent on it any more; nothing was."""


class NoDescriptor(SendAborted):
    """There is no file descriptor for another connection: a local limit, which says nothing of the endpoint."""


class Connector(aiohttp.TCPConnector):
    """Hands out no kept connection on which the server has already said something.

    Bytes that arrive on an idle connection would be taken for the answer to the next request, and every later answer
    would be off by one (aiohttp#13656). The event loop may not have read them yet, so the socket itself is looked at.
    Only connections that have served are: a fresh one over TLS 1.3 holds session tickets.

    A connection that is put down stays at hand for a moment, out of aiohttp's pool: the way in and out of that costs a
    small request a tenth of its time. Nothing is at hand while anybody asks the pool, so it can do without.

    Args:
        id_header: a header in which an answer says which request it belongs to. An unsolicited answer that has it
            proves nothing against the others: they had it too.
    """

    def __init__(self, *, limit: int, tls: ssl.SSLContext | bool, id_header: str | None = None) -> None:
        super().__init__(limit=limit, ssl=tls)
        self._kept: dict[ResponseHandler, Kept] = {}
        self._at_hand: list[Connection] = []
        self._asking = 0
        self._moment: asyncio.TimerHandle | None = None
        self._id_header = id_header
        self.withhold: Callable[[], bool] = lambda: False
        """Asked once a connection is there, since making it may take long; true raises `SendAborted`."""

        self.on_second_answer: Callable[[Sequence[RowsSent]], None] = lambda _: None
        """Called when a server has answered a request twice, with the rows of the last answers of all its connections.

        The other connections may have been given answers of other requests too, and nothing shows it yet.
        """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        return await self._ask(CONNECTION_USE.get(), req, traces, timeout)

    async def lease(self, use: ConnectionUse, req: aiohttp.ClientRequest, timeout: aiohttp.ClientTimeout) -> Connection:
        """A connection for one exchange, as ``use`` demands, which is to be put down or closed after it."""
        while self._at_hand and not use.fresh:
            connection = self._at_hand.pop()
            protocol = connection.protocol
            kept = self._kept.get(protocol)  # type: ignore[arg-type]
            # As `Kept.clean` has it, which would be one more call for every small request.
            clean = kept is not None and protocol.is_connected() and not protocol.should_close  # type: ignore[union-attr]
            if clean and (not kept.look(0) or await self._read(connection, kept)):  # type: ignore[union-attr,arg-type]
                return self._granted(connection, use, kept, reused=True)
            self._give_up(connection, kept)
        return await self._ask(use, req, [], timeout)

    def put_down(self, connection: Connection) -> None:
        """Take a connection back whose exchange is over, for the next one."""
        protocol = connection.protocol
        if self._asking or self._closed or protocol is None or protocol.should_close:
            connection.release()
            return
        self._at_hand.append(connection)
        if self._moment is None:
            self._moment = self._loop.call_later(_MOMENT, self._let_go)

    def ended(self, use: ConnectionUse, rows: RowsSent | None) -> None:
        """Note the end of an exchange whose answer was whole, with the rows that it answered."""
        kept = use.kept
        if kept is None:
            return
        if rows is not None:
            kept.answered.append(rows)
        if kept.user is use:  # else it has been looked at, and handed out, since
            kept.user = None
            if len(kept.protocol):
                self._look_behind(kept)

    async def look_over(self) -> None:
        """Report second answers that have come on idle connections."""
        idle = [kept for kept in self._kept.values() if kept.user is None]
        if any(kept.clean and kept.look(0) for kept in idle):
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        for kept in idle:
            if kept.user is None and len(kept.protocol):
                self._look_behind(kept)

    def _look_behind(self, kept: Kept) -> None:
        """Never use this connection again, and report a second answer if one has been read from it.

        Any other unsolicited answer is harmless once the connection is closed, a 408 before it closes for instance.
        """
        kept.protocol.force_close()
        for message in unread_messages(kept.protocol):
            if 200 <= message.code < 300 and (self._id_header is None or self._id_header not in message.headers):
                self.on_second_answer([rows for other in self._kept.values() for rows in other.answered])
                return

    async def close(self, *, abort_ssl: bool = False) -> None:
        self._let_go()
        await super().close(abort_ssl=abort_ssl)

    async def _ask(
        self, use: ConnectionUse, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        self._let_go()
        self._asking += 1
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                if (kept := self._kept_of(connection)) is None:
                    return self._granted(connection, use, self._remember(connection.protocol), reused=False)
                if not use.fresh and kept.clean and (not kept.look(0) or await self._read(connection, kept)):
                    return self._granted(connection, use, kept, reused=True)
                self._give_up(connection, kept)
        finally:
            self._asking -= 1

    async def _read(self, connection: Connection, kept: Kept) -> bool:
        try:
            return await kept.read()
        except BaseException:
            connection.close()
            raise

    def _kept_of(self, connection: Connection) -> Kept | None:
        return None if (protocol := connection.protocol) is None else self._kept.get(protocol)

    def _give_up(self, connection: Connection, kept: Kept | None) -> None:
        if kept is not None:
            self._look_behind(kept)
            kept.protocol.abort()  # the peer that has said too much gets no TLS farewell
        connection.close()

    def _granted(self, connection: Connection, use: ConnectionUse, kept: Kept | None, *, reused: bool) -> Connection:
        if self.withhold():
            connection.release()
            raise SendAborted
        use.reused = reused  # it may be aiohttp's own second try, after a reused connection failed it
        if kept is not None:
            use.kept, kept.user = kept, use
        return connection

    def _let_go(self) -> None:
        """Give what is at hand to aiohttp's pool, which closes what is not used for long."""
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        while self._at_hand:
            connection = self._at_hand.pop()
            kept = self._kept_of(connection)
            if kept is not None and len(kept.protocol):
                self._look_behind(kept)
            connection.release()

    def _remember(self, protocol: ResponseHandler | None) -> Kept | None:
        if protocol is None or protocol.transport is None or (closed := protocol.closed) is None:
            return None

        def forget(ended: asyncio.Future[None]) -> None:
            self._kept.pop(protocol, None)
            if not ended.cancelled():
                ended.exception()  # nobody may be waiting for it: asyncio must not complain of how it ended

        self._kept[protocol] = kept = Kept(protocol)
        closed.add_done_callback(forget)
        return kept


def _look_at(descriptor: int) -> Callable[[int], object]:
    """A function that tells at once, called with 0, whether there is anything to be read."""
    if descriptor < 0:
        return lambda _: False
    if not hasattr(select, "poll"):  # Windows
        return lambda _: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll
