"""A rate: no window holds more starts than allowed, and nobody starts sooner than he asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.limits import Rate

ARRIVALS = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=60).map(sorted)


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
