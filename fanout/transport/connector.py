"""Connections: pooled, and never handed out with somebody else's answer already on them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aiohttp.client_proto import ResponseHandler


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
        self._used_before: WeakSet[Any] = WeakSet()
        self.withhold: Callable[[], bool] = lambda: False
        """Asked once a connection is there, since making it may take long; true raises `Withheld`."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        use = CONNECTION_USE.get()
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol = connection.protocol
            new = protocol not in self._used_before
            if new:
                self._used_before.add(protocol)
                _forget(protocol)
            elif use.fresh or protocol is None or protocol.should_close:
                connection.close()
                continue
            if self.withhold():
                connection.release()
                raise Withheld
            use.reused = not new  # it may be aiohttp's own second try, after a reused connection failed it
            return connection


def _forget(protocol: ResponseHandler | None) -> None:
    """Nobody may be waiting for the end of a connection: asyncio must not complain of how it ended."""
    if protocol is not None and (closed := protocol.closed) is not None:
        closed.add_done_callback(lambda future: future.cancelled() or future.exception())
