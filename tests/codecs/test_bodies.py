"""Bodies that are no JSON: raw values and multipart forms."""

from __future__ import annotations

from email import message_from_bytes

import pytest

from fanout import codec
from fanout.errors import ConfigError, EncodeError
from fanout.types import PassedUrl, UnreadableFile

PNG = b"\x89PNG\r\n\x1a\n"


def parts(payload):
    head = f"Content-Type: {payload.content_type}\r\n\r\n".encode()
    message = message_from_bytes(head + b"".join(payload.body))
    return [
        (part["Content-Disposition"], part["Content-Type"], part.get_payload(decode=True))
        for part in message.get_payload()
    ]


@pytest.mark.parametrize(
    ("value", "body", "kind"),
    [
        (PNG, PNG, "image/png"),
        (b"\x00", b"\x00", "application/octet-stream"),
        ("ä", "ä".encode(), "text/plain; charset=utf-8"),
        (1.5, b"1.5", "text/plain; charset=utf-8"),
    ],
)
def test_a_raw_body_is_the_value_with_the_type_that_it_shows(value, body, kind):
    payload = codec("json", raw="{{x}}").encode([{"x": value}])
    assert (payload.body, payload.content_type) == (body, kind)


def test_a_form_has_texts_and_files_and_a_boundary_that_no_value_contains():
    form = {"a": "{{t}} and {{t}}", "n": 2, "f": {"value": "{{b}}", "filename": 'x"{{t}}.bin'}, "g": "{{b}}"}
    made = codec("json", form=form)
    boundary = made.encode([{"t": "x", "b": PNG}]).content_type.partition("boundary=")[2]
    content = f"\r\n--{boundary}\r\n--{boundary}-1--".encode()
    assert parts(made.encode([{"t": "x", "b": content}])) == [
        ('form-data; name="a"', None, b"x and x"),
        ('form-data; name="n"', None, b"2"),
        ('form-data; name="f"; filename="x%22x.bin"', "application/octet-stream", content),
        ('form-data; name="g"; filename="g.bin"', "application/octet-stream", content),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "no value"),
        ([1], "list"),
        (PassedUrl("https://h/x"), "input.fetch_hosts"),
        (UnreadableFile("the file 'x' is empty"), "the file 'x' is empty"),
    ],
)
@pytest.mark.parametrize("body", [{"raw": "{{x}}"}, {"form": {"f": "{{x}}"}}, {"request": "{{x | base64}}"}])
def test_a_row_without_bytes_fails_alone(body, value, words):
    with pytest.raises(EncodeError, match=words) as error:
        codec("json", **body).encode([{"x": b"1"}, {"x": value}])
    assert list(error.value.rows) == [1]


def test_a_line_end_in_a_file_name_fails_its_row():
    with pytest.raises(EncodeError, match="control character"):
        codec("json", form={"f": {"value": "{{x}}", "filename": "{{n}}"}}).encode([{"x": b"1", "n": "a\r\nX: y"}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"raw": "{{x}}", "request": "{{x}}"}, "request and raw are each the whole body"),
        ({"raw": "constant"}, "placeholder"),
        ({"form": {}}, "form must be a table"),
        ({"form": {"a": "constant"}}, "no placeholder"),
        ({"form": {"a": {"valu": "{{x}}"}}}, "valu"),
        ({"form": {"a": ["{{x}}"]}}, "must be a text or a number, not list"),
        ({"raw": "{{rows}}"}, "values of all rows"),
    ],
)
def test_a_mistake_names_its_key(options, words):
    with pytest.raises(ConfigError, match=words):
        codec("json", **options)
