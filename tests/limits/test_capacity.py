"""Requests in flight never exceed the limit, no slot is lost, and the controller moves the limit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Limits
from fanout.limits import Capacity, ConcurrencyController, ConcurrencyLimiter
from fanout.testing import VirtualClock

if TYPE_CHECKING:
    from fanout.limits.capacity import Flight


async def settled() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.virtual_time
async def test_slots_are_granted_in_the_order_of_asking():
    limiter, order = ConcurrencyLimiter(2), []

    async def hold(name: int) -> None:
        await limiter.acquire()
        order.append(name)
        await asyncio.sleep(1)
        limiter.release()

    await asyncio.gather(*(hold(name) for name in range(7)))
    assert order == list(range(7))
    assert asyncio.get_running_loop().time() == 4.0
    assert (limiter.in_flight, limiter.peak) == (0, 2)


@pytest.mark.virtual_time
async def test_a_new_request_cannot_overtake_one_that_was_given_a_slot():
    limiter, order = ConcurrencyLimiter(1), []

    async def hold(name: str) -> None:
        await limiter.acquire()
        order.append(name)

    await limiter.acquire()
    task = asyncio.create_task(hold("waiter"))
    await settled()
    limiter.release()
    later = asyncio.create_task(hold("later"))  # asks before the waiter has run again
    await settled()
    assert order == ["waiter"]
    limiter.release()
    await asyncio.gather(task, later)
    assert order == ["waiter", "later"]


@pytest.mark.virtual_time
async def test_cancelling_a_waiter_loses_no_slot():
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire()
    gone, waiting = asyncio.create_task(limiter.acquire()), asyncio.create_task(limiter.acquire())
    await settled()
    gone.cancel()
    await settled()
    limiter.release()
    await asyncio.wait_for(waiting, 1)
    limiter.release()
    assert limiter.in_flight == 0
    assert gone.cancelled()


@pytest.mark.virtual_time
@pytest.mark.parametrize("others", [0, 1])
async def test_a_slot_given_to_a_cancelled_request_passes_to_the_next(others):
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire()
    granted = asyncio.create_task(limiter.acquire())
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(others)]
    await settled()
    limiter.release()
    granted.cancel()
    await settled()
    assert granted.cancelled()
    assert limiter.in_flight == others
    await asyncio.gather(*waiting)


@pytest.mark.virtual_time
async def test_a_higher_limit_admits_waiting_requests_in_order():
    limiter, order = ConcurrencyLimiter(1), []

    async def hold(name: int) -> None:
        await limiter.acquire()
        order.append(name)

    tasks = [asyncio.create_task(hold(name)) for name in range(5)]
    await settled()
    limiter.resize(3)
    assert not limiter.acquire_nowait(), "two who wait have them already"
    await settled()
    assert order == [0, 1, 2]
    assert (limiter.in_flight, limiter.peak) == (3, 3)
    limiter.resize(9)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert limiter.acquire_nowait()


@pytest.mark.virtual_time
async def test_a_lower_limit_lets_holders_finish_and_admits_no_request():
    limiter = ConcurrencyLimiter(4)
    for _ in range(4):
        assert limiter.acquire_nowait()
    waiting = asyncio.create_task(limiter.acquire())
    await settled()
    limiter.resize(2)
    for _ in range(2):
        limiter.release()
        await settled()
    assert limiter.in_flight == 2
    assert not waiting.done()
    limiter.release()
    await asyncio.wait_for(waiting, 1)
    assert limiter.in_flight == 2
    assert limiter.peak == 4


def test_one_slot_is_exchanged_for_several_beyond_the_limit_and_for_none():
    limiter = ConcurrencyLimiter(2)
    assert [limiter.acquire_nowait() for _ in range(3)] == [True, True, False]
    limiter.exchange(3)
    assert (limiter.in_flight, limiter.peak) == (4, 4)
    limiter.exchange(1)
    assert limiter.in_flight == 4
    limiter.exchange(0)
    assert (limiter.in_flight, limiter.peak) == (3, 4)


def test_a_shortage_of_descriptors_lowers_the_limit_until_there_are_more(monkeypatch, caplog):
    room, changes = [10], []
    monkeypatch.setattr("fanout.limits.capacity.room_for", lambda wanted: min(wanted, room[0]))
    capacity = Capacity(Limits(concurrency=16), 0.0)
    capacity.listeners[lambda: changes.append(capacity.limiter.limit)] = None
    assert (capacity.limiter.limit, capacity.chosen) == (10, None)
    assert capacity.cause == "the process has too few file descriptors"
    for in_flight in (20, 8, 9, 1):
        capacity.lower(in_flight)
    assert changes == [7, 1]
    capacity.restore()
    room[0] = 100
    capacity.restore()
    capacity.restore()  # there is no shortage any more
    assert changes == [7, 1, 10, 16]
    assert caplog.text.count("too few file descriptors for 16 requests in flight: 10 at most") == 1


def test_a_shortage_of_descriptors_bounds_the_limit_that_is_found(monkeypatch):
    monkeypatch.setattr("fanout.limits.capacity.room_for", lambda wanted: min(wanted, 6))
    capacity = Capacity(Limits(concurrency="auto"), 0.0)
    assert (capacity.limiter.limit, capacity.chosen) == (6, 8)
    assert "descriptors" in capacity.cause
    monkeypatch.undo()
    capacity.restore()
    assert (capacity.limiter.limit, capacity.chosen) == (8, 8)
    assert not capacity.cause, "the limit has not been changed for a reason of the endpoint's"


def test_the_repr_shows_the_state():
    assert repr(ConcurrencyLimiter(3)) == "<ConcurrencyLimiter 0/3 in flight, 0 waiting>"


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "give back", "cancel", "resize", "run"]), st.integers(0, 9)), max_size=50
)


@given(total=st.integers(1, 3), steps=STEPS)
def test_no_order_of_events_loses_a_slot_or_grants_one_too_many(total, steps):
    async def scenario() -> None:
        limiter = ConcurrencyLimiter(total)
        allowed = total
        tasks: list[asyncio.Task[None]] = []
        held: set[asyncio.Task[None]] = set()

        async def hold() -> None:
            await limiter.acquire()
            held.add(asyncio.current_task())
            assert len(held) <= limiter.in_flight <= allowed

        for step, which in steps:
            allowed = max(limiter.limit, limiter.in_flight)
            if step == "ask":
                tasks.append(asyncio.create_task(hold()))
            elif step == "give back" and held:
                held.discard(sorted(held, key=tasks.index)[which % len(held)])
                limiter.release()
            elif step == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            elif step == "resize":
                limiter.resize(which % 4 + 1)
                allowed = max(limiter.limit, allowed)
            else:
                await asyncio.sleep(0)
        await settled()
        while held:
            held.pop()
            limiter.release()
            await settled()
        assert all(task.done() for task in tasks)
        assert limiter.in_flight == 0
        assert limiter.peak <= max(total, 4)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(scenario())


_RESULTS = ("success", "overload", "certain", "timed_out")


class Sender:
    """Keeps a number of requests in flight, each of which takes a tenth of a second."""

    def __init__(self) -> None:
        self.limits: list[int] = []
        self.controller = ConcurrencyController(0.0, largest=256, changed=self.limits.append)
        self.now = 0.0
        self._in_flight: deque[Flight] = deque()

    def send(self, answers: int, in_flight: int | None = None, **result: bool) -> None:
        for _ in range(answers):
            while len(self._in_flight) < (in_flight or self.controller.limit):
                self._in_flight.append(self.controller.on_send(self.now))
            self.now += 0.1 / len(self._in_flight)
            flight = self._in_flight.popleft()
            self.controller.on_end(flight, self.now)
            self.controller.on_result(flight, **dict.fromkeys(_RESULTS, False) | result)


def test_requests_in_flight_are_averaged_over_the_time_of_each():
    controller = ConcurrencyController(0.0, largest=256, changed=[].append)
    first, second = controller.on_send(1.0), controller.on_send(2.0)
    controller.on_end(second, 3.0)
    controller.on_end(first, 5.0)
    at_once = controller.on_send(6.0)
    controller.on_end(at_once, 6.0)
    assert [flight.in_flight for flight in (first, second, at_once)] == [5 / 4, 2, 1]


def test_successes_raise_the_limit_and_each_new_limit_is_announced():
    sender = Sender()
    sender.send(2000, success=True)
    assert sender.limits[:3] == [16, 32, 64]
    assert sender.limits[-1] == sender.controller.limit


def test_an_overload_lowers_the_limit():
    sender = Sender()
    sender.send(1, overload=True, certain=True)
    assert sender.limits == [7]


def test_a_failure_that_is_no_overload_does_not_move_the_limit():
    sender = Sender()
    sender.send(2000)
    assert sender.limits == []
    sender.send(100, success=True)
    assert sender.limits[:1] == [16]


def test_requests_that_wait_with_a_slot_are_not_in_flight():
    """Eight hold a slot, and a rate lets one after the other go: the concurrency limit is not the bottleneck."""
    sender = Sender()
    sender.send(2000, in_flight=1, success=True)
    assert sender.limits == []


def test_a_request_that_was_aborted_before_it_was_sent_has_no_result():
    sender = Sender()
    aborted = sender.controller.on_send(0.0)
    sender.controller.on_end(aborted, 1.0)
    sent = sender.controller.on_send(1.0)
    sender.controller.on_end(sent, 2.0)
    sender.controller.on_result(sent, success=True, overload=False, certain=False, timed_out=False)
    assert sender.limits == []
