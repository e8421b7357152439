"""Python objects out of JSON: proven, or refused with the first row at fault."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout._escape import is_unicode
from fanout.codecs._values import MayBeRounded, Unfit, Wanted, array, outputs

TEXT = np.dtypes.StringDType()


def test_floats_for_integers_are_not_taken_before_their_text_is_seen():
    with pytest.raises(MayBeRounded):
        array([1, 2.0], wanted("int64"))
    with pytest.raises(Unfit, match=r"row 1 holds 2\.5"):
        array([1, 2.5], wanted("int64"))


def wanted(dtype=None, **rest):
    return Wanted(None if dtype is None else np.dtype(dtype), **rest)


def same(result, expected):
    expected = np.asarray(expected)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5], np.array([1.0, 2.5])),
        ([1, 2], np.array([1.0, 2.0])),
        ([[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]])),
        ([[[0.5]], [[1.5]]], np.array([[[0.5]], [[1.5]]])),
        ([True, False], np.array([True, False])),
        (["a", "é"], np.array(["a", "é"], TEXT)),
        ([["a"], ["b"]], np.array([["a"], ["b"]], TEXT)),
        ([], np.empty(0)),
        ([[], []], np.empty((2, 0))),
        ([2**53, -(2**53)], np.array([2.0**53, -(2.0**53)])),
    ],
)
def test_without_a_dtype_the_json_type_decides(values, expected):
    same(array(values, wanted()), expected)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2], "int8", np.array([1, 2], "i1")),
        ([Decimal("1.0"), 2], "int64", np.array([1, 2], "i8")),
        ([Decimal("1.5"), 2], "float32", np.array([1.5, 2], "f4")),
        ([Decimal("1e19"), 2], None, np.array([1e19, 2.0])),
        ([2**64 - 1], "uint64", np.array([2**64 - 1], "u8")),
        ([0.1], "float32", np.array([0.1], "f4")),
        ([1, 0.5], "float16", np.array([1, 0.5], "f2")),
        ([2**24], "float32", np.array([2**24], "f4")),
        ([2**40], "float32", np.array([2**40], "f4")),
        ([], "int32", np.empty(0, "i4")),
        ([True], "bool", np.array([True])),
        (["1"], TEXT, np.array(["1"], TEXT)),
        ([1.5], "longdouble", np.array([1.5], np.longdouble)),
    ],
)
def test_numbers_are_accepted_up_to_the_bounds_of_the_dtype(values, dtype, expected):
    same(array(values, wanted(dtype)), expected)


@pytest.mark.parametrize(
    ("values", "dtype", "row"),
    [
        ([None, 1.0], None, 0),
        ([1.0, None], None, 1),
        ([1.0, "2"], None, 1),
        ([1.0, True], None, 1),
        ([True, 1], None, 1),
        (["a", 1], None, 1),
        (["a", None], None, 1),
        ([{"a": 1}, 2], None, 0),
        ([[1, 2], [3]], None, 1),
        ([[1, 2], 3], None, 1),
        ([1, [2]], None, 1),
        ([[[1, 2]], [[3]]], None, 1),
        ([[[1], [2]], [[3], 4]], None, 1),
        ([[[1], [2]], [[3], None]], None, 1),
        ([[1, 2], [3, None]], None, 1),
        ([[1, 2], [3, 4], [5, "6"]], None, 2),
        ([0.0, 2**53 + 1], None, 1),
        ([0.5, -(2**53) - 1], None, 1),
        ([0.5, 2**53 + 2], None, 1),
        ([0, 2**60], "float32", 1),
        ([0, 10**400], None, 1),
        ([1, 0.7], "int64", 1),
        ([1, float("inf")], "int64", 1),
        ([1, float("nan")], "int64", 1),
        ([1, 300], "int8", 1),
        ([1, -1], "uint8", 1),
        ([0, 2**63], "int64", 1),
        ([0.5, 2**24 + 1], "float32", 1),
        ([0.5, 2**24 + 1], "float16", 1),
        ([0.5, 1e300], "float32", 1),
        ([[0.5, 0.5], [0.5, 70000.0]], "float16", 1),
        ([1, True], "int64", 1),
        ([True, 1], "bool", 1),
        ([1, 0], "bool", 0),
        ([True], "float32", 0),
        (["1"], "float32", 0),
        (["a", 1], TEXT, 1),
        (["a", "\ud800"], None, 1),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_row(values, dtype, row):
    with pytest.raises(Unfit) as caught:
        array(values, wanted(dtype))
    assert caught.value.row == row
    assert str(caught.value).startswith(f"row {row} ")


def test_a_nesting_deeper_than_numpy_is_refused():
    nested: Any = 1
    for _ in range(65):
        nested = [nested]
    with pytest.raises(Unfit, match="64 deep"):
        array(nested, wanted())


def test_keep_lets_overflow_become_infinity():
    same(array([1e300, -1e300], wanted("float32", keep=True)), np.array([np.inf, -np.inf], "f4"))


def test_keep_lets_nonfinite_floats_through_beside_integers():
    same(array([float("inf"), 3], wanted(keep=True)), np.array([np.inf, 3.0]))


def test_nonfinite_in_a_narrow_dtype_is_no_overflow():
    """An overflow is reported only for numbers that the cast made infinite; the engine checks all others."""
    assert np.isinf(array([float("inf")], wanted("float32"))).all()


def test_an_overflow_of_the_sum_alone_is_none():
    same(array([3e38, 3e38], wanted("float32")), np.array([3e38, 3e38], "f4"))


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_null_becomes_nan_among_floats_on_request(dtype):
    result = array([1.5, None], wanted(dtype, nulls=True, keep=True))
    assert result[0] == 1.5
    assert np.isnan(result[1])


@pytest.mark.parametrize("dtype", ["int64", "bool", TEXT])
def test_null_is_no_value_of_other_dtypes(dtype):
    with pytest.raises(Unfit, match="null"):
        array([None], wanted(dtype, nulls=True))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, -1], "int64"), ([2**63, 1], "uint64"), ([2**63 - 1], "int64"), ([1, 0.5], "float64")],
)
def test_whole_keeps_integers(values, dtype):
    same(array(values, wanted(whole=True)), np.array(values, dtype))


def test_whole_refuses_integers_beyond_both_dtypes():
    with pytest.raises(Unfit, match="overflows int64"):
        array([-1, 2**63], wanted(whole=True))


def test_a_list_of_rows_is_one_array():
    same(outputs([1, 2], lambda name: wanted("int32" if name == "" else None)), np.array([1, 2], "i4"))


@pytest.mark.parametrize("value", [[{"a": 1, "b": "x"}, {"b": "y", "a": 2}], {"a": [1, 2], "b": ["x", "y"]}])
def test_objects_and_columns_are_an_array_a_name(value):
    result = outputs(value, lambda name: wanted("int16" if name == "a" else None))
    assert list(result) == ["a", "b"]
    same(result["a"], np.array([1, 2], "i2"))
    same(result["b"], np.array(["x", "y"], TEXT))


@pytest.mark.parametrize(
    ("value", "row", "match"),
    [
        ([{"a": 1}, {"b": 1}], 1, "fields"),
        ([{"a": 1}, {"a": 1, "b": 1}], 1, "fields"),
        ([{"a": 1}, 1], 1, "a number where others hold an object"),
        ([{"a": 1}, None], 1, "null"),
        ([{"a": 1}, {"a": None}], 1, "of 'a' holds null"),
        ([{"a": {"b": 1}}], 0, "of 'a' holds an object"),
        ({"a": [1], "b": [None]}, 0, "of 'b' holds null"),
        ({"a": 1}, None, "fields"),
        ({}, None, "fields"),
        ([{}, {}], None, "fields"),
        ("abc", None, "a text"),
        (None, None, "null"),
        (1.5, None, "a number"),
    ],
)
def test_rows_that_are_no_rows_are_refused(value, row, match):
    with pytest.raises(Unfit, match=match) as caught:
        outputs(value, lambda name: wanted())
    assert caught.value.row == row


def test_texts_with_half_a_surrogate_pair_are_not_unicode():
    assert is_unicode("aé😀")
    assert not is_unicode("a\ud800")


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.decimals(-(10**300), 10**300)
)  # fmt: skip
dtypes = st.sampled_from([None, "bool", "int8", "uint64", "float16", "float32", "float64", "T"])


@given(st.lists(scalars, min_size=1), dtypes)
def test_an_array_equals_the_python_values_or_there_is_none(values, dtype):
    """Strictness: floats may be rounded to a narrower dtype; nothing else changes."""
    want = wanted(TEXT if dtype == "T" else dtype)
    try:
        result = array(values, want)
    except (Unfit, MayBeRounded):
        return
    for value, item in zip(values, result.tolist(), strict=True):
        assert isinstance(item, bool) == isinstance(value, bool)
        assert isinstance(item, str) == isinstance(value, str)
        rounds = isinstance(value, float) and result.dtype in (np.float16, np.float32)
        rounds |= isinstance(value, Decimal) and result.dtype.kind == "f"
        assert item == (float(result.dtype.type(float(value))) if rounds else value)
