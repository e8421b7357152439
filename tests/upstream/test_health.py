"""Ejection of endpoints: the failures that cause it, its length, and the return of an endpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.upstream.health import Health, PeakEwma


def fed(good: int, bad: int, now: float = 0.0) -> Health:
    health = Health()
    for _ in range(bad):
        health.on_failure(now)
    for _ in range(good):
        health.on_success(now)
    return health


def test_five_consecutive_failures_eject():
    health = Health()
    for _ in range(4):
        health.on_failure(0.0)
    assert not health.failing(0.0, None)
    health.on_failure(0.0)
    assert health.failing(0.0, None)


def test_a_success_resets_the_count_of_consecutive_failures():
    health = Health()
    for _ in range(20):
        for _ in range(4):
            health.on_failure(0.0)
        health.on_success(0.0)
    assert not health.failing(0.0, None)


def test_a_success_rate_far_below_the_others_ejects():
    assert fed(good=8, bad=12).failing(0.0, 1.0)
    assert not fed(good=12, bad=8).failing(0.0, 1.0)
    assert not fed(good=8, bad=12).failing(0.0, 0.5)  # the others are no better
    assert not fed(good=8, bad=12).failing(0.0, None)  # no other endpoint to compare it with


def test_the_success_rate_of_few_requests_is_unknown():
    assert fed(good=1, bad=4).success_rate(0.0) is None
    assert not fed(good=1, bad=4).failing(0.0, 1.0)


def test_the_last_window_counts_until_this_one_has_enough_requests():
    health = fed(good=30, bad=10)
    health.on_failure(12.0)
    assert health.success_rate(12.0) == 0.75
    health.on_failure(24.0)
    assert health.success_rate(24.0) is None


def test_each_ejection_is_longer_up_to_30_s():
    health = Health()
    waits = []
    for round_ in range(8):
        waits.append(health.eject(40.0 * round_))
        health.on_return(40.0 * round_ + 30)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_earlier_ejections_are_forgotten_after_a_minute_of_good_health():
    health = Health()
    assert [health.eject(0.0), health.eject(5.0)] == [1, 2]
    health.on_return(10.0)
    assert health.eject(71.0) == 1


def test_a_returning_endpoint_gets_its_share_back_gradually():
    health = Health()
    assert health.weight(0.0) == 1.0
    health.on_return(100.0)
    assert [health.weight(now) for now in (100.0, 102.5, 105.0, 110.0, 200.0)] == [0.1, 0.25, 0.5, 1.0, 1.0]


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_a_success_rate_lies_between_0_and_1(steps):
    health, now = Health(), 0.0
    for pause, good in steps:
        now += pause
        (health.on_success if good else health.on_failure)(now)
        share = health.success_rate(now)
        assert share is None or 0 <= share <= 1


def test_the_average_is_none_before_the_first_latency():
    assert PeakEwma().seconds is None


def test_a_latency_above_the_average_replaces_it_at_once():
    average = PeakEwma()
    for now in range(100):
        average.record(now, 0.1)
    average.record(100.0, 3.0)
    assert average.seconds == 3.0


def test_a_lower_latency_weighs_more_the_older_the_average_is():
    soon, late = PeakEwma(), PeakEwma()
    for average, then in ((soon, 1.0), (late, 30.0)):
        average.record(0.0, 2.0)
        average.record(then, 0.1)
    assert 1.7 < soon.seconds < 2.0
    assert 0.1 < late.seconds < 0.3


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(1e-6, 1e3)), min_size=1))
def test_the_average_lies_within_the_recorded_latencies(steps):
    average, now = PeakEwma(), 0.0
    for pause, seconds in steps:
        now += pause
        average.record(now, seconds)
    assert min(s for _, s in steps) <= average.seconds * (1 + 1e-9)
    assert average.seconds <= max(s for _, s in steps) * (1 + 1e-9)
    assert average.seconds >= steps[-1][1] * (1 - 1e-9)


def test_a_lower_latency_at_the_same_time_does_not_count():
    average = PeakEwma()
    average.record(5.0, 1.0)
    average.record(5.0, 0.5)
    assert average.seconds == pytest.approx(1.0)
