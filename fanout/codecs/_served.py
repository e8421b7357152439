"""The other side of templates and paths, for mocks: the rows in a request, and a document with answers at the paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jmespath
import numpy as np
import orjson
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from fanout.codecs._rows import to_json
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.codecs._answers import Answers, Output
    from fanout.codecs._placeholders import Document
    from fanout.codecs._request import RequestTemplate

# Functions that give the only value of a list, and those that give their argument.
_OF_ONE = ("sum", "avg", "max", "min")
_TRANSPARENT = ("to_string", "to_number", "to_array", "not_null", "sort")


class _CannotInvert(Exception):  # noqa: N818 - a step of the search, not an error
    """No document can be derived from an expression."""


def rows_in(template: RequestTemplate, body: Any) -> Any:
    """The rows of a request, given its body: an array where they are numbers of one shape, else a list.

    A row of named columns is a dict. Columns that are only in the URL or in header fields are left out.
    """
    if template.one_row:
        return _array([_row_in(template.body, body)])
    columns: dict[str, list[Any]] = {}
    for text, place in zip(template.body.texts, template.body.places, strict=True):
        assert text.alone is not None
        values = _at(body, place)
        if not text.alone.name:
            return _array(values if template.item is None else [_row_in(template.item, item) for item in values])
        columns[text.alone.name] = values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def document_for(values: Any, answers: Answers, usage: Iterable[str] = ()) -> bytes:
    """The document in which the paths of ``answers`` find ``values``: an array or a list, or output name -> array.

    ``usage`` are paths at which the document gets the number of rows.

    Raises `ConfigError` for paths that do not show the shape of such a document.
    """
    items = _items(values, answers)
    if answers.parse is not None:
        items = [_inverse(answers.parse, orjson.dumps(item).decode(), "parse") for item in items]
    if answers.items.order is not None:
        items = [_merged(item, _inverse(answers.items.order, i, "order")) for i, item in enumerate(items)]
    document = items[0] if answers.items.is_document else _inverse(answers.items.path.expression, items, "answers")
    for path in usage:
        with suppress(ConfigError, _CannotInvert):
            document = _merged(document, _inverse(path, len(items), "usage"))
    return orjson.dumps(document)


def _items(values: Any, answers: Answers) -> list[Any]:
    if answers.typed is not None:
        return [answers.typed.schema.example()]
    # The answers themselves are the values, as a server without named outputs gives them.
    if not answers.outputs.by_name:
        items: list[Any] = orjson.loads(to_json(values))
        return items
    if not isinstance(values, Mapping):
        values = {next(iter(answers.outputs.by_name)): values}
    columns = {name: orjson.loads(to_json(column)) for name, column in values.items()}
    n_rows = len(next(iter(columns.values())))
    items = [None] * n_rows
    for name, output in answers.outputs.by_name.items():
        column = columns.get(name)
        if column is None and not (output.spec.dtype is not None and output.spec.dtype.kind == "T"):
            raise ConfigError(f"the mock's model gives no output {name!r}", key=f"outputs.{name}")
        key = f"outputs.{name}"
        try:
            for i, item in enumerate(items):
                # The model of a mock gives numbers; a text beside them only has to be one.
                value = "mock" if column is None else column[i]
                items[i] = _merged(item, _value_at(output, value, key))
        except _CannotInvert:
            raise _no_shape(output.path, key) from None
    return items


def _value_at(output: Output, value: Any, key: str) -> Any:
    """A document in which ``output`` finds ``value``, or a list with it where its path gives lists only."""
    try:
        document = _inverse(output.path, value, key)
    except ConfigError:
        if not output.is_json:
            raise
        value = [value]
        document = _inverse(output.path, value, key)
    if output.order is None:
        return document
    return _merged(document, _inverse(output.order, list(range(len(_list(value)))), f"{key}.order"))


def _inverse(path: str, value: Any, key: str) -> Any:
    """A document in which ``path`` finds ``value``."""
    try:
        document = _built(jmespath.compile(path).parsed, value)
        # Checked by the path itself, so that the builders below may be simple and need not be complete.
        if jmespath.search(path, document) == value:
            return document
    except (_CannotInvert, JMESPathError):
        pass
    raise _no_shape(path, key)


def _no_shape(path: str, key: str) -> ConfigError:
    return ConfigError(
        f"{path!r} does not show the shape of an answer, so that no mock can give one: it is more than names, "
        "indices, lists and filters by equality",
        key=key,
    )


def _built(node: Any, value: Any) -> Any:
    """A document for which the expression of ``node`` gives ``value``. Raises `_CannotInvert`."""
    build = _BUILDERS.get(node["type"])
    if build is None:
        raise _CannotInvert
    return build(node, node["children"], value)


def _chained(node: Any, children: Sequence[Any], value: Any) -> Any:
    for child in reversed(children):
        value = _built(child, value)
    return value


def _filtered(node: Any, children: Sequence[Any], value: Any) -> Any:
    items = [_built(children[1], each) for each in _list(value)]
    # The value itself may meet the condition, as in content[?text].text.
    meets = TreeInterpreter().visit
    return _built(
        children[0], [item if meets(children[2], item) else _merged(item, _meeting(children[2])) for item in items]
    )


def _selected(node: Any, children: Sequence[Any], value: Any) -> Any:
    if isinstance(value, dict):
        return _all(_built(pair["children"][0], value.get(pair["value"])) for pair in children)
    return _all(map(_built, children, _list(value)))


def _argument(node: Any, children: Sequence[Any], value: Any) -> Any:
    """A document for which the call of a function gives ``value``."""
    if node["value"] == "join":
        return _built(children[1], [value])
    if node["value"] in _OF_ONE:
        return _built(children[0], [value])
    if node["value"] in _TRANSPARENT:
        return _built(children[0], value)
    raise _CannotInvert


_BUILDERS: dict[str, Callable[[Any, Sequence[Any], Any], Any]] = {
    "identity": lambda node, children, value: value,
    "current": lambda node, children, value: value,
    "field": lambda node, children, value: {node["value"]: value},
    # Items before the one that the index names are null: the path ignores them.
    "index": lambda node, children, value: [*[None] * max(0, node["value"]), value],
    "or_expression": lambda node, children, value: _built(children[0], value),
    "subexpression": _chained,
    "index_expression": _chained,
    "pipe": _chained,
    "projection": lambda node, children, value: _built(
        children[0], [_built(children[1], each) for each in _list(value)]
    ),
    "flatten": lambda node, children, value: _built(
        children[0], [[each] if isinstance(each, list) else each for each in _list(value)]
    ),
    "filter_projection": _filtered,
    "multi_select_dict": _selected,
    "multi_select_list": _selected,
    "function_expression": _argument,
}


def _meeting(condition: Any) -> Any:
    """An item that meets the condition of a filter."""
    kind, children = condition["type"], condition["children"]
    if kind == "and_expression":
        return _all(map(_meeting, children))
    if kind == "or_expression":
        return _meeting(children[0])
    if kind == "comparator" and condition["value"] == "eq":
        sides = sorted(children, key=lambda side: side["type"] == "literal")
        if sides[1]["type"] == "literal":
            return _built(sides[0], sides[1]["value"])
    # A condition that is only a path asks for a value that counts as true.
    if kind in ("field", "subexpression"):
        return _built(condition, True)
    if kind == "not_expression":  # met by an item without the field
        return None
    raise _CannotInvert


def _all(documents: Iterable[Any]) -> Any:
    merged: Any = None
    for document in documents:
        merged = _merged(merged, document)
    return merged


def _merged(one: Any, other: Any) -> Any:
    """A document that has whatever either has. Raises `_CannotInvert` where they contradict each other."""
    if one is None or other is None or one == other:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _merged(one.get(name), other.get(name)) for name in one | other}
    if isinstance(one, list) and isinstance(other, list):
        longest = max(len(one), len(other))
        padded = [[*each, *[None] * (longest - len(each))] for each in (one, other)]
        return [_merged(a, b) for a, b in zip(*padded, strict=True)]
    raise _CannotInvert


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _CannotInvert
    return value


def _row_in(document: Document, filled: Any) -> Any:
    """The row that ``document`` was filled with, as far as it shows."""
    row: dict[str, Any] = {}
    for text, place in zip(document.texts, document.places, strict=True):
        value = _at(filled, place)
        if text.alone is not None:
            found: Sequence[Any] = [value]
        else:
            pattern = "".join("(.*)" if not isinstance(part, str) else re.escape(part) for part in text.parts)
            match = re.fullmatch(pattern, value, re.DOTALL)
            found = match.groups() if match else []
        for placeholder, each in zip(text.placeholders, found, strict=False):
            row.setdefault(placeholder.name, each)
    return row.get("", row)


def _at(document: Any, place: Sequence[Any]) -> Any:
    for step in place:
        document = document[step]
    return document


def _array(rows: list[Any]) -> Any:
    try:
        array = np.array(rows)
    except ValueError:  # the rows differ in length
        return rows
    return array if array.dtype.kind in "biuf" else rows
