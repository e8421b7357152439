"""Connections: pooled, and never handed out with somebody else's answer already on them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


_MOMENT = 1.0
"""Seconds; far less than any server waits for the next request."""


class ConnectionUse:
    """What the connector is asked for, and tells, about the connection of one exchange."""

    __slots__ = ("fresh", "reused")

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.reused = False


CONNECTION_USE: ContextVar[ConnectionUse] = ContextVar("fanout_connection_use")


class Withheld(Exception):  # noqa: N818 - no fault of anybody's
    """A connection is there, but the request may not be sent on it any more; nothing was."""


class Connector(aiohttp.TCPConnector):
    """Hands out no idle connection on which the server has already said something.

    Bytes that arrive on an idle connection would be taken for the answer to the next request, and every later answer
    would be off by one (aiohttp#13656).

    A connection that is put down stays at hand for a moment, out of aiohttp's pool: the way in and out of that costs a
    small request a tenth of its time. Nothing is at hand while anybody asks the pool, so it can do without.
    """

    def __init__(self, *, limit: int, tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=limit, ssl=tls)
        self._used_before: set[ResponseHandler | None] = set()
        self._at_hand: list[Connection] = []
        self._asking = 0
        self._moment: asyncio.TimerHandle | None = None
        self.withhold: Callable[[], bool] = lambda: False
        """Asked once a connection is there, since making it may take long; true raises `Withheld`."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        return await self._ask(CONNECTION_USE.get(), req, traces, timeout)

    async def lease(self, use: ConnectionUse, req: aiohttp.ClientRequest, timeout: aiohttp.ClientTimeout) -> Connection:
        """A connection for one exchange, as ``use`` demands, which is to be put down or closed after it."""
        while self._at_hand and not use.fresh:
            connection = self._at_hand.pop()
            protocol = connection.protocol
            if protocol is None or protocol.should_close or not protocol.is_connected():
                connection.close()
            else:
                return self._granted(connection, use, reused=True)
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
                protocol = connection.protocol
                new = protocol not in self._used_before
                if new:
                    self._remember(protocol)
                elif use.fresh or protocol is None or protocol.should_close:
                    connection.close()
                    continue
                return self._granted(connection, use, reused=not new)
        finally:
            self._asking -= 1

    def _granted(self, connection: Connection, use: ConnectionUse, *, reused: bool) -> Connection:
        if self.withhold():
            connection.release()
            raise Withheld
        use.reused = reused  # it may be aiohttp's own second try, after a reused connection failed it
        return connection

    def _let_go(self) -> None:
        """Give what is at hand to aiohttp's pool, which closes what is not used for long."""
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        while self._at_hand:
            self._at_hand.pop().release()

    def _remember(self, protocol: ResponseHandler | None) -> None:
        if protocol is None or (closed := protocol.closed) is None:
            return

        def forget(ended: asyncio.Future[None]) -> None:
            self._used_before.discard(protocol)
            if not ended.cancelled():
                ended.exception()  # nobody may be waiting for it: asyncio must not complain of how it ended

        self._used_before.add(protocol)
        closed.add_done_callback(forget)
