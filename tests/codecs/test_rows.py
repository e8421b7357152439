"""Rows of any kind as JSON, as texts and as one array; rows that a format cannot express are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pytest

from fanout.codecs._rows import columns, holds_nonfinite, jsonable, require_finite, rows_where, stacked, texts, to_json
from fanout.errors import EncodeError, InputError

TEXT = np.dtypes.StringDType()
NAN = float("nan")


@dataclass
class Point:
    x: float


def sent(rows):
    return orjson.loads(to_json(rows))


@pytest.mark.parametrize("dtype", ["?", "b", "h", "i", "q", "B", "H", "I", "Q", "e", "f", "d", ">f4", ">i8", "<u2"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_arrays_of_any_plain_dtype_and_rank(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    assert sent(array) == array.tolist()
    assert sent(array[::-1]) == array[::-1].tolist()
    assert sent(array.T) == array.T.tolist()


@pytest.mark.parametrize(
    "rows",
    [["a", "é", ""], [1, 2.5], [[1, 2], [3]], [{"a": [1, None]}, {"b": "null"}], [(1, 2)], [None], [True], range(3)],
)
def test_lists_are_sent_as_they_are(rows):
    assert sent(rows) == [list(row) if isinstance(row, tuple) else row for row in rows]


@pytest.mark.parametrize("dtype", ["U", "S", TEXT, object])
def test_arrays_of_texts_are_texts(dtype):
    array = np.array([["a", "b"], ["c", "d"]], dtype)
    assert sent(array) == [["a", "b"], ["c", "d"]]
    assert sent(array[0]) == ["a", "b"]


def test_a_mapping_becomes_objects():
    columns = {"x": np.array([[1, 2], [3, 4]], "f4"), "n": np.array([5, 6]), "t": np.array(["a", "b"])}
    assert sent(columns) == [{"x": [1.0, 2.0], "n": 5, "t": "a"}, {"x": [3.0, 4.0], "n": 6, "t": "b"}]


def test_columns_of_different_length_are_refused():
    with pytest.raises(InputError, match="'x': 1, 'y': 2"):
        to_json({"x": np.zeros(1), "y": np.zeros(2)})


def test_arrays_inside_rows_are_taken_in_any_layout():
    row = {"x": np.arange(6.0).reshape(2, 3).T, "y": np.arange(3, dtype=">i4"), "t": np.array(["a"]), "n": np.int8(3)}
    assert sent([row]) == [{"x": [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], "y": [0, 1, 2], "t": ["a"], "n": 3}]


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8"])
def test_nonfinite_rows_of_an_array_are_named(bad, dtype):
    array = np.ones((4, 3), dtype)
    array[1, 2] = array[3, 0] = bad
    with pytest.raises(EncodeError, match="NaN") as caught:
        to_json(array)
    assert caught.value.rows == (1, 3)


def test_nonfinite_rows_of_a_column_are_named():
    with pytest.raises(EncodeError) as caught:
        to_json({"n": np.arange(3), "x": np.array([1.0, NAN, 2.0])})
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    "row",
    [NAN, [1, [NAN]], (1, NAN), {"a": {"b": [np.inf]}}, np.float32(NAN), np.array([1, NAN]), [np.array([NAN], ">f4")]],
)
def test_nonfinite_numbers_are_detected_anywhere_in_a_row(row):
    """orjson would write them as null."""
    with pytest.raises(EncodeError) as caught:
        to_json([1, None, row, "null"])
    assert caught.value.rows == (2,)


def test_an_overflow_of_the_sum_alone_is_none():
    require_finite(np.full(4, 3e38, "f4"))
    require_finite(np.full((4, 2), 1.7e308))


@pytest.mark.parametrize(
    "row", [b"abc", object(), 2**64, -(2**63) - 1, "\ud800", {1: 2}, {3}, Point(NAN), np.array([1j])]
)
def test_rows_that_json_cannot_express_are_named(row):
    with pytest.raises(EncodeError) as caught:
        to_json([1, row, "a"])
    assert caught.value.rows == (1,)


def test_a_row_that_holds_itself_is_named():
    row: list[Any] = []
    row.append(row)
    with pytest.raises(EncodeError) as caught:
        to_json([1, row])
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, np.longdouble),
        np.array(1.5),
        np.array("a"),
        np.array([{"a": 1}], object),
        np.array([1, 2], object),
    ],
)
def test_arrays_that_cannot_be_sent_are_an_input_error_with_a_remedy(array):
    with pytest.raises(InputError, match=r"wrap it|astype|into a list"):
        to_json(array)


@pytest.mark.parametrize("missing", [None, NAN])
def test_missing_texts_fail_alone(missing):
    with pytest.raises(EncodeError, match="missing") as caught:
        to_json(np.array(["a", missing, "b"], object))
    assert caught.value.rows == (1,)


def test_missing_texts_of_a_string_array_fail_alone():
    with pytest.raises(EncodeError) as caught:
        texts(np.array([["a", "b"], ["c", None], [None, None]], np.dtypes.StringDType(na_object=None)))
    assert caught.value.rows == (1, 2)


def test_bytes_that_are_not_utf8_fail_alone():
    assert texts(np.array(["é".encode()])) == ["é"]
    with pytest.raises(EncodeError) as caught:
        texts(np.array([b"a", b"\xff"]))
    assert caught.value.rows == (1,)


def test_texts_of_a_list():
    assert texts(["a", np.str_("b")]) == ["a", "b"]
    assert texts(np.empty(0, "U1")) == []
    with pytest.raises(InputError, match="a row holds int"):
        texts(["a", 1])


def test_rows_with_any_true_element():
    assert rows_where(np.zeros((3, 0), bool)) == []
    assert rows_where(np.array([[[False]], [[True]]])) == [1]


def test_native_arrays_are_not_copied():
    array = np.ones((2, 3), "f4")
    assert np.shares_memory(jsonable(array), array)


def test_arrays_on_a_map_of_a_file_can_be_sent(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(4.0))
    assert to_json(np.load(tmp_path / "x.npy", mmap_mode="r")[1:3]) == b"[1.0,2.0]"


def test_other_values_hold_nothing_nonfinite():
    assert not any(map(holds_nonfinite, ["nan", None, 1, True, np.array(["nan"]), np.array([1]), [], {}]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], np.array([1, 2])),
        ([1, 2.5], np.array([1, 2.5])),
        ([True, False], np.array([True, False])),
        ([[1, 2], (3, 4)], np.array([[1, 2], [3, 4]])),
        (["a", "b"], np.array(["a", "b"], TEXT)),
        ([np.str_("a"), "b"], np.array(["a", "b"], TEXT)),
        ([np.ones(2, "f4"), np.zeros(2, "f4")], np.array([[1, 1], [0, 0]], "f4")),
        ([np.float32(1), np.float32(2)], np.array([1, 2], "f4")),
        ([np.ones(2, "f4"), [0, 0]], np.array([[1.0, 1.0], [0.0, 0.0]])),
        ([np.int64(1), np.uint64(2)], np.array([1, 2])),
        ([[np.float32(1)], [2]], np.array([[1.0], [2.0]])),
        ([float("nan"), 1.0], np.array([np.nan, 1.0])),
        ([np.array(["a"]), np.array(["bcd"])], np.array([["a"], ["bcd"]], TEXT)),
    ],
)
def test_rows_of_one_kind_are_stacked(values, expected):
    result = stacked(values)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


def test_bytes_stay_as_they_are():
    """numpy's own bytes dtype would cut the zeros off."""
    result = stacked([b"\0a\0", b""])
    assert result.dtype == object
    assert result.tolist() == [b"\0a\0", b""]


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([[1, 2], [3], [4, 5]], (1,)),
        ([[1], [2, 3], [4, 5]], (0,)),
        ([1, "a", 2], (1,)),
        ([1, None, 2], (1,)),
        ([1, True, 2], (1,)),
        (["a", b"a", "c"], (1,)),
        ([{"a": 1}, 1, 2], (0,)),
        ([np.ones(2), np.ones(3), np.ones(2)], (1,)),
        ([None, None], (0, 1)),
        ([1, 2**70], (1,)),
        ([np.array([1j]), 1.0], (0,)),
    ],
)
def test_rows_unlike_most_are_named(values, rows):
    with pytest.raises(EncodeError, match="the row makes no tensor") as caught:
        stacked(values)
    assert caught.value.rows == rows


@pytest.mark.parametrize("values", [[-1, 2**63], [-1, np.uint64(2**63)]])
def test_integers_that_no_dtype_holds_together_are_named(values):
    with pytest.raises(EncodeError, match="overflows int64") as caught:
        stacked(values)
    assert caught.value.rows == (1,)


def test_dicts_become_columns():
    result = columns([{"a": 1, "b": "x"}, {"b": "y", "a": 2}])
    assert {name: column.tolist() for name, column in result.items()} == {"a": [1, 2], "b": ["x", "y"]}


def test_dicts_unlike_most_are_named():
    with pytest.raises(EncodeError, match=r"keys \['a'\]") as caught:
        columns([{"b": 1}, {"a": 1}, {"a": 1, "b": 2}, "a", {"a": 2}])  # type: ignore[list-item]
    assert caught.value.rows == (0, 2, 3)
