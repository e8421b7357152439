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
    """

    def __init__(self, *, limit: int, tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=limit, ssl=tls)
        self._used_before: set[ResponseHandler | None] = set()
        self.withhold: Callable[[], bool] = lambda: False
        """Asked once a connection is there, since making it may take long; true raises `Withheld`."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        return await self.lease(CONNECTION_USE.get(), req, traces, timeout)

    async def lease(
        self, use: ConnectionUse, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection for one exchange, as ``use`` demands."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            new = protocol not in self._used_before
            if new:
                self._remember(protocol)
            elif use.fresh or protocol is None or protocol.should_close:
                connection.close()
                continue
            if self.withhold():
                connection.release()
                raise Withheld
            use.reused = not new  # it may be aiohttp's own second try, after a reused connection failed it
            return connection

    def _remember(self, protocol: ResponseHandler | None) -> None:
        if protocol is None or (closed := protocol.closed) is None:
            return

        def forget(ended: asyncio.Future[None]) -> None:
            self._used_before.discard(protocol)
            if not ended.cancelled():
                ended.exception()  # nobody may be waiting for it: asyncio must not complain of how it ended

        self._used_before.add(protocol)
        closed.add_done_callback(forget)
