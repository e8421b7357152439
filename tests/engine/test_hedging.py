"""Hedged requests: the slowest answers go, few more requests come, and nothing that failed ever wins."""

from __future__ import annotations

import asyncio
from random import uniform
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fanout
from fanout import Client, Hedge, Limits, Response, RetryPolicy
from fanout.engine.hedging import Hedger
from tests.fleet import Fleet, X, changing, dead, says, served
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time


class Tail:
    """No two answers take quite the same time, and every fiftieth takes twenty times as long."""

    def __init__(self, seconds: float = 0.1) -> None:
        self._seconds = seconds
        self.asked = 0
        self.cancelled: list[float] = []

    async def __call__(self, sent: Request) -> Response:
        self.asked += 1
        slow = self.asked % 50 == 0
        try:
            return await served(self._seconds * (20 if slow else uniform(0.8, 1.2)))(sent)
        except asyncio.CancelledError:
            self.cancelled.append(asyncio.get_running_loop().time())
            raise


async def latencies(client: Client, n_rows: int) -> np.ndarray:
    """Seconds from a row to its answer, eight at a time, as the caller sees them."""
    now, seconds = asyncio.get_running_loop().time, np.zeros(n_rows)
    rows = iter(range(n_rows))

    async def ask() -> None:
        for row in rows:
            started = now()
            assert np.array_equal(await client.predict(np.array([row, 1.0])), [2.0 * row, 2.0])
            seconds[row] = now() - started

    await asyncio.gather(*(ask() for _ in range(8)))
    return seconds


async def test_hedging_takes_the_tail_away_for_few_requests_more():
    """Of 750 rows 2 % take 20 times as long: the 99th percentile falls by five times at least."""
    shares = {}
    for share in (0.0, 0.06):
        tail = Tail()
        fleet = Fleet(a=tail)
        async with fleet.client(hedge=Hedge(share=share), limits=Limits(concurrency=16)) as client:
            shares[share] = np.quantile(await latencies(client, 750), 0.99), tail.asked, client.statistics()
    (plain, asked, _), (hedged, more, stats) = shares[0.0], shares[0.06]
    assert plain >= 5 * hedged
    assert asked == 750
    assert more <= 1.07 * asked
    assert stats.hedges == more - asked
    assert 0 < stats.hedges_won <= stats.hedges


async def test_without_being_asked_for_there_are_none():
    tail = Tail()
    result = await Fleet(a=tail).run()
    assert (result.stats.hedges, tail.asked) == (0, 1000)


def first_then(*answers: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Each request is answered in another way, in order."""
    rest = iter(answers)
    return lambda sent: next(rest)(sent)


async def one(fleet: Fleet, **options: Any) -> Any:
    options = {"hedge": Hedge(share=1.0, delay=0.5), "limits": Limits(concurrency=4), **options}
    return await fleet.run(X[:1], **options)


async def test_row_36_both_answer_and_one_is_merged():
    result = await one(Fleet(a=first_then(served(1.0), served(0.2, factor=2.0))))
    assert np.array_equal(result.values, X[:1] * 2)
    assert (result.stats.requests, result.stats.hedges, result.stats.hedges_won) == (2, 1, 1)
    assert result.stats.ok == 1


async def test_row_36_a_hedge_that_fails_first_does_not_win():
    result = await one(Fleet(a=first_then(served(2.0), says(500))))
    assert np.array_equal(result.values, X[:1] * 2)
    assert (result.stats.hedges, result.stats.hedges_won, result.stats.retries) == (1, 0, 0)


async def test_row_36_a_hedge_whose_answer_is_invalid_does_not_win():
    async def short(sent: Request) -> Response:
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": []}))

    result = await one(Fleet(a=first_then(served(2.0), short)), codec=Plain(shape=[2]))
    assert np.array_equal(result.values, X[:1] * 2)
    assert result.stats.hedges_won == 0


async def test_a_first_request_that_fails_while_the_second_is_under_way_is_no_end():
    result = await one(Fleet(a=first_then(says(503, seconds=0.6), served(0.5))))
    assert np.array_equal(result.values, X[:1] * 2)
    assert (result.stats.hedges_won, result.stats.retries) == (1, 0)


async def test_where_both_fail_it_is_one_failed_attempt():
    fleet = Fleet(a=first_then(says(503, seconds=0.6), says(503, seconds=0.3), served(0.1)))
    result = await one(fleet, retry=RetryPolicy(max_attempts=2))
    assert np.array_equal(result.values, X[:1] * 2)
    assert result.stats.retries == 1


async def test_row_36_the_loser_is_cancelled_at_once():
    slow = Tail(100.0)
    fleet = Fleet(a=first_then(slow, served(0.25)))
    await one(fleet)
    assert slow.cancelled == [pytest.approx(fleet.sent[0][0] + 0.75)]


async def test_the_second_request_goes_to_another_endpoint_if_there_is_one():
    fleet = Fleet(a=served(3.0), b=served(3.0), c=served(3.0))
    result = await one(fleet)
    assert result.stats.hedges == 1
    assert len({name for _, name in fleet.sent}) == 2


async def test_a_hanging_endpoint_costs_no_time_where_there_is_another():
    hangs = served(10_000.0)
    fleet = Fleet(a=hangs, b=served(0.1))
    result = await fleet.run(X[:40], hedge=Hedge(share=1.0, delay=0.5), limits=Limits(concurrency=4))
    assert result.ok.all()
    assert fleet.took < 8


async def test_there_are_never_more_in_flight_than_permitted():
    most = 0
    fleet = Fleet(a=Tail())
    async with fleet.client(hedge=Hedge(share=1.0, delay=0.15), limits=Limits(concurrency=8)) as client:
        await client.map(X)
        most = client.statistics().max_in_flight
    assert most == 8


async def test_a_spent_budget_pays_for_none():
    """Ten tokens, of which a second request takes one, and none comes back: its endpoint answers no first ones."""
    fleet = Fleet(a=served(5.0))
    options = {"hedge": Hedge(share=1.0, delay=0.5), "retry": RetryPolicy(budget=0.0)}
    result = await fleet.run(X[:64], limits=Limits(concurrency=64), **options)
    assert result.ok.all()
    assert result.stats.hedges < 64


async def test_cancelling_a_run_leaves_no_attempt_behind():
    before = asyncio.all_tasks()
    async with Fleet(a=served(50.0)).client(hedge=Hedge(share=1.0, delay=0.5)) as client:
        run = asyncio.create_task(client.map(X))
        await asyncio.sleep(3)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        assert client.statistics().in_flight == 0


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_a_run_as_an_attempt_wins_leaves_none_behind(turns):
    """In any turn of the loop after the first answer, while the second request for its rows is under way."""
    before = asyncio.all_tasks()
    fleet = Fleet(a=first_then(served(1.0), *[served(50.0)] * 3))
    async with fleet.client(hedge=Hedge(share=1.0, delay=0.5)) as client:
        run = asyncio.create_task(client.map(X[:2]))
        await asyncio.sleep(1.0)
        for _ in range(turns):
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert client.statistics().in_flight == 0
        assert asyncio.all_tasks() == before


async def test_retries_are_hedged_too_and_an_outage_is_waited_out():
    fleet = Fleet(a=says(503), b=changing((20.0, dead), last=served()))
    result = await fleet.run(X[:100], hedge=Hedge(share=0.5, delay=0.05))
    assert result.ok.all()


async def test_an_error_of_the_codec_comes_through():
    class Broken(Plain):
        def classify(self, response: Response) -> Any:
            raise fanout.ConfigError("cannot be", key="codec")

    with pytest.raises(fanout.ConfigError, match="cannot be"):
        await one(Fleet(a=says(503)), codec=Broken)


def test_a_delay_in_the_settings_counts():
    assert Hedger(share=0.1, delay=2.5).delay == 2.5


def test_the_delay_is_computed_once_enough_latencies_are_known():
    hedger = Hedger(share=0.1, delay=None)
    for i in range(39):
        hedger.on_latency(0.1 if i % 10 else 3.0)
    assert hedger.delay is None
    hedger.on_latency(0.1)
    assert 0.1 < hedger.delay <= 3.0


def test_the_delay_follows_the_last_latencies():
    hedger = Hedger(share=0.1, delay=None)
    for _ in range(1000):
        hedger.on_latency(0.1)
    assert hedger.delay == 0.1
    for _ in range(1000):
        hedger.on_latency(0.7)
    assert hedger.delay == 0.7


@given(st.floats(0, 1), st.lists(st.sampled_from(["ask", "take", "give back"]), max_size=300))
def test_there_are_never_more_hedges_than_the_share(share, steps):
    hedger, asked, taken = Hedger(share=share, delay=1.0), 0, 0
    for step in steps:
        if step == "ask":
            hedger.on_first_request()
            asked += 1
        elif step == "take":
            taken += hedger.take()
        elif taken:
            hedger.give_back()
            taken -= 1
        assert taken <= share * asked + 1e-9


def test_a_hedge_that_was_given_back_can_be_taken_again():
    hedger = Hedger(share=1.0, delay=1.0)
    hedger.on_first_request()
    assert hedger.take()
    assert not hedger.take()
    hedger.give_back()
    assert hedger.take()


def test_the_delay_is_at_most_three_medians_where_a_tenth_of_the_answers_is_slow():
    hedger = Hedger(share=0.1, delay=None)
    for i in range(200):
        hedger.on_latency(2.0 if i % 10 == 0 else 0.1)
    assert hedger.delay == pytest.approx(0.3)


async def test_hedging_helps_where_a_tenth_of_the_answers_is_slow():
    """With a share of 15 % the 95th percentile falls to a third: as many answers are slow as there are hedges."""
    shares = {}
    for share in (0.0, 0.15):
        asked = 0

        async def answer(sent: Any) -> Response:
            nonlocal asked
            asked += 1
            return await served(2.0 if asked % 10 == 0 else uniform(0.08, 0.12))(sent)

        async with Fleet(a=answer).client(hedge=Hedge(share=share), limits=Limits(concurrency=16)) as client:
            shares[share] = np.quantile(await latencies(client, 600), 0.95)
    assert shares[0.0] >= 3 * shares[0.15]
