"""Containers of rows, sets of their numbers, the range of the numbers of an array, and masked arrays."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.codecs import V1, Json, Oip, OpenAIChat, OpenAIEmbeddings
from fanout.engine import as_rows, chunker_of
from fanout.engine.inputs import stacked
from fanout.engine.validator import ResponseValidator
from fanout.errors import EncodeError, InputError, InvalidResponse
from fanout.rows import RowSet, copy_rows, count_rows, join_rows, single_rows, take_rows, within


@pytest.mark.parametrize(
    ("rows", "n"),
    [
        (np.zeros((3, 2)), 3),
        (["a", "b"], 2),
        ({"x": np.zeros(4), "y": np.zeros((4, 2))}, 4),
        ({}, 0),
        ([], 0),
    ],
)
def test_rows_are_counted_in_every_kind_of_container(rows: Any, n: int) -> None:
    assert count_rows(rows) == n


@pytest.mark.parametrize("index", [slice(1, 3), np.array([1, 2])], ids=["slice", "positions"])
def test_rows_are_taken_as_the_same_kind_of_container(index: Any) -> None:
    array = np.arange(8).reshape(4, 2)
    np.testing.assert_array_equal(take_rows(array, index), array[1:3])
    assert take_rows(["a", "b", "c", "d"], index) == ["b", "c"]
    taken = take_rows({"x": array, "y": array[:, 0]}, index)
    assert list(taken) == ["x", "y"]
    np.testing.assert_array_equal(taken["y"], [2, 4])


def test_a_slice_of_an_array_is_a_view() -> None:
    array = np.arange(8)
    assert np.shares_memory(take_rows(array, slice(2, 4)), array)
    assert np.shares_memory(take_rows({"x": array}, slice(2, 4))["x"], array)


FLOATS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("parts", "dtypes"),
    [
        ([FLOATS], np.float32),
        ([FLOATS, FLOATS[:1]], np.float32),
        ([np.array(["a"]), np.array(["long"])], "<U4"),
        ([FLOATS, FLOATS.astype(np.float64)], None),
        ([FLOATS, FLOATS[:, :2]], None),
        ([FLOATS, [None]], None),
        ([["a"], ["b", "c"]], None),
        ([], None),
    ],
)
def test_rows_of_one_form_are_joined_into_an_array_and_others_into_a_list(parts: Any, dtypes: Any) -> None:
    joined = join_rows(parts)
    assert (joined.dtype if isinstance(joined, np.ndarray) else None) == dtypes
    expected = [row for part in parts for row in part]
    assert len(joined) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(joined, expected, strict=True))


def test_mappings_are_joined_by_name_and_become_dicts_beside_other_rows() -> None:
    part = {"a": np.arange(2), "b": np.array(["x", "yy"])}
    joined = join_rows([part, part])
    assert {name: array.tolist() for name, array in joined.items()} == {"a": [0, 1, 0, 1], "b": ["x", "yy"] * 2}
    dicts = [{"a": 0, "b": "x"}, {"a": 1, "b": "yy"}]
    assert join_rows([part, [{"a": None, "b": "z"}]]) == [*dicts, {"a": None, "b": "z"}]
    assert join_rows([part, {"a": np.arange(1)}]) == [*dicts, {"a": 0}]
    assert join_rows([part, {**part, "a": np.arange(2.0)}]) == [*dicts, *dicts]
    assert single_rows(part) == dicts


@pytest.mark.parametrize("text", [np.dtypes.StringDType(), "U200", object])
def test_a_copy_of_rows_shares_nothing_with_them(text: Any) -> None:
    rows = {"texts": np.array(["a", "b" * 100, "c"], dtype=text)[1:], "numbers": np.arange(6.0)[4:]}
    copied = copy_rows(rows)
    rows["texts"][:], rows["numbers"][:] = "z", 0
    assert copied["texts"].tolist() == ["b" * 100, "c"]
    assert copied["numbers"].tolist() == [4, 5]
    nested: list[Any] = [[1, [2]]]
    copied = copy_rows(nested)
    nested[0][1].append(3)
    assert copied == [[1, [2]]]


@given(
    st.sampled_from(["f2", "f4", "f8"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_side=0, max_dims=3), elements=st.floats(width=16))
    ),
    st.sampled_from([inf, 1.0, 2.0**11, 2.0**53]),
)
def test_numbers_beyond_the_bound_are_never_within(array: np.ndarray, bound: float) -> None:
    doubles = np.abs(array.astype("f8"))
    if within(array, bound):
        assert (doubles < bound).all()
    else:
        assert not (doubles < bound / max(array.size, 1)).all()


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize("bad", [nan, inf, -inf, 8.0, -8.0])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_one_number_is_enough(size: int, bad: float, dtype: str) -> None:
    array = np.zeros(size, dtype)
    assert within(array, 8.0)
    array[-1] = bad
    assert not within(array, 8.0)


def test_numbers_whose_squares_overflow_may_be_refused() -> None:
    assert not within(np.array([1e200]))
    assert within(np.full(5000, 1e200))


HIDDEN = 987654


def masked(shape=(3, 2), row=1, dtype=np.float64):
    array = np.ma.array(np.arange(np.prod(shape)).reshape(shape).astype(dtype), mask=False)
    array[row] = HIDDEN
    array[row] = np.ma.masked
    return array


def body(codec, rows):
    result = codec.encode(rows).body
    return b"".join(result) if isinstance(result, tuple) else result


CODECS = [Json(), V1(), Oip(input="x"), Oip(input="x", binary=False)]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
@pytest.mark.parametrize("codec", CODECS)
def test_no_codec_sends_a_hidden_value(codec, shape):
    for rows in (masked(shape), {"x": masked(shape)}, list(masked(shape)), [{"x": row} for row in masked(shape)]):
        with pytest.raises((InputError, EncodeError), match="mask"):
            codec.encode(rows)


@pytest.mark.parametrize("codec", CODECS)
def test_rows_given_one_by_one_fail_alone(codec):
    with pytest.raises(EncodeError) as caught:
        codec.encode(list(masked()))
    assert caught.value.rows == (1,)


def test_a_masked_value_deep_in_a_row_is_refused():
    with pytest.raises(EncodeError, match="mask") as caught:
        Json().encode([{"a": [np.arange(2)]}, {"a": [masked()[1]]}])
    assert caught.value.rows == (1,)
    with pytest.raises(EncodeError, match="mask"):
        Json().encode([1.0, np.ma.masked])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["f4", "i8", "?"])
def test_a_mask_that_hides_nothing_does_no_harm(codec, dtype):
    plain = np.arange(6).reshape(3, 2).astype(dtype)
    assert body(codec, np.ma.array(plain, mask=False)) == body(codec, plain)
    assert body(codec, [np.ma.array(row) for row in plain]) == body(codec, list(plain))
    assert body(codec, {"x": np.ma.array(plain)}) == body(codec, {"x": plain})


@pytest.mark.parametrize("codec", [OpenAIChat(), OpenAIEmbeddings()])
def test_a_masked_text_is_a_missing_text(codec):
    with pytest.raises((InputError, EncodeError)):
        codec.encode(np.ma.array(["secret"], mask=[True]))


def test_an_input_with_masked_values_is_refused_before_anything_is_sent():
    for rows in (masked(), masked((3,)), {"a": masked()}, np.ma.array(["a", "b"], mask=[0, 1])):
        with pytest.raises(InputError, match=r"1 of . rows, the first in row 1.*filled"):
            as_rows(rows)
    with pytest.raises(InputError, match="column 'a'"):
        as_rows({"a": masked()})


def test_an_input_with_an_empty_mask_is_a_plain_array():
    rows = as_rows(np.ma.array([1.0, 2.0]))
    assert type(rows) is np.ndarray
    assert type(as_rows({"a": np.ma.array([1.0])})["a"]) is np.ndarray


@pytest.mark.parametrize("rows", [list(masked()), iter(masked())])
async def test_rows_that_come_one_by_one_keep_their_masks(rows):
    chunker = chunker_of(rows, 10)
    task = await chunker.get()
    with pytest.raises(EncodeError) as caught:
        Json().encode(task.rows)
    assert caught.value.rows == (1,)
    await chunker.close()


def test_stacking_forgets_no_mask():
    assert isinstance(stacked(list(masked())), list)


def test_an_answer_with_masked_values_is_invalid():
    validator = ResponseValidator({}, reject_nonfinite=True, capacity=2)
    with pytest.raises(InvalidResponse, match="masked"):
        validator.validate(masked(), 3)
    validated = validator.validate(np.ma.array([1.0, 2.0]), 2)[""]
    assert type(validated) is np.ndarray
    assert validated.tolist() == [1.0, 2.0]


NUMBERS = st.integers(0, 30)
RANGES = st.tuples(NUMBERS, NUMBERS)


def members(rows: RowSet) -> set[int]:
    return {row for start, stop in rows for row in range(start, stop)}


@given(st.lists(st.tuples(st.booleans(), RANGES), max_size=30))
def test_a_set_of_rows_holds_the_same_rows_as_a_set_of_integers(changes: list[tuple[bool, tuple[int, int]]]) -> None:
    rows, plain = RowSet(), set[int]()
    for adding, (start, stop) in changes:
        (rows.add if adding else rows.remove)(start, stop)
        plain = plain | set(range(start, stop)) if adding else plain - set(range(start, stop))
        assert members(rows) == plain
        assert len(rows) == len(plain)
    assert rows.mask(31).nonzero()[0].tolist() == sorted(plain)


@given(st.lists(RANGES, max_size=10))
def test_the_ranges_of_a_set_are_sorted_and_never_touch(ranges: list[tuple[int, int]]) -> None:
    edges = [edge for pair in RowSet(ranges) for edge in pair]
    assert edges == sorted(set(edges))


@given(st.lists(RANGES, max_size=10), NUMBERS, NUMBERS)
def test_the_gaps_of_a_set_are_the_other_rows(ranges: list[tuple[int, int]], start: int, stop: int) -> None:
    rows = RowSet(ranges)
    gaps = list(rows.gaps(start, stop))
    missing = [row for a, b in gaps for row in range(a, b)]
    assert missing == [row for row in range(start, stop) if row not in members(rows)]
    assert rows.gap(start, stop) == (gaps[0] if gaps else None)


def test_any_number_of_rows_in_order_takes_one_range() -> None:
    rows = RowSet((start, start + 64) for start in range(0, 64_000, 64))
    assert repr(rows) == "<RowSet 64,000 rows in 1 ranges>"


def test_overlaps_and_the_list_of_ranges_of_a_set():
    rows = RowSet([(2, 4), (6, 7)])
    expected = [any(start <= row < stop for row in (2, 3, 6)) for start in range(9) for stop in range(start + 1, 9)]
    assert [rows.overlaps(start, stop) for start in range(9) for stop in range(start + 1, 9)] == expected
    assert rows.listed() == "2:4, 6"
    assert rows.listed(1) == "2:4 and 1 more ranges"
