"""JSON answers: what is no JSON, what is not finite, and what orjson rounds."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.codecs._parsing import read
from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import InvalidReply


def numbers(document):
    return array(document, Wanted())


def kept(document):
    return array(document, Wanted(keep=True))


def test_a_document_is_converted(reply):
    assert read(reply([1.5, 2]), numbers, keep=False).tolist() == [1.5, 2.0]


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
        b"\xef\xbb\xbf[1]",
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_what_is_no_json_is_refused_and_quoted(reply, body, keep):
    with pytest.raises(InvalidReply, match="not JSON") as caught:
        read(reply(body), numbers, keep=keep)
    assert caught.value.flaw == "content"
    if b"html" in body:
        assert "bad gateway" in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_nonfinite_numbers_are_refused_unless_kept(reply, number):
    body = f"[1.5, {number}]".encode()
    with pytest.raises(InvalidReply, match="nonfinite") as caught:
        read(reply(body), numbers, keep=False)
    assert caught.value.flaw == "nonfinite"
    np.testing.assert_array_equal(read(reply(body), kept, keep=True), [1.5, float(number)])


@pytest.mark.parametrize("text", ["18446744073709551617", "-9223372036854775809", "1" + "0" * 30])
def test_integers_that_orjson_rounds_are_refused(reply, text):
    with pytest.raises(InvalidReply, match=f"row 1 holds {text}"):
        read(reply(f"[0.5, {text}]".encode()), numbers, keep=False)


def test_large_floats_are_floats(reply):
    assert read(reply(b"[1e30, -1.5e300]"), numbers, keep=False).tolist() == [1e30, -1.5e300]


def test_a_large_integer_elsewhere_does_no_harm(reply):
    body = b'{"id": 123456789012345678901234567890, "y": [1e30]}'
    assert read(reply(body), lambda document: numbers(document["y"]), keep=False).tolist() == [1e30]


def test_several_outputs_are_all_looked_at(reply):
    body = b'{"a": [0.5], "b": [18446744073709551617]}'
    with pytest.raises(InvalidReply, match="18446744073709551617"):
        read(reply(body), lambda document: {name: numbers(column) for name, column in document.items()}, keep=False)


def test_a_nesting_too_deep_for_the_second_look_is_refused(reply, monkeypatch):
    def too_deep(text):
        raise RecursionError

    monkeypatch.setattr("fanout.codecs._parsing.json.loads", too_deep)
    with pytest.raises(InvalidReply, match="too deep"):
        read(reply(b"[1e30]"), numbers, keep=False)


def test_rows_at_fault_are_named_and_documents_at_fault_quoted(reply):
    def refuse(document):
        raise Unfit("has nothing", row=None)

    with pytest.raises(InvalidReply, match="row 1 holds null"):
        read(reply([1, None]), numbers, keep=False)
    with pytest.raises(InvalidReply, match=r"the answer has nothing: \[1\]"):
        read(reply([1]), refuse, keep=False)


def test_texts_and_empty_arrays_are_not_huge(reply):
    assert read(reply(["a"]), numbers, keep=False).tolist() == ["a"]
    assert read(reply([]), numbers, keep=False).shape == (0,)
