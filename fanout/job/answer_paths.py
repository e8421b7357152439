"""Paths to the values in an answer: what ``fanout init`` writes as ``answers`` and ``outputs`` of the codec `json`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_OUTPUTS = 20
_DEEPEST = 6


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
        if not lists:
            return None
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
    shapes = {_shape(one) for one in value}
    kinds = {isinstance(one, str) for one in value}
    if len(shapes) != 1 or None in shapes or len(kinds) != 1:
        return None
    return (len(value), *(shapes.pop() or ()))
