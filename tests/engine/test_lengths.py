"""Rows of different lengths are recognised; a damaged row is not mistaken for one."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.engine.lengths import Lengths
from fanout.types import Chunk, Schema


def chunk(i: int) -> Chunk:
    return Chunk(i * 64, i * 64 + 64)


def schema(*shape: int, name: str = "", dtype: str = "f8") -> Schema:
    return {name: (np.dtype(dtype), shape)}


def test_two_answers_are_needed_to_know() -> None:
    lengths = Lengths("advice")
    assert lengths.differ_within(chunk(0), Counter(range(1, 20))) is None
    difference = lengths.differ_within(chunk(0), Counter(range(1, 20)))
    assert difference == "the answers of the rows differ in length (1, 2, 3, 4, 5, ...), and an array needs one: advice"


@pytest.mark.parametrize("counts", [{1: 30, 2: 34}, {5: 60, 7: 20, 0: 9}, {1: 10, 2: 1, 3: 1}])
def test_lengths_within_answers(counts: dict[int, int]) -> None:
    lengths = Lengths("advice")
    lengths.differ_within(chunk(0), counts)
    assert lengths.differ_within(chunk(1), counts) is not None


@given(
    st.lists(st.integers(0, 9).filter(lambda n: n != 5), min_size=1, max_size=30),
    st.integers(32, 64),
    st.integers(1, 4),
)
def test_one_broken_row_a_chunk_is_no_sign(broken: list[int], rows: int, attempts: int) -> None:
    lengths = Lengths("advice")
    for i, odd in enumerate(broken):
        for _ in range(attempts):
            assert lengths.differ_within(chunk(i), {5: rows - 1, odd: 1}) is None
        assert lengths.differ_between(chunk(i), schema(odd), schema(5), 1000 * len(broken)) is None


def test_the_parts_of_a_chunk_and_its_repetitions_count_once() -> None:
    lengths = Lengths("advice")
    for _ in range(20):
        assert lengths.differ_within(chunk(0), {5: 1, 6: 1}) is None
        assert lengths.differ_between(chunk(0), schema(5), None, 0) is None
        assert lengths.differ_between(chunk(0), schema(6), None, 0) is None


def test_rows_that_failed_with_an_empty_list_are_no_sign() -> None:
    lengths = Lengths("advice")
    for i in range(50):
        assert lengths.differ_within(chunk(i), {5: 30, 0: 34}) is None
        assert lengths.differ_between(chunk(i), schema(0), schema(5), 100) is None


def test_answers_of_three_lengths() -> None:
    lengths = Lengths("advice")
    assert lengths.differ_between(chunk(0), schema(3), None, 0) is None
    assert lengths.differ_between(chunk(1), schema(5), None, 1) is None
    assert lengths.differ_between(chunk(2), schema(4), None, 2) is not None


def test_answers_of_two_lengths_once_the_rarer_is_no_accident() -> None:
    lengths = Lengths("advice")
    assert [lengths.differ_between(chunk(i), schema(4), schema(3), 8) is None for i in range(4)] == [True] * 3 + [False]


@pytest.mark.parametrize("other", [schema(4, 4), schema(4, name="y"), schema(4, dtype="f4")])
def test_answers_of_another_kind_are_another_fault(other: Schema) -> None:
    lengths = Lengths("advice")
    for i in range(0, 30, 3):
        assert lengths.differ_between(chunk(i), schema(3), None, 0) is None
        assert lengths.differ_between(chunk(i + 1), other, None, 0) is None


def test_the_memory_of_secrets_is_bounded() -> None:
    lengths = Lengths("advice")
    sizes = []
    for i in range(2000):
        assert lengths.differ_between(chunk(i), schema(i + 4), schema(3), 10**6) is None
        sizes.append(len(pickle.dumps(lengths)))
    assert max(sizes[1000:]) < 1.2 * max(sizes[:1000])
