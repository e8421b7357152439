"""JMESPath, less what moves values from one row to another.

A projection of JMESPath leaves nulls out, so that every value after one shifts by a row. Here each item keeps its
place, and the null makes the answer invalid. Lists are joined only where each row still has its own share.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import jmespath
from jmespath.exceptions import JMESPathError, JMESPathTypeError
from jmespath.visitor import TreeInterpreter

from fanout.codecs._paths import placed
from fanout.codecs._values import Unfit
from fanout.codecs.ordering import order_of
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROJECTIONS = ("projection", "filter_projection", "value_projection")
_LONGEST_KEY = 18
"""Digits: no answer has so many rows."""


class InPlace(TreeInterpreter):  # type: ignore[misc] # jmespath has no types
    """Searches documents for an expression. Items are put in the order that they state before one is looked into.

    Args:
        expression: a JMESPath.
        index: the field of items that states their row; empty: none does.

    Raises:
        ConfigError: no JMESPath.
    """

    def __init__(self, expression: str, index: str) -> None:
        super().__init__()
        self._expression = expression
        self._index = index
        self._tree = _tree(expression)
        self._depth = 0
        """0 where items may be the rows, more within one of them."""
        nodes = _nodes(self._tree)
        for node in nodes:
            # Of values that rows hold an index would be none of rows; and the index itself may be the answer.
            node["ordered"] = not (
                node["type"] in _PROJECTIONS and (_is_within_rows(node) or _takes_field(node, index))
            )
        for node in _chain(self._tree):
            node["rows"] = True
        self.computes = any(node["type"] == "function_expression" for node in nodes)
        self.projects = self._tree["type"] in _PROJECTIONS
        self.gives_items = not self.projects or self._tree["children"][1]["type"] == "identity"

    def __call__(self, document: Any) -> Any:
        """The part of ``document`` that the expression finds. Raises `Unfit`."""
        self._depth = 0
        try:
            return self.visit(self._tree, document)
        except Unfit:
            raise
        except (ValueError, TypeError, ArithmeticError) as error:
            raise Unfit(f"does not fit {self._expression!r} ({' '.join(str(error).split())})") from None

    def visit_projection(self, node: Any, value: Any) -> Any:
        """All items of a list."""
        base = self.visit(node["children"][0], value)
        return self._each(self._ordered(base, node), node["children"][1]) if isinstance(base, list) else None

    def visit_filter_projection(self, node: Any, value: Any) -> Any:
        """Those items of a list that meet a condition: all of them, where they are the rows."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        verdicts = self._each(base, node["children"][2])
        kept = [item for item, verdict in zip(base, verdicts, strict=True) if self._is_true(verdict)]
        if "rows" in node and len(kept) < len(base):
            raise Unfit(
                f"has {len(base) - len(kept)} of {len(base)} items that the filter in {self._expression!r} leaves out: "
                "the others would move to their rows",
                error_kind="rows",
            )
        return self._each(self._ordered(kept, node), node["children"][1])

    def visit_value_projection(self, node: Any, value: Any) -> Any:
        """All values of an object, in the order of its keys where these are numbers."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, dict):
            return None
        items = list(base.values())
        if not self._depth and all(key.isdecimal() and len(key) <= _LONGEST_KEY for key in base):
            order = order_of([int(key) for key in base])
            items = items if order is None else [items[i] for i in order]
        return self._each(items, node["children"][1])

    def visit_flatten(self, node: Any, value: Any) -> Any:
        """A list of lists as one list: of rows only if each has one value, within a row if each has as many."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        lengths = {len(item) if isinstance(item, list) else None for item in base}
        if lengths <= {None}:
            return base
        if None in lengths or len(lengths) > 1 or (not self._depth and lengths != {1}):
            raise Unfit(
                f"has lists of several values, which [] in {self._expression!r} joins, so that nothing shows whose "
                "they are: take [*] in place of [], or one value with an index, such as [0]",
                error_kind="shape",
            )
        return [inner for item in base for inner in item]

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        """What a function makes of its arguments."""
        given = [self.visit(child, value) for child in node["children"]]
        if node["value"] == "map" and isinstance(given[-1], list):
            given[-1] = self._ordered(given[-1], node)
        self._depth += 1
        try:
            return self._functions.call_function(node["value"], given)
        finally:
            self._depth -= 1

    def _ordered(self, items: list[Any], node: Any) -> list[Any]:
        return placed(items, self._index)[0] if node["ordered"] and not self._depth else items

    def _each(self, items: list[Any], node: Any) -> list[Any]:
        self._depth += 1
        try:
            return [self.visit(node, item) for item in items]
        finally:
            self._depth -= 1


def _tree(expression: str) -> Any:
    try:
        compiled = jmespath.compile(expression)
        compiled.search({})  # only a search finds functions that do not exist
    except JMESPathTypeError:
        pass  # of an answer the functions may make more than of nothing
    except JMESPathError as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"response_field is no JMESPath expression: {told}", key="response_field") from None
    return deepcopy(compiled.parsed)  # jmespath keeps it for the next who compiles the same


def _nodes(tree: Any) -> list[Any]:
    """A tree's nodes, itself included."""
    below = [child for child in tree["children"] if isinstance(child, dict)]  # a slice has numbers
    return [tree, *(node for child in below for node in _nodes(child))]


def _chain(tree: Any) -> Iterator[Any]:
    """The projections that one comes by from the result to the list that it is made of."""
    while tree["type"] in (*_PROJECTIONS, "flatten"):
        yield tree
        tree = tree["children"][0]


def _is_within_rows(projection: Any) -> bool:
    return any(node["type"] in _PROJECTIONS for node in _chain(projection["children"][0]))


def _takes_field(projection: Any, name: str) -> bool:
    each = projection["children"][1]
    return bool(each["type"] == "field" and each["value"] == name)
