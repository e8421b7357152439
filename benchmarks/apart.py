"""Take one request apart: ``python -m benchmarks.apart``.

The CPU time of a request with one row (W1) is measured at each seam by itself, the steps in turn, round after round:
the bytes of a request and its response in protocols of asyncio, fanout's transport alone, the codec alone, and a run
without a network. What the whole takes beyond them is not taken apart further; colder caches are a likely reason.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import fanout
from benchmarks.contenders import floor
from benchmarks.contenders.fanout_client import client_of
from benchmarks.machine import cores, on
from benchmarks.rounds import servers
from benchmarks.servers import Served, has_nginx
from benchmarks.workloads import workload_named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from benchmarks.workloads import Workload
    from fanout.transport import Request, Transport

Step: TypeAlias = "Callable[[int], Awaitable[object]]"
"""Does the work of so many requests."""

ASYNCIO, TRANSPORT = "asyncio", "transport"
ENCODE, DECODE, OFFLINE, WHOLE, FLOOR = "encode", "decode", "offline", "whole", "floor"
_REQUESTS, _ROUNDS = 3000, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apart", description=__doc__)
    parser.add_argument("--requests", type=int, default=_REQUESTS, help=f"of each step ({_REQUESTS})")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"of all steps ({_ROUNDS})")
    options = parser.parse_args(arguments)
    where = cores()
    with servers(nginx=has_nginx(), core=where.server) as running:
        origin = running.origin(Served())
        with on(where.client):
            print(table(asyncio.run(measured(origin, options.requests, options.rounds))))
    return 0


async def measured(origin: str, requests: int, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of a request by step: the least of the rounds, since a disturbance only adds."""
    workload = workload_named("W1")
    costs: dict[str, list[float]] = {}
    async with _steps(workload, origin, requests) as steps:
        for number in range(rounds + 1):
            for name, step in steps.items():
                began = time.process_time()
                await step(requests)
                # The first round opens connections and warms caches.
                if number:
                    costs.setdefault(name, []).append((time.process_time() - began) / requests)
    return {name: min(values) for name, values in costs.items()}


def table(seconds: Mapping[str, float]) -> str:
    """Return the parts of a request in Markdown; ``seconds`` by step."""
    network = seconds[TRANSPORT]
    engine = seconds[OFFLINE] - seconds[ENCODE] - seconds[DECODE]
    parts = {
        "the system's send and receive, in asyncio's loop": seconds[ASYNCIO],
        "aiohttp's connection and parser, fanout's head": network - seconds[ASYNCIO],
        "encoding the row": seconds[ENCODE],
        "decoding the answer": seconds[DECODE],
        "chunk, admission, validation, accounting, placing": engine,
        "all of these together, beyond each alone": seconds[WHOLE] - network - seconds[OFFLINE],
    }
    whole = seconds[WHOLE]
    rows = [f"| {name} | {1e6 * part:.1f} us | {part / whole:.0%} |" for name, part in parts.items()]
    rows += [
        f"| **a request of fanout** | **{1e6 * whole:.1f} us** | 100% |",
        f"| a bare loop over aiohttp's session | {1e6 * seconds[FLOOR]:.1f} us | {seconds[FLOOR] / whole:.0%} |",
    ]
    return "\n".join(["| part of a request with one row | CPU | share |", "|---|---:|---:|", *rows])


class _Capture:
    """Passes requests on, and keeps the transport, a request and its response."""

    transport: Transport
    request: Request
    response: fanout.Response

    def wrap(self, transport: Transport) -> Transport:
        self.transport = transport
        return self

    async def send(self, request: Request) -> fanout.Response:
        self.request, self.response = request, await self.transport.send(request)
        return self.response


class _Offline:
    """Answers every request with the same response, in the next step of the loop, so that the workers take turns."""

    offline = True

    def __init__(self, response: fanout.Response) -> None:
        self._response = response

    async def send(self, request: Request) -> fanout.Response:
        await asyncio.sleep(0)
        return self._response


@asynccontextmanager
async def _steps(workload: Workload, origin: str, requests: int) -> AsyncIterator[dict[str, Step]]:
    capture, limits = _Capture(), fanout.Limits(concurrency=workload.concurrency)
    codec = fanout.codec(workload.codec, **workload.codec_options)
    url = origin + workload.url_path
    options: dict[str, Any] = {"codec": codec, "chunk_rows": workload.chunk_rows, "limits": limits}
    async with fanout.Client(url, **options, transport=capture) as client:
        await client.map(workload.rows(1))
        message = _message(capture.request)
        host, port = origin.removeprefix("http://").split(":")
        offline = fanout.Client(url, **options, transport=_Offline(capture.response))
        async with client_of(workload, origin) as whole, offline, floor.opened(workload, origin) as bare:

            async def transport(n: int) -> None:
                todo = iter(range(n))
                await asyncio.gather(*(_sending(capture, todo) for _ in range(workload.concurrency)))

            async def protocols(n: int) -> None:
                await _over_protocols(host, int(port), message, n, workload.concurrency)

            async def encode(n: int) -> None:
                for i in range(n):
                    codec.encode(rows[i : i + 1])

            async def decode(n: int) -> None:
                for _ in range(n):
                    codec.decode(capture.response, 1)

            rows = workload.rows(requests)
            yield {
                ASYNCIO: protocols,
                TRANSPORT: transport,
                ENCODE: encode,
                DECODE: decode,
                OFFLINE: lambda n: offline.map(rows[:n]),
                WHOLE: lambda n: whole.map(rows[:n]),
                FLOOR: lambda n: bare.send(rows[:n]),
            }


async def _sending(capture: _Capture, todo: Iterator[int]) -> None:
    for _ in todo:
        await capture.transport.send(capture.request)


def _message(request: Request) -> bytes:
    """The bytes of a request with its head, about as they are sent."""
    body = request.joined()
    host, _, path = request.url.removeprefix("http://").partition("/")
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    head = f"POST /{path} HTTP/1.1\r\nHost: {host}\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Repeating(asyncio.Protocol):
    """Sends the next message when a response has come."""

    def __init__(self, message: bytes, todo: Iterator[int], ended: asyncio.Future[None]) -> None:
        self._message, self._todo, self._ended = message, todo, ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        if next(self._todo, None) is not None:
            self._transport.write(self._message)
        elif not self._ended.done():
            self._ended.set_result(None)


async def _over_protocols(host: str, port: int, message: bytes, n: int, connections: int) -> None:
    """Send ``n`` messages, each as soon as the connection's last response has come, in one piece."""
    loop, todo = asyncio.get_running_loop(), iter(range(n))
    ends = [loop.create_future() for _ in range(connections)]
    made = [partial(_Repeating, message, todo, end) for end in ends]
    opened = [await loop.create_connection(one, host, port) for one in made]
    await asyncio.gather(*ends)
    for transport, _ in opened:
        transport.close()


if __name__ == "__main__":
    sys.exit(main())
