"""JSON with every integer as it is written."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import exact_json
from fanout.errors import InvalidResponse
from fanout.types import Response

LARGE = [2**64, -(2**63) - 1, 10**40, -(10**40)]
SMALL = [0, -1, 2**64 - 1, -(2**63), 10**19, 2**53 + 1]


@pytest.mark.parametrize("number", [*LARGE, *SMALL])
@pytest.mark.parametrize("form", ["{}", "[{}]", "[0.5,{}]", '{{"a":{}}}', '{{"a": {} }}', "[\n{}\n]", "\n\t{}"])
def test_integers_are_as_they_are_written(number, form):
    text = form.format(number)
    value = exact_json.loads(text.encode())
    assert value == json.loads(text)
    assert str(number) in repr(value)


@pytest.mark.parametrize("number", LARGE)
def test_no_large_integer_is_overlooked(number):
    assert exact_json.may_hold_large_integers(f"[0.5, {number}]".encode())


@pytest.mark.parametrize(
    "text", ['["12345678901234567890123"]', "[0.00012345678901234567890]", "[1e30, 123456789012345678]", "[]"]
)
def test_long_fractions_texts_and_exponents_cost_no_second_look(text):
    assert not exact_json.may_hold_large_integers(text.encode())
    assert exact_json.loads(text.encode()) == json.loads(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@pytest.mark.parametrize("number", [*LARGE, *SMALL])
@pytest.mark.parametrize("around", ["{}", "0.00012345678901234567", '"{}"'])
def test_lines_are_parsed_as_whole_texts_are(number, around):
    lines = [str(number).encode(), around.format(number).encode(), b"[1.5]"]
    parse = exact_json.parser_for(b"\n".join(lines))
    assert [repr(parse(line)) for line in lines] == [repr(json.loads(line)) for line in lines]


@pytest.mark.parametrize("line", [b"[", b"NaN", b"\xff", b'"\\ud800"', b"[" * 5000, b"1e400"])
def test_text_that_is_no_json_is_refused_in_the_words_of_orjson(line):
    parse = exact_json.parser_for(line + b"\n" + str(2**64).encode())
    with pytest.raises(orjson.JSONDecodeError) as expected:
        orjson.loads(line)
    with pytest.raises(orjson.JSONDecodeError) as caught:
        parse(line)
    assert str(caught.value) == str(expected.value)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70), min_size=1))
def test_all_parsers_read_the_same_numbers(numbers):
    text = json.dumps(numbers).encode()
    assert repr(exact_json.parser_for(text + b" " + b"1" * 30)(text)) == repr(json.loads(text))


@given(values, st.sampled_from([None, 1]))
def test_values_survive_a_round_trip(value, indent):
    text = json.dumps(value, indent=indent).encode()
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:  # half of a surrogate pair
        return
    assert exact_json.loads(text) == value
    assert repr(exact_json.loads(text)) == repr(value)


def test_a_nesting_too_deep_for_the_slow_parser_is_no_json(monkeypatch):
    def too_deep(text, **_):
        raise RecursionError

    monkeypatch.setattr("json.loads", too_deep)
    with pytest.raises(orjson.JSONDecodeError, match="nested too deep"):
        exact_json.slowly(b"1")


@pytest.fixture
def small_slices(monkeypatch):
    """Cut documents of some bytes, so that every kind of value is longer than a slice."""
    monkeypatch.setattr(exact_json, "LIGHT", 0)
    monkeypatch.setattr(exact_json, "SLICE", 48)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_slices_give_the_value_of_the_whole_document(ascii_only, indent):
    @given(values)
    def same(value):
        text = json.dumps([value], ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
        try:
            expected = orjson.loads(text)
        except orjson.JSONDecodeError:  # half of a surrogate pair
            return
        assert repr(exact_json.in_slices(text, orjson.loads)) == repr(expected)

    same()


@pytest.mark.usefixtures("small_slices")
def test_slices_refuse_whatever_the_whole_document_is_refused_for():
    @given(values, st.data())
    def same(value, data):
        text = bytearray(json.dumps({"a": [value], "b": "c" * 40}).encode())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(text) - 1))
            text[at : at + data.draw(st.integers(0, 2))] = data.draw(
                st.sampled_from([b",", b"[", b"]", b"{", b"}", b'"', b"\\", b" ", b"1", b":", b""])
            )
        try:
            expected = repr(orjson.loads(text))
        except orjson.JSONDecodeError:
            with pytest.raises(orjson.JSONDecodeError):
                exact_json.in_slices(bytes(text), orjson.loads)
        else:
            assert repr(exact_json.in_slices(bytes(text), orjson.loads)) == expected

    same()


@pytest.mark.parametrize(
    "text",
    [
        b'{"usage":{' + b",".join(b'"n%07d":1' % i for i in range(200_000)) + b'},"rows":[1]}',
        b"[" + b"{}," * 600_000 + b"{}]",
        b'{"%b":1}' % (b"n" * 3_000_000),
        b'["%b"]' % (b"\\u00e9\\\\" * 400_000),
        b'["%b"]' % ("\N{GRINNING FACE}" * 500_000).encode(),
        b"[" * 40 + b"1," * 1_000_000 + b"1" + b"]" * 40,
        b"[%b1]" % (b" " * 2_000_000),
        b'{"a":{"b":{"c":[' + b'{"d":[1,2]},' * 150_000 + b"{}]}}}",
    ],
    ids=["names", "objects", "a long name", "escapes", "characters", "nesting", "space", "objects in objects"],
)
def test_no_call_of_a_parser_gets_more_than_a_slice(text, monkeypatch):
    sizes = []

    def parse(part):
        sizes.append(len(part))
        return whole(part)

    whole = orjson.loads
    expected = whole(text)
    monkeypatch.setattr(orjson, "loads", parse)
    assert exact_json.in_slices(text, parse) == expected
    assert max(sizes, default=0) <= exact_json.SLICE + 2


def test_a_nesting_of_long_values_is_bounded():
    text = b"[" * 100 + b"1," * 300_000 + b"1" + b"]" * 100
    with pytest.raises(orjson.JSONDecodeError, match="nested too deep"):
        exact_json.loads(text)


def test_a_reply_gives_exact_integers_and_does_without_a_byte_order_mark():
    body = b"\xef\xbb\xbf[18446744073709551617]"
    assert Response(status=200, headers={}, body=body).json() == [2**64 + 1]
    with pytest.raises(InvalidResponse, match="not JSON"):
        Response(status=200, headers={}, body=b"[").json()
