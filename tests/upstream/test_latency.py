"""Peak EWMA: bad news counts at once, good news by and by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.upstream import PeakEwma


def test_nothing_is_known_before_the_first_latency():
    assert PeakEwma().seconds is None


def test_a_slow_answer_counts_whole_and_at_once():
    average = PeakEwma()
    for now in range(100):
        average.record(now, 0.1)
    average.record(100.0, 3.0)
    assert average.seconds == 3.0


def test_a_quick_answer_counts_the_more_the_longer_ago_the_slow_one_was():
    soon, late = PeakEwma(), PeakEwma()
    for average, then in ((soon, 1.0), (late, 30.0)):
        average.record(0.0, 2.0)
        average.record(then, 0.1)
    assert 1.7 < soon.seconds < 2.0
    assert 0.1 < late.seconds < 0.3


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(1e-6, 1e3)), min_size=1))
def test_it_lies_within_what_was_recorded(steps):
    average, now = PeakEwma(), 0.0
    for pause, seconds in steps:
        now += pause
        average.record(now, seconds)
    assert min(s for _, s in steps) <= average.seconds * (1 + 1e-9)
    assert average.seconds <= max(s for _, s in steps) * (1 + 1e-9)
    assert average.seconds >= steps[-1][1] * (1 - 1e-9)


def test_a_clock_that_stands_still_does_no_harm():
    average = PeakEwma()
    average.record(5.0, 1.0)
    average.record(5.0, 0.5)
    assert average.seconds == pytest.approx(1.0)
