"""The division of rows, limits and budgets: nothing is lost, and nothing exceeds the job's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout import Limits
from fanout.cluster.plan import Budgets, Shards, division_text, most_workers, share_of
from fanout.rows import RowSet

ranges = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 500)), max_size=8)


def taken(shards: Shards) -> list[list[tuple[int, int]]]:
    parts = []
    while part := shards.take():
        parts.append(part)
    return parts


@given(ranges, st.integers(1, 9), st.integers(1, 70), st.integers(1, 8))
def test_shards_are_all_rows_once(pairs, workers, chunk_rows, concurrency) -> None:
    rows = RowSet((start, start + length) for start, length in pairs)
    everything = RowSet(rows)
    parts = taken(Shards(rows, workers, chunk_rows, concurrency))
    union = RowSet(pair for part in parts for pair in part)
    assert list(union) == list(everything)
    assert sum(stop - start for part in parts for start, stop in part) == len(everything)


def test_shards_end_between_chunks_and_grow_smaller() -> None:
    parts = taken(Shards(RowSet([(0, 100_001)]), 4, 16, 4))
    assert all(stop % 16 == 0 or stop == 100_001 for part in parts for _, stop in part)
    sizes = [sum(stop - start for start, stop in part) for part in parts]
    assert sizes[0] == 12_512  # half of an even share, in whole chunks
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert min(sizes[:-1]) == 32 * 4 * 16


def test_workers_get_one_even_shard_each_of_a_small_input() -> None:
    assert taken(Shards(RowSet([(0, 64)]), 4, 1, 8)) == [[(i, i + 16)] for i in range(0, 64, 16)]
    assert len(taken(Shards(RowSet([(0, 2 * 64 * 8)]), 2, 1, 8))) == 2
    assert len(taken(Shards(RowSet([(0, 2 * 65 * 8)]), 2, 1, 8))) > 4


def test_idle_workers_get_an_even_part_of_the_rows_that_are_handed_over() -> None:
    shards = Shards(RowSet([(0, 1000)]), 2, 10, 1)
    assert [taken(shards) for _ in range(2)] == [[[(0, 500)], [(500, 1000)]], []]
    shards.put_back(RowSet([(700, 1000)]), idle=3)
    assert taken(shards) == [[(700, 800)], [(800, 900)], [(900, 1000)]]


def test_rows_of_a_lost_shard_come_again() -> None:
    shards = Shards(RowSet([(0, 40)]), 1, 4, 1)
    first = shards.take()
    shards.put_back(RowSet([(4, 8)]))
    assert RowSet(first).gap(4, 8) is None
    assert (4, 8) in shards.take()


@given(st.integers(1, 300), st.integers(1, 50), st.floats(0.1, 1e6))
def test_shares_are_the_limits_of_the_job_together(concurrency, wanted, rate) -> None:
    limits = Limits(concurrency=concurrency, requests_per_second=rate, tokens_per_minute=7 * rate)
    workers = most_workers(wanted, limits, 10**9, 1)
    shares = [share_of(limits, slot, workers) for slot in range(workers)]
    assert sum(share["concurrency"] for share in shares) == concurrency
    assert min(share["concurrency"] for share in shares) >= 1
    assert sum(share["requests_per_second"] for share in shares) <= rate * (1 + 1e-9)
    assert sum(share["tokens_per_minute"] for share in shares) <= 7 * rate * (1 + 1e-9)


def test_there_are_no_more_workers_than_requests_or_chunks() -> None:
    assert most_workers(8, Limits(concurrency=3), 1000, 10) == 3
    assert most_workers(8, Limits(concurrency=16), 41, 10) == 5
    assert most_workers(8, Limits(concurrency="auto"), 1000, 10) == 8
    assert most_workers(8, Limits(), 0, 10) == 1


@given(
    st.integers(1, 60),
    st.floats(0.01, 100),
    st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1), st.booleans()), max_size=30),
)
def test_budgets_are_never_exceeded(requests, cost, attempts) -> None:
    limits = Limits(max_requests=requests, max_cost=cost, max_tokens_total=5 * requests)
    budgets, spent = Budgets(limits, {"max_cost": cost / 4}), {"max_requests": 0.0, "max_cost": cost / 4}
    for number, (workers, share, is_known) in enumerate(attempts):
        given_one = budgets.give(number, workers)
        if given_one is None:
            assert budgets.exhausted()
            break
        used = {name: int(part * share) if name != "max_cost" else part * share for name, part in given_one.items()}
        budgets.settle(number, used if is_known else {})
        for name in spent:
            spent[name] += used[name] if is_known else given_one[name]
        assert spent["max_requests"] <= requests
        assert spent["max_cost"] <= cost * (1 + 1e-9)


def test_attempts_at_the_same_time_share_a_budget() -> None:
    budgets = Budgets(Limits(max_requests=10), {})
    parts = [budgets.give(number, 3 - number)["max_requests"] for number in range(3)]
    assert parts == [3, 3, 4]
    assert budgets.give(3, 1) is None
    budgets.settle(0, {"max_requests": 1})
    assert budgets.give(4, 1) == {"max_requests": 2}


def test_a_part_of_a_token_is_nothing_left() -> None:
    budgets = Budgets(Limits(max_tokens_total=10), {"max_tokens_total": 9.5})
    assert budgets.give(1, 1) is None
    assert budgets.exhausted() == "max_tokens_total"


def test_the_division_is_described() -> None:
    text = division_text(Limits(concurrency=8, requests_per_second=5, max_requests=7), 4, "Ray")
    assert text == (
        "4 workers (Ray), each with 1/4 of the 8 requests in flight and of requests_per_second, max_requests"
    )
    kept = division_text(Limits(concurrency=8, requests_per_second=5, max_requests=7), 4, "Ray", shares_rates=True)
    assert kept.endswith("of the 8 requests in flight and of max_requests; they keep requests_per_second together")
    assert division_text(Limits(), 1, "Dask") == "1 worker (Dask)"
    assert "a concurrency of its own" in division_text(Limits(concurrency="auto"), 2, "Dask")


def test_shared_limits_are_not_divided() -> None:
    limits = Limits(concurrency=2, max_requests=9, shared="redis://localhost", shared_key="k")
    assert most_workers(8, limits, 1000, 10) == 8
    assert share_of(limits, 0, 8) == {}
    assert Budgets(limits, {}).give(1, 8) == {}
    assert division_text(limits, 8, "Ray") == "8 workers (Ray), with the limits that they share (limits.shared)"
