"""A deadline ends its block, can be used again, and is never confused with a cancellation from outside."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from fanout.stop import Deadline

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


def timers() -> int:
    loop: Any = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)  # noqa: SLF001 - asyncio shows its timers nowhere else


async def attempt(deadline: Deadline, *, allowed: float, takes: float) -> str:
    """Bound one exchange as the engine does."""
    deadline.start(now() + allowed)
    try:
        await asyncio.sleep(takes)
    except asyncio.CancelledError:
        if not deadline.absorb():
            raise
        return "too late"
    finally:
        deadline.when = None
    return "done"


async def test_a_block_that_takes_too_long_ends_at_the_deadline():
    deadline = Deadline()
    assert await attempt(deadline, allowed=2, takes=100) == "too late"
    assert now() == 2
    deadline.close()


async def test_a_block_that_ends_in_time_is_left_alone():
    deadline = Deadline()
    assert await attempt(deadline, allowed=2, takes=1) == "done"
    await asyncio.sleep(100)
    assert now() == 101
    assert not deadline.expired
    deadline.close()


async def test_the_task_goes_on_as_if_never_cancelled():
    deadline = Deadline()
    await attempt(deadline, allowed=1, takes=9)
    assert asyncio.current_task().cancelling() == 0
    async with asyncio.timeout(5):  # would raise for a leftover cancellation
        await asyncio.sleep(1)
    deadline.close()


async def test_each_of_several_attempts_has_the_whole_time():
    deadline, ends = Deadline(), []
    for takes in (9, 1.5, 1.5, 9, 0.1, 9):
        ends.append((await attempt(deadline, allowed=2, takes=takes), now()))
    assert ends == [
        ("too late", 2), ("done", 3.5), ("done", 5), ("too late", 7), ("done", 7.1), ("too late", 9.1),
    ]  # fmt: skip
    deadline.close()


async def test_time_between_attempts_is_charged_to_none():
    deadline = Deadline()
    assert await attempt(deadline, allowed=2, takes=1) == "done"
    await asyncio.sleep(1.5)  # backoff, a slot, a cooldown: the timer fires meanwhile
    assert await attempt(deadline, allowed=2, takes=1.9) == "done"
    assert await attempt(deadline, allowed=2, takes=2.1) == "too late"
    deadline.close()


async def test_a_shorter_deadline_than_the_one_before_holds_too():
    deadline = Deadline()
    assert await attempt(deadline, allowed=60, takes=1) == "done"
    assert await attempt(deadline, allowed=2, takes=9) == "too late"
    assert now() == 3
    assert await attempt(deadline, allowed=60, takes=59) == "done"
    deadline.close()


async def test_many_quick_attempts_share_one_timer():
    deadline = Deadline()
    for _ in range(100):
        await attempt(deadline, allowed=60, takes=0.1)
        assert timers() == 1
    deadline.close()


@pytest.mark.parametrize("takes", [1, 9], ids=["in time", "too late"])
async def test_close_leaves_no_timer_behind(takes):
    deadline = Deadline()
    await attempt(deadline, allowed=2, takes=takes)
    deadline.close()
    deadline.close()
    assert timers() == 0


async def test_a_closed_deadline_cancels_nothing():
    deadline = Deadline()
    deadline.start(now() + 2)
    deadline.close()
    await asyncio.sleep(9)
    assert not deadline.expired


async def in_task(deadline_of: list[Deadline], *, allowed: float) -> str:
    deadline = Deadline()
    deadline_of.append(deadline)
    try:
        return await attempt(deadline, allowed=allowed, takes=100)
    finally:
        deadline.close()


async def test_a_cancellation_from_outside_passes_through():
    deadline: list[Deadline] = []
    task = asyncio.create_task(in_task(deadline, allowed=60))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == 1
    assert not deadline[0].expired


@pytest.mark.parametrize("first", ["deadline", "outside"])
async def test_of_both_at_once_the_cancellation_from_outside_wins(first):
    deadline: list[Deadline] = []
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []
    if first == "outside":  # timers of one time fire in the order in which they were set
        loop.call_at(60, lambda: tasks[0].cancel())
    tasks.append(asyncio.create_task(in_task(deadline, allowed=60)))
    await asyncio.sleep(0)
    if first == "deadline":
        loop.call_at(60, tasks[0].cancel)
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert now() == 60
    assert tasks[0].cancelling() > 0


async def test_a_swallowed_expiry_is_still_reported():
    deadline = Deadline()
    deadline.start(now() + 2)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(9)
    deadline.when = None
    assert deadline.absorb()
    assert not deadline.absorb()
    assert asyncio.current_task().cancelling() == 0
    deadline.close()


async def test_an_expiry_in_the_moment_of_success_is_taken_for_an_expiry():
    deadline, answer = Deadline(), asyncio.get_running_loop().create_future()
    deadline.start(now() + 2)
    asyncio.get_running_loop().call_at(2, answer.set_result, "an answer")
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert deadline.absorb()
    deadline.close()


async def test_an_outer_timeout_is_not_taken_for_this_deadline():
    deadline = Deadline()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await attempt(deadline, allowed=2, takes=9)
    assert now() == 1
    deadline.close()


async def test_an_outer_timeout_goes_on_counting_after_an_expiry():
    deadline = Deadline()
    with pytest.raises(TimeoutError):  # noqa: PT012 - the first attempt is within the timeout
        async with asyncio.timeout(3):
            assert await attempt(deadline, allowed=2, takes=9) == "too late"
            await attempt(deadline, allowed=2, takes=9)
    assert now() == 3
    deadline.close()


async def test_a_timer_that_fires_a_little_early_is_set_again():
    """Event loops may call a timer up to one clock tick before its time."""
    deadline = Deadline()
    deadline.start(now() + 2)
    deadline._handle.cancel()  # noqa: SLF001 - asyncio shows its timers nowhere else
    deadline._fire()  # noqa: SLF001 - asyncio shows its timers nowhere else
    assert not deadline.expired
    assert timers() == 1
    deadline.when = None
    deadline.close()
