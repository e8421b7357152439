"""Rows given one by one: one array, or the rows that do not go with the others."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.codecs._rows import columns, stacked
from fanout.errors import EncodeError

TEXT = np.dtypes.StringDType()


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
    made = stacked(values)
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)


def test_bytes_stay_as_they_are():
    """numpy's own bytes dtype would cut the zeros off."""
    made = stacked([b"\0a\0", b""])
    assert made.dtype == object
    assert made.tolist() == [b"\0a\0", b""]


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
    made = columns([{"a": 1, "b": "x"}, {"b": "y", "a": 2}])
    assert {name: column.tolist() for name, column in made.items()} == {"a": [1, 2], "b": ["x", "y"]}


def test_dicts_unlike_most_are_named():
    with pytest.raises(EncodeError, match=r"keys \['a'\]") as caught:
        columns([{"b": 1}, {"a": 1}, {"a": 1, "b": 2}, "a", {"a": 2}])  # type: ignore[list-item]
    assert caught.value.rows == (0, 2, 3)
