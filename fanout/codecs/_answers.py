"""Answers of any shape: the path to their list, their order, refusals among them, and the outputs inside each.

Every path is a JMESPath. Outputs are evaluated inside one item at a time, so that no value moves to another row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._escape import shortened
from fanout._lazy import pattern
from fanout.codecs._numbers import PlacedNumbersReader
from fanout.codecs._options import OutputOptions, output_dtype, output_shape, require_keys, spec_for
from fanout.codecs._paths import BODY, PLAIN_FIELD, Items, finder, order_of
from fanout.codecs._rows import json_text
from fanout.codecs._values import Unfit, Wanted, array, outputs
from fanout.errors import ConfigError
from fanout.exact_json import loads
from fanout.types import TensorSpec

if TYPE_CHECKING:
    from fanout.codecs._typed import TypedAnswers
    from fanout.types import Array, Values

_JSON = "json"
_STRING = np.dtypes.StringDType()
_LONGEST = 300
# Only a block around the whole text: one inside an explanation may be an example, and not the answer.
_FENCED = pattern(r"\s*```\w*[ \t]*\n(.*)\n?```\s*", re.DOTALL)
# Fields that say why an item is refused.
_WORDS = ("message", "reason", "error", "detail")


class Output:
    """One output: its path inside an item, or a table of `OutputOptions`, and its dtype and shape by ``default``."""

    def __init__(self, name: str, given: object, default: TensorSpec) -> None:
        key = f"outputs.{name}"
        options = {"path": given} if isinstance(given, str) else given
        if not isinstance(options, Mapping) or "path" not in options:
            raise ConfigError(f"{key} must be a path, or a table with a path, not {given!r}", key=key)
        require_keys(key, options, OutputOptions.__annotations__)
        self.path = options["path"]
        self._value = finder(self.path, key)
        self._projects = bool(getattr(self._value, "projects", False))
        self._field = self.path if PLAIN_FIELD.fullmatch(self.path) else None
        self.order = options.get("order")
        self._indices = None if self.order is None else finder(self.order, f"{key}.order")
        kind, null = options.get("type"), options.get("null", "fail")
        if null not in ("fail", "keep"):
            raise ConfigError(f'{key}.null must be "fail" or "keep", not {null!r}', key=f"{key}.null")
        self.keeps_null = null == "keep"
        self.is_json = kind == _JSON
        # Numbers that are kept as text, or computed with, may have more digits than a float.
        self.computes = self.is_json or bool(getattr(self._value, "computes", False))
        dtype = _STRING if self.is_json else output_dtype(kind, f"{key}.type") if kind is not None else default.dtype
        shape = output_shape(options.get("shape"), f"{key}.shape")
        self.spec = TensorSpec(dtype=dtype, shape=() if self.is_json else default.shape if shape is None else shape)
        if self.keeps_null and (dtype is None or dtype.kind not in "fT"):
            raise ConfigError(
                f'{key}.null = "keep" needs a type that has a place for null: a float ("float32": NaN), "str" (an '
                'empty text) or "json"',
                key=f"{key}.null",
            )

    @property
    def number_field(self) -> str | None:
        """The field that holds one float for each item, if that is all."""
        dtype = self.spec.dtype
        is_float = dtype is not None and dtype.kind == "f" and self.spec.shape in (None, ())
        return self._field if is_float and not self.keeps_null and self.order is None else None

    def column(self, items: Sequence[Any]) -> list[Any]:
        """The value of each item. Raises `Unfit` for the first item without one."""
        values = self._values(items)
        if self._indices is not None:
            values = [value if value is None else self._in_order(value, items[i], i) for i, value in enumerate(values)]
        if not self.keeps_null and None in values:
            raise Unfit(f"has nothing at {self.path!r}", row=next(i for i, value in enumerate(values) if value is None))
        if self._projects and not self.keeps_null:
            # A projection keeps the place of each item, so that null in its list is a missing value as well.
            for i, value in enumerate(values):
                if type(value) is list and None in value:
                    raise Unfit(f"has nothing at {self.path!r} in one of {len(value)} items", row=i)
        if self.is_json:
            return [json_text(value) for value in values]
        if self.spec.dtype is not None and self.spec.dtype.kind == "T":
            return ["" if value is None else value for value in values]
        return values

    def _values(self, items: Sequence[Any]) -> list[Any]:
        if self._field is not None:
            with suppress(KeyError, TypeError):  # nearly every item has the field, which is quickest taken like this
                return [item[self._field] for item in items]
        return [self._value(item) for item in items]

    def _in_order(self, value: Any, item: Any, row: int) -> list[Any]:
        """The list ``value`` in the order of its indices. Rerankers put the best document first, for instance."""
        assert self._indices is not None
        indices = self._indices(item)
        # Here a list without indices has no order, other than for the items of a whole answer.
        if not isinstance(value, list) or not isinstance(indices, list) or None in indices:
            raise Unfit(f"has no index at {self.order!r} for every value at {self.path!r}", row=row)
        if len(indices) != len(value):
            raise Unfit(f"has {len(indices)} indices at {self.order!r} for {len(value)} values", row=row)
        # A projection keeps the place of an item without a value: servers in Rust write a score of NaN as null.
        if not self.keeps_null and None in value:
            raise Unfit(f"has nothing at {self.path!r} for the index {indices[value.index(None)]!r}", row=row)
        try:
            places = order_of(indices)
        except Unfit as error:
            raise Unfit(f"{error.args[0]} (at {self.order!r})", row=row, error_kind="rows") from None
        return value if places is None else [value[i] for i in places]


class Outputs:
    """Reads the outputs of all answers.

    Args:
        given: name -> path, or `OutputOptions`; empty: the answers themselves are the values.
        specs: the dtypes and shapes of the codec's options, by output.
        keep: accept numbers that overflow their dtype.
    """

    def __init__(self, given: Mapping[str, Any], specs: Mapping[str, TensorSpec], *, keep: bool) -> None:
        if not isinstance(given, Mapping):
            raise ConfigError(f"outputs must be a table of name = path, not {given!r}", key="outputs")
        self.by_name = {name: Output(name, one, spec_for(specs, name)) for name, one in given.items()}
        self._wanted_of = {
            name: Wanted(output.spec.dtype, keep=keep, nulls=output.keeps_null) for name, output in self.by_name.items()
        }
        self._specs = specs
        self._keep = keep
        self.computes = any(output.computes for output in self.by_name.values())
        self.keeps_null = any(output.keeps_null for output in self.by_name.values())

    def read(self, items: Sequence[Any]) -> Array | Values:
        """The values of all items. Raises `Unfit`."""
        if self.by_name.keys() == {""}:
            return array(self.by_name[""].column(items), self._wanted_of[""])
        return outputs(self._columns(items) if self.by_name else items, self.wanted)

    def _columns(self, items: Sequence[Any]) -> dict[str, list[Any]]:
        columns = {}
        for name, output in self.by_name.items():
            try:
                columns[name] = output.column(items)
            except Unfit as error:
                message = f"of {name!r} {error.args[0]}"
                raise Unfit(message, row=error.row, error_kind=error.error_kind) from None
        return columns

    def wanted(self, name: str) -> Wanted:
        """The dtype of an output, and the values that it may have."""
        return self._wanted_of.get(name) or Wanted(spec_for(self._specs, name).dtype, keep=self._keep)


class Answers:
    """Reads the answers of a document. Raises `ConfigError` for an option that cannot be used, as its parts do.

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
