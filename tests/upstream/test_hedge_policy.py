"""When a second request is worth sending."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.upstream.hedge_policy import Hedger


def test_a_delay_that_is_given_counts():
    assert Hedger(share=0.1, delay=2.5).delay == 2.5


def test_the_95th_percentile_is_reckoned_once_enough_is_known():
    hedger = Hedger(share=0.1, delay=None)
    for i in range(39):
        hedger.answered(0.1 if i % 10 else 3.0)
    assert hedger.delay is None
    hedger.answered(0.1)
    assert 0.1 < hedger.delay <= 3.0


def test_it_follows_what_happens_now():
    hedger = Hedger(share=0.1, delay=None)
    for _ in range(1000):
        hedger.answered(0.1)
    assert hedger.delay == 0.1
    for _ in range(1000):
        hedger.answered(0.7)
    assert hedger.delay == 0.7


@given(st.floats(0, 1), st.lists(st.sampled_from(["ask", "take", "give back"]), max_size=300))
def test_there_are_never_more_than_the_share(share, steps):
    hedger, asked, taken = Hedger(share=share, delay=1.0), 0, 0
    for step in steps:
        if step == "ask":
            hedger.asked()
            asked += 1
        elif step == "take":
            taken += hedger.take()
        elif taken:
            hedger.give_back()
            taken -= 1
        assert taken <= share * asked + 1e-9


def test_what_was_given_back_can_be_taken_again():
    hedger = Hedger(share=1.0, delay=1.0)
    hedger.asked()
    assert hedger.take()
    assert not hedger.take()
    hedger.give_back()
    assert hedger.take()
