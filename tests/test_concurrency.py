"""The bound on requests in flight, as the server sees it, over real sockets."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fanout import Client, Limits
from tests.support import Plain

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{"predictions":[1.5]}'


class CountingServer:
    """Answers in the order of asking, and for as long as it can no sooner than when ``full`` requests wait."""

    def __init__(self, full: int, expected: int) -> None:
        self.full = full
        self.expected = expected
        self.answered = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.waiting: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                self.waiting.append(writer)
                self.answer_when_full()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer_when_full(self) -> None:
        """Only a client that fills its limit gets on: one request short of it would be a deadlock."""
        if len(self.waiting) == min(self.full, self.expected - self.answered):
            asyncio.get_running_loop().call_later(0.002, self.answer_all)  # time for a request too many to show

    def answer_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        for writer in waiting:
            self.answered += 1
            self.in_flight -= 1
            writer.write(ANSWER)


@pytest.mark.parametrize("chunks", [2000, pytest.param(20_000, marks=pytest.mark.soak)])
async def test_at_concurrency_300_there_are_300_in_flight_and_never_301(chunks: int) -> None:
    counting = CountingServer(full=300, expected=chunks)
    server = await asyncio.start_server(counting.serve, "127.0.0.1", 0, backlog=512)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
    async with server, Client(url, codec=Plain, chunk_rows=1, limits=Limits(concurrency=300)) as client:
        values = await client.map(np.zeros(chunks))
        stats = client.statistics()
    assert values.shape == (chunks,)
    assert (values == 1.5).all()
    assert stats.requests == chunks
    assert stats.max_in_flight == counting.most_in_flight == 300
