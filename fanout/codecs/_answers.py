"""Answers of any shape: a path to their list, a path to each output inside one of them, and their order.

Every path is a JMESPath. Outputs are evaluated inside one item at a time, so that no value moves to another row.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from fanout._escape import shortened
from fanout.codecs import _values
from fanout.codecs._options import output_dtype, output_shape
from fanout.codecs._paths import BODY, INDEX, PLAIN_FIELD, Path, finder, order_of, stated_order
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.exact_json import loads
from fanout.types import TensorSpec

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic, which makes the schema of job files, takes this one alone
    from typing_extensions import TypedDict

if TYPE_CHECKING:
    from fanout.types import Array, Values

POSITION = "position"
"""The ``order`` of answers that come in the order of the rows."""

_JSON = "json"
_LONGEST = 300
_FENCED = re.compile(r"\s*```\w*[ \t]*\n(.*)\n?```\s*", re.DOTALL)
# Fields that say why an item is refused.
_WORDS = ("message", "reason", "error", "detail")
_STRING = np.dtypes.StringDType()


class OutputOptions(TypedDict, total=False):
    """One output of an answer."""

    path: str
    type: str
    shape: Sequence[int | None]
    null: Literal["fail", "keep"]
    order: str


class Output:
    """One output: its path inside an item, its dtype and shape.

    Args:
        name: name of the output.
        given: a JMESPath, or a table of `OutputOptions`.
        default: the dtype and shape of the codec's options.

    Raises:
        ConfigError: a path or an option that cannot be used.
    """

    def __init__(self, name: str, given: object, default: TensorSpec) -> None:
        key = f"outputs.{name}"
        options = {"path": given} if isinstance(given, str) else given
        if not isinstance(options, Mapping) or "path" not in options:
            raise ConfigError(f"{key} must be a path, or a table with a path, not {given!r}", key=key)
        if unknown := [option for option in options if option not in OutputOptions.__annotations__]:
            known = ", ".join(OutputOptions.__annotations__)
            raise ConfigError(f"{key} has no key {unknown[0]!r}; its keys are {known}", key=f"{key}.{unknown[0]}")
        self.path = options["path"]
        self._value = finder(self.path, key)
        self.order = options.get("order")
        self._indices = None if self.order is None else finder(self.order, f"{key}.order")
        kind, null = options.get("type"), options.get("null", "fail")
        if null not in ("fail", "keep"):
            raise ConfigError(f'{key}.null must be "fail" or "keep", not {null!r}', key=f"{key}.null")
        self.keeps_null = null == "keep"
        self.is_json = kind == _JSON
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

    def column(self, items: Sequence[Any]) -> list[Any]:
        """The value of each item. Raises `Unfit` for the first item without one."""
        values = [self._value(item) for item in items]
        if self._indices is not None:
            values = [value if value is None else self._in_order(value, items[i], i) for i, value in enumerate(values)]
        if not self.keeps_null and None in values:
            raise Unfit(f"has nothing at {self.path!r}", row=next(i for i, value in enumerate(values) if value is None))
        if self.is_json:
            return [_json_text(value) for value in values]
        if self.spec.dtype is not None and self.spec.dtype.kind == "T":
            return ["" if value is None else value for value in values]
        return values

    def _in_order(self, value: Any, item: Any, row: int) -> list[Any]:
        """The list ``value`` in the order of its indices. Rerankers put the best document first, for instance."""
        assert self._indices is not None
        indices = self._indices(item)
        # Here a list without indices has no order, other than for the items of a whole answer.
        if not isinstance(value, list) or not isinstance(indices, list) or None in indices:
            raise Unfit(f"has no index at {self.order!r} for every value at {self.path!r}", row=row)
        if len(indices) != len(value):
            raise Unfit(f"has {len(indices)} indices at {self.order!r} for {len(value)} values", row=row)
        try:
            places = order_of(indices)
        except Unfit as error:
            raise Unfit(f"{error.args[0]} (at {self.order!r})", row=row, error_kind="rows") from None
        return value if places is None else [value[i] for i in places]


class Answers:
    """Reads the answers of a document.

    Args:
        answers: path to the list; None: the document is the list, or the only answer (``one_row``).
        outputs: name -> path, or `OutputOptions`.
        order: ``"position"``, or the path of the row's index in an item; None: ``index``, where items have it.
        parse: path to a text in an item, whose JSON takes the item's place.
        fail_when: path; where it finds something that is true, the row is refused.
        one_row: one request carries one row.
        spec_of: the dtype and shape that the codec's options give an output.
        keep: accept numbers that overflow their dtype.

    Raises:
        ConfigError: an option that cannot be used.
    """

    def __init__(
        self,
        answers: str | None,
        outputs: Mapping[str, Any],
        order: str | None,
        parse: str | None,
        fail_when: str | None,
        *,
        one_row: bool,
        spec_of: Callable[[str], TensorSpec],
        keep: bool,
    ) -> None:
        self.is_item = one_row and answers is None
        self.path = answers or BODY
        by_field = order is None or (PLAIN_FIELD.fullmatch(order) is not None and order != POSITION)
        self.list_path = Path(self.path, (order or INDEX) if by_field else "", key="answers")
        self.order = None if order in (None, POSITION) else order
        self._index = None if self.order is None else finder(self.order, "order")
        if not isinstance(outputs, Mapping):
            raise ConfigError(f"outputs must be a table of name = path, not {outputs!r}", key="outputs")
        self.outputs = {name: Output(name, given, spec_of(name)) for name, given in outputs.items()}
        self.parse = parse
        self._parsed = None if parse is None else finder(parse, "parse")
        self._fails = None if fail_when is None else finder(fail_when, "fail_when")
        self._fail_when = fail_when
        self._spec_of = spec_of
        self._keep = keep
        self._wanted_of = {
            name: _values.Wanted(output.spec.dtype, keep=keep, nulls=output.keeps_null)
            for name, output in self.outputs.items()
        }
        self.computes = self.list_path.computes or any(output.computes for output in self.outputs.values())
        """Values are computed or kept as text, so that integers have to be parsed exactly."""

        self.keeps_null = any(output.keeps_null for output in self.outputs.values())

    def values(self, document: Any, n_rows: int) -> Array | Values:
        """The values of all rows, in their order. Raises `Unfit`."""
        items, placed_by = self._items(document)
        if len(items) != n_rows:
            raise Unfit(f"has {len(items)} answers for {n_rows} rows", error_kind="rows")
        if (refused := self.refusal(document, items)) is not None:
            raise Unfit(f"is refused by the server: {refused}")
        if self._parsed is not None:
            items = [self._json_in(item, i) for i, item in enumerate(items)]
        if self.outputs:
            return _values.outputs(self._columns(items), self._wanted)
        values = _values.outputs(items, self._wanted)
        if isinstance(values, Mapping) and placed_by and self._parsed is None:
            return {name: array for name, array in values.items() if name != placed_by}
        return values

    def refusal(self, document: Any, items: Sequence[Any] | None = None) -> str | None:
        """Why the server refuses the rows of an answer, in its own words; None if it does not."""
        if self._fails is None:
            return None
        if items is None:
            try:
                items = self._items(document)[0]
            except Unfit:
                items = ()
        for item in (document, *([] if self.is_item else items)):
            try:
                value = self._fails(item)
            except Unfit:
                continue
            if value:
                return self._words(value, item)
        return None

    def _words(self, value: Any, item: Any) -> str:
        words = value
        if not isinstance(value, str):
            found = [item[name] for name in _WORDS if isinstance(item, Mapping) and isinstance(item.get(name), str)]
            words = found[0] if found else f"{self._fail_when} is {_json_text(value)}"
        return shortened(" ".join(words.split()), _LONGEST)

    def _items(self, document: Any) -> tuple[Sequence[Any], str]:
        if self.is_item:
            return [document], ""
        items, placed_by = self.list_path.find(document)
        if not isinstance(items, list):
            raise Unfit(f"has no list of answers at {self.path!r}")
        if self._index is None:
            return items, placed_by
        # A projection, such as results[].score, has used the index of its items already.
        if not placed_by and not (self.list_path.projects and self.list_path.index):
            indices = [self._index(item) for item in items]
            assert self.order is not None
            if None in indices:
                raise Unfit(f"has an item without {self.order!r}, which states its row", error_kind="rows")
            places = stated_order(indices, self.order)
            items = items if places is None else [items[i] for i in places]
        return items, placed_by

    def _columns(self, items: Sequence[Any]) -> dict[str, list[Any]]:
        columns = {}
        for name, output in self.outputs.items():
            try:
                columns[name] = output.column(items)
            except Unfit as error:
                message = f"of {name!r} {error.args[0]}"
                raise Unfit(message, row=error.row, error_kind=error.error_kind) from None
        return columns

    def _wanted(self, name: str) -> _values.Wanted:
        return self._wanted_of.get(name) or _values.Wanted(self._spec_of(name).dtype, keep=self._keep)

    def _json_in(self, item: Any, row: int) -> Any:
        assert self._parsed is not None
        text = self._parsed(item)
        if not isinstance(text, str):
            raise Unfit(f"has no text at {self.parse!r}", row=row)
        try:
            return loads(unfenced(text).encode())
        except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
            shown = shortened(" ".join(text.split()), _LONGEST)
            raise Unfit(f"has a text at {self.parse!r} that is not JSON ({error}): {shown}", row=row) from None


def unfenced(text: str) -> str:
    """The text within a code block of Markdown, into which models put JSON; any other text as it is."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text


def _json_text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
