"""Streaming and sinks: chunks as they come, in bounded memory."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import ChunkResult, Client, ConfigError, Limits, RunStopped
from fanout.testing import MockEndpoint
from tests.client.scene import X, double, no_seven
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

pytestmark = pytest.mark.virtual_time


async def rows_one_by_one() -> AsyncIterator[np.ndarray]:
    for row in X:
        yield row


@pytest.mark.parametrize("kind", ["array", "generator", "async generator"])
async def test_every_chunk_comes_once_with_its_place(kind: str) -> None:
    rows: Any = {"array": X, "generator": iter(X), "async generator": rows_one_by_one()}[kind]
    out = np.zeros_like(X)
    with MockEndpoint(double, latency=lambda n: n * 7 % 3 / 10) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=7) as client, client.stream(rows) as results:
            async for done in results:
                assert done.ok.all()
                assert done.values.flags.writeable
                out[done.start : done.stop] += done.values
            assert results.statistics().ok == 300
    assert np.array_equal(out, X * 2)


@pytest.mark.parametrize("dedupe", [False, True])
async def test_a_stream_that_is_left_at_once_leaves_no_thread(dedupe: bool) -> None:
    before = threading.enumerate()
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, dedupe=dedupe) as client:
            async with client.stream(iter(X)):
                pass
            left = [one for one in threading.enumerate() if one not in before and one.name.startswith("fanout-")]
            for thread in left:
                thread.join(5)
            assert not any(thread.is_alive() for thread in left)
    assert not mock.requests


async def test_failed_rows_are_in_their_chunk_and_nothing_is_raised() -> None:
    with MockEndpoint(no_seven) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10) as client, client.stream(X) as results:
            failed = [done async for done in results if done.failures]
    (done,) = failed
    assert done.start == 0
    assert np.flatnonzero(~done.ok).tolist() == [7]
    assert np.isnan(done.values[7]).all()
    assert done.failures[0].status == 400


async def test_no_more_is_taken_than_the_consumer_keeps_up_with() -> None:
    taken = []

    async def source() -> AsyncIterator[np.ndarray]:
        for number, row in enumerate(X):
            taken.append(number)
            yield row

    with MockEndpoint(double) as mock:
        async with (
            Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client,
            client.stream(source()) as results,
        ):
            await anext(results)
            await asyncio.sleep(1000)
            assert len(taken) <= 2 * 2 + 2 + 1 + 1
            assert 1 + len([done async for done in results]) == 300


async def test_leaving_early_abandons_the_rest() -> None:
    before = asyncio.all_tasks()
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            async with client.stream(X) as results:
                async for _ in results:
                    break
            assert asyncio.all_tasks() == before
            assert client.statistics().in_flight == 0
    assert len(mock.requests) < 60


async def test_a_stop_is_raised_after_all_that_succeeded() -> None:
    done: list[ChunkResult] = []

    async def consume(client: Client) -> None:
        async with client.stream(iter(X)) as results:
            async for one in results:
                done.append(one)

    with MockEndpoint(double, latency=lambda n: 0.4 if n == 20 else 0.5) as mock:
        mock.script(*[None] * 20, 401)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            with pytest.raises(RunStopped) as caught:
                await consume(client)
    assert len(done) == caught.value.result.ok.sum() == 31
    assert caught.value.kind == "refused"


async def test_errors_of_the_input_are_raised_after_all_answers() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from X[:20]
        raise LookupError("disk on fire")

    finished: list[ChunkResult] = []

    async def consume(client: Client) -> None:
        async with client.stream(broken()) as results:
            async for done in results:
                finished.append(done)

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=4) as client:
            with pytest.raises(LookupError, match="disk on fire"):
                await consume(client)
    assert sum(done.stop - done.start for done in finished) == 20


async def test_iterating_without_entering_says_so() -> None:
    async with Client("http://h/x", codec=Plain) as client:
        with pytest.raises(RuntimeError, match="async with"):
            await anext(client.stream(X))


class ListSink:
    def __init__(self, fail_at: int | None = None) -> None:
        self.chunks: list[ChunkResult] = []
        self.fail_at = fail_at

    def write(self, done: Sequence[ChunkResult]) -> None:
        if self.fail_at is not None and len(self.chunks) >= self.fail_at:
            raise OSError(28, "No space left on device")
        self.chunks += done


async def test_a_sink_gets_every_chunk() -> None:
    sink = ListSink()
    with MockEndpoint(no_seven, latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10) as client:
            result = await client.run(iter(X), sink)
    assert result.values is None
    assert np.flatnonzero(~result.ok).tolist() == [7]
    assert len(result.failures) == 1
    assert sorted(done.start for done in sink.chunks) == list(range(0, 300, 10))
    for done in sink.chunks:
        assert np.array_equal(done.values[done.ok], X[done.start : done.stop][done.ok] * 2)


async def test_a_sink_that_cannot_write_stops_the_run_and_its_rows_are_pending() -> None:
    sink = ListSink(fail_at=5)
    with MockEndpoint(double, latency=lambda n: n / 10) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            with pytest.raises(RunStopped, match="No space left") as caught:
                await client.run(X, sink)
    assert caught.value.kind == "output"
    assert caught.value.result.ok.sum() == len(sink.chunks) == 5
    assert len(caught.value.result.ok) == 300
    assert len(mock.requests) < 40


class BrokenSink(ListSink):
    def write(self, done: Sequence[ChunkResult]) -> None:
        raise ConfigError("texts do not fit in here")


async def test_an_error_of_a_sink_is_raised_unchanged() -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            with pytest.raises(ConfigError, match="texts do not fit"):
                await client.run(X, BrokenSink())
            assert client.statistics().in_flight == 0
    assert len(mock.requests) < 60


async def test_a_cancelled_run_ends_after_the_write_under_way() -> None:
    sink, before = ListSink(), asyncio.all_tasks()
    with MockEndpoint(double, latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            run = asyncio.create_task(client.run(X, sink))
            await asyncio.sleep(0.35)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert asyncio.all_tasks() == before
    assert len(sink.chunks) == 48
