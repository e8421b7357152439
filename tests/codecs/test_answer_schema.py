"""Schemas of typed answers: tables of fields, JSON Schemas and pydantic models; what they accept, and their outputs."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fanout.codecs._answer_schema import AnswerSchema
from fanout.errors import ConfigError

STRING = np.dtypes.StringDType()
FIELDS = {
    "label": {"type": "str", "enum": ["a", "b"], "description": "the class"},
    "score": {"type": "float", "min": 0, "max": 1},
    "count": {"type": "int", "min": 1},
    "ok": "bool",
    "name": {"type": "str", "pattern": "^[a-z]+$", "max_length": 3},
    "tags": {"type": "list", "items": "str", "max_items": 2},
    "box": {"type": "list", "items": "int", "min_items": 4, "max_items": 4},
    "place": {"type": "object", "fields": {"city": "str", "zip code": {"type": "int", "null": True}}},
}
ANSWER: dict[str, Any] = {
    "label": "a", "score": 1, "count": 3, "ok": True, "name": "abc", "tags": ["x"], "box": [1, 2, 3, 4],
    "place": {"city": "Ulm", "zip code": None},
}  # fmt: skip


def read(schema: Any, answer: Any) -> dict[str, Any]:
    schema = schema if isinstance(schema, AnswerSchema) else AnswerSchema(schema)
    return {name: array.tolist()[0] for name, array in schema.arrays(schema.read(json.dumps(answer))).items()}


def test_each_field_of_a_table_is_an_output_of_its_dtype():
    schema = AnswerSchema(FIELDS)
    assert {name: (str(spec.dtype), spec.shape) for name, spec in schema.spec.items()} == {
        "label": ("StringDType()", ()), "score": ("float64", ()), "count": ("int64", ()), "ok": ("bool", ()),
        "name": ("StringDType()", ()), "tags": ("StringDType()", ()), "box": ("int64", (4,)),
        "place": ("StringDType()", ()),
    }  # fmt: skip
    assert read(schema, ANSWER) == {
        **ANSWER, "score": 1.0, "tags": '["x"]', "place": '{"city":"Ulm","zip code":null}',
    }  # fmt: skip
    assert schema.schema["required"] == list(FIELDS)
    assert schema.schema["properties"]["label"]["description"] == "the class"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label": "c"}, r"Invalid enum value 'c' - at `\$.label`"),
        ({"label": None}, "Expected `str`, got `null`"),
        ({"score": 1.5}, r"Expected `float` <= 1.0 - at `\$.score`"),
        ({"score": "0.5"}, "got `str`"),
        ({"score": True}, "got `bool`"),
        ({"count": 0}, "Expected `int` >= 1"),
        ({"count": 2.5}, "got `float`"),
        ({"count": 2**70}, r"at `\$.count`"),
        ({"ok": 1}, "Expected `bool`"),
        ({"name": "abcd"}, "length <= 3"),
        ({"name": "A"}, "matching regex"),
        ({"tags": ["x", "y", "z"]}, "length <= 2"),
        ({"tags": [1]}, r"\$.tags\[0\]"),
        ({"box": [1, 2, 3]}, "length"),
        ({"place": {"city": "Ulm"}}, r"missing required field `zip code` - at `\$.place`"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_an_answer_that_breaks_the_schema_is_refused_with_the_place(change, match):
    with pytest.raises(ValueError, match=match):
        read(FIELDS, ANSWER | change)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"score": NaN}', "{}", "[" * 100_000, '{"a":' * 100_000])
def test_a_text_that_is_no_answer_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        AnswerSchema({"score": "float"}).read(text)


def test_missing_values_are_nan_an_empty_text_or_json():
    null = {"null": True}
    fields: dict[str, Any] = {kind: {"type": kind, **null} for kind in ("str", "float", "int", "bool")}
    fields["enum"] = {"type": "str", "enum": ["a"], **null}
    values = read(fields, dict.fromkeys(fields))
    assert np.isnan([values.pop("float"), values.pop("int")]).all()
    assert values == {"str": "", "bool": "null", "enum": ""}
    assert read(fields, {"str": "x", "float": 0.5, "int": 7, "bool": True, "enum": "a"}) == {
        "str": "x", "float": 0.5, "int": 7.0, "bool": "true", "enum": "a",
    }  # fmt: skip
    assert AnswerSchema(fields).keeps_null
    with pytest.raises(ValueError, match="exactly"):
        read(fields, {**dict.fromkeys(fields), "int": 2**60 + 1})


class Place(BaseModel):
    city: str


class Answer(BaseModel):
    label: Literal["a", "b"]
    score: float = Field(ge=0, le=1)
    place: Place
    other: Place | None = None
    count: int | None = None


def test_a_pydantic_model_is_a_schema_and_validates_without_conversions():
    schema = AnswerSchema(Answer)
    assert "$ref" not in json.dumps(schema.schema)
    assert schema.schema["required"] == ["label", "score", "place", "other", "count"]
    assert schema.name == "Answer"
    values = read(schema, {"label": "a", "score": 1, "place": {"city": "Ulm"}, "other": None, "count": 3})
    assert values == {"label": "a", "score": 1.0, "place": '{"city":"Ulm"}', "other": "null", "count": 3.0}
    with pytest.raises(ValueError, match=r"valid number - at `\$.score`; Field required - at `\$.place`"):
        read(schema, {"label": "a", "score": "1"})


def test_a_json_schema_comes_from_a_file_or_as_it_is(tmp_path):
    place = {"type": "object", "properties": {"city": {"type": "string"}}}
    schema = {
        "$defs": {"place": place, "n": {"type": "integer", "minimum": 0}},
        "type": "object",
        "properties": {
            "a b": {"$ref": "#/$defs/n"},
            "one": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
            "kind": {"const": "x"},
            "free": {"type": "object", "additionalProperties": {"type": "number"}},
            "any": {},
        },
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    answer = {"a b": 1, "one": {"city": "Ulm"}, "kind": "x", "free": {"y": 1}, "any": [None]}
    for given_schema in (schema, str(tmp_path / "schema.json"), tmp_path / "schema.json"):
        assert read(given_schema, answer) == {
            "a b": 1, "one": '{"city":"Ulm"}', "kind": "x", "free": '{"y":1.0}', "any": "[null]",
        }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"a b": -1}, {"one": {}}, {"kind": "y"}, {"free": {"y": "1"}}, {"one": {"city": "Ulm", "x": 1}},
    ]  # fmt: skip
    for bad in changes:
        with pytest.raises(ValueError, match="at `"):
            read(schema, answer | bad)


def properties(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({}, "must be a table of fields"),
        (7, "must be a table of fields"),
        ({"a": "string"}, "schema.a must have a type, one of str, int"),
        ({"a": {"type": "str", "enums": []}}, "has no key 'enums' .did you mean 'enum'"),
        ({"a": {"type": "list", "items": {"type": "x"}}}, "schema.a.items must have a type"),
        ({"a": {"type": "object"}}, "schema.a must have fields"),
        ({"a": {"type": "str", "null": 1}}, "schema.a.null must be true or false"),
        ({"a": {"type": "str", "enum": []}}, "a.enum must be a list of texts"),
        ({"a": {"type": "float", "enum": [0.5]}}, "a.enum must be a list of texts or whole numbers"),
        ({"a": {"type": "int", "min": 0.5}}, "a has whole numbers, so its bounds must be whole"),
        ({"a": {"type": "str", "pattern": "("}}, "a has a bound that cannot be used"),
        ({"a": {"type": "str", "min": 1}}, "a has the keyword 'minimum', which is not supported here"),
        (properties(a={"not": {}}), "'not', which is not supported here"),
        (properties(a={"type": "text"}), "a.type must be one of string"),
        (properties(a={"$ref": "#/$defs/x"}), "which the schema does not have"),
        (properties(a={"$ref": "other.json"}), "which the schema does not have"),
        (properties(a=1), "a must be a table with a type"),
        (properties(a={"anyOf": [properties(b={}), properties(c={})]}), "a.anyOf has more than one object"),
        ({"$ref": "#/$defs/a", "$defs": {"a": properties(a={"$ref": "#/$defs/a"})}}, "refers to itself"),
        ("no-such-file.json", "cannot be read from no-such-file.json"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named_with_the_place(schema, match):
    with pytest.raises(ConfigError, match=match) as caught:
        AnswerSchema(schema)
    assert caught.value.key == "schema"


NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters='\\"'))
BOUNDS = st.fixed_dictionaries({}, optional={"min": st.integers(-9, 0), "max": st.integers(1, 9)})
LEAVES = st.one_of(
    st.sampled_from(["str", "int", "float", "bool"]),
    st.builds(lambda bounds: {"type": "int", **bounds}, BOUNDS),
    st.builds(lambda bounds: {"type": "float", **bounds}, BOUNDS),
    st.lists(st.text(min_size=1), min_size=1, unique=True).map(lambda values: {"type": "str", "enum": values}),
)
TABLES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda one, n: {"type": "list", "items": one, "min_items": n}, inner, st.integers(0, 3)),
        st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(lambda one: {"type": "object", "fields": one}),
    ),
    max_leaves=6,
)


@given(st.dictionaries(NAMES, TABLES, min_size=1, max_size=4))
def test_the_example_of_any_schema_is_valid_and_no_value_is_lost(fields):
    schema = AnswerSchema({"first": "bool", **fields})
    example = schema.example()
    assert schema.read(json.dumps(example)) == example
    arrays = schema.arrays(example)
    assert {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()} == {
        name: (spec.dtype, spec.shape) for name, spec in schema.spec.items()
    }
