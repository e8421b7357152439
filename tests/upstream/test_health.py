"""When an endpoint is left alone, for how long, and how it comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.upstream import Health


def fed(good: int, bad: int, now: float = 0.0) -> Health:
    health = Health()
    for _ in range(bad):
        health.failed(now)
    for _ in range(good):
        health.succeeded(now)
    return health


def test_five_failures_in_a_row_are_too_many():
    health = Health()
    for _ in range(4):
        health.failed(0.0)
    assert not health.failing(0.0, None)
    health.failed(0.0)
    assert health.failing(0.0, None)


def test_a_success_between_them_starts_the_count_anew():
    health = Health()
    for _ in range(20):
        for _ in range(4):
            health.failed(0.0)
        health.succeeded(0.0)
    assert not health.failing(0.0, None)


def test_a_share_of_successes_far_below_the_others_is_failing():
    assert fed(good=8, bad=12).failing(0.0, 1.0)
    assert not fed(good=12, bad=8).failing(0.0, 1.0)
    assert not fed(good=8, bad=12).failing(0.0, 0.5)  # the others are no better
    assert not fed(good=8, bad=12).failing(0.0, None)  # nobody to compare it with


def test_few_requests_say_nothing():
    assert fed(good=1, bad=4).share(0.0) is None
    assert not fed(good=1, bad=4).failing(0.0, 1.0)


def test_the_last_window_counts_until_this_one_says_something():
    health = fed(good=30, bad=10)
    health.failed(12.0)
    assert health.share(12.0) == 0.75
    health.failed(24.0)
    assert health.share(24.0) is None


def test_each_time_it_is_for_longer_up_to_half_a_minute():
    health = Health()
    waits = []
    for round_ in range(8):
        waits.append(health.eject(40.0 * round_))
        health.came_back(40.0 * round_ + 30)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_minute_of_good_health_is_forgiven():
    health = Health()
    assert [health.eject(0.0), health.eject(5.0)] == [1, 2]
    health.came_back(10.0)
    assert health.eject(71.0) == 1


def test_it_comes_back_slowly():
    health = Health()
    assert health.ramp(0.0) == 1.0
    health.came_back(100.0)
    assert [health.ramp(now) for now in (100.0, 102.5, 105.0, 110.0, 200.0)] == [0.1, 0.25, 0.5, 1.0, 1.0]


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_the_share_is_a_share(steps):
    health, now = Health(), 0.0
    for pause, good in steps:
        now += pause
        (health.succeeded if good else health.failed)(now)
        share = health.share(now)
        assert share is None or 0 <= share <= 1
