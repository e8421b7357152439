"""The made-up servers keep to the arithmetic of queues; else they would judge nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulator.clock import Timeline
from tests.simulator.closed_loop import ClosedLoop, Fixed
from tests.simulator.servers import (
    Batching,
    Bucket,
    Far,
    Flaky,
    Outcome,
    Queue,
    RateLimited,
    Server,
    Sharing,
    constant,
    lognormal,
    now_and_then,
)

CLOCK = Timeline


def answered(server: Server, clock: Timeline, in_flight: int, seconds: float = 1000.0) -> float:
    """Answers a second with so many in flight all the time."""
    return ClosedLoop(clock, server, Fixed(in_flight)).run(seconds).answered / seconds


@pytest.mark.parametrize(("in_flight", "rate"), [(1, 2.0), (4, 8.0), (8, 16.0), (32, 16.0)])
def test_a_queue_gives_its_capacity_and_no_more(in_flight, rate):
    clock = CLOCK()
    assert answered(Queue(clock, constant(0.5), capacity=8), clock, in_flight) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(("in_flight", "rate"), [(1, 2.0), (4, 8.0), (8, 16.0), (32, 16.0)])
def test_a_shared_processor_gives_its_capacity_and_no_more(in_flight, rate):
    clock = CLOCK()
    assert answered(Sharing(clock, constant(0.5), capacity=8), clock, in_flight) == pytest.approx(rate, rel=0.01)


def test_a_shared_processor_slows_down_those_that_are_there():
    clock, ends = CLOCK(), []
    server = Sharing(clock, constant(1.0), capacity=1)
    server.submit(lambda _: ends.append(clock.time()))
    clock.call_later(0.5, server.submit, lambda _: ends.append(clock.time()))
    clock.run(10)
    assert ends == pytest.approx([1.5, 2.0])


@pytest.mark.parametrize(("in_flight", "rate"), [(1, 1 / 0.32), (16, 16 / 0.6), (64, 16 / 0.6)])
def test_batches_take_longer_the_more_is_in_them_and_bring_more(in_flight, rate):
    clock = CLOCK()
    server = Batching(clock, base=0.3, each=0.01875, largest=16, delay=0.0)
    # The first client that returns starts the next batch alone, unless there is enough for a whole one.
    assert answered(server, clock, in_flight) == pytest.approx(rate, rel=0.5 if in_flight == 16 else 0.02)


def test_a_server_without_room_refuses_at_once():
    clock = CLOCK()
    outcomes: list[Any] = []
    server = Queue(clock, constant(1.0), capacity=2, room=1)
    for _ in range(4):
        server.submit(outcomes.append)
    assert outcomes == [Outcome(503)]
    clock.run(10)
    assert outcomes == [Outcome(503), Outcome(), Outcome(), Outcome()]
    assert (server.received, server.refused, server.in_flight) == (4, 1, 0)


def test_a_larger_capacity_admits_waiting_requests_and_a_smaller_one_lets_those_in_flight_finish():
    clock, ends = CLOCK(), []
    server = Queue(clock, constant(1.0), capacity=1)
    for _ in range(5):
        server.submit(lambda _: ends.append(clock.time()))
    clock.call_later(0.5, setattr, server, "capacity", 3)
    clock.call_later(0.75, setattr, server, "capacity", 1)
    clock.run(10)
    assert ends == [1.0, 1.5, 1.5, 2.5, 3.5]


def test_distance_adds_to_the_latency_and_not_to_the_capacity():
    clock, ends = CLOCK(), []
    server = Far(clock, Queue(clock, constant(0.1), capacity=1), seconds=1.0)
    for _ in range(2):
        server.submit(lambda _: ends.append(clock.time()))
    clock.run(10)
    assert ends == pytest.approx([1.1, 1.2])


def test_a_rate_holds_in_every_window():
    clock = CLOCK()
    outcomes: list[Any] = []
    server = RateLimited(clock, Queue(clock, constant(0.0), capacity=9), per_window=2, window=10, retry_after=True)
    for when in (1, 2, 3, 9, 10):
        clock.call_later(when, server.submit, outcomes.append)
    clock.run(20)
    assert outcomes == [Outcome(), Outcome(), Outcome(429, 7.0), Outcome(429, 1.0), Outcome()]


def test_a_bucket_lets_through_its_burst_and_then_its_rate():
    clock = CLOCK()
    outcomes: list[Any] = []
    server = Bucket(clock, Queue(clock, constant(0.0), capacity=9), per_second=2, burst=3)
    for _ in range(4):
        server.submit(outcomes.append)
    clock.call_later(0.5, server.submit, outcomes.append)
    clock.call_later(0.6, server.submit, outcomes.append)
    clock.run(20)
    assert [answer.status for answer in outcomes].count(200) == 4
    assert [answer.status for answer in outcomes].count(429) == 2


@pytest.mark.parametrize("late", [False, True])
def test_a_share_of_the_requests_fails_whatever_their_number(late):
    clock = CLOCK()
    server = Flaky(clock, Queue(clock, constant(0.5), capacity=8), share=0.1, late=late, seed=1)
    loop = ClosedLoop(clock, server, Fixed(4), others_go_on=True).run(1000.0)
    assert loop.refused / (loop.refused + loop.answered) == pytest.approx(0.1, abs=0.01)
    assert loop.answered / 1000 == pytest.approx(7.2 if late else 8, rel=0.02)


def test_the_same_seed_brings_the_same_run():
    def run(seed: int) -> int:
        clock = CLOCK()
        times = now_and_then(lognormal(0.1, 0.5), 20.0, 0.02)
        return ClosedLoop(clock, Queue(clock, times, capacity=4, seed=seed), Fixed(4)).run(100).answered

    assert run(1) == run(1) != run(2)


def test_an_answer_that_comes_too_late_is_no_answer():
    clock = CLOCK()
    loop = ClosedLoop(clock, Queue(clock, constant(1.0), capacity=1), Fixed(4), timeout=2.5).run(100)
    assert loop.answered < 60
    assert loop.refused > 30


def test_no_more_is_sent_than_there_is():
    clock = CLOCK()
    loop = ClosedLoop(clock, Queue(clock, constant(1.0), capacity=50), Fixed(50), supply=3).run(100)
    assert loop.answered == pytest.approx(300, abs=5)
    assert max(look.in_flight for look in loop.looks) <= 4
