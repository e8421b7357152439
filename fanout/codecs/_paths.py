"""Find the answers in a document, by a name or a JMESPath, and put items that state their row in row order.

Rerankers, for instance, sort their items by score, and each item has the index of its row. The same paths find the
units that an API counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from fanout._lazy import pattern
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError, InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

Finder: TypeAlias = Callable[[Any], Any]

BODY = "@"
"""The expression for the whole document."""

INDEX = "index"
"""The field that most APIs use: OpenAI, Cohere, Jina, Voyage, Text Embeddings Inference."""

POSITION = "position"
"""The ``order`` of answers that come in the order of the rows."""

_STEPS = pattern(r"(?:[A-Za-z_][A-Za-z0-9_]*|\[-?\d{1,9}\])(?:\.[A-Za-z_][A-Za-z0-9_]*|\[-?\d{1,9}\])*")
_STEP = pattern(r"([A-Za-z_][A-Za-z0-9_]*)|\[(-?\d+)\]")
PLAIN_FIELD = pattern(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST_COUNT = 2**53


class Path:
    """Finds the answers in a document.

    Raises `ConfigError` for an expression that is no JMESPath.

    Args:
        expression: a name, `BODY`, or any JMESPath.
        index: the field in which items state their row; empty: they are in row order.
        required: where the path finds a value of each item, all but one of the items have to state their row.
    """

    def __init__(self, expression: str, index: str, *, required: bool = False) -> None:
        self.expression = expression
        self.index = index
        # Functions compute with the numbers, which must be exact before.
        self.computes = False
        self._gives_items = True
        self._is_list = True
        self._search: Callable[[Any], Any] = _field(expression)
        if expression != BODY and not PLAIN_FIELD.fullmatch(expression):
            from fanout.codecs._jmespath import InPlace  # jmespath is imported for expressions alone

            search = InPlace(expression, index, "answers", required=required)
            self.computes, self._gives_items, self._search = search.computes, search.gives_items, search
            self._is_list = not search.projects

    @property
    def projects(self) -> bool:
        """True if it finds a value of each item, not the items themselves."""
        return not self._gives_items

    @property
    def of_texts(self) -> str:
        """The expression that finds each row as JSON text."""
        if self.expression == BODY:
            return "[*].to_string(@)"
        return f"{self.expression}{'[*]' if self._is_list else ''}.to_string(@)"

    def find(self, document: Any) -> tuple[Any, str]:
        """The answers, and the name of the field that only placed them, if there is one. Raises `Unfit`."""
        answers = self._search(document)
        if answers is None:
            raise Unfit(f"has nothing at {self.expression!r}")
        if not self._gives_items:
            return answers, ""
        return placed(answers, self.index)


class Items:
    """Finds the answers in a document, in the order of the rows. The arguments are options of `Json`."""

    def __init__(self, answers: str | None, order: str | None, *, one_row: bool) -> None:
        self.is_document = one_row and answers is None
        """The whole document is the only answer."""

        by_field = order is None or (PLAIN_FIELD.fullmatch(order) is not None and order != POSITION)
        index = (order or INDEX) if by_field else ""
        self.path = Path(answers or BODY, index, required=bool(index) and order is not None)
        self.order = None if order in (None, POSITION) else order
        self._index = None if self.order is None else finder(self.order, "order")

    def find(self, document: Any) -> tuple[Sequence[Any], str]:
        """The answers, and the field that has placed them; empty if none has. Raises `Unfit`."""
        if self.is_document:
            return [document], ""
        items, placed_by = self.path.find(document)
        if not isinstance(items, list):
            raise Unfit(f"has no list of answers at {self.path.expression!r}")
        if self._index is None:
            return items, placed_by
        # A projection, such as results[].score, has used the index of its items already.
        if not placed_by and not (self.path.projects and self.path.index):
            indices = [self._index(item) for item in items]
            assert self.order is not None
            # Rows without an index could be in any place, even if all others have theirs.
            if None in indices:
                raise unplaced(self.order)
            places = stated_order(indices, self.order)
            items = items if places is None else [items[i] for i in places]
        return items, placed_by


def in_row_order(items: Sequence[Mapping[str, Any]], field: str = INDEX) -> list[Mapping[str, Any]]:
    """Return the items of an answer in row order, for the `decode` of a codec.

    If no item has the ``field``, they stay as they are. If a single item lacks it, that item takes the row that is
    left. The client checks that there are as many items as rows.

    Raises:
        InvalidResponse: indices that are no whole numbers, come twice, or leave gaps.
    """
    try:
        order = order_of([item.get(field) for item in items])
    except Unfit as error:
        raise InvalidResponse(f"the answer {error.args[0]} (field {field!r} of its items)") from None
    return list(items) if order is None else [items[i] for i in order]


def order_of(indices: Sequence[Any]) -> list[int] | None:
    """The positions of the items for row 0, row 1, ...; None if they are in order, or have no index.

    Raises `Unfit` unless the indices are 0 to n - 1, each once; one may be missing.
    """
    n = len(indices)
    kinds = set(map(type, indices))
    # The common cases first, by a few operations in C: the items are in order, or in that of a reranker's scores.
    if kinds == {int}:
        if indices == (rows := list(range(n))):
            return None
        order = sorted(rows, key=indices.__getitem__)
        if [indices[i] for i in order] == rows:
            return order
    missing = [i for i, index in enumerate(indices) if index is None]
    if len(missing) == n:
        return None
    if not kinds <= {int, type(None)}:
        raise Unfit("has an index that is no whole number")
    if len(missing) > 1:
        raise Unfit(f"has no index in {len(missing)} of {n} items, though others have one")
    positions = {index: i for i, index in enumerate(indices) if index is not None}
    # Rows without an item: the one of the item without an index, or a gap.
    left = [row for row in range(n) if row not in positions]
    if len(left) != len(missing):
        twice = len(positions) < n - len(missing)
        raise Unfit(
            f"has no item with the index {left[0]}, though {n} came" + (": another comes twice" if twice else "")
        )
    positions.update(zip(left, missing, strict=True))
    return [positions[row] for row in range(n)]


def placed(items: Any, field: str) -> tuple[Any, str]:
    """``items`` in the order that their ``field`` states, and the field; unchanged, and "", where none states one.

    Raises `Unfit` where they state no order of 0 to n - 1.
    """
    # An item with nothing but an index is an answer, not a statement of its row.
    if not (field and type(items) is list and items and type(items[0]) is dict) or items[0].keys() == {field}:
        return items, ""
    try:
        indices = [item.get(field) for item in items]
    except AttributeError:  # some item is no object, which `_values` reports
        return items, ""
    if indices.count(None) == len(indices):
        return items, ""
    order = stated_order(indices, field)
    in_order = items if order is None else [items[i] for i in order]
    if None not in indices:
        return in_order, field
    # One item lacks the field. It gets it here, so that all have the same fields.
    return [item if item.get(field) == i else {**item, field: i} for i, item in enumerate(in_order)], field


def unplaced(field: str) -> Unfit:
    """The error for an item without the index that the user has named."""
    return Unfit(f"has an item without {field!r}, which states its row", error_kind="rows")


def stated_order(indices: Sequence[Any], field: str) -> list[int] | None:
    """`order_of`, with the remedy in the error for a ``field`` that is no index."""
    try:
        return order_of(indices)
    except Unfit as error:
        remedy = f'if {field!r} is a value of the model, set codec.order to "position"'
        raise Unfit(f"{error.args[0]} ({remedy})", error_kind="rows") from None


def finder(expression: object, key: str) -> Finder:
    """Return a function that finds a JMESPath inside one item, None where there is nothing; it raises `Unfit`.

    Raises `ConfigError` if ``expression`` is no JMESPath.
    """
    if not isinstance(expression, str) or not expression:
        raise ConfigError(f"{key} must be a path, not {expression!r}", key=key)
    if expression == BODY or PLAIN_FIELD.fullmatch(expression):
        return _field(expression)
    # Most paths are names and positions, which this follows in a tenth of the time that JMESPath takes.
    if _STEPS.fullmatch(expression):
        steps = [name or int(position) for name, position in _STEP.findall(expression)]
        return lambda item: _followed(item, steps)
    from fanout.codecs._jmespath import InPlace  # jmespath is imported for expressions alone

    return InPlace(expression, "", key, within_row=True)


def _followed(value: Any, steps: Sequence[Any]) -> Any:
    for step in steps:
        try:
            # A position in an object, or a name in a list, finds nothing.
            if type(value) is not (dict if type(step) is str else list):
                return None
            value = value[step]
        except (KeyError, IndexError):
            return None
    return value


def _field(name: str) -> Callable[[Any], Any]:
    if name == BODY:
        return lambda document: document
    return lambda document: document.get(name) if isinstance(document, dict) else None


class UsagePaths:
    """Name of a count -> JMESPath in the answer. Raises `ConfigError` for a path that is none."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        if not isinstance(paths, Mapping):
            raise ConfigError(f"usage must be a table of name = path, not {paths!r}", key="usage")
        self.paths = dict(paths)
        self._finders = {name: finder(path, f"usage.{name}") for name, path in paths.items()}

    def of(self, document: Any) -> dict[str, int]:
        """The counts in ``document``; those that it lacks are left out."""
        counts = {}
        for name, find in self._finders.items():
            try:
                value = find(document)
            except Unfit:  # an answer without a count is a valid one
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if type(value) is int and 0 <= value <= _LARGEST_COUNT:
                counts[name] = value
        return counts
