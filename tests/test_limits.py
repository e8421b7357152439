"""Permits, rate and gate: never more than allowed, never sooner, and nothing lost on the way."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.limits import Gate, Permits, Rate
from fanout.testing import VirtualClock

ARRIVALS = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=60).map(sorted)


async def settled() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


@given(arrivals=ARRIVALS, per_second=st.floats(0.01, 1000), window=st.floats(0, 20))
def test_no_window_holds_more_starts_than_the_rate_allows(arrivals, per_second, window):
    rate = Rate(per_second)
    starts = [rate.reserve(now) for now in arrivals]
    for first in starts:
        inside = sum(first <= start <= first + window for start in starts)
        assert inside <= per_second * window * (1 + 1e-9) + 1 + 1e-6


@given(arrivals=ARRIVALS, per_second=st.floats(0.01, 1000))
def test_starts_are_never_before_the_asking_and_never_overtake(arrivals, per_second):
    rate = Rate(per_second)
    starts = [rate.reserve(now) for now in arrivals]
    assert all(start >= now for start, now in zip(starts, arrivals, strict=True))
    assert starts == sorted(starts)


def test_starts_are_evenly_spaced_without_a_burst():
    rate = Rate(4)
    assert [rate.reserve(10.0) for _ in range(4)] == [10.0, 10.25, 10.5, 10.75]


def test_time_in_which_nobody_asked_is_not_saved_up():
    rate = Rate(10)
    rate.reserve(0.0)
    assert [rate.reserve(100.0), rate.reserve(100.0)] == [100.0, 100.1]


def test_without_a_rate_everybody_starts_at_once():
    rate = Rate(None)
    assert [rate.reserve(5.0) for _ in range(3)] == [5.0] * 3


def test_a_gate_is_open_until_it_is_shut():
    assert Gate().wait(123.0) == 0.0


def test_a_shut_gate_tells_how_long_it_stays_shut():
    gate = Gate()
    gate.shut_until(10.0)
    assert [gate.wait(now) for now in (4.0, 9.5, 10.0, 11.0)] == [6.0, 0.5, 0.0, 0.0]


def test_a_shorter_pause_does_not_open_the_gate_sooner():
    gate = Gate()
    gate.shut_until(10.0)
    gate.shut_until(5.0)
    assert gate.wait(4.0) == 6.0
    gate.shut_until(12.0)
    assert gate.wait(4.0) == 8.0


@pytest.mark.virtual_time
async def test_permits_are_handed_over_in_the_order_of_asking():
    permits, order = Permits(2), []

    async def hold(name: int) -> None:
        await permits.acquire()
        order.append(name)
        await asyncio.sleep(1)
        permits.release()

    await asyncio.gather(*(hold(name) for name in range(7)))
    assert order == list(range(7))
    assert asyncio.get_running_loop().time() == 4.0
    assert (permits.in_use, permits.most_in_use) == (0, 2)


@pytest.mark.virtual_time
async def test_a_newcomer_cannot_overtake_who_was_handed_a_permit():
    permits, order = Permits(1), []

    async def hold(name: str) -> None:
        await permits.acquire()
        order.append(name)

    await permits.acquire()
    task = asyncio.create_task(hold("waiter"))
    await settled()
    permits.release()
    newcomer = asyncio.create_task(hold("newcomer"))  # asks before the waiter has run again
    await settled()
    assert order == ["waiter"]
    permits.release()
    await asyncio.gather(task, newcomer)
    assert order == ["waiter", "newcomer"]


@pytest.mark.virtual_time
async def test_cancelling_a_waiter_loses_no_permit():
    permits = Permits(1)
    await permits.acquire()
    gone, waiting = asyncio.create_task(permits.acquire()), asyncio.create_task(permits.acquire())
    await settled()
    gone.cancel()
    await settled()
    permits.release()
    await asyncio.wait_for(waiting, 1)
    permits.release()
    assert permits.in_use == 0
    assert gone.cancelled()


@pytest.mark.virtual_time
@pytest.mark.parametrize("others", [0, 1])
async def test_cancelling_who_was_just_handed_a_permit_passes_it_on(others):
    permits = Permits(1)
    await permits.acquire()
    granted = asyncio.create_task(permits.acquire())
    waiting = [asyncio.create_task(permits.acquire()) for _ in range(others)]
    await settled()
    permits.release()
    granted.cancel()
    await settled()
    assert granted.cancelled()
    assert permits.in_use == others
    await asyncio.gather(*waiting)


def test_permits_show_their_state():
    assert repr(Permits(3)) == "<Permits 0/3 in use, 0 waiting>"


STEPS = st.lists(st.tuples(st.sampled_from(["ask", "give back", "cancel", "run"]), st.integers(0, 9)), max_size=50)


@settings(deadline=None)
@given(total=st.integers(1, 3), steps=STEPS)
def test_no_order_of_events_loses_a_permit_or_grants_one_too_many(total, steps):
    async def scenario() -> None:
        permits = Permits(total)
        tasks: list[asyncio.Task[None]] = []
        held: set[asyncio.Task[None]] = set()

        async def hold() -> None:
            await permits.acquire()
            held.add(asyncio.current_task())
            assert len(held) <= permits.in_use <= total

        for step, which in steps:
            if step == "ask":
                tasks.append(asyncio.create_task(hold()))
            elif step == "give back" and held:
                held.discard(sorted(held, key=tasks.index)[which % len(held)])
                permits.release()
            elif step == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            else:
                await asyncio.sleep(0)
        await settled()
        while held:
            held.pop()
            permits.release()
            await settled()
        assert all(task.done() for task in tasks)
        assert permits.in_use == 0
        assert permits.most_in_use <= total

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(scenario())
