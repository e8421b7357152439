"""A process that is stopped for a while (Ctrl-Z, a debugger) goes on as if the time had not passed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fanout import Client, Hedge, Limits, RetryPolicy, RunStopped, Timeouts
from fanout.testing import MockEndpoint
from tests.engine import test_polling
from tests.support import Plain

pytestmark = pytest.mark.virtual_time


def stand_still(at: float, seconds: float) -> None:
    """Let no callback run from ``at`` on, for this time: those that are due come together behind it."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop._now += seconds  # type: ignore[attr-defined] # noqa: SLF001 - what the system does to a stopped process

    loop.call_at(loop.time() + at, stop)


@pytest.mark.parametrize("seconds", [20, 1000])
async def test_answers_that_came_meanwhile_are_taken_and_not_asked_for_again(seconds: float) -> None:
    with MockEndpoint(lambda x: x * 2, latency=2.0) as mock:
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=4), timeouts=Timeouts(attempt=10),
            retry=RetryPolicy(stall=60), hedge=Hedge(share=1.0, delay=5.0),
        ) as client:  # fmt: skip
            stand_still(3.0, seconds)
            result = await client.map(np.arange(20.0), on_error="keep")
    np.testing.assert_array_equal(result.values, 2 * np.arange(20.0))
    assert (len(mock.requests), result.stats.retries) == (20, 0)


async def test_a_job_that_has_ended_meanwhile_is_asked_once_more_and_not_given_up() -> None:
    jobs = test_polling.Jobs()
    jobs.states = {number: [(200, {"Retry-After": "100"})] for number in test_polling.X.tolist()}
    stand_still(50.0, 20_000)
    await test_polling.run(jobs)
    assert [len(times) for (method, _), times in jobs.times.items() if method == "GET"] == [2] * 4


async def test_a_silent_endpoint_still_ends_the_run_once_it_has_been_given_its_time() -> None:
    with MockEndpoint(lambda x: x * 2, latency=1e6) as mock:
        async with Client(
            mock.url(Plain), codec=Plain, timeouts=Timeouts(attempt=10), retry=RetryPolicy(stall=60)
        ) as client:
            stand_still(30.0, 1000)
            with pytest.raises(RunStopped):
                await client.map(np.arange(4.0))
    assert 1030 <= asyncio.get_running_loop().time() <= 1200
