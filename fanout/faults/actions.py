"""The action of each fault on one exchange: the bytes that are sent, and the end of the connection."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fanout.faults.corruption import first_half, labelled_gzip
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

    def encoded(self) -> bytes:
        """The whole response as a correct server sends it."""
        return self.response.encoded()

    async def send(self, *parts: bytes) -> None:
        """Send the parts to the client."""
        await self.connection.send(*parts)


FaultAction: TypeAlias = Callable[[FaultyExchange], Awaitable[None]]


async def refused(exchange: FaultyExchange) -> None:
    await exchange.listener.refuse(exchange.value)


async def silence(exchange: FaultyExchange) -> None:
    await exchange.connection.gone()


async def slow(exchange: FaultyExchange) -> None:
    await asyncio.sleep(exchange.value)
    await exchange.send(exchange.encoded())


async def drip(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head(f"Content-Length: {len(exchange.body)}"))
    for byte in exchange.body:
        await asyncio.sleep(exchange.value)
        await exchange.send(bytes([byte]))


async def reset_before_headers(exchange: FaultyExchange) -> None:
    exchange.connection.reset()


async def close_before_headers(exchange: FaultyExchange) -> None:
    exchange.connection.close()


async def reset_mid_body(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.encoded()[: -(len(exchange.body) + 1) // 2])
    exchange.connection.reset()


async def short_body(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.encoded()[: -(len(exchange.body) + 1) // 2])
    exchange.connection.close()


async def chunked_without_end(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head("Transfer-Encoding: chunked"), _chunk(exchange.body))
    exchange.connection.close()


async def close_delimited_cut(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head("Connection: close"), first_half(exchange.response).body)
    exchange.connection.close()


async def small_content_length(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head(f"Content-Length: {len(exchange.body) // 2}") + exchange.body)


async def two_content_lengths(exchange: FaultyExchange) -> None:
    whole = len(exchange.body)
    await exchange.send(exchange.head(f"Content-Length: {whole // 2}", f"Content-Length: {whole}"))
    await exchange.send(exchange.body)


async def length_and_chunked(exchange: FaultyExchange) -> None:
    fields = [f"Content-Length: {len(exchange.body)}", "Transfer-Encoding: chunked"]
    await exchange.send(exchange.head(*fields) + _chunk(exchange.body) + b"0\r\n\r\n")


async def xchunked(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head("Transfer-Encoding: xchunked"), _chunk(exchange.body) + b"0\r\n\r\n")
    exchange.connection.close()


async def chunked_gzip(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head("Transfer-Encoding: chunked, gzip"), exchange.body)
    exchange.connection.close()


async def partial(exchange: FaultyExchange) -> None:
    await exchange.send(replace(exchange.response, status=206).encoded())


async def unsolicited(exchange: FaultyExchange) -> None:
    # In one piece: no client can distinguish bytes that come after its next request from the response to that.
    await exchange.send(exchange.encoded() * 2)


async def answered_twice(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.encoded())
    await asyncio.sleep(exchange.value)
    await exchange.send(exchange.encoded())


async def timeout_when_idle(exchange: FaultyExchange) -> None:
    late = ServerResponse(status=408, headers={"Connection": "close"}, body=b"")
    await exchange.send(exchange.encoded() + late.encoded())
    exchange.connection.close()


async def close_on_reuse(exchange: FaultyExchange) -> None:
    exchange.connection.doomed = True
    await exchange.send(exchange.encoded())


async def close_after_answer(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.encoded())
    exchange.connection.close()


async def gzip_bomb(exchange: FaultyExchange) -> None:
    await exchange.send(labelled_gzip(replace(exchange.response, body=_bomb(exchange.value))).encoded())


async def endless(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head("Transfer-Encoding: chunked"))
    while True:
        await exchange.send(_chunk(_PIECE))


async def huge_header(exchange: FaultyExchange) -> None:
    await exchange.send(exchange.head(f"X-Long: {'x' * exchange.value}", f"Content-Length: {len(exchange.body)}"))
    await exchange.send(exchange.body)


async def status(exchange: FaultyExchange) -> None:
    await exchange.send(_error(exchange.value).encoded())


async def retry_after(exchange: FaultyExchange) -> None:
    await exchange.send(_error(429, {"Retry-After": exchange.value}).encoded())


async def retry_date(exchange: FaultyExchange) -> None:
    now = datetime.now(UTC).replace(microsecond=0) + _SKEW
    then = now + timedelta(seconds=exchange.value)
    dates = {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)}
    await exchange.send(_error(429, dates).encoded())


async def redirect(exchange: FaultyExchange) -> None:
    await exchange.send(_error(307, {"Location": exchange.value}).encoded())


async def early_413(exchange: FaultyExchange) -> None:
    await exchange.send(_error(413, {"Connection": "close"}).encoded())
    await exchange.connection.half_close()
    exchange.connection.close()


async def echo(exchange: FaultyExchange) -> None:
    request = exchange.request
    message = f"refused {request.method} {request.path} with {dict(request.headers)}"
    await exchange.send(json_answer({"error": message}, status=exchange.value).encoded())


def _error(status: int, headers: Mapping[str, str] | None = None) -> ServerResponse:
    response = json_answer({"error": "this fault was asked for"}, status=status)
    return replace(response, headers={**response.headers, **(headers or {})})


def corrupting(change: Callable[[ServerResponse], ServerResponse]) -> FaultAction:
    """The action of a fault in the content of a whole response. Errors stay as they are: no client trusts them."""

    async def act(exchange: FaultyExchange) -> None:
        response = exchange.response
        await exchange.send((change(response) if response.status == 200 else response).encoded())

    return act


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@lru_cache(2)
def _bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 9)
