"""Templates of requests from OpenAPI documents, in the form that FastAPI writes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanout.job import openapi
from fanout.job.fields import InputFields
from fanout.job.openapi import operations, template_for

COLUMNS = InputFields(
    n_rows=3, columns={"id": "text", "age": "number", "Income": "number", "city": "text", "emb": "vector"}, row="JSON"
)
NUMBERS = {"type": "number"}
CUSTOMER = {
    "type": "object",
    "properties": {
        "age": {"type": "integer"},
        "income": NUMBERS,
        "city": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "threshold": {"anyOf": [NUMBERS, {"type": "null"}]},
    },
    "required": ["age", "income"],
}


def document(schema, path="/score", **schemas):
    content = {"application/json": {"schema": schema}}
    return {
        "openapi": "3.1.0",
        "paths": {path: {"post": {"summary": "Score", "requestBody": {"content": content}}, "get": {}}},
        "components": {"schemas": schemas},
    }


def template(schema, fields=COLUMNS, **schemas):
    (operation,) = operations(document(schema, **schemas))
    return template_for(operation, fields)


def test_an_object_of_fields_gets_the_columns_of_their_names():
    made = template({"$ref": "#/components/schemas/Customer"}, Customer=CUSTOMER)
    assert made.request == {"age": "{{age}}", "income": "{{Income}}", "city": "{{city}}"}
    assert (made.missing, made.left_out) == ((), ("request.threshold",))


def test_a_reference_may_have_escapes_for_the_characters_of_a_name():
    made = template({"$ref": "#/components/schemas/Batch%5BCustomer%5D~1v1"}, **{"Batch[Customer]/v1": CUSTOMER})
    assert made.request == {"age": "{{age}}", "income": "{{Income}}", "city": "{{city}}"}


def test_a_required_field_without_a_column_is_missing_unless_it_has_a_default():
    schema = {"type": "object", "properties": {"age": NUMBERS, "mode": {"type": "string"}}, "required": ["age", "mode"]}
    assert template(schema).missing == ("request.mode",)
    schema["properties"]["mode"]["default"] = "fast"
    assert (template(schema).missing, template(schema).left_out) == ((), ("request.mode",))


def test_a_list_of_objects_is_a_batch_of_rows():
    schema = {"type": "object", "properties": {"items": {"type": "array", "items": {"$ref": "#/components/schemas/C"}}}}
    made = template(schema, C=CUSTOMER)
    assert made.request == {"items": "{{rows}}"}
    assert made.item == {"age": "{{age}}", "income": "{{Income}}", "city": "{{city}}"}


def test_a_field_beside_a_batch_is_the_same_for_all_rows_and_takes_no_column():
    items = {"type": "array", "items": CUSTOMER}
    properties = {"items": items, "city": {"type": "string"}, "id": {"type": "string"}}
    made = template({"type": "object", "properties": properties, "required": ["items", "city"]})
    assert (made.request, made.missing, made.left_out[0]) == (
        {"items": "{{rows}}"},
        ("request.city",),
        "item.threshold",
    )
    assert "request.id" in made.left_out


def test_a_body_that_is_a_list_is_a_batch_of_rows():
    made = template({"type": "array", "items": CUSTOMER})
    assert (made.request, made.item["age"]) == ("{{rows}}", "{{age}}")


def test_a_list_of_texts_takes_the_only_column_of_texts():
    fields = InputFields(n_rows=3, columns={"n": "number", "body": "text"}, row="JSON")
    schema = {"type": "object", "properties": {"texts": {"type": "array", "items": {"type": "string"}}}}
    made = template(schema, fields)
    assert (made.request, made.item) == ({"texts": "{{rows}}"}, "{{body}}")


@pytest.mark.parametrize("many", [False, True])
def test_a_list_of_numbers_is_a_vector_of_the_columns_of_numbers(many):
    fields = InputFields(n_rows=3, columns={"f1": "number", "f2": "number", "note": "text"}, row="JSON")
    vector = {"type": "array", "items": NUMBERS}
    schema = {"type": "object", "properties": {"x": {"type": "array", "items": vector} if many else vector}}
    made = template(schema, fields)
    assert (made.request, made.as_vector) == ({"x": "{{rows}}" if many else "{{row}}"}, True)


def test_rows_without_names_are_the_only_field():
    fields = InputFields(n_rows=3, columns={}, row="vector")
    assert template({"type": "object", "properties": {"x": {"type": "array", "items": NUMBERS}}}, fields).request == {
        "x": "{{row}}"
    }


def test_nested_objects_are_filled_inside():
    schema = {"type": "object", "properties": {"input": CUSTOMER}, "required": ["input"]}
    assert template(schema).request == {"input": {"age": "{{age}}", "income": "{{Income}}", "city": "{{city}}"}}


def test_a_type_that_may_be_null_is_the_other_one():
    schema = {"type": "object", "properties": {"age": {"type": ["number", "null"]}}}
    assert template(schema).request == {"age": "{{age}}"}


def test_paths_with_parameters_and_bodies_of_other_types_are_passed_over():
    assert operations(document(CUSTOMER, path="/models/{name}")) == []
    form = {"paths": {"/x": {"post": {"requestBody": {"content": {"multipart/form-data": {"schema": CUSTOMER}}}}}}}
    assert operations(form) == []


def test_references_in_a_circle_end():
    made = template({"$ref": "#/components/schemas/A"}, A={"$ref": "#/components/schemas/B"}, B=CUSTOMER)
    assert made.request["age"] == "{{age}}"
    assert operations(document({"$ref": "#/components/schemas/A"}, A={"$ref": "#/components/schemas/A"})) == []
    tree = {"type": "object", "properties": {"child": {"$ref": "#/components/schemas/T"}, "age": NUMBERS}}
    assert template({"$ref": "#/components/schemas/T"}, T=tree).request


def test_references_that_multiply_are_resolved_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(openapi, "_MOST_FIELDS", 1000)
    schemas = {
        f"S{level}": {
            "type": "object",
            "properties": {f"p{i}": {"$ref": f"#/components/schemas/S{level + 1}"} for i in range(30)},
        }
        for level in range(4)
    }
    (operation,) = operations(document({"$ref": "#/components/schemas/S0"}, **schemas, S4=NUMBERS))

    def count(schema) -> int:
        return 1 + sum(map(count, schema.get("properties", {}).values()))

    # Each level has 30 fields to each of the one above: 837,931 in all.
    assert 1000 <= count(operation.body) < 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["paths", "/x", "post", "requestBody", "content", "application/json", "schema", "type",
                         "properties", "items", "$ref", "anyOf", "required", "default", "array", "object"]),
        inner, max_size=5),
    max_leaves=30,
)  # fmt: skip


@given(schema=JSON)
@example(schema={"paths": None, "anyOf": True})
@example(schema={"anyOf": [5], "type": ["array", []], "items": [], "required": [[]]})
@example(schema={"properties": {"x": {"type": "object", "properties": {}, "required": None}}, "required": None})
def test_any_document_of_a_server_is_read_without_an_error(schema):
    operations(schema)
    for operation in operations(document(schema)):
        template_for(operation, COLUMNS)
