"""The shared types: their counts, their texts, and reprs without secrets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fanout import types
from fanout.errors import InvalidResponse
from fanout.results import ChunkResult, Failure, Result, Statistics, unwrapped
from fanout.types import Chunk, Payload, Response


def failure(start: int, stop: int) -> Failure:
    return Failure(start=start, stop=stop, reason="HTTP 400: no", status=400, attempts=1, endpoint="http://h")


def test_a_chunk_knows_its_length_and_says_its_rows():
    assert len(Chunk(3, 10)) == 7
    assert str(Chunk(3, 10)) == "rows 3:10"


@pytest.mark.parametrize(("rows", "text"), [((4, 5), "row 4: HTTP 400: no"), ((4, 6), "rows 4:6: HTTP 400: no")])
def test_a_failure_says_its_rows_and_the_reason(rows, text):
    assert str(failure(*rows)) == text


def test_a_reply_is_parsed_as_json():
    assert Response(status=200, headers={}, body=b'{"a": [1, 2.5]}').json() == {"a": [1, 2.5]}


@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b'{"a": 1', b'{"a": NaN}', b'"\xff"'])
def test_a_body_that_is_not_json_is_invalid(body):
    with pytest.raises(InvalidResponse, match="the answer is not JSON") as raised:
        Response(status=200, headers={}, body=body).json()
    assert raised.value.error_kind == "content"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "(empty body)"),
        (b" \r\n ", "(empty body)"),
        (b"a\r\n  b\tc", "a b c"),
        (b"\xff\xfe!", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}!"),
        (b"x" * 11, "xxxxxxxxxx..."),
        (b"x" * 10, "xxxxxxxxxx"),
        (b"y" * 10**6, "yyyyyyyyyy..."),
        (b" " * 37 + b"cut off", "cut..."),
        (b"a" + b" " * 36 + "ää".encode(), "a ä..."),
    ],
    ids=["empty", "blank", "lines", "no text", "long", "just fits", "huge", "cut behind blanks", "cut in a letter"],
)
def test_an_excerpt_is_one_short_line(body, text):
    assert Response(status=500, headers={}, body=body).excerpt(10) == text


def test_the_reprs_of_payload_and_reply_show_no_content():
    reply = Response(
        status=401, headers={"Set-Cookie": "secret"}, body=b"secret", url="http://user:secret@h/?key=secret"
    )
    payload = Payload(body=b"secret", headers={"Authorization": "secret"})
    assert repr(reply) == "Response(status=401)"
    assert repr(payload) == "Payload(content_type='application/json')"


def test_done_without_failures_is_ok_everywhere_and_gives_its_only_array():
    values = np.ones((3, 2))
    done = ChunkResult(start=5, stop=8, outputs={"": values})
    assert done.values is values
    np.testing.assert_array_equal(done.ok, [True, True, True])


def test_done_masks_failed_and_pending_rows_relative_to_its_start():
    done = ChunkResult(start=5, stop=10, outputs=None, failures=(failure(6, 7),), pending=(Chunk(8, 10),))
    np.testing.assert_array_equal(done.ok, [True, False, True, False, False])
    assert done.values is None


def test_outputs_are_unwrapped_only_where_there_is_one():
    a, b = np.zeros(2), np.ones(2)
    assert unwrapped(None) is None
    assert unwrapped({"y": a}) is a
    assert unwrapped({"y": a, "z": b}) == {"y": a, "z": b}


def test_a_result_shows_its_counts_not_its_values():
    ok = np.array([True, False, False, False])
    result = Result(
        outputs={"": np.full(4, 12345.0)},
        ok=ok,
        failures=(failure(1, 2),),
        pending=(Chunk(2, 4),),
        stats=Statistics(failed=1),
    )
    assert repr(result) == "<Result rows=4 ok=1 failed=1 pending=2>"
    np.testing.assert_array_equal(result.values, [12345.0] * 4)


def test_rows_per_second_is_zero_before_any_time_has_passed():
    assert Statistics(ok=10, seconds=4.0).rows_per_second == 2.5
    assert Statistics(ok=10).rows_per_second == 0.0


@pytest.mark.parametrize(
    "cls", [value for value in vars(types).values() if dataclasses.is_dataclass(value)], ids=lambda cls: cls.__name__
)
def test_every_word_has_no_room_for_more_and_is_frozen_unless_every_request_makes_one(cls):
    assert cls.__dataclass_params__.frozen == (cls.__name__ not in {"Chunk", "Payload", "Response", "ChunkResult"})
    assert not hasattr(object.__new__(cls), "__dict__")


def test_a_large_body_of_too_many_values_is_not_parsed():
    heavy = Response(status=200, headers={}, body=b"[" + b"{}," * 2_000_000 + b"{}]", url="http://h/x")
    with pytest.raises(InvalidResponse, match="so many values"):
        heavy.json()
    text = "a, b" * 2_000_000
    assert Response(status=200, headers={}, body=b'["%s"]' % text.encode(), url="http://h/x").json() == [text]
