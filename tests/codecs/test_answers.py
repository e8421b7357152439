"""Answers of any shape: paths to the list and to the outputs, order, JSON in texts, refusals and usage."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Action
from fanout.codecs import Json
from fanout.errors import ConfigError, InvalidResponse
from fanout.types import DecodedResponse, Response

MANY = {"request": {"rows": "{{rows}}"}}
ONE = {"request": {"row": "{{row}}"}}


def answered(document, **options):
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return Response(status=options.pop("status", 200), headers={}, body=body)


def values(document, n=1, **options):
    return Json(**options).decode(answered(document), n)


def why(document, n=1, **options):
    with pytest.raises(InvalidResponse) as caught:
        values(document, n, **options)
    return caught.value


def plain(outputs):
    return {name: array.tolist() for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("options", "document", "expected"),
    [
        ({**ONE, "outputs": {"y": "a.b[1]"}}, {"a": {"b": [1, 2]}}, {"y": [2.0]}),
        ({**ONE, "outputs": {"y": "@"}}, [0.5, 1], {"y": [[0.5, 1]]}),
        ({**ONE, "outputs": {"y": "[0].label"}}, [{"label": "a"}], {"y": ["a"]}),
        ({**ONE, "answers": "r", "outputs": {"y": "a"}}, {"r": [{"a": True}]}, {"y": [True]}),
        ({**ONE, "outputs": {"t": "join('', content[?type=='text'].text)"}},
         {"content": [{"type": "thinking"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"t": ["ab"]}),
        ({**ONE, "outputs": {"y": "a[].b"}}, {"a": [[{"b": 1}], [{"b": 2}, {"b": 3}]]}, {"y": [[1, 2, 3]]}),
        ({**ONE, "outputs": {"y": '"a/b"."c-d"'}}, {"a/b": {"c-d": 1}}, {"y": [1]}),
    ],
)  # fmt: skip
def test_the_answer_to_one_row_is_the_item(options, document, expected):
    assert plain(values(document, **options)) == expected


def test_without_outputs_the_answer_to_one_row_gives_its_fields():
    assert plain(values({"a": 1, "b": [1, 2]}, **ONE)) == {"a": [1], "b": [[1, 2]]}
    assert values([1, 2], **ONE).tolist() == [[1, 2]]
    assert values(0.5, **ONE).tolist() == [0.5]


@pytest.mark.parametrize("answers", ["results", "a.results", None])
def test_outputs_are_found_inside_each_item(answers):
    items = [{"s": {"v": 1}, "label": "x", "v": [1, 2]}, {"s": {"v": 2}, "label": "y", "v": [3, 4]}]
    document = {"results": {"results": items}, "a.results": {"a": {"results": items}}, None: items}[answers]
    found = values(document, 2, **MANY, answers=answers, outputs={"s": "s.v", "l": "label", "v": "v[1]"})
    assert plain(found) == {"s": [1, 2], "l": ["x", "y"], "v": [2, 4]}


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "expected"),
    [
        ("float32", 0.5, "f4", 0.5),
        ("int64", 2**53 + 1, "i8", 2**53 + 1),
        ("uint8", 3.0, "u1", 3),
        ("bool", True, "?", True),
        ("str", "é", "T", "é"),
        ("json", {"a": [1, None, {}]}, "T", '{"a":[1,null,{}]}'),
        ("json", [[1], [2, 3]], "T", "[[1],[2,3]]"),
        ("json", "text", "T", '"text"'),
        ("json", 10**30, "T", "1" + "0" * 30),
        (None, 3, "f8", 3.0),
    ],
)
def test_a_type_decides_the_dtype(kind, value, dtype, expected):
    codec = Json(**ONE, outputs={"y": "y" if kind is None else {"path": "y", "type": kind}})
    body = b'{"y":' + (b"%d" % value if type(value) is int else orjson.dumps(value)) + b"}"
    (array,) = codec.decode(answered(body), 1).values()
    assert array.dtype.char == np.dtype(dtype).char
    assert array.tolist() == [expected]


@pytest.mark.parametrize(
    ("kind", "value", "error_kind"),
    [("int64", 1.5, "dtype"), ("uint8", 256, "dtype"), ("float32", "a", "content"), ("str", 1, "content"),
     ("float32", 1e39, "nonfinite")],
)  # fmt: skip
def test_a_value_that_the_type_does_not_hold_is_invalid(kind, value, error_kind):
    error = why([{"y": value}], **MANY, outputs={"y": {"path": "y", "type": kind}})
    assert "'y'" in str(error)
    assert error.error_kind == error_kind
    assert error.rows[0] == 0


def test_types_and_shapes_are_the_spec_of_the_codec():
    outputs = {"a": {"path": "a", "type": "float32", "shape": [2, -1]}, "b": {"path": "b", "type": "json"}, "c": "c"}
    spec = Json(**ONE, outputs=outputs, dtype={"c": "int8"}).spec
    dtypes = {name: one.dtype for name, one in spec.items()}
    assert dtypes == {"a": np.dtype("f4"), "b": np.dtypes.StringDType(), "c": np.dtype("i1")}
    assert {name: one.shape for name, one in spec.items()} == {"a": (2, None), "b": (), "c": None}


@pytest.mark.parametrize("document", [[{"y": 1}, {"y": None}], [{"y": 1}, {}]])
def test_a_missing_value_is_invalid_unless_null_is_kept(document):
    error = why(document, 2, **MANY, outputs={"z": {"path": "y", "type": "float64"}})
    assert str(error) == "row 1 of 'z' has nothing at 'y'"
    assert error.rows[0] == 1
    codec = Json(**MANY, outputs={"y": {"path": "y", "type": "float64", "null": "keep"}})
    np.testing.assert_array_equal(codec.decode(answered(document), 2)["y"], [1, np.nan])
    assert codec.nonfinite == "keep"


def test_kept_nulls_of_texts_and_json():
    outputs = {"t": {"path": "t", "type": "str", "null": "keep"}, "j": {"path": "j", "type": "json", "null": "keep"}}
    assert plain(values([{"t": None}, {"t": "a", "j": 1}], 2, **MANY, outputs=outputs)) == {
        "t": ["", "a"], "j": ["null", "1"]
    }  # fmt: skip


@pytest.mark.parametrize("text", [b'[{"y":NaN}]', b'[{"y":1e999}]'])
def test_a_number_that_is_not_finite_is_invalid_though_null_is_kept(text):
    assert why(text, **MANY, outputs={"y": {"path": "y", "type": "float64", "null": "keep"}}).error_kind == "nonfinite"


@given(st.permutations(range(6)))
def test_items_are_placed_by_their_index(order):
    for options, item in (
        ({}, lambda i: {"y": i, "index": i}),
        ({"order": "index"}, lambda i: {"y": i, "index": i}),
        ({"order": "d.place"}, lambda i: {"y": i, "d": {"place": i}}),
        ({"order": "ids[0]"}, lambda i: {"y": i, "ids": [i]}),
    ):
        document = {"r": [item(i) for i in order]}
        assert plain(values(document, 6, **MANY, answers="r", outputs={"y": "y"}, **options)) == {"y": [*range(6)]}
        if "order" not in options or options["order"] == "index":
            assert values(document, 6, **MANY, answers="r[].y", **options).tolist() == [*range(6)]


@pytest.mark.parametrize("order", [None, "index", "d.place"])
@pytest.mark.parametrize("indices", [[0, 0, 1], [0, 1, 3], [1, 2, 3], [-1, 0, 1], [0, 1, "2"], [0, None, None]])
def test_indices_that_are_no_order_are_invalid(order, indices):
    document = [{"y": i, "d": {"place": index}} if order == "d.place" else {"y": i, "index": index}
                for i, index in enumerate(indices)]  # fmt: skip
    why(document, 3, **MANY, outputs={"y": "y"}, order=order)


def test_a_stated_order_has_to_come_and_position_disregards_it():
    document = [{"y": 1, "index": 1}, {"y": 0, "index": 0}]
    assert plain(values(document, 2, **MANY, outputs={"y": "y"}, order="position")) == {"y": [1, 0]}
    assert "without 'index'" in str(why([{"y": 1}, {"y": 0}], 2, **MANY, outputs={"y": "y"}, order="index"))
    assert plain(values([{"y": 1}, {"y": 0}], 2, **MANY, outputs={"y": "y"})) == {"y": [1, 0]}


@pytest.mark.parametrize("n", [1, 3])
def test_another_number_of_answers_is_invalid(n):
    error = why([{"y": 1}, {"y": 0}], n, **MANY, outputs={"y": "y"})
    assert error.error_kind == "rows"


@pytest.mark.parametrize("document", [{"r": {"y": 1}}, {"r": "y"}, {}, {"r": None}, [], 3, None])
def test_a_document_without_the_list_is_invalid(document):
    why(document, 2, **MANY, answers="r", outputs={"y": "y"})


@pytest.mark.parametrize(
    "text",
    [
        '{"label":"a","n":1}',
        ' {"label": "a", "n": 1}\n',
        '```json\n{"label":"a","n":1}\n```',
        '```\n{"label":"a","n":1}```',
    ],
)
def test_json_within_a_text_takes_the_item_s_place(text):
    options = {**ONE, "parse": "message.content"}
    document = {"message": {"content": text}}
    assert plain(values(document, **options, outputs={"l": "label"})) == {"l": ["a"]}
    assert plain(values(document, **options)) == {"label": ["a"], "n": [1]}


@pytest.mark.parametrize("content", ["no JSON", "", None, 3, '{"label": "a"'])
def test_a_text_that_holds_no_json_is_invalid(content):
    body = {"message": {"content": content}}
    assert "'message.content'" in str(why(body, **ONE, parse="message.content", outputs={"l": "label"}))


REFUSING = {**ONE, "outputs": {"y": "y"}, "fail_when": "blocked"}


@pytest.mark.parametrize(
    ("blocked", "words"),
    [("for safety", "for safety"), (True, "blocked is true"), ({"code": 3}, 'blocked is {"code":3}'),
     (1, "blocked is 1"),
     ("a\nb " + "x" * 999, "a b xxx")],
)  # fmt: skip
def test_a_refused_row_fails_at_once_with_the_server_s_words(blocked, words):
    codec, response = Json(**REFUSING), answered({"y": 1, "blocked": blocked})
    with pytest.raises(InvalidResponse, match="refused by the server"):
        codec.decode(response, 1)
    verdict = codec.classify(response)
    assert verdict.action is Action.FAIL
    assert verdict.about_rows
    assert verdict.reason.startswith(f"HTTP 200: {words}")
    assert len(verdict.reason) < 350


@pytest.mark.parametrize("item", [{"y": 1}, {"y": 1, "blocked": False}, {"y": 1, "blocked": None},
                                  {"y": 1, "blocked": []}, {"y": 1, "blocked": 0}])  # fmt: skip
def test_a_row_that_is_not_refused_is_answered(item):
    assert plain(values(item, **REFUSING)) == {"y": [1]}
    assert Json(**REFUSING).classify(answered(item)) is None


def test_a_refusal_may_be_in_an_item_or_around_the_items():
    codec = Json(**MANY, answers="r", outputs={"y": "y"}, fail_when="blocked")
    for document in ({"r": [{"y": 1}, {"blocked": "no"}]}, {"blocked": "no", "r": [{"y": 1}, {"y": 1}]},
                     {"blocked": "no"}):  # fmt: skip
        with pytest.raises(InvalidResponse):
            codec.decode(answered(document), 2)
        assert codec.classify(answered(document)).reason == "HTTP 200: no"


def test_the_message_beside_a_flag_is_the_reason():
    verdict = Json(**REFUSING).classify(answered({"blocked": True, "message": "too rude"}))
    assert verdict.reason == "HTTP 200: too rude"


def test_usage_is_read_from_the_document_beside_the_answers():
    codec = Json(**MANY, answers="r[].y", usage={"total_tokens": "u.t", "prompt_tokens": "sum(r[].n)", "no": "u.no"})
    found = codec.decode(answered({"r": [{"y": 1, "n": 2}, {"y": 2, "n": 3}], "u": {"t": 7.0, "no": -1}}), 2)
    assert isinstance(found, DecodedResponse)
    assert found.usage == {"total_tokens": 7, "prompt_tokens": 5}
    assert found.model is None
    assert found.values.tolist() == [1, 2]


@pytest.mark.parametrize("count", [None, -1, 1.5, "7", True, [7], 2**60, {}])
def test_what_is_no_count_is_left_out_of_the_usage(count):
    assert Json(usage={"total_tokens": "t"}).decode(answered({"predictions": [1], "t": count}), 1).usage == {}


def test_an_invalid_answer_is_billed_too():
    assert why({"predictions": ["x", 1], "t": 3}, 2, usage={"total_tokens": "t"}).usage == {"total_tokens": 3}


@pytest.mark.parametrize("size", [10, 200_000])
def test_usage_comes_with_answers_of_any_size(size):
    found = Json(usage={"total_tokens": "u"}).decode(answered({"predictions": [0.5] * size, "u": 9}), size)
    assert found.usage == {"total_tokens": 9}
    assert found.values.tolist() == [0.5] * size


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"outputs": {"a": "a[?"}}, "outputs.a", "at position 3"),
        ({"outputs": {"a": ""}}, "outputs.a", "must be a path"),
        ({"outputs": {"a": 3}}, "outputs.a", "a table with a path"),
        ({"outputs": {"a": {"type": "str"}}}, "outputs.a", "a table with a path"),
        ({"outputs": {"a": {"path": "a", "typ": "str"}}}, "outputs.a.typ", "keys are path, type, shape, null, order"),
        ({"outputs": {"a": {"path": "a", "type": "flot"}}}, "outputs.a.type", "no numpy dtype"),
        ({"outputs": {"a": {"path": "a", "shape": 3}}}, "outputs.a.shape", "list of lengths"),
        ({"outputs": {"a": {"path": "a", "null": "drop"}}}, "outputs.a.null", '"fail" or "keep"'),
        ({"outputs": {"a": {"path": "a", "null": "keep"}}}, "outputs.a.null", "needs a type"),
        ({"outputs": {"a": {"path": "a", "null": "keep", "type": "int64"}}}, "outputs.a.null", "needs a type"),
        ({"outputs": "a"}, "outputs", "must be a table"),
        ({"answers": "a b"}, "answers", "at position 2"),
        ({"order": "a["}, "order", "at position"),
        ({"order": ""}, "order", "must be a text"),
        ({"parse": "a["}, "parse", "at position"),
        ({"fail_when": "nothing(@)"}, "fail_when", "nothing"),
        ({"usage": {"t": "a["}}, "usage.t", "at position"),
        ({"usage": "a"}, "usage", "must be a table"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_used_is_refused_when_the_codec_is_made(options, key, message):
    with pytest.raises(ConfigError) as caught:
        Json(**ONE, **options)
    assert caught.value.key == key
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answers", ["r", "r[].s", "r[?s].s", "r[*].[s]", "map(&s, r)", None])
@pytest.mark.parametrize("order", ["i", "meta.i"])
def test_an_index_that_the_user_names_is_never_replaced_by_the_position(answers, order):
    items = [{"s": 1.0}, {"s": 2.0}]
    error = why(items if answers is None else {"r": items}, 2, **MANY, answers=answers, order=order)
    assert f"an item without '{order}', which states its row" in str(error)
    assert error.error_kind == "rows"


@pytest.mark.parametrize("answers", ["r[].s", "r[?s].s", "b[].r[].s"])
def test_an_index_that_the_user_names_places_the_values_of_a_projection(answers):
    items = [{"s": 1.0, "i": 1}, {"s": 2.0, "i": 0}]
    document = {"r": items, "b": [{"i": one["i"], "r": [{"s": one["s"]}]} for one in items]}
    assert values(document, 2, **MANY, answers=answers, order="i").tolist() == [2.0, 1.0]
