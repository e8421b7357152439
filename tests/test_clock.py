"""Virtual time: hours pass in no time, and never while something works."""

from __future__ import annotations

import asyncio
import time

import pytest

from fanout.testing import VirtualClock


@pytest.mark.virtual_time
async def test_an_hour_of_waiting_takes_no_time() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(3600)
    assert loop.time() == 3600


@pytest.mark.virtual_time
async def test_timers_fire_in_order_and_at_their_times() -> None:
    loop, fired = asyncio.get_running_loop(), []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        fired.append((seconds, loop.time()))

    await asyncio.gather(*[wait(seconds) for seconds in (3.0, 1.0, 2.0, 1.0)])
    assert fired == [(1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


@pytest.mark.virtual_time
async def test_the_clock_stands_still_while_a_thread_works() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(1.0):
        await asyncio.to_thread(time.sleep, 0.05)
    assert loop.time() == 0
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)


def test_the_clock_stands_still_while_the_threads_are_joined() -> None:
    async def leave_a_thread_at_work() -> None:
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(leave_a_thread_at_work())
        loop = runner.get_loop()
    assert loop.time() == 0


@pytest.mark.virtual_time
async def test_a_thread_alone_is_waited_for() -> None:
    def work() -> bool:
        time.sleep(0.01)
        return True

    assert await asyncio.to_thread(work)


def test_two_loops_have_two_clocks() -> None:
    with asyncio.Runner(loop_factory=VirtualClock) as one, asyncio.Runner(loop_factory=VirtualClock) as two:
        one.run(asyncio.sleep(5))
        assert one.get_loop().time() == 5
        assert two.get_loop().time() == 0
