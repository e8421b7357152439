"""Retries and new chunks share the requests in flight: neither holds a slot idle that the other could use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout import Client, Limits, RetryPolicy, Timeouts
from fanout.stop import StopEvent, WaitQueue
from fanout.testing import MockEndpoint, Scripted
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.virtual_time
X = np.arange(1200.0).reshape(400, 3)
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.02, max_attempts=20, budget=1.0)


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_all_slots_are_used_to_the_end_while_chunks_are_retried(concurrency: int) -> None:
    with MockEndpoint(lambda x: x * 2, latency=0.01) as mock:
        mock.script(*[503 if i % 4 == 0 else None for i in range(200)])
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, retry=QUICK) as client:
            assert (await client.map(X) == X * 2).all()
    assert mock.max_in_flight == concurrency
    assert len(mock.requests) == len(X) + 50
    last_times = mock.times[-concurrency:]
    assert max(last_times) - min(last_times) < 0.02, "all slots are used to the end"


async def test_a_free_slot_is_used_while_a_retry_takes_long() -> None:
    """One of two slots is taken by a retry that hangs. All other rows go through the other slot meanwhile."""

    def latency(number: int) -> float:
        repeated = mock.requests[number].body in [request.body for request in mock.requests[:number]]
        return 50.0 if repeated else 0.1

    with MockEndpoint(lambda x: x * 2, latency=latency) as mock:
        mock.script(503)
        limits, timeouts = Limits(concurrency=2), Timeouts(attempt=60)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, retry=QUICK, timeouts=timeouts
        ) as client:
            began = asyncio.get_running_loop().time()
            await client.map(X)
            assert asyncio.get_running_loop().time() - began < 55


async def test_each_notification_of_one_wakes_another_waiter() -> None:
    wait_queue, stop_event, woken = WaitQueue(), StopEvent(), []

    async def sleep(name: str) -> None:
        await stop_event.sleep(1e9, wait_queue)
        woken.append(name)

    tasks = [asyncio.create_task(sleep(name)) for name in "abc"]
    await asyncio.sleep(0)
    wait_queue.notify_one()
    wait_queue.notify_one()
    await asyncio.sleep(0.1)
    assert woken == ["a", "b"]
    wait_queue.notify_one()
    wait_queue.notify_one()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_single_row_beyond_the_learnt_size_is_repeated_like_any_other(status: int) -> None:
    """Larger requests fail always, but only because they have several rows."""
    failed_alone = 0

    def fault(request: Any) -> int | None:
        nonlocal failed_alone
        n_rows = len(orjson.loads(request.body)["instances"])
        if len(request.body) <= 2000 or (n_rows == 1 and failed_alone == 2):
            return None
        failed_alone += n_rows == 1
        return status

    def lengths(texts: list[str]) -> np.ndarray:
        return np.array([float(len(text)) for text in texts])

    rows = ["y" * 500] * 40 + ["x" * 5000] + ["y" * 500] * 3
    limits, retry = Limits(concurrency=1), RetryPolicy(max_attempts=3)
    with MockEndpoint(lengths, faults=fault) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=8, limits=limits, retry=retry) as client:
            assert (await client.map(rows) == lengths(rows)).all()
    assert failed_alone == 2


@pytest.mark.parametrize("backoff", [1e-9, 0.01])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_rows_are_sent_again_while_the_input_waits_for_their_answers(concurrency: int, backoff: float) -> None:
    """Answers of another shape let a new chunk through before them, and none is there."""

    answers, six_answered = 0, asyncio.Event()

    async def rows() -> AsyncIterator[np.ndarray]:
        for row in X[:6]:
            yield row
        await six_answered.wait()
        for row in X[6:12]:
            yield row

    def double(x: np.ndarray) -> np.ndarray:
        nonlocal answers
        answers += 1
        if answers == 6:
            six_answered.set()
        return x * 2

    with MockEndpoint(double, latency=0.01) as mock:
        mock.script(None, None, None, *[Scripted(body=b'{"predictions": [[1.0, 2.0]]}')] * 2)
        retry = RetryPolicy(initial_backoff=backoff, max_backoff=backoff)
        options: dict[str, Any] = {"chunk_rows": 1, "limits": Limits(concurrency=concurrency), "retry": retry}
        async with Client(mock.url(Plain), codec=Plain, **options) as client, client.stream(rows()) as results:
            chunks = [chunk async for chunk in results]
    assert sum(chunk.stop - chunk.start for chunk in chunks) == 12
    assert len(mock.requests) == 14
    assert asyncio.get_running_loop().time() < 2
