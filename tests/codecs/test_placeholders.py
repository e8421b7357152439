"""Texts with placeholders: what they hold for a row, and what they refuse."""

from __future__ import annotations

from base64 import b64decode, b64encode

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs._placeholders import FILTERS, Text, parse
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def filled(template, row):
    text = parse(template, "request")
    assert isinstance(text, Text)
    return orjson.loads(text.json(row))


@given(TEXTS)
def test_any_text_of_a_row_arrives_as_it_is(value):
    assert filled("{{x}}", {"x": value}) == value
    assert filled("<{{x}}>{{x}}", {"x": value}) == f"<{value}>{value}"
    assert filled("{{row}}", value) == value


@given(TEXTS, TEXTS)
def test_braces_in_a_row_are_data(one, other):
    assert filled("{{a}} {{b}}", {"a": "{{b}}" + one, "b": "{{a}}" + other}) == f"{{{{b}}}}{one} {{{{a}}}}{other}"


@pytest.mark.parametrize(
    "value",
    ["a", "", 3, 2.5, True, None, [1, 2], {"a": [None]}, 2**63, np.float32(0.1), np.int8(3), np.array([1.5, 2.5])],
)
def test_a_placeholder_alone_keeps_the_type(value):
    expected = value.tolist() if isinstance(value, np.ndarray) else value
    assert filled("{{ x }}", {"x": value}) == (0.1 if isinstance(value, np.float32) else expected)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (2**70, str(2**70)), (-1.5, "-1.5"), (3.0, "3.0"), (True, "true"), (np.float32(0.1), "0.1")],
)
def test_a_value_within_a_text_is_formatted(value, shown):
    assert filled("<{{x}}>", {"x": value}) == f"<{shown}>"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "no value for {{x}}"),
        (float("nan"), "no value for {{x}}"),
        (np.float32("nan"), "no value for {{x}}"),
        (float("inf"), "NaN or infinity"),
        ([1], r"a list for \{\{x\}\} within a text: write \{\{x | json\}\}"),
        ({"a": 1}, r"write \{\{x | json\}\}"),
        (b"a", r"write \{\{x | base64\}\}"),
        ("\ud800", "JSON cannot express"),
    ],
)
def test_a_value_that_no_text_can_hold_is_refused(value, why):
    with pytest.raises(Unfit, match=why.replace("{{x}}", r"\{\{x\}\}").replace(" | ", r" \| ")):
        filled("<{{x}}>", {"x": value})


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], b"bytes", {"a": {1, 2}}, "\ud800"])
def test_a_value_that_json_cannot_express_is_refused(value):
    with pytest.raises(Unfit, match="JSON cannot express"):
        filled("{{x}}", {"x": value})


@pytest.mark.parametrize(
    ("row", "template", "value"),
    [
        ({"a": {"b": {"c": 1}}}, "{{a.b.c}}", 1),
        ({"a.b": 2, "a": {"b": 3}}, "{{a.b}}", 2),
        ({"row": 1, "rows": 2}, "{{row.row}}{{row.rows}}", "12"),
        ({"two words": "x"}, "{{ two words }}", "x"),
        ({"ü": "x"}, "{{ü}}", "x"),
    ],
)
def test_names_reach_columns_and_what_is_within_them(row, template, value):
    assert filled(template, row) == value


@pytest.mark.parametrize("row", [{}, {"b": 1}, "text", 3, None, [1], np.array([1])])
def test_a_missing_column_is_refused(row):
    with pytest.raises(Unfit, match="has no 'a'"):
        filled("{{a}}", row)


@given(st.binary())
def test_base64_gives_the_bytes_back(data):
    assert b64decode(filled("{{x | base64}}", {"x": data})) == data
    assert b64decode(filled("{{x|data_url}}", {"x": data}).partition("base64,")[2]) == data


def test_filters_take_texts_and_go_one_after_the_other():
    assert filled("{{x | base64}}", {"x": "é"}) == b64encode("é".encode()).decode()
    assert filled("{{x | json | base64}}", {"x": [1]}) == b64encode(b"[1]").decode()
    assert filled("list: {{x | json}}", {"x": [1, None, "a"]}) == 'list: [1,null,"a"]'
    assert filled("{{x | json}}", {"x": "a"}) == '"a"'


@pytest.mark.parametrize("filters", ["base64", "data_url"])
@pytest.mark.parametrize("value", [None, 3, [1], "\ud800"])
def test_a_filter_refuses_what_has_no_bytes(filters, value):
    with pytest.raises(Unfit):
        filled(f"{{{{x | {filters}}}}}", {"x": value})


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBP", "image/webp"),
        (b"RIFF\n\n\n\nWAVE", "audio/wav"),
        (b"%PDF-1.7", "application/pdf"),
        (b"\x00\x00\x00\x18ftypmp42", "video/mp4"),
        (b"anything", "application/octet-stream"),
        ("text", "text/plain;charset=utf-8"),
    ],
)
def test_a_data_url_has_the_type_of_the_file(start, kind):
    assert filled("{{x | data_url}}", {"x": start}).startswith(f"data:{kind};base64,")


def test_a_text_without_placeholders_is_a_constant():
    assert parse("}} { } a}}", "request") == "}} { } a}}"
    assert parse('{{"{{x}}"}} and {{"\\u00e9"}}', "request") == "{{x}} and é"


def test_a_constant_of_braces_stands_beside_placeholders():
    assert filled('{{"{{"}}{{x}}}}', {"x": "{{y}}"}) == "{{{{y}}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {{x", "a {{ at position 2 without }}"),
        ("{{x}} {{", "a {{ at position 6 without }}"),
        ("{{}}", "{{}} at position 0, which names no column"),
        ("{{ [] }}", "{{ [] }} at position 0, which names no column"),
        ("a {{{{x}}", "at position 2, which names no column"),
        (
            "{{x | jason}}",
            "at position 0 with an unknown filter 'jason' (did you mean 'json'?); there are json, base64,",
        ),
        ("{{x |}}", "an unknown filter ''"),
        ("{{rows | json}}", "rows take no filter"),
        ('{{"\\x"}}', "at position 0, which is no constant text"),
        ("{{" + "x" * 500 + "| no}}", "{{" + "x" * 58 + "... at position 0"),
    ],
)
def test_a_wrong_placeholder_is_named_with_its_key_and_position(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, "request.a[0]")
    assert str(caught.value).startswith("request.a[0] has ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.key == "request.a[0]"


def test_every_filter_is_in_the_description_of_the_codec():
    from fanout.codecs import Json

    assert all(f"``| {name}``" in (Json.__doc__ or "") for name in FILTERS)


def test_text_objects_makes_an_object_of_each_text():
    assert parse("{{x | text_objects}}", "k").json({"x": ["a", "{{x}}"]}) == b'[{"text":"a"},{"text":"{{x}}"}]'


@pytest.mark.parametrize("value", [None, "a", [1], {"a": "b"}])
def test_text_objects_refuses_all_but_a_list_of_texts(value):
    with pytest.raises(Unfit, match="has no list of texts for the filter text_objects"):
        parse("{{x | text_objects}}", "k").json({"x": value})
