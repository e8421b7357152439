"""Exchanges with raw servers, for the tests of the transport."""

from __future__ import annotations

import asyncio
import gzip
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from fanout.addresses import Endpoint
from fanout.errors import TransportError
from fanout.settings import Timeouts
from fanout.transport import EndpointClient
from fanout.types import Payload
from tests.loopback import Line, Received, chunked, http, loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


PAYLOAD = Payload(body=b'{"instances":[1]}')
PLAIN = b"the quick brown fox " * 100
GZIPPED = gzip.compress(PLAIN, mtime=0)  # the time would be in the names of tests


@asynccontextmanager
async def transport_to(
    url: str,
    *,
    cap: int = 2**20,
    headers: Mapping[str, str] | None = None,
    connections: int = 4,
    connect: float = 5.0,
) -> AsyncIterator[EndpointClient]:
    endpoint = Endpoint(url=url, headers=headers or {}, max_response_bytes=cap)
    client = EndpointClient(endpoint, url, timeouts=Timeouts(connect=connect), connections=connections)
    try:
        yield client
    finally:
        await client.close()


async def failure_of(answer: Any, *, cap: int = 2**20) -> Exception:
    """Return the error of a request to a server that answers like this."""
    async with loopback(answer) as server, transport_to(server.url, cap=cap) as transport:
        with pytest.raises(TransportError) as raised:
            await asyncio.wait_for(transport.post(PAYLOAD), 5)
    return raised.value


def hanging_up(*parts: bytes, reset: bool = False) -> Any:
    """Sends the parts, then ends the connection."""

    async def answer(_: Received, line: Line) -> None:
        await line.send(*parts)
        if reset:
            await asyncio.sleep(0.01)  # the sent bytes must arrive before the reset discards them
            line.reset()
        else:
            line.close()

    return answer


BROKEN = {
    "end before the header": hanging_up(),
    "end in the header": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "reset before the header": hanging_up(reset=True),
    "end short of Content-Length": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"abc"),
    "end right after the header": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
    "chunked without its end": hanging_up(chunked(b"abc", end=False)),
    "chunk cut short": hanging_up(chunked(b"abc", end=False)[:-3]),
    "reset in mid body": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"abc", reset=True),
    "reset between chunks": hanging_up(chunked(b"abc", end=False), reset=True),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "two Content-Lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "Content-Length and chunked": chunked(b"abc", headers="Content-Length: 3\r\n"),
    "negative Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
    "bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "header beyond 64 KiB": http(b"abc", headers={"X-Long": "s3cret" * 20_000}),
    "many fields beyond 64 KiB": http(b"abc", headers={f"X-Field-{i}": "s3cret" * 20 for i in range(600)}),
    "more fields than any header has": http(b"abc", headers={f"X-{i}": "s3cret" for i in range(5000)}),
    "NUL in a header": http(b"abc", headers={"X-Nul": "s3cret\0"}),
}


def encoded(body: bytes, encoding: str, **options: Any) -> bytes:
    return http(body, headers={"Content-Encoding": encoding}, **options)


async def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
