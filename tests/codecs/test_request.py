"""Requests of a template: body, path and header fields; rows that cannot be sent are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fanout.codecs import Json
from fanout.errors import ConfigError, EncodeError, InputError
from fanout.transport import EndpointClient
from fanout.types import Response

if TYPE_CHECKING:
    from fanout.transport.base import Request

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ROWS = [{"t": "a", "n": 1}, {"t": "b", "n": 2}]


def body(codec, rows):
    parts = codec.encode(rows).body
    return orjson.loads(b"".join(parts) if isinstance(parts, tuple) else parts)


def refused(codec, rows):
    with pytest.raises(EncodeError) as caught:
        codec.encode(rows)
    return caught.value


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"request": {"texts": "{{t[]}}", "n": "{{n[]}}"}}, {"texts": ["a", "b"], "n": [1, 2]}),
        ({"request": {"rows": "{{rows}}"}}, {"rows": ROWS}),
        ({"request": "{{rows}}", "item": {"text": "{{t}}"}}, [{"text": "a"}, {"text": "b"}]),
        ({"request": "{{rows}}", "item": ["{{row}}", "<{{t}}-{{n}}>"]}, [[ROWS[0], "<a-1>"], [ROWS[1], "<b-2>"]]),
        ({"request": "{{rows}}", "item": 1}, [1, 1]),
        ({"request": {"a": [{"b": "{{t[]|base64}}"}], "c": None}}, {"a": [{"b": ["YQ==", "Yg=="]}], "c": None}),
        ({"item": {"x": "{{t}}"}}, {"instances": [{"x": "a"}, {"x": "b"}]}),
    ],
)
@pytest.mark.parametrize("columns", [False, True])
def test_many_rows_fill_a_template(options, expected, columns):
    rows = {"t": np.array(["a", "b"]), "n": np.array([1, 2])} if columns else ROWS
    codec = Json(**options)
    assert body(codec, rows) == expected
    assert codec.max_rows is None


@pytest.mark.parametrize("row", [{"t": "a", "n": 1}, {"t": "a", "n": 1, "more": b"not sent"}])
@pytest.mark.parametrize("columns", [False, True])
def test_without_rows_and_lists_a_request_carries_one_row(row, columns):
    codec = Json(request={"m": [{"role": "user", "content": "Say {{t}}"}], "n": "{{n}}"})
    rows = {name: np.array([value]) for name, value in row.items()} if columns else [row]
    assert body(codec, rows) == {"m": [{"role": "user", "content": "Say a"}], "n": 1}
    assert codec.max_rows == 1
    assert codec.columns == {"t", "n"}
    with pytest.raises(InputError, match="one row, not 2"):
        codec.encode([row, row])


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_texts_arrive_in_their_order(values):
    rows = [{"t": value} for value in values]
    assert body(Json(request={"x": "{{t[]}}"}), rows)["x"] == values
    assert body(Json(request={"x": "{{t[]}}"}), {"t": np.array(values, np.dtypes.StringDType())})["x"] == values
    assert body(Json(request="{{rows}}", item=["{{t}}!"]), rows) == [[f"{value}!"] for value in values]


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)))  # fmt: skip
def test_values_of_any_shape_arrive_as_they_are(value):
    assert body(Json(request={"a": "{{row}}"}), [value]) == {"a": value}


def test_arrays_of_numbers_fill_templates_too():
    images = np.arange(8.0, dtype=np.float32).reshape(2, 2, 2)
    assert body(Json(request={"data": "{{rows}}"}, item={"image": "{{row}}"}), images) == {
        "data": [{"image": image.tolist()} for image in images]
    }
    assert body(Json(request={"x": "{{row}}"}), np.array([0.1], np.float32)) == {"x": 0.1}


def test_constants_are_written_as_they_are():
    constants: dict[str, Any] = {"a": [None, True, 1.5, "\0", {}], "é": {"b": "x"}}
    assert body(Json(request={**constants, "t": "{{t}}"}), [{"t": 1}]) == {**constants, "t": 1}


def test_a_large_request_is_not_joined():
    texts = ["x" * 2**16, "y"]
    assert isinstance(Json(request={"a": "{{rows}}"}, item={"t": "{{row}}"}).encode(texts).body, tuple)
    assert isinstance(Json(request={"a": "{{row}}"}).encode(texts[:1]).body, tuple)


@pytest.mark.parametrize(
    ("options", "rows", "bad", "why"),
    [
        ({"request": "{{rows}}", "item": {"t": "{{t}}"}}, [{"t": 1}, {}, {"t": 2}, {"u": 1}], (1, 3), "has no 't'"),
        ({"request": "{{rows}}", "item": "a {{t}}"}, [{"t": None}, {"t": 1}], (0,), "no value for {{t}}"),
        ({"request": "{{rows}}", "item": {"t": "{{t}}"}}, [{"t": 1.0}, {"t": float("nan")}], (1,), "NaN"),
        ({"request": {"x": "{{t[]}}"}}, [{"t": 1}, {"t": b"x"}, {"t": {1}}], (1, 2), "cannot express"),
        ({"request": {"x": "{{t[]|data_url}}"}}, [{"t": 1}, {"t": b"x"}], (0,), "for the filter data_url"),
        ({"request": {"x": "{{t}}"}}, [{"t": np.ma.masked_array([1.0], [True])}], (0,), "masked"),
    ],
)
def test_rows_that_cannot_be_sent_are_named(options, rows, bad, why):
    error = refused(Json(**options), rows)
    assert error.rows == bad
    assert why in error.reason
    left = [row for i, row in enumerate(rows) if i not in bad]
    if left:
        Json(**options).encode(left)


@pytest.mark.parametrize("rows", [["a"], np.array([1.0]), [1, 2], {"u": np.array([1])}])
@pytest.mark.parametrize("options", [{"request": {"x": "{{t}}"}}, {"request": {"x": "{{t[]}}"}},
                                     {"request": "{{rows}}", "item": ["{{t}}"]}])  # fmt: skip
def test_rows_without_any_column_of_the_template_are_no_fault_of_single_rows(options, rows):
    with pytest.raises(InputError, match=r"\{\{t\}\}"):
        Json(**options).encode(rows)


@pytest.mark.parametrize(
    ("options", "key", "why"),
    [
        ({"request": {"a": "{{rows}}", "b": ["{{q}}"]}}, "request.b[0]", "put it into item, or write {{q[]}}"),
        ({"request": {"a": "x {{rows}}"}}, "request.a", "cannot stand within a text"),
        ({"request": {"a": "x {{t[]}}"}}, "request.a", "cannot stand within a text"),
        ({"request": "{{rows}}", "item": {"b": "{{t[]}}"}}, "item.b", "write {{t}}"),
        ({"request": "{{rows}}", "item": "{{rows}}"}, "item", "write {{row}}"),
        ({"request": {"a": "{{t}}"}, "item": 1}, "item", "shapes the elements of {{rows}}"),
        ({"request": {"a{{t}}": 1}}, "request", "which only values can"),
        ({"request": {"a": float("nan")}}, "request", "NaN"),
        ({"request": {"a": {1, 2}}}, "request", "cannot be written as JSON"),
        ({"request": "{{rows}}", "path": "/x/{{t}}"}, "path", "a value of one row"),
        ({"request": "{{rows}}", "headers": {"X": "{{t}}"}}, "headers.X", "a value of one row"),
        ({"request": "{{t}}", "path": "/x/{{t[]}}"}, "path", "where one row's belongs"),
        ({"request": "{{t}}", "path": "x/{{t}}"}, "path", 'must begin with one "/"'),
        ({"request": "{{t}}", "path": "//evil.example/{{t}}"}, "path", 'must begin with one "/"'),
        ({"request": "{{t}}", "path": "/x#{{t}}"}, "path", 'no "#"'),
        ({"request": "{{t}}", "path": "/x"}, "path", "write a constant path into the URL"),
        ({"request": "{{t}}", "headers": {"X": "{{t"}}, "headers.X", "position 0"),
        ({"request": "{{t}}", "headers": {"X": 3}}, "headers", "must be a text"),
        ({"request": "{{t}}", "headers": {"X Y": "a"}}, "headers", "X Y"),
        ({"request": "{{t}}", "headers": {"Transfer-Encoding": "{{t}}"}}, "headers", "Transfer-Encoding"),
        ({"request": {"a": "constant"}}, "request", "has no placeholder"),
        ({"request": "{{t}}", "headers": ["a"]}, "headers", "must be a table"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_when_the_codec_is_made(options, key, why):
    with pytest.raises(ConfigError) as caught:
        Json(**options)
    assert caught.value.key == key
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


PATH = Json(request={"x": "{{x}}"}, path="/v1/m/{{m}}/invoke?q={{q}}&k=1")


@given(TEXTS, TEXTS)
def test_values_in_the_path_are_segments_and_values_whatever_they_hold(m, q):
    assume(m not in ("", ".", ".."))
    path = PATH.encode([{"x": 1, "m": m, "q": q}]).path
    parts = urlsplit(f"https://host{path}")
    assert parts.netloc == "host"
    assert parts.path.count("/") == 4
    assert unquote(parts.path.split("/")[3]) == m
    assert parse_qs(parts.query, keep_blank_values=True) == {"q": [q], "k": ["1"]}
    assert path.isascii()


@pytest.mark.parametrize("m", ["", ".", "..", None, float("nan"), [1], b"x", "\ud800"])
def test_a_value_that_would_address_another_resource_fails_its_row(m):
    assert refused(PATH, [{"x": 1, "m": m, "q": ""}]).rows == (0,)


def test_dots_of_several_values_do_not_join_into_a_segment():
    codec = Json(request={}, path="/v1/{{a}}{{b}}/x")
    assert codec.encode([{"a": "%2e", "b": "e"}]).path == "/v1/%252ee/x"
    with pytest.raises(EncodeError, match="cannot be a part of a path"):
        codec.encode([{"a": ".", "b": "."}])
    with pytest.raises(EncodeError, match="a segment of dots alone"):
        Json(request={}, path="/v1/{{a}}/../x").encode([{"a": "b"}])


HEADERS = Json(request={"x": "{{x}}"}, headers={"X-T": "t-{{t}}", "X-C": "constant"})


@given(TEXTS)
def test_a_header_holds_the_text_or_its_row_fails(t):
    if any((ord(sign) < 32 and sign != "\t") or ord(sign) == 127 for sign in t):
        assert refused(HEADERS, [{"x": 1, "t": t}]).rows == (0,)
    else:
        assert HEADERS.encode([{"x": 1, "t": t}]).headers == {"X-T": f"t-{t}", "X-C": "constant"}


@pytest.mark.parametrize("t", ["a\rb", "a\nb", "a\r\nX-Admin: 1", "\0", None, "\ud800"])
def test_a_line_end_in_a_header_fails_its_row(t):
    assert refused(HEADERS, [{"x": 1, "t": t}]).rows == (0,)


def test_constant_headers_go_with_many_rows():
    assert Json(request="{{rows}}", headers={"X-C": "c"}).encode([1]).headers == {"X-C": "c"}


class Kept:
    """A transport that keeps the URLs of the requests."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    async def send(self, request: Request) -> Response:
        self.urls.append(request.url)
        return Response(status=200, headers={}, body=b"")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h", "https://h/v1/m/a%2F%3F%23/invoke?q=%40&k=1"),
        ("https://h/", "https://h/v1/m/a%2F%3F%23/invoke?q=%40&k=1"),
        ("https://h:8/base/?key=s#x", "https://h:8/base/v1/m/a%2F%3F%23/invoke?key=s&q=%40&k=1"),
    ],
)
async def test_the_path_of_a_row_goes_behind_that_of_the_endpoint(url, expected):
    from fanout.addresses import Endpoint
    from fanout.settings import Timeouts

    kept = Kept()
    client = EndpointClient(Endpoint(url=url), url, timeouts=Timeouts(), connections=1, transport=kept)
    await client.post(PATH.encode([{"x": 1, "m": "a/?#", "q": "@"}]))
    assert kept.urls == [expected]


def test_a_missing_value_may_fail_its_row_rather_than_be_sent_as_null():
    rows = [{"a": 1}, {"a": None}, {"a": float("nan")}]
    assert body(Json(request={"x": "{{a}}"}), rows[1:2]) == {"x": None}
    codec = Json(request={"rows": "{{rows}}"}, item={"x": "{{a}}"}, missing="fail")
    error = refused(codec, rows)
    assert (error.rows, error.reason) == ((1, 2), "the row has no value for {{a}}")
    with pytest.raises(ConfigError, match='"null" or "fail"'):
        Json(request="{{row}}", missing="skip")
