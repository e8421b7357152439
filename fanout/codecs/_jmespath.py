"""JMESPath without the operations that move values from one row to another.

A projection of JMESPath leaves nulls out, so that every value after a null shifts by one row. Here each item keeps its
place, and the null makes the answer invalid. Lists are joined only where each row keeps its own values.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import jmespath
from jmespath.exceptions import JMESPathError, JMESPathTypeError
from jmespath.visitor import TreeInterpreter

from fanout.codecs._paths import order_of, placed, unplaced
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROJECTIONS = ("projection", "filter_projection", "value_projection")
# Digits of a row number: no answer has more rows.
_LONGEST_KEY = 18


class InPlace(TreeInterpreter):  # type: ignore[misc] # jmespath has no types
    """Search documents for an expression, after items that state their row have been put in row order.

    Raises `ConfigError` for an expression that is no JMESPath.

    Args:
        expression: a JMESPath.
        index: the field of items that states their row; empty: none does.
        key: the option that holds the expression, for messages.
        required: each item that a projection takes a value of has to state its row.
        within_row: the documents are items, each of one row, so that a filter or a join moves no value to another row.
    """

    def __init__(
        self, expression: str, index: str, key: str, *, required: bool = False, within_row: bool = False
    ) -> None:
        super().__init__()
        self._expression = expression
        self._index = index
        self._within_row = within_row
        self._tree = _tree(expression, key)
        # The tree is annotated once, for a search runs for every answer. A search keeps no state in the object, because
        # a large answer is searched on a helper thread while the event loop searches another.
        nodes = list(_annotated(self._tree, within_row=within_row))
        self.computes = any(node["type"] == "function_expression" for node in nodes)
        self.projects = self._tree["type"] in _PROJECTIONS
        self.gives_items = not self.projects or self._tree["children"][1]["type"] == "identity"
        for node in nodes:
            # An index within a row is no row number, and where the index is the answer it places nothing.
            node["ordered"] = not node["within_row"] and not (
                node["type"] in _PROJECTIONS
                and (
                    any(inner["type"] in _PROJECTIONS for inner in _chain(node["children"][0]))
                    or (node["children"][1]["type"], node["children"][1].get("value")) == ("field", index)
                )
            )
        for node in () if within_row else _chain(self._tree):
            node["rows"] = True
            node["required"] = required and not self.gives_items

    def __call__(self, document: Any) -> Any:
        """Return the part of ``document`` that the expression finds. Raises `Unfit`."""
        try:
            return self.visit(self._tree, document)
        except Unfit:
            raise
        except (ValueError, TypeError, ArithmeticError) as error:
            raise Unfit(f"does not fit {self._expression!r} ({' '.join(str(error).split())})") from None

    def visit_projection(self, node: Any, value: Any) -> Any:
        """Project all items of a list."""
        base = self.visit(node["children"][0], value)
        return self._each(self._ordered(base, node), node["children"][1]) if isinstance(base, list) else None

    def visit_filter_projection(self, node: Any, value: Any) -> Any:
        """Project the items that meet a condition. If the items are the rows, all of them have to meet it."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        # The condition sees the items before they are put in order, as in JMESPath itself.
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
        """Project the values of an object, in the order of its keys where these are numbers."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, dict):
            return None
        items = list(base.values())
        if not node["within_row"] and all(key.isdecimal() and len(key) <= _LONGEST_KEY for key in base):
            order = order_of([int(key) for key in base])
            items = items if order is None else [items[i] for i in order]
        return self._each(items, node["children"][1])

    def visit_flatten(self, node: Any, value: Any) -> Any:
        """Join a list of lists: of rows only if each has one value, within a row if all have equally many."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        if self._within_row:
            return [inner for item in base for inner in (item if isinstance(item, list) else [item])]
        lengths = {len(item) if isinstance(item, list) else None for item in base}
        if lengths <= {None}:
            return base
        # Lists of one length within a row keep their places when they are joined.
        if None in lengths or len(lengths) > 1 or (not node["within_row"] and lengths != {1}):
            raise Unfit(
                f"has lists of several values, which [] in {self._expression!r} joins, so that nothing shows whose "
                "they are: take [*] in place of [], or one value with an index, such as [0]",
                error_kind="shape",
            )
        return [inner for item in base for inner in item]

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        """Call a function."""
        arguments = [self.visit(child, value) for child in node["children"]]
        if node["value"] == "map" and isinstance(arguments[-1], list):
            arguments[-1] = self._ordered(arguments[-1], node)
        return self._functions.call_function(node["value"], arguments)

    def _ordered(self, items: list[Any], node: Any) -> list[Any]:
        if not node["ordered"]:
            return items
        in_order: list[Any]
        in_order, placed_by = placed(items, self._index)
        if node.get("required") and not placed_by:
            raise unplaced(self._index)
        return in_order

    def _each(self, items: list[Any], node: Any) -> list[Any]:
        return [self.visit(node, item) for item in items]


def _tree(expression: str, key: str) -> Any:
    try:
        compiled = jmespath.compile(expression)
        compiled.search({})  # only a search finds functions that do not exist
    except JMESPathTypeError:
        pass  # a function does not accept the empty object, but may accept an answer
    except JMESPathError as error:
        reason = " ".join(str(error).split())
        at = getattr(error, "lex_position", None)
        where = "" if at is None else f" at position {at}"
        raise ConfigError(f"{key} is no JMESPath expression{where}: {reason}", key=key) from None
    return deepcopy(compiled.parsed)  # jmespath caches the tree, and `InPlace` writes into it


def _annotated(tree: Any, *, within_row: bool) -> Iterator[Any]:
    """All nodes of a tree, its root included, marked with whether they see a part of a row or the whole document."""
    tree["within_row"] = within_row
    yield tree
    # The first child of a projection is its base; the others, and the expression for a function, see single items.
    of_items = tree["type"] == "expref"
    for place, child in enumerate(tree["children"]):
        if isinstance(child, dict):  # the children of a slice are numbers
            sees_item = of_items or (place > 0 and tree["type"] in _PROJECTIONS)
            yield from _annotated(child, within_row=within_row or sees_item)


def _chain(tree: Any) -> Iterator[Any]:
    """The projections between the result and the list that it is made of."""
    while tree["type"] in (*_PROJECTIONS, "flatten"):
        yield tree
        tree = tree["children"][0]
