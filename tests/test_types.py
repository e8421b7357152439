"""The shared types: their counts, their texts, and reprs without secrets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fanout import types
from fanout.errors import InvalidResponse
from fanout.types import (
    Chunk,
    ChunkResult,
    Failure,
    Payload,
    Response,
    Result,
    Statistics,
    copy_rows,
    count_rows,
    join_rows,
    single_rows,
    take_rows,
    unwrapped,
)


def failure(start: int, stop: int) -> Failure:
    return Failure(start=start, stop=stop, reason="HTTP 400: no", status=400, attempts=1, endpoint="http://h")


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
def test_rows_are_counted_in_every_kind_of_container(rows, n):
    assert count_rows(rows) == n


@pytest.mark.parametrize("index", [slice(1, 3), np.array([1, 2])], ids=["slice", "positions"])
def test_rows_are_taken_as_the_same_kind_of_container(index):
    array = np.arange(8).reshape(4, 2)
    np.testing.assert_array_equal(take_rows(array, index), array[1:3])
    assert take_rows(["a", "b", "c", "d"], index) == ["b", "c"]
    taken = take_rows({"x": array, "y": array[:, 0]}, index)
    assert list(taken) == ["x", "y"]
    np.testing.assert_array_equal(taken["y"], [2, 4])


def test_a_slice_of_an_array_is_a_view():
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
def test_rows_of_one_form_are_joined_into_an_array_and_others_into_a_list(parts, dtypes):
    joined = join_rows(parts)
    assert (joined.dtype if isinstance(joined, np.ndarray) else None) == dtypes
    expected = [row for part in parts for row in part]
    assert len(joined) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(joined, expected, strict=True))


def test_mappings_are_joined_by_name_and_become_dicts_beside_other_rows():
    part = {"a": np.arange(2), "b": np.array(["x", "yy"])}
    joined = join_rows([part, part])
    assert {name: array.tolist() for name, array in joined.items()} == {"a": [0, 1, 0, 1], "b": ["x", "yy"] * 2}
    dicts = [{"a": 0, "b": "x"}, {"a": 1, "b": "yy"}]
    assert join_rows([part, [{"a": None, "b": "z"}]]) == [*dicts, {"a": None, "b": "z"}]
    assert join_rows([part, {"a": np.arange(1)}]) == [*dicts, {"a": 0}]
    assert join_rows([part, {**part, "a": np.arange(2.0)}]) == [*dicts, *dicts]
    assert single_rows(part) == dicts


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


@pytest.mark.parametrize("text", [np.dtypes.StringDType(), "U200", object])
def test_a_copy_of_rows_shares_nothing_with_them(text):
    rows = {"texts": np.array(["a", "b" * 100, "c"], dtype=text)[1:], "numbers": np.arange(6.0)[4:]}
    copied = copy_rows(rows)
    rows["texts"][:], rows["numbers"][:] = "z", 0
    assert copied["texts"].tolist() == ["b" * 100, "c"]
    assert copied["numbers"].tolist() == [4, 5]
    nested: list[Any] = [[1, [2]]]
    copied = copy_rows(nested)
    nested[0][1].append(3)
    assert copied == [[1, [2]]]
