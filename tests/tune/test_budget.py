"""The budget of a search, and the share of a trial."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.tune.search import Budget, BudgetAccount
from fanout.tune.trial import Point


def test_a_trial_counts_a_twentieth_of_the_budget_or_two_rounds():
    account = BudgetAccount(Budget(requests=2000, rows=500_000), 0.0)
    assert account.quota(Point(64, 4)) == (8, 100)
    assert account.quota(Point(64, 64)) == (128, 128)
    assert account.quota(Point(1000, 1)) == (4, 25)


def test_a_trial_that_exceeds_the_remaining_budget_gets_no_quota():
    account = BudgetAccount(Budget(requests=100, rows=10_000), 0.0)
    assert account.quota(Point(1, 25)) is None, "two rounds, one before and one after them, and the model's metadata"
    assert account.quota(Point(1, 24)) is not None
    assert account.quota(Point(2000, 1)) is None
    account.spend(90, 10)
    assert account.quota(Point(1, 2)) is not None
    assert account.quota(Point(1, 3)) is None


def test_an_exhausted_budget_names_the_bound():
    account = BudgetAccount(Budget(requests=10, rows=100, seconds=5.0), 100.0)
    assert account.exhausted(104.9) == ""
    assert account.exhausted(105.0) == "the 5 s for it are over"
    account.spend(10, 1)
    assert account.exhausted(101.0) == "its requests or rows are spent"
    assert account.remaining(1) == 0


@given(st.integers(1, 10_000), st.integers(1, 10**6), st.lists(st.tuples(st.integers(1, 4096), st.integers(1, 128))))
def test_trials_that_send_all_that_they_may_stay_within_the_budget(requests: int, rows: int, points: list[Point]):
    account = BudgetAccount(Budget(requests=requests, rows=rows), 0.0)
    sent = 0
    for point in (Point(*pair) for pair in points):
        quota = account.quota(point)
        if quota is not None:
            assert 1 <= quota.least <= quota.most
            guard = account.remaining(point.chunk_rows)
            assert quota.most + 2 * point.concurrency <= guard
            account.spend(guard, point.chunk_rows)
            sent += guard * point.chunk_rows
    assert account.requests <= requests
    assert sent <= rows


def test_the_most_in_flight_that_is_tried_leaves_requests_for_other_trials():
    assert Budget(requests=2000).max_concurrency == 83
    assert Budget(requests=1).max_concurrency == 1
