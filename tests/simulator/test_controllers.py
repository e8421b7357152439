"""Adaptive concurrency against made-up servers, alone: hours of their time. ``pytest -s`` prints the figures."""

from __future__ import annotations

from math import inf
from statistics import mean

import pytest

from fanout.limits import ConcurrencyController
from tests.simulator.catalog import ENDPOINTS, Endpoint, moving, noisy_endpoints
from tests.simulator.clock import Timeline
from tests.simulator.closed_loop import ClosedLoop, Fixed

FIXED = (1, 2, 4, 8, 16, 32, 64)
QUICK = {"noisy", "one thread", "queue", "small batches"}
"""Where two minutes have so few requests that they take little time to play: the others are among the slow tests."""


NOISY = noisy_endpoints()
QUICK_NOISY = {f"queue, {share}{kind}" for share in ("1%", "3%", "10%") for kind in (" 503", " late 503")}


def share_of(name: str) -> float:
    """The share in a name of `NOISY`."""
    return float(name.split(", ")[1].split("%", maxsplit=1)[0]) / 100


def adaptive() -> ConcurrencyController:
    return ConcurrencyController(0.0, largest=256, changed=lambda _: None)


def met(
    endpoint: Endpoint, controller: ConcurrencyController | Fixed, *, seed: int, seconds: float, others_go_on: bool
) -> ClosedLoop:
    clock = Timeline()
    server = endpoint.make(clock, seed)
    loop = ClosedLoop(clock, server, controller, timeout=endpoint.timeout, seed=seed, others_go_on=others_go_on)
    return loop.run(seconds)


def best_fixed(endpoint: Endpoint, *, seconds: float, others_go_on: bool = False) -> tuple[int, int]:
    """The fixed limit with the most answers, the smallest of several, and its answers."""
    options = {"seed": 0, "seconds": seconds, "others_go_on": others_go_on}
    answers = {limit: met(endpoint, Fixed(limit), **options).answered for limit in FIXED}
    best = max(FIXED, key=lambda limit: (answers[limit], -limit))
    return best, answers[best]


def shares(name: str, *, seeds: int, seconds: float, background: float | None = None) -> list[float]:
    """Answers with an adaptive limit, a seed each, as shares of those with the best fixed one.

    With a background of failures they are all sent as a client sends them: others go on while one pauses. Where it is
    the endpoint that refuses, that would make the best of the fixed limits one that it refuses nearly always.
    """
    endpoint = NOISY[name] if background is not None else ENDPOINTS[name]
    best, answers = best_fixed(endpoint, seconds=seconds, others_go_on=background is not None)
    options = {"seconds": seconds, "others_go_on": background is not None}
    loops = [met(endpoint, adaptive(), seed=seed, **options) for seed in range(seeds)]
    measured = [loop.answered / answers for loop in loops]
    refused = max(loop.refused / (loop.refused + loop.answered) for loop in loops)
    limits = [look.limit for loop in loops for look in loop.looks[len(loop.looks) // 4 :]]
    print(
        f"\n{name:18} best fixed {best:2}: {answers / seconds:6.1f}/s   auto: {mean(measured):4.0%} of that "
        f"({min(measured):4.0%} to {max(measured):4.0%}), limit {mean(limits):5.1f} ({min(limits)} to {max(limits)}), "
        f"at most {refused:.1%} refused",
        end="",
    )
    assert refused - 2 * (background or 0.0) < 0.05
    return measured


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ENDPOINTS]
)
def test_two_minutes_from_a_cold_start_bring_nine_tenths_of_the_best_fixed_limit(name):
    measured = shares(name, seeds=4, seconds=120)
    assert mean(measured) >= 0.9
    assert min(measured) >= 0.8


@pytest.mark.slow
def test_half_a_minute_from_a_cold_start_brings_95_percent_of_the_best_fixed_limits_together():
    measured = {}
    for name, endpoint in ENDPOINTS.items():
        _, answers = best_fixed(endpoint, seconds=30)
        loops = [met(endpoint, adaptive(), seed=seed, seconds=30, others_go_on=False) for seed in range(6)]
        measured[name] = mean(loop.answered for loop in loops) / answers
    assert mean(measured.values()) >= 0.95, measured
    assert min(measured.values()) >= 0.75, measured


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in QUICK_NOISY else [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in NOISY])
def test_failures_and_slow_answers_that_the_load_does_not_cause_cost_less_than_a_tenth(name):
    """Of the best fixed limit, which they do not move. The share of them is in the name."""
    measured = shares(name, seeds=4 if name in QUICK_NOISY else 8, seconds=120, background=share_of(name))
    assert mean(measured) >= 0.9
    assert min(measured) >= 0.75, "a fixed limit has good and bad luck as well"


def test_a_first_round_that_is_too_good_to_be_true_costs_seconds_and_not_the_run():
    """A job of half a minute: the retreat from the first doubling has to be seen through at once."""
    assert mean(shares("fresh at first", seeds=12, seconds=24)) >= 0.95


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ENDPOINTS)
def test_two_hours_in_all_bring_nine_tenths_of_the_best_fixed_limit(name):
    measured = shares(name, seeds=20, seconds=360)
    assert mean(measured) >= 0.9
    assert min(measured) >= 0.8


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.05, marks=pytest.mark.slow), 0.1, pytest.param(0.5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("room", [0, inf], ids=["refuses", "queues"])
def test_the_limit_follows_a_capacity_of_32_then_8_then_32(room, seconds):
    """Within 20 s of each change and from then on; a queue is felt for only by making one, now and then."""
    clock = Timeline()
    server = moving(clock, seed=1, seconds=seconds, room=room, plan={0: 32, 60: 8, 120: 32})
    loop = ClosedLoop(clock, server, adaptive(), seed=1).run(180, every=0.25)
    for since, capacity in ((20, 32), (80, 8), (140, 32)):
        seen = [look.in_flight for look in loop.looks if since <= look.at < since + 40]
        inside = mean(abs(in_flight / capacity - 1) <= 0.25 for in_flight in seen)
        print(f"\n{capacity}: {mean(seen):.1f} in flight ({min(seen)} to {max(seen)}), {inside:.0%} inside", end="")
        assert abs(mean(seen) / capacity - 1) <= 0.25
        assert inside >= (0.95 if room == 0 else 0.8)
    assert loop.refused < 0.05 * (loop.refused + loop.answered)


@pytest.mark.parametrize("room", [0, inf], ids=["refuses", "queues"])
def test_a_limit_does_not_grow_where_the_source_holds_the_run_back(room):
    clock = Timeline()
    server = moving(clock, seed=1, seconds=0.5, room=room, plan={0: 64})
    loop = ClosedLoop(clock, server, adaptive(), supply=20).run(600)
    assert max(look.limit for look in loop.looks) <= 16, "ten are in flight"
    assert loop.answered == pytest.approx(20 * 600, rel=0.01)


def test_a_source_that_gets_faster_is_followed():
    clock = Timeline()
    loop = ClosedLoop(clock, moving(clock, seed=1, seconds=0.5, room=inf, plan={0: 64}), adaptive(), supply=20)
    loop.run(60)
    held_back = loop.answered
    loop.space = 1 / 100
    loop.run(60)
    assert loop.answered - held_back >= 0.8 * 6000


def test_a_minute_of_refusals_leaves_the_limit_where_it_was():
    clock = Timeline()
    server = moving(clock, seed=1, seconds=0.2, room=0, plan={0: 32, 60: 0, 120: 32})
    loop = ClosedLoop(clock, server, adaptive(), seed=1).run(140)
    before, during, after = (mean(look.limit for look in loop.looks[at : at + 10]) for at in (48, 110, 128))
    assert during <= 2
    assert after >= 0.8 * before
