"""A set of rows behaves as a set of integers does, in the memory of its ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.rowset import RowSet

ROWS = st.integers(0, 30)
RANGES = st.tuples(ROWS, ROWS)


def members(rows: RowSet) -> set[int]:
    return {row for start, stop in rows for row in range(start, stop)}


@given(st.lists(st.tuples(st.booleans(), RANGES), max_size=30))
def test_it_holds_the_same_rows_as_a_set_of_integers(changes: list[tuple[bool, tuple[int, int]]]) -> None:
    rows, plain = RowSet(), set[int]()
    for adding, (start, stop) in changes:
        (rows.add if adding else rows.remove)(start, stop)
        plain = plain | set(range(start, stop)) if adding else plain - set(range(start, stop))
        assert members(rows) == plain
        assert len(rows) == len(plain)
    assert rows.mask(31).nonzero()[0].tolist() == sorted(plain)


@given(st.lists(RANGES, max_size=10))
def test_its_ranges_are_sorted_and_never_touch(ranges: list[tuple[int, int]]) -> None:
    edges = [edge for pair in RowSet(ranges) for edge in pair]
    assert edges == sorted(set(edges))


@given(st.lists(RANGES, max_size=10), ROWS, ROWS)
def test_its_gaps_are_the_other_rows(ranges: list[tuple[int, int]], start: int, stop: int) -> None:
    rows = RowSet(ranges)
    gaps = list(rows.gaps(start, stop))
    missing = [row for a, b in gaps for row in range(a, b)]
    assert missing == [row for row in range(start, stop) if row not in members(rows)]
    assert rows.gap(start, stop) == (gaps[0] if gaps else None)


def test_any_number_of_rows_in_order_takes_one_range() -> None:
    rows = RowSet((start, start + 64) for start in range(0, 64_000, 64))
    assert repr(rows) == "<RowSet 64,000 rows in 1 ranges>"


def test_overlaps_and_the_list_of_ranges():
    rows = RowSet([(2, 4), (6, 7)])
    expected = [any(start <= row < stop for row in (2, 3, 6)) for start in range(9) for stop in range(start + 1, 9)]
    assert [rows.overlaps(start, stop) for start in range(9) for stop in range(start + 1, 9)] == expected
    assert rows.listed() == "2:4, 6"
    assert rows.listed(1) == "2:4 and 1 more ranges"
