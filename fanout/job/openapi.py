"""Templates of requests that take the columns of an input, from an OpenAPI document.

FastAPI, vLLM and other servers publish one:
https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fanout.job.fields import InputFields

# A document is written by the server: references in a circle end here.
_MOST_REFERENCES = 20

# Fields of one document. References to one schema from many others would multiply at each level.
_MOST_FIELDS = 100_000

# A body with a list of objects that have objects has this depth; deeper fields fit no column of a table.
_DEPTH = 4
_ROWS, _ROW = "{{rows}}", "{{row}}"


@dataclass(frozen=True, slots=True)
class Operation:
    """A path that takes JSON by POST.

    Attributes:
        body: the JSON Schema of the body, without references at its top.
    """

    path: str
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The request that a schema asks for, made of the columns of an input.

    Attributes:
        request: body of a request, with placeholders.
        item: shape of each row in it; None for the row itself.
        as_vector: a row is the vector of all columns of numbers.
        missing: required fields that no column fills, as keys of the codec: ``"request.mode"``.
        left_out: optional fields that no column fills, in the same form.
    """

    request: Any
    item: Any = None
    as_vector: bool = False
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def operations(document: Any) -> list[Operation]:
    """Return the operations of an OpenAPI document that may take rows; none for any other document."""
    paths = document.get("paths") if isinstance(document, dict) else None
    return list(_operations(document, paths)) if isinstance(paths, dict) else []


def _operations(document: Mapping[str, Any], paths: Mapping[str, Any]) -> Iterator[Operation]:
    budget = iter(range(_MOST_FIELDS))
    for path, methods in paths.items():
        post = methods.get("post") if isinstance(methods, dict) else None
        # A path with parameters needs values that no column of an input is known to hold.
        if not isinstance(post, dict) or "{" in path:
            continue
        content = _inside(_resolved(post.get("requestBody"), document), "content", "application/json", "schema")
        body = _resolved(content, document)
        if body:
            yield Operation(path, _whole(body, document, budget))


def template_for(operation: Operation, fields: InputFields) -> Template:
    """Return the request of ``operation`` for the rows of an input."""
    return _Matching(fields).template(operation.body)


class _Matching:
    """Finds columns for the fields of a schema; each column is used once."""

    def __init__(self, fields: InputFields) -> None:
        self._fields = fields
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._left_out: list[str] = []
        self._as_vector = False

    def template(self, body: Mapping[str, Any]) -> Template:
        item: Any = None
        request: Any
        if body.get("type") == "array":
            request, item = _ROWS, self._item(body.get("items", {}), "")
        elif batch := _batch_field(body):
            item = self._item(body["properties"][batch]["items"], batch)
            request = {batch: _ROWS}
            # The fields beside the list are the same for all rows, so no column fills them.
            for name, one in body.get("properties", {}).items():
                if name != batch:
                    self._leave(f"request.{name}", one, is_required=name in body.get("required", []))
        else:
            request = self._object(body, "request")
        return Template(
            request=request,
            item=item,
            as_vector=self._as_vector,
            missing=tuple(self._missing),
            left_out=tuple(self._left_out),
        )

    def _item(self, items: Mapping[str, Any], name: str) -> Any:
        if items.get("type") == "object" and items.get("properties"):
            return self._object(items, "item")
        if items.get("type") == "array":
            self._as_vector = bool(self._fields.columns)
            return None
        if self._fields.columns:
            # A list of plain values takes the only column that can be meant, whatever its name is.
            column = self._column(name, items, alone=True)
            return None if column is None else f"{{{{{column}}}}}"
        return None

    def _object(self, schema: Mapping[str, Any], at: str) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = [name for name in schema.get("required", []) if name in properties]
        filled: dict[str, Any] = {}
        for name, one in properties.items():
            key = f"{at}.{name}"
            alone = [name] == (required or list(properties))
            value = self._value(name, one, key, alone=alone)
            if value is not None:
                filled[name] = value
            else:
                self._leave(key, one, is_required=name in required)
        return filled

    def _leave(self, key: str, schema: Mapping[str, Any], *, is_required: bool) -> None:
        (self._missing if is_required and "default" not in schema else self._left_out).append(key)

    def _value(self, name: str, schema: Mapping[str, Any], key: str, *, alone: bool) -> Any:
        if schema.get("type") == "object" and schema.get("properties"):
            return self._object(schema, key) or None
        column = self._column(name, schema, alone=alone)
        if column is not None:
            return f"{{{{{column}}}}}"
        if schema.get("type") == "array" and alone and _is_number(schema.get("items", {})):
            self._as_vector = bool(self._fields.columns)
            return _ROW
        return _ROW if alone and not self._fields.columns else None

    def _column(self, name: str, schema: Mapping[str, Any], *, alone: bool) -> str | None:
        """Return the column for a field: that of its name, or the only one that its type allows."""
        free = [column for column in self._fields.columns if column not in self._used]
        # customer_id, customerId and "Customer ID" are one name in three spellings.
        matches = [column for column in free if _folded(column) == _folded(name)]
        if not matches and alone:
            # With several columns of a type, the choice would be a guess that sends the wrong data.
            fitting = [column for column in free if _fits(self._fields.columns[column], schema)]
            matches = fitting if len(fitting) == 1 else []
        if not matches:
            return None
        self._used.add(matches[0])
        return matches[0]


def _batch_field(body: Mapping[str, Any]) -> str | None:
    """Return the property that holds a list of rows: objects, or vectors."""
    properties: Mapping[str, Any] = body.get("properties", {})
    for name, schema in properties.items():
        items = schema.get("items", {}) if schema.get("type") == "array" else {}
        if items.get("type") == "array" or (items.get("type") == "object" and items.get("properties")):
            return name
        # An optional list of texts is more likely an option, such as stop words, than the rows.
        if items.get("type") == "string" and (name in body.get("required", []) or "required" not in body):
            return name
    return None


def _whole(schema: Mapping[str, Any], document: Any, budget: Iterator[int], depth: int = _DEPTH) -> dict[str, Any]:
    """Return a schema with the references in its properties and items resolved, to some depth.

    A server's document may hold anything: in the result `type`, `items`, `properties` and `required` are well-formed or
    left out. Each schema takes one of ``budget``; once that is empty, schemas are empty too.
    """
    if next(budget, None) is None:
        return {}
    whole = dict(_resolved(schema, document))
    kind, items, properties, required = (whole.pop(key, None) for key in ("type", "items", "properties", "required"))
    if isinstance(kind, list):  # ["string", "null"] is an optional text
        kind = next((one for one in kind if one != "null"), None)
    if isinstance(kind, str):
        whole["type"] = kind
    if isinstance(required, list):
        whole["required"] = [name for name in required if isinstance(name, str)]
    if depth and isinstance(items, dict):
        whole["items"] = _whole(items, document, budget, depth - 1)
    if depth and isinstance(properties, dict):
        whole["properties"] = {
            str(name): _whole(one, document, budget, depth - 1)
            for name, one in properties.items()
            if isinstance(one, dict)
        }
    return whole


def _resolved(schema: Any, document: Any) -> dict[str, Any]:
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            schema = _inside(document, *map(_unescaped, reference[2:].split("/")))
            continue
        # An optional field is written as its type or null.
        choices = [
            one
            for key in ("anyOf", "oneOf", "allOf")
            for one in _list(schema.get(key))
            if isinstance(one, dict) and one != {"type": "null"}
        ]
        if "type" in schema or "properties" in schema or not choices:
            return schema
        schema = {**choices[0], **({"default": schema["default"]} if "default" in schema else {})}
    return {}


def _unescaped(token: str) -> str:
    """Return a part of a reference as the key that it stands for: a JSON pointer (RFC 6901) in a URL's fragment."""
    return unquote(token).replace("~1", "/").replace("~0", "~")


def _inside(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") in ("number", "integer")


def _fits(kind: str, schema: Mapping[str, Any]) -> bool:
    wanted: Mapping[Any, Sequence[str]] = {
        "string": ("text",),
        "number": ("number",),
        "integer": ("number",),
        "boolean": ("true or false",),
        "array": ("vector", "JSON"),
        "object": ("JSON",),
    }
    return kind in wanted.get(schema.get("type"), (kind,))


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
