"""The fields of the first rows of an input, and those of the first answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fanout.errors import InputError
from fanout.io.readers.opening import open_source
from fanout.rows import count_rows, single_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fanout.io.readers.base import Source

Kind: TypeAlias = Literal["number", "true or false", "text", "vector", "JSON", "missing"]

# Rows that decide the kind of a column: the first value that is not missing does.
_LOOKED_AT = 100

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# An answer may be a document with hundreds of fields, of which a user would delete most.
_MOST_OUTPUTS = 20
_DEEPEST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFields:
    """The content of an input, as far as its first rows show it.

    Attributes:
        n_rows: number of rows, exact or estimated; None if it is unknown.
        columns: name of each column -> kind of its values; empty if rows are values without names.
        row: kind of a whole row.
    """

    n_rows: int | None
    columns: Mapping[str, Kind]
    row: Kind

    def named(self, *kinds: Kind) -> list[str]:
        return [name for name, kind in self.columns.items() if kind in kinds]


def read_fields(path: Path | str, format: str | None = None) -> InputFields:  # noqa: A002 - the name it has for users
    """Read the first rows of an input. Raises `InputError` if there are none, or they cannot be read."""
    try:
        source = open_source(path, columns=["*"], format=format)
        rows = _first_rows(source, path)
    except InputError as error:
        # Arrays, lines of text and JSON lines without objects have no columns.
        if error.key != "input.columns":
            raise
        source = open_source(path, format=format)
        rows = _first_rows(source, path)
        return InputFields(n_rows=source.estimate_rows(), columns={}, row=_kind_of_all(rows))
    # Rows of JSON lines may differ in their fields, and the first one need not have all of them.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _kind_of_all([row.get(name) for row in rows]) for name in names}
    return InputFields(n_rows=source.estimate_rows(), columns=columns, row="JSON")


def _first_rows(source: Source, path: Path | str) -> list[Any]:
    block = next(source.blocks(), None)
    if block is None:
        raise InputError(f"{path} holds no rows", key="input.path")
    return single_rows(take_rows(block.rows, slice(0, min(_LOOKED_AT, count_rows(block.rows)))))


def _kind_of_all(values: list[Any]) -> Kind:
    return next((_kind(value) for value in islice(values, _LOOKED_AT) if value is not None), "missing")


def _kind(value: Any) -> Kind:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, int | float | np.number):
        return "number"
    if isinstance(value, str | np.str_):
        return "text"
    if isinstance(value, np.ndarray | list) and len(value) and all(_kind(one) == "number" for one in value):
        return "vector"
    return "JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPaths:
    """The places of the values in an answer.

    Attributes:
        answers: JMESPath of the list of answers; None if the whole answer is the list, or belongs to the one row.
        outputs: name -> JMESPath inside one answer; empty if the answer itself is a number, a text or a list of them.
        json: outputs whose values have no fixed shape, and are kept as JSON text.
    """

    answers: str | None
    outputs: dict[str, str] = field(default_factory=dict)
    json: tuple[str, ...] = ()


def find_answers(document: Any, n_rows: int, *, one_row: bool) -> AnswerPaths | None:
    """Return the places of the values in an answer to ``n_rows`` rows; None if there is no list of so many answers.

    Args:
        document: the answer as JSON.
        n_rows: number of rows in the request, which should not be a length that occurs by chance.
        one_row: a request always carries one row, so that the whole document is its answer.
    """
    answers, item = None, document
    if not one_row:
        lists = [(path, one) for path, one in _lists(document) if len(one) == n_rows]
        # Such a server answers all rows with one object, and only its user knows where the rows are in it.
        if not lists:
            return None
        # A list deep inside may have as many items by chance, such as the tokens of one answer.
        path, items = min(lists, key=lambda pair: pair[0].count("."))
        answers, item = path or None, items[0]
    if not isinstance(item, dict):
        return AnswerPaths(answers=answers)
    leaves = list(_leaves(item))[:_MOST_OUTPUTS]
    names: dict[str, tuple[str, Any]] = {}
    for keys, value in leaves:
        # The field by which items state their row places them, and is no output.
        if keys == ("index",) and not one_row:
            continue
        # The shortest end of the path that is still free: two fields may have one name in different places.
        name = next(("_".join(keys[-n:]) for n in range(1, len(keys)) if "_".join(keys[-n:]) not in names), "")
        names[name or "_".join(keys)] = (_path(keys), value)
    return AnswerPaths(
        answers=answers,
        outputs={name: path for name, (path, _) in names.items()},
        json=tuple(name for name, (_, value) in names.items() if _shape(value) is None),
    )


def _lists(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(value, list):
        yield _path(keys), value
    elif isinstance(value, dict) and len(keys) < _DEEPEST:
        for key, inner in value.items():
            yield from _lists(inner, (*keys, key))


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value and len(keys) < _DEEPEST:
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, key))
    # A null shows no type.
    elif value is not None:
        yield keys, value


def _path(keys: tuple[str, ...]) -> str:
    return ".".join(key if _IDENTIFIER.fullmatch(key) else json.dumps(key, ensure_ascii=False) for key in keys)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a number, a text, or nested lists of them of equal lengths; None for any other value."""
    if isinstance(value, bool | int | float | str):
        return ()
    if not isinstance(value, list) or not value:
        return None
    # Lists of several lengths, or of texts and numbers, make no array: such an output is kept as JSON.
    shapes = {_shape(one) for one in value}
    kinds = {isinstance(one, str) for one in value}
    if len(shapes) != 1 or None in shapes or len(kinds) != 1:
        return None
    return (len(value), *(shapes.pop() or ()))
