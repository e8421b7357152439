"""Outputs of an answer: the path of each inside one item, its dtype and shape, and its values in all items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.codecs import _values
from fanout.codecs._options import OutputOptions, output_dtype, output_shape, require_keys, spec_for
from fanout.codecs._paths import PLAIN_FIELD, finder, order_of
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.types import TensorSpec

if TYPE_CHECKING:
    from fanout.types import Array, Values

_JSON = "json"
_STRING = np.dtypes.StringDType()


class Output:
    """One output: its path inside an item, or a table of `OutputOptions`, and its dtype and shape by ``default``.

    Raises `ConfigError` for a path or an option that cannot be used.
    """

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

    Raises `ConfigError` for an option that cannot be used.

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
            name: _values.Wanted(output.spec.dtype, keep=keep, nulls=output.keeps_null)
            for name, output in self.by_name.items()
        }
        self._specs = specs
        self._keep = keep
        self.computes = any(output.computes for output in self.by_name.values())
        self.keeps_null = any(output.keeps_null for output in self.by_name.values())

    def read(self, items: Sequence[Any]) -> Array | Values:
        """The values of all items. Raises `Unfit`."""
        if self.by_name.keys() == {""}:
            return _values.array(self.by_name[""].column(items), self._wanted_of[""])
        return _values.outputs(self._columns(items) if self.by_name else items, self.wanted)

    def _columns(self, items: Sequence[Any]) -> dict[str, list[Any]]:
        columns = {}
        for name, output in self.by_name.items():
            try:
                columns[name] = output.column(items)
            except Unfit as error:
                message = f"of {name!r} {error.args[0]}"
                raise Unfit(message, row=error.row, error_kind=error.error_kind) from None
        return columns

    def wanted(self, name: str) -> _values.Wanted:
        """The dtype of an output, and the values that it may have."""
        return self._wanted_of.get(name) or _values.Wanted(spec_for(self._specs, name).dtype, keep=self._keep)


def json_text(value: Any) -> str:
    """``value`` as JSON text."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
