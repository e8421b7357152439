"""Answers of any shape: the path to their list, their order, refusals among them, and the outputs inside each.

Every path is a JMESPath. Outputs are evaluated inside one item at a time, so that no value moves to another row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from fanout._escape import shortened
from fanout.codecs._numbers import PlacedNumbersReader
from fanout.codecs._outputs import Outputs, json_text
from fanout.codecs._paths import BODY, INDEX, PLAIN_FIELD, Path, finder, stated_order, unplaced
from fanout.codecs._values import Unfit
from fanout.exact_json import loads

if TYPE_CHECKING:
    from fanout.codecs._typed import TypedAnswers
    from fanout.types import Array, Values

POSITION = "position"
"""The ``order`` of answers that come in the order of the rows."""

_LONGEST = 300
# Only a block around the whole text: one inside an explanation may be an example, and not the answer.
_FENCED = re.compile(r"\s*```\w*[ \t]*\n(.*)\n?```\s*", re.DOTALL)
# Fields that say why an item is refused.
_WORDS = ("message", "reason", "error", "detail")


class Items:
    """Finds the answers in a document, in the order of the rows. The arguments are options of `Json`."""

    def __init__(self, answers: str | None, order: str | None, *, one_row: bool) -> None:
        self.is_document = one_row and answers is None
        """The whole document is the only answer."""

        by_field = order is None or (PLAIN_FIELD.fullmatch(order) is not None and order != POSITION)
        index = (order or INDEX) if by_field else ""
        self.path = Path(answers or BODY, index, key="answers", required=bool(index) and order is not None)
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


class Answers:
    """Reads the answers of a document.

    Raises `ConfigError` for an option that cannot be used.

    Args:
        items: finds them.
        outputs: the values that are read from each.
        parse, fail_when: options of `Json`.
        typed: reads the text at ``parse`` in place of ``outputs``.
    """

    def __init__(
        self,
        items: Items,
        outputs: Outputs,
        parse: str | None,
        fail_when: str | None,
        typed: TypedAnswers | None = None,
    ) -> None:
        self.items = items
        self.outputs = outputs
        self.parse = parse
        self.typed = typed
        self._parsed = None if parse is None else finder(parse, "parse")
        self._fail_when = fail_when
        self._refusal = None if fail_when is None else finder(fail_when, "fail_when")
        self.computes = items.path.computes or outputs.computes
        """Values are computed or kept as text, so that integers have to be parsed exactly."""

        # The options that only `values` reads: without them, a list can be read by itself.
        self.are_plain = not (items.is_document or outputs.by_name or parse or fail_when or items.order)
        """The answers are the values at their path."""

    def placed_numbers(self) -> PlacedNumbersReader | None:
        """A quick reader of answers that are one number in each of a list of items; None where they are others."""
        path, output = self.items.path, self.outputs.by_name.get("")
        plain = path.expression == BODY or PLAIN_FIELD.fullmatch(path.expression) is not None
        if not plain or not path.index or self.items.is_document or self.parse or self._refusal:
            return None
        if output is None or len(self.outputs.by_name) > 1 or output.number_field is None:
            return None
        assert output.spec.dtype is not None
        field = None if path.expression == BODY else path.expression
        return PlacedNumbersReader(field, path.index, output.number_field, output.spec.dtype)

    def values(self, document: Any, n_rows: int) -> Array | Values:
        """The values of all rows, in their order. Raises `Unfit`."""
        items, placed_by = self.items.find(document)
        if len(items) != n_rows:
            raise Unfit(f"has {len(items)} answers for {n_rows} rows", error_kind="rows")
        if (refused := self.refusal(document, items)) is not None:
            raise Unfit(f"is refused by the server: {refused}")
        if self.typed is not None:
            return self.typed.arrays(self._text_in(items[0], 0), {})  # of the only row
        if self._parsed is not None:
            # After the check of their number: the text of one item never becomes the answers of several rows.
            items = [self._json_in(item, i) for i, item in enumerate(items)]
        values = self.outputs.read(items)
        if placed_by and self._parsed is None and not self.outputs.by_name and isinstance(values, Mapping):
            return {name: array for name, array in values.items() if name != placed_by}
        return values

    def refusal(self, document: Any, items: Sequence[Any] | None = None) -> str | None:
        """Why the server refuses the rows of an answer, in its own words; None if it does not."""
        if self._refusal is None:
            return None
        if items is None:
            try:
                items = self.items.find(document)[0]
            except Unfit:
                items = ()
        for item in (document, *([] if self.items.is_document else items)):
            try:
                # A path that does not suit one shape of answers, such as that of an error, refuses nothing.
                value = self._refusal(item)
            except Unfit:
                continue
            if value:
                return shortened(" ".join(self._words(value, item).split()), _LONGEST)
        return None

    def _words(self, value: Any, item: Any) -> str:
        if isinstance(value, str):
            return value
        found = [item[name] for name in _WORDS if isinstance(item, Mapping) and isinstance(item.get(name), str)]
        # A flag such as `blocked: true` has no words of its own, so that the item's are taken.
        return found[0] if found else f"{self._fail_when} is {json_text(value)}"

    def _text_in(self, item: Any, row: int) -> str:
        assert self._parsed is not None
        text = self._parsed(item)
        if not isinstance(text, str):
            raise Unfit(f"has no text at {self.parse!r}", row=row)
        return text

    def _json_in(self, item: Any, row: int) -> Any:
        text = self._text_in(item, row)
        try:
            return loads(unfenced(text).encode())
        except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
            shown = shortened(" ".join(text.split()), _LONGEST)
            raise Unfit(f"has a text at {self.parse!r} that is not JSON ({error}): {shown}", row=row) from None


def unfenced(text: str) -> str:
    """The text within a code block of Markdown, into which models put JSON; any other text as it is."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text
