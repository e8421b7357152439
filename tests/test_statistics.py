"""Counters and latencies: exact where they count, within 3 % where they measure, in fixed memory."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.results import Statistics
from fanout.statistics import LATENCIES_AT_ONCE, Counters, Latencies

SECONDS = st.floats(1e-6, 4 * 3600)
TOLERANCE = 1 / 32
"""Half a bucket, of which there are 16 between a number and its double."""


def latencies(*seconds: float) -> Latencies:
    sketch = Latencies()
    sketch.recent += seconds
    return sketch


@given(SECONDS)
def test_one_latency_is_every_quantile_within_its_tolerance(seconds):
    sketch = latencies(seconds)
    for q in (0.0, 0.5, 0.99, 1.0):
        assert sketch.quantiles(q)[0] == pytest.approx(seconds, rel=TOLERANCE)


@given(st.lists(SECONDS, min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_that_of_the_sorted_values(seconds, q):
    exact = sorted(seconds)[max(math.ceil(q * len(seconds)) - 1, 0)]
    assert latencies(*seconds).quantiles(q)[0] == pytest.approx(exact, rel=TOLERANCE)


@given(st.lists(SECONDS, max_size=50))
def test_several_quantiles_are_those_that_are_asked_for_one_by_one(seconds):
    sketch, qs = latencies(*seconds), (0.0, 0.5, 0.95, 0.99, 1.0)
    assert sketch.quantiles(*qs) == pytest.approx([sketch.quantiles(q)[0] for q in qs], nan_ok=True)


@pytest.mark.parametrize("n", [1, 99, 100, 1000])
def test_a_sum_has_the_values_of_both_however_many_are_new(n):
    one, other = latencies(*[0.5] * n), latencies(*[2.0] * n)
    total = Latencies()
    total.add(one)
    total.add(other)
    assert total.counts.sum() == 2 * n
    assert (total.counts == one.counts + other.counts).all()
    assert one.counts.sum() == n  # as before


def test_there_is_no_quantile_of_nothing():
    assert math.isnan(Latencies().quantiles(0.5)[0])


@pytest.mark.parametrize("seconds", [0.0, -1e-9, 1e-12, 1e-300])
def test_a_latency_below_the_range_counts_as_the_shortest(seconds):
    assert latencies(seconds).quantiles(0.5)[0] <= 1e-6


@pytest.mark.parametrize("seconds", [1e6, 1e300])
def test_a_latency_above_the_range_counts_as_the_longest(seconds):
    assert latencies(seconds).quantiles(0.5)[0] == pytest.approx(2**14, rel=0.05)


def test_memory_does_not_grow_with_the_number_of_latencies():
    sketch = latencies(0.1)
    before = sys.getsizeof(sketch.counts)
    for i in range(10_000):
        sketch.recent.append(i / 7)
        if len(sketch.recent) >= LATENCIES_AT_ONCE:
            sketch.sort_in()
    assert sys.getsizeof(sketch.counts) == before
    assert sum(sketch.counts) == 10_001


def counted(n: int, *seconds: float) -> Counters:
    counters = Counters()
    for name in ("rows", "ok", "failed", "retries", "splits", "backing_off"):
        setattr(counters, name, n)
        n += 1
    for name in ("hedges", "hedges_won", "requests", "in_flight", "max_in_flight", "bytes_sent", "bytes_received"):
        setattr(counters.traffic, name, n)
        n += 1
    counters.traffic.latencies.recent += seconds
    return counters


def test_a_snapshot_holds_every_counter_and_those_of_all_runs_together():
    snapshot = counted(1, 0.5).snapshot(seconds=9.0, in_flight=3, max_in_flight=4)
    assert isinstance(snapshot, Statistics)
    assert (snapshot.rows, snapshot.ok, snapshot.failed, snapshot.requests) == (1, 2, 3, 9)
    assert (snapshot.retries, snapshot.splits, snapshot.backing_off) == (4, 5, 6)
    assert (snapshot.hedges, snapshot.hedges_won) == (7, 8)
    assert (snapshot.in_flight, snapshot.max_in_flight, snapshot.bytes_sent, snapshot.bytes_received) == (3, 4, 12, 13)
    assert snapshot.seconds == 9.0
    assert snapshot.latency_p50 == snapshot.latency_p95 == snapshot.latency_p99 == pytest.approx(0.5, rel=TOLERANCE)


def test_a_snapshot_does_not_change_afterwards():
    counters = counted(1)
    snapshot = counters.snapshot(seconds=1.0)
    counters.rows += 10
    assert snapshot.rows == 1


def test_a_snapshot_before_the_first_latency_has_nan_for_it():
    assert math.isnan(Counters().snapshot(seconds=0.0).latency_p99)


def test_runs_add_up():
    total = counted(1, 0.1, 0.1)
    run = counted(10, 8.0)
    total.add(run)
    assert (total.rows, total.backing_off) == (11, 21)
    assert sum(total.traffic.latencies.counts) == 3
    assert total.traffic.latencies.quantiles(1.0)[0] == pytest.approx(8.0, rel=TOLERANCE)
    assert (run.rows, sum(run.traffic.latencies.counts)) == (10, 1)


def test_adding_leaves_the_added_free_to_count_on():
    total, run = Counters(), counted(1, 0.1)
    total.add(run)
    run.traffic.latencies.recent.append(0.1)
    assert sum(total.traffic.latencies.counts) == 1


def test_usage_adds_up_by_name_and_a_snapshot_keeps_its_own():
    total, run = Counters(), Counters()
    total.charge({"total_tokens": 3})
    run.charge({"total_tokens": 4, "prompt_tokens": 2})
    total.add(run)
    snapshot = total.snapshot(seconds=1.0)
    total.charge({"total_tokens": 100})
    assert snapshot.usage == {"total_tokens": 7, "prompt_tokens": 2}
    assert run.usage == {"total_tokens": 4, "prompt_tokens": 2}


def test_every_counter_is_added_and_in_the_snapshot():
    total, once = Counters(), counted(1).snapshot(seconds=1.0)
    total.add(counted(1))
    total.add(counted(1))
    twice = total.snapshot(seconds=1.0)
    names = {name for part in (total, total.traffic) for name, value in vars(part).items() if isinstance(value, int)}
    assert len(names) == 15
    for name in names:
        assert getattr(twice, name) == getattr(once, name) * (1 if name == "max_in_flight" else 2)


def test_names_of_usage_do_not_grow_with_the_answers():
    counters, sums = Counters(), Counters()
    for answer in range(1000):
        counters.charge({f"tokens_{answer}": 1, "total_tokens": 2})
    sums.add(counters)
    sums.charge({"another": 1})
    for usage in (counters.usage, sums.usage):
        assert len(usage) == 256
        assert usage["total_tokens"] == 2000
