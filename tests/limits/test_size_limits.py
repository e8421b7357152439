"""The limits on the size of a request, as they are learnt from requests that fail and succeed."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from fanout.limits.size_limits import Size, SizeLimits
from fanout.types import Chunk


def chunk(number: int) -> Chunk:
    return Chunk(number, number + 1)


def learnt(*successes: float) -> SizeLimits:
    """Limits that have watched requests of so many rows succeed."""
    limits = SizeLimits()
    limits.suspected(Size(1), chunk(0))
    limits.ended(chunk(0))
    for number, rows in enumerate(successes, 1):
        limits.succeeded(Size(rows), chunk(number))
    return limits


def test_a_request_clearly_larger_than_all_that_succeeded_sets_a_limit_at_once():
    limits = learnt(50, 60)
    limits.too_large(Size(100), chunk(9))
    assert limits.limits is not None
    assert limits.limits.rows == 60


def test_a_request_a_little_larger_than_the_others_may_have_failed_by_chance():
    limits = learnt(50, 60)
    limits.too_large(Size(64), chunk(8))
    assert limits.next() is None
    limits.too_large(Size(63), chunk(9))
    bounds = limits.safe()
    assert bounds is not None, "twice is no chance"
    assert bounds.rows == 60


def test_a_size_is_near_a_limit_above_three_quarters_of_it():
    limits = learnt(50, 60)
    limits.too_large(Size(100), chunk(9))
    assert [limits.near(Size(rows)) for rows in (1, 45, 46, 60, 61, 100)] == [False, False, True, True, True, True]
    assert [limits.exceeded_by(Size(rows)) for rows in (60, 61)] == [False, True]


def test_without_any_success_every_failure_counts():
    limits = SizeLimits()
    limits.too_large(Size(64), chunk(1))
    assert limits.limits is not None
    assert limits.limits.rows == 32


def test_a_trial_of_a_larger_size_waits_for_successes_and_comes_alone():
    limits = learnt(50)
    limits.too_large(Size(100), chunk(1))
    sizes = []
    for number in range(10, 22):
        bounds = limits.next()
        assert bounds is not None
        sizes.append(bounds.rows)
        limits.cut(chunk(number), bounds)
        limits.succeeded(Size(50), chunk(number))
    assert sizes[:6] == [50] * 6
    assert sizes[6] == 75


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_a_size_is_near_a_limit_if_no_request_so_large_has_succeeded(unit: int):
    limits = learnt()
    size = [10.0, 10.0, 10.0]
    limits.succeeded(Size(*size), chunk(1))
    assert not limits.near(Size(*size))
    size[unit] = 11.0
    assert limits.near(Size(*size))


def waits(limits: SizeLimits, n: int, largest: float) -> list[int]:
    """The successes before each of the next ``n`` trials beyond ``largest``, which fail."""
    number, counts = 10, []
    for _ in range(n):
        count = 0
        while (bounds := limits.next()) is None or bounds.rows <= largest:
            assert bounds is not None
            number, count = number + 1, count + 1
            limits.cut(chunk(number), bounds)
            limits.succeeded(Size(bounds.rows), chunk(number))
        counts.append(count)
        limits.cut(chunk(0), bounds)
        limits.too_large(bounds, chunk(0))
    return counts


def test_the_patience_with_a_limit_that_holds_doubles_until_it_has_to_be_lowered():
    limits = learnt(99)
    limits.too_large(Size(200), chunk(1))
    limits.too_large(Size(100), chunk(2))
    assert waits(limits, 3, 99.5) == [96, 192, 384]
    limits.too_large(Size(50), chunk(3))
    # The first of them includes the time in which the limit settles below 50.
    assert waits(limits, 3, 50)[1:] == [192, 384]


def trials(limits: SizeLimits, n: int, largest: float) -> list[float]:
    """The sizes that were tried beyond the limit in so many requests, of which those up to ``largest`` succeed."""
    tried = []
    for number in range(100, 100 + n):
        bounds, safe = limits.next(), limits.safe()
        assert bounds is not None
        assert safe is not None
        limits.cut(chunk(number), bounds)
        if bounds.rows > safe.rows:
            tried.append(bounds.rows)
        (limits.succeeded if bounds.rows <= largest else limits.too_large)(Size(bounds.rows), chunk(number))
    return tried


@pytest.mark.parametrize(
    ("largest", "tried"), [(inf, [103, 103 * 1.06]), (104, [103, 103 * 1.06, (103 + 103 * 1.06) / 2])]
)
def test_a_limit_that_is_outlived_is_left_in_steps_that_double(largest: float, tried: list[float]):
    limits = learnt(99)
    limits.too_large(Size(200), chunk(1))
    limits.too_large(Size(100), chunk(2))
    assert trials(limits, 200 if largest == inf else 600, largest) == pytest.approx(tried)


@pytest.mark.parametrize(("failed", "tried"), [(1005, []), (1020, [990])])
def test_sizes_between_a_success_and_a_failure_are_tried_unless_both_are_close(failed: float, tried: list[float]):
    limits = learnt(960)
    limits.too_large(Size(2000), chunk(1))
    limits.too_large(Size(failed), chunk(2))
    assert trials(limits, 60, 999) == tried


@pytest.mark.parametrize(
    ("successes", "failed", "limit"),
    [((50, 60, 70), 65, 60), ((70, 60, 50), 65, 60), ((10, 50, 70), 52, 0.95 * 52), ((50, 70), 40, 20)],
)
def test_a_failure_below_the_limit_lowers_it_to_the_largest_success_below(successes: Any, failed: float, limit: float):
    limits = learnt(*successes)
    limits.too_large(Size(200), chunk(1))
    limits.too_large(Size(failed), chunk(2))
    assert limits.limits is not None
    assert limits.limits.rows == pytest.approx(limit)
