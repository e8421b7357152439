"""Where in a document the answers are: a name, or a JMESPath. Items that state their row are put in that order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fanout.codecs._values import Unfit
from fanout.codecs.ordering import order_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BODY = "@"
"""The whole document."""

PLAIN_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Path:
    """Finds the answers in a document.

    Args:
        expression: a name, `BODY`, or any JMESPath.
        index: the field of items that says which row one answers; empty: they are in order.

    Raises:
        ConfigError: no JMESPath.
    """

    def __init__(self, expression: str, index: str) -> None:
        self.expression = expression
        self.index = index
        self.computes = False
        """Functions see the numbers: these must then be exact before they are found."""
        self._gives_items = True
        self._is_list = True
        self._search: Callable[[Any], Any] = _field(expression)
        if expression != BODY and not PLAIN_FIELD.fullmatch(expression):
            from fanout.codecs._jmespath import InPlace  # jmespath is imported for expressions alone

            search = InPlace(expression, index)
            self.computes, self._gives_items, self._search = search.computes, search.gives_items, search
            self._is_list = not search.projects

    @property
    def of_texts(self) -> str:
        """The expression by which each row is found as JSON text."""
        if self.expression == BODY:
            return "[*].to_string(@)"
        return f"{self.expression}{'[*]' if self._is_list else ''}.to_string(@)"

    def found(self, document: Any) -> tuple[Any, str]:
        """The answers, and the name of the field that only placed them, if there is one. Raises `Unfit`."""
        answers = self._search(document)
        if answers is None:
            raise Unfit(f"has nothing at {self.expression!r}")
        if not self._gives_items:
            return answers, ""
        return placed(answers, self.index)


def placed(items: Any, field: str) -> tuple[Any, str]:
    """``items`` in the order that their ``field`` states, and the field; as they are, and "", where none states one.

    Raises `Unfit` where they state no order of 0 to n - 1.
    """
    if not (field and type(items) is list and items and type(items[0]) is dict) or items[0].keys() == {field}:
        return items, ""
    try:
        indices = [item.get(field) for item in items]
    except AttributeError:  # not all are objects, which is for others to refuse
        return items, ""
    if indices.count(None) == len(indices):
        return items, ""
    order = stated_order(indices, field)
    in_order = items if order is None else [items[i] for i in order]
    # One may lack the field: with it, all have the same fields.
    return [item if item.get(field) == i else {**item, field: i} for i, item in enumerate(in_order)], field


def stated_order(indices: Sequence[Any], field: str) -> list[int] | None:
    """See `order_of`. Raises `Unfit` with the remedy for a ``field`` that is no index."""
    try:
        return order_of(indices)
    except Unfit as error:
        remedy = f'if {field!r} is a value of the model, set codec.index_field to ""'
        raise Unfit(f"{error.args[0]} ({remedy})", error_kind="rows") from None


def _field(name: str) -> Callable[[Any], Any]:
    if name == BODY:
        return lambda document: document
    return lambda document: document.get(name) if isinstance(document, dict) else None
