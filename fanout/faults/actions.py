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

from fanout.faults.corruption import first_half, labelled_gzip
from fanout.serving.exchange import ServerResponse, json_answer

if TYPE_CHECKING:
    from fanout.serving.exchange import ServerRequest

# The error of the clock of a server that sends dates.
_SKEW = timedelta(hours=-1)

_PIECE = bytes(2**16)
_LATE = ServerResponse(status=408, headers={"Connection": "close"}, body=b"")


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


class Listener(Protocol):
    """The server as a whole, as far as faults use it."""

    async def refuse(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones for a while."""


@dataclass(frozen=True, slots=True)
class FaultyExchange:
    """One exchange that is to go wrong."""

    connection: FaultyConnection
    request: ServerRequest
    response: ServerResponse
    """The response of a correct server."""

    listener: Listener
    value: Any
    """The fault's parameter."""

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return self.response.body

    def head(self, *fields: str) -> bytes:
        """The status line and header of the response, with ``fields`` that frame the body."""
        return self.response.head(fields)


# Compressing a bomb takes longer than all else in a test.
@lru_cache(2)
def _bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 9)


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


def corrupting(change: Callable[[ServerResponse], ServerResponse]) -> FaultAction:
    """The action of a fault in the content of a whole response. Errors stay as they are: no client trusts them."""
    return answering(
        lambda exchange: change(exchange.response) if exchange.response.status == 200 else exchange.response
    )


reset_before_headers = sending(lambda _: [], "reset")
close_before_headers = sending(lambda _: [], "close")
reset_mid_body = sending(lambda exchange: [_without_half(exchange)], "reset")
short_body = sending(lambda exchange: [_without_half(exchange)], "close")
chunked_without_end = sending(
    lambda exchange: [exchange.head("Transfer-Encoding: chunked"), _chunk(exchange.body)], "close"
)
close_delimited_cut = sending(
    lambda exchange: [exchange.head("Connection: close"), first_half(exchange.response).body], "close"
)
small_content_length = sending(
    lambda exchange: [exchange.head(f"Content-Length: {len(exchange.body) // 2}") + exchange.body]
)
two_content_lengths = sending(
    lambda exchange: [
        exchange.head(f"Content-Length: {len(exchange.body) // 2}", f"Content-Length: {len(exchange.body)}"),
        exchange.body,
    ]
)
length_and_chunked = sending(
    lambda exchange: [
        exchange.head(f"Content-Length: {len(exchange.body)}", "Transfer-Encoding: chunked")
        + _only_chunk(exchange.body)
    ]
)
xchunked = sending(lambda exchange: [exchange.head("Transfer-Encoding: xchunked"), _only_chunk(exchange.body)], "close")
chunked_gzip = sending(lambda exchange: [exchange.head("Transfer-Encoding: chunked, gzip"), exchange.body], "close")
huge_header = sending(
    lambda exchange: [
        exchange.head(f"X-Long: {'x' * exchange.value}", f"Content-Length: {len(exchange.body)}"),
        exchange.body,
    ]
)
# In one piece: no client can distinguish bytes that come after its next request from the response to that.
unsolicited = sending(lambda exchange: [exchange.response.encoded() * 2])
timeout_when_idle = sending(lambda exchange: [exchange.response.encoded() + _LATE.encoded()], "close")
close_after_answer = sending(lambda exchange: [exchange.response.encoded()], "close")

partial = answering(lambda exchange: replace(exchange.response, status=206))
gzip_bomb = answering(lambda exchange: labelled_gzip(replace(exchange.response, body=_bomb(exchange.value))))
status = answering(lambda exchange: _error(exchange.value))
retry_after = answering(lambda exchange: _error(429, {"Retry-After": exchange.value}))
redirect = answering(lambda exchange: _error(307, {"Location": exchange.value}))


async def refused(exchange: FaultyExchange) -> None:
    await exchange.listener.refuse(exchange.value)


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
    await asyncio.sleep(exchange.value)
    await exchange.connection.send(exchange.response.encoded())


async def close_on_reuse(exchange: FaultyExchange) -> None:
    exchange.connection.doomed = True
    await exchange.connection.send(exchange.response.encoded())


async def endless(exchange: FaultyExchange) -> None:
    await exchange.connection.send(exchange.head("Transfer-Encoding: chunked"))
    while True:
        # Large pieces, so that a cap is reached in milliseconds.
        await exchange.connection.send(_chunk(_PIECE))


async def early_413(exchange: FaultyExchange) -> None:
    await exchange.connection.send(_error(413, {"Connection": "close"}).encoded())
    # A RST for the unread body would discard the response in the client's buffer.
    await exchange.connection.half_close()
    exchange.connection.close()


@answering
def retry_date(exchange: FaultyExchange) -> ServerResponse:
    now = datetime.now(UTC).replace(microsecond=0) + _SKEW
    then = now + timedelta(seconds=exchange.value)
    return _error(429, {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)})


@answering
def echo(exchange: FaultyExchange) -> ServerResponse:
    request = exchange.request
    message = f"refused {request.method} {request.path} with {dict(request.headers)}"
    return json_answer({"error": message}, status=exchange.value)


def _error(status: int, headers: Mapping[str, str] | None = None) -> ServerResponse:
    response = json_answer({"error": "this fault was asked for"}, status=status)
    return replace(response, headers={**response.headers, **(headers or {})})


def _without_half(exchange: FaultyExchange) -> bytes:
    # The header is whole and states the length of the whole body.
    return exchange.response.encoded()[: -(len(exchange.body) + 1) // 2]


def _only_chunk(data: bytes) -> bytes:
    return _chunk(data) + b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
