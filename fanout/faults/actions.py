"""The action of each fault on one exchange: the bytes that are sent, and the end of the connection."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from fanout.serving.exchange import ServerResponse, json_answer

if TYPE_CHECKING:
    from fanout.serving.exchange import ServerRequest

# The error of the clock of a server that sends dates.
_SKEW = timedelta(hours=-1)

_PIECE = bytes(2**16)


class FaultyConnection(Protocol):
    """The server's end of a connection, as far as faults use it. `Connection` is one over a socket."""

    doomed: bool
    """The connection is to end as soon as another request begins on it."""

    async def send(self, *parts: bytes) -> None:
        """Send the parts."""

    def close(self) -> None:
        """End the connection with a FIN."""

    def reset(self) -> None:
        """End the connection with a RST."""

    async def half_close(self) -> None:
        """Send a FIN, and read until the client ends the connection."""

    async def gone(self) -> None:
        """Wait until the client ends the connection."""


@dataclass(frozen=True, slots=True)
class FaultyExchange:
    """One exchange that is to go wrong."""

    connection: FaultyConnection
    request: ServerRequest
    response: ServerResponse
    """The response of a correct server."""

    refuse: Callable[[float], Awaitable[None]]
    """Resets every connection of the server, and refuses new ones for some seconds."""

    value: Any
    """The fault's parameter."""

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return self.response.body

    def head(self, *fields: str) -> bytes:
        """The status line and header of the response, with ``fields`` that frame the body."""
        return self.response.head(fields)

    def without_half(self) -> bytes:
        """The response without half of its body, under a whole header that states the length of the whole body."""
        return self.response.encoded()[: -(len(self.body) + 1) // 2]


FaultAction: TypeAlias = Callable[[FaultyExchange], Awaitable[None]]


def sending(
    parts: Callable[[FaultyExchange], Iterable[bytes]], then: Literal["", "close", "reset"] = ""
) -> FaultAction:
    """The action that sends the parts, each as soon as the one before has left, then ends the connection."""

    async def act(exchange: FaultyExchange) -> None:
        await exchange.connection.send(*parts(exchange))
        if then:
            getattr(exchange.connection, then)()

    return act


def answering(change: Callable[[FaultyExchange], ServerResponse]) -> FaultAction:
    """The action that sends another response, whole and well framed."""
    return sending(lambda exchange: [change(exchange).encoded()])


async def silence(exchange: FaultyExchange) -> None:
    # Only the client's deadline can end this, as with a server that hangs.
    await exchange.connection.gone()


async def slow(exchange: FaultyExchange) -> None:
    await asyncio.sleep(exchange.value)
    await exchange.connection.send(exchange.response.encoded())


async def drip(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.head(f"Content-Length: {len(exchange.body)}"))
    # The deadline of an attempt has to end this: each byte resets a timeout on inactivity.
    for byte in exchange.body:
        await asyncio.sleep(exchange.value)
        await exchange.connection.send(bytes([byte]))


async def answered_twice(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.response.encoded())
    await slow(exchange)


async def close_on_reuse(exchange: FaultyExchange) -> None:
    exchange.connection.doomed = True
    await exchange.connection.send(exchange.response.encoded())


async def endless(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.head("Transfer-Encoding: chunked"))
    while True:
        # Large pieces, so that a cap is reached in milliseconds.
        await exchange.connection.send(chunk(_PIECE))


async def early_413(exchange: FaultyExchange) -> None:
    await exchange.connection.send(refusal(413, {"Connection": "close"}).encoded())
    # A RST for the unread body would discard the response in the client's buffer.
    await exchange.connection.half_close()
    exchange.connection.close()


@answering
def retry_date(exchange: FaultyExchange) -> ServerResponse:
    now = datetime.now(UTC).replace(microsecond=0) + _SKEW
    then = now + timedelta(seconds=exchange.value)
    return refusal(429, {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)})


@answering
def echo(exchange: FaultyExchange) -> ServerResponse:
    request = exchange.request
    message = f"refused {request.method} {request.path} with {dict(request.headers)}"
    return json_answer({"error": message}, status=exchange.value)


def refusal(status: int, headers: Mapping[str, str] | None = None) -> ServerResponse:
    """An error in place of the response."""
    response = json_answer({"error": "this fault was asked for"}, status=status)
    return replace(response, headers={**response.headers, **(headers or {})})


# Compressing a bomb takes longer than all else in a test.
@lru_cache(2)
def zeros_in_gzip(size: int) -> bytes:
    """That many zeros, compressed."""
    return gzip.compress(bytes(size), 9)


def chunk(data: bytes, *, last: bool = False) -> bytes:
    """A chunk of a chunked body, with the end of the body behind it if it is the last."""
    return b"%x\r\n%s\r\n%s" % (len(data), data, b"0\r\n\r\n" if last else b"")
