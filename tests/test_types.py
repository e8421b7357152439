"""The shared types: their counts, their texts, and reprs without secrets."""

from __future__ import annotations

import dataclasses

import pytest

from fanout import results, types
from fanout.errors import InvalidResponse
from fanout.types import Chunk, Payload, Response


def test_a_chunk_knows_its_length_and_says_its_rows():
    assert len(Chunk(3, 10)) == 7
    assert str(Chunk(3, 10)) == "rows 3:10"


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


@pytest.mark.parametrize(
    "cls",
    [one for module in (types, results) for one in vars(module).values() if dataclasses.is_dataclass(one)],
    ids=lambda cls: cls.__name__,
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
