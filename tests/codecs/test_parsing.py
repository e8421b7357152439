"""JSON answers: text that is no JSON, numbers that are not finite, and integers that orjson rounds."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs._parsing import read
from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import InvalidResponse


def numbers(document):
    return array(document, Wanted())


def kept(document):
    return array(document, Wanted(keep=True))


def test_a_document_is_converted(response):
    assert read(response([1.5, 2]), numbers, keep=False).tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1, 2",
        b"<html>bad gateway</html>",
        b"[1,]",
        b"\xff\xfe",
        b'["\\ud800"]',
        b"[" * 100_000,
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\xef\xbb\xbf[1]",
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_text_that_is_no_json_is_refused_and_quoted(response, body, keep):
    with pytest.raises(InvalidResponse, match="not JSON") as caught:
        read(response(body), numbers, keep=keep)
    assert caught.value.error_kind == "content"
    if b"html" in body:
        assert "bad gateway" in str(caught.value)


def test_a_byte_order_mark_before_json_does_no_harm(response):
    assert read(response(b"\xef\xbb\xbf[1.5]"), numbers, keep=False).tolist() == [1.5]
    assert read(response(b"\xef\xbb\xbf[NaN, 2]"), kept, keep=True)[1] == 2


def integers(dtype):
    return lambda document: array(document, Wanted(np.dtype(dtype)))


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("123456789012345678.0", "int64", 123456789012345678),
        ("1.23456789012345678e17", "int64", 123456789012345678),
        ("-9223372036854775808.0", "int64", -(2**63)),
        ("9223372036854775807.000", "int64", 2**63 - 1),
        ("1e19", "uint64", 10**19),
        ("18446744073709551615.0", "uint64", 2**64 - 1),
        ("18446744073709551615", "uint64", 2**64 - 1),
        ("9007199254740993.0", "int64", 2**53 + 1),
        ("1.0", "int8", 1),
        ("-0.0", "int8", 0),
        ("0e-99", "uint8", 0),
        ("100e-2", "int8", 1),
        ("1." + "0" * 5000, "int8", 1),
    ],
)
def test_integers_are_exact_however_they_are_written(response, text, dtype, value):
    result = read(response(f"[1, {text}]".encode()), integers(dtype), keep=False)
    assert (result.dtype, int(result[1])) == (np.dtype(dtype), value)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("-9223372036854775809", "int64"),
        ("-9223372036854775809.0", "int64"),
        ("9223372036854775808", "int64"),
        ("18446744073709551616", "uint64"),
        ("1e20", "uint64"),
        ("1e300", "int64"),
        ("-1", "uint64"),
        ("-1.0", "uint8"),
        ("256.0", "uint8"),
        ("1.5", "int64"),
        ("9007199254740990.7", "int64"),
        ("1.0000000000000000001", "int64"),
        ("1e-400", "int64"),
        ("1e-99999999999999999999", "int64"),
        ("1." + "0" * 5000 + "1", "int8"),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_numbers_that_are_no_integer_of_the_dtype_are_refused(response, text, dtype, keep):
    with pytest.raises(InvalidResponse, match="row 1 holds") as caught:
        read(response(f"[1, {text}]".encode()), integers(dtype), keep=keep)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "1e999999999"])
def test_nonfinite_numbers_are_no_integers(response, text):
    with pytest.raises(InvalidResponse, match="row 1 holds"):
        read(response(f"[1.0, {text}]".encode()), integers("int64"), keep=True)


@given(
    st.lists(st.decimals(-(2**65), 2**65, allow_nan=False) | st.integers(-(2**65), 2**65).map(Decimal), min_size=1),
    st.sampled_from(["int8", "uint8", "int16", "uint32", "int64", "uint64"]),
    st.sampled_from(["{}", "{:f}", "{:e}"]),
)
def test_integers_are_exact_or_refused(response, values, dtype, form):
    """Whatever a number's size and form, it comes out as it is, or not at all."""
    body = f"[{', '.join(map(form.format, values))}]".replace("E", "e").encode()
    info = np.iinfo(dtype)
    fits = all(value == value.to_integral_value() and info.min <= value <= info.max for value in values)
    try:
        result = read(response(body), integers(dtype), keep=False).tolist()
    except InvalidResponse:
        assert not fits
    else:
        assert fits
        assert result == values


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_nonfinite_numbers_are_refused_unless_kept(response, number):
    body = f"[1.5, {number}]".encode()
    with pytest.raises(InvalidResponse, match="nonfinite") as caught:
        read(response(body), numbers, keep=False)
    assert caught.value.error_kind == "nonfinite"
    np.testing.assert_array_equal(read(response(body), kept, keep=True), [1.5, float(number)])


@pytest.mark.parametrize("text", ["18446744073709551617", "-9223372036854775809", "1" + "0" * 30])
def test_integers_that_orjson_rounds_are_refused(response, text):
    with pytest.raises(InvalidResponse, match=f"row 1 holds {text}"):
        read(response(f"[0.5, {text}]".encode()), numbers, keep=False)


def test_large_floats_are_floats(response):
    assert read(response(b"[1e30, -1.5e300]"), numbers, keep=False).tolist() == [1e30, -1.5e300]


def test_a_large_integer_elsewhere_does_no_harm(response):
    body = b'{"id": 123456789012345678901234567890, "y": [1e30]}'
    assert read(response(body), lambda document: numbers(document["y"]), keep=False).tolist() == [1e30]


def test_several_outputs_are_all_looked_at(response):
    body = b'{"a": [0.5], "b": [18446744073709551617]}'
    with pytest.raises(InvalidResponse, match="18446744073709551617"):
        read(response(body), lambda document: {name: numbers(column) for name, column in document.items()}, keep=False)


def test_a_nesting_too_deep_for_the_second_look_is_refused(response, monkeypatch):
    def too_deep(text, **_):
        raise RecursionError

    monkeypatch.setattr("json.loads", too_deep)
    with pytest.raises(InvalidResponse, match="too deep"):
        read(response(b"[1e30]"), numbers, keep=False)


def test_rows_at_fault_are_named_and_documents_at_fault_quoted(response):
    def refuse(document):
        raise Unfit("has nothing", row=None)

    with pytest.raises(InvalidResponse, match="row 1 holds null"):
        read(response([1, None]), numbers, keep=False)
    with pytest.raises(InvalidResponse, match=r"the answer has nothing: \[1\]"):
        read(response([1]), refuse, keep=False)


def test_texts_and_empty_arrays_are_not_huge(response):
    assert read(response(["a"]), numbers, keep=False).tolist() == ["a"]
    assert read(response([]), numbers, keep=False).shape == (0,)
