"""Workers stand aside for attempts that are not a first: one for each, for no longer, and never for a free permit."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fanout import Client, Limits, RetryPolicy, Timeouts
from fanout.stop import StopEvent, WaitQueue
from fanout.testing import MockEndpoint
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(1200.0).reshape(400, 3)
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.02, max_attempts=20, budget=1.0)


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_who_stands_aside_comes_back_to_work(concurrency: int) -> None:
    with MockEndpoint(lambda x: x * 2, latency=0.01) as mock:
        mock.script(*[503 if i % 4 == 0 else None for i in range(200)])
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, retry=QUICK) as client:
            assert (await client.map(X) == X * 2).all()
    assert mock.max_in_flight == concurrency
    assert len(mock.requests) == len(X) + 50
    in_the_end = mock.times[-concurrency:]
    assert max(in_the_end) - min(in_the_end) < 0.02, "all are at work to the end"


async def test_a_permit_that_is_free_is_used_while_an_attempt_takes_long() -> None:
    """Of two permits one is taken by an attempt that hangs: all other rows go through the other meanwhile."""

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


async def test_each_notify_one_wakes_another() -> None:
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
