"""Make arrays of parsed JSON, after a check of every type.

numpy alone would turn null into NaN, "2" into 2 and true into 1 without an error. `array` is the exact way; a faster
reader may come first, if it leaves whatever it does not take to `array`.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import chain, islice
from math import isfinite, nan, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout._escape import is_unicode, shortened
from fanout.rows import exact_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fanout.types import Array, ErrorKind, Values

# Beyond it two integers can be the same float64, so a number may have been rounded by the server already.
_EXACT = 2**53
_MOST_AXES = 64
# Each column becomes an array, which takes many times the bytes of a short field.
_MOST_COLUMNS = 4096
_MOST_NAMED = 20
_LONGEST_NAME = 100
_LONGEST_SHOWN = 40
_MOST_DIGITS = 20
_TEXT = np.dtypes.StringDType()
_FLOAT = np.dtype(np.float64)
_JSON_NAMES = {
    bool: "true or false", int: "a number", float: "a number", Decimal: "a number", str: "a text", type(None): "null",
    list: "a list", tuple: "a list", dict: "an object",
}  # fmt: skip


class Unfit(ValueError):  # noqa: N818 - the caller makes an error of `fanout.errors` of it
    """No array holds these values as they are. ``row`` is the first one at fault, where there is one."""

    def __init__(
        self,
        why: str,
        *,
        row: int | None = None,
        error_kind: ErrorKind = "content",
        lengths: Mapping[int, int] | None = None,
        answer: str | None = None,
    ) -> None:
        super().__init__(why)
        self.row = row
        self.error_kind = error_kind
        self.lengths = lengths
        """Length -> number of lists of that length, where all should have the same."""

        self.answer = answer
        """The text of a model, where that is at fault."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.row is None else f"row {self.row} {self.args[0]}"


class MayBeRounded(Exception):  # noqa: N818 - a request to parse again, not an error
    """Floats came for integers. Only their text, as `Decimal`, shows whether they are exactly these integers."""


class Wanted(NamedTuple):
    """The dtype of an array, and the values that it accepts."""

    dtype: np.dtype[Any] | None = None
    """None: float64 for numbers, bool for true and false, StringDType for texts."""

    keep: bool = False
    """Accept numbers that overflow the dtype, as infinity."""

    nulls: bool = False
    """Accept null among floats, as NaN."""

    whole: bool = False
    """Without a dtype, make int64 (uint64 if necessary) of values that are all integers."""


def outputs(value: object, wanted: Callable[[str], Wanted]) -> Array | Values:
    """An array for a list of rows; name -> array for a list of objects, or for an object of columns.

    ``wanted`` gives the `Wanted` of each name (``""`` for the bare list). Raises `Unfit`.
    """
    if isinstance(value, dict):
        return _columns(value, wanted)
    if not isinstance(value, list):
        raise Unfit(f"holds {_json_name(type(value))} where a list of rows is wanted")
    # Other rows than the first are checked where the columns are made.
    if value and type(value[0]) is dict:
        return _columns(_transposed(value), wanted)
    return array(value, wanted(""))


def array(values: Sequence[Any], wanted: Wanted) -> Array:
    """The array of nested lists; first axis: the rows. Whole numbers become integers, and floats are rounded, to dtype.

    Raises:
        Unfit: null, mixed types, ragged nesting, or numbers that the dtype does not hold.
        MayBeRounded: integers are wanted, and some of ``values`` are floats.
    """
    flat, shape = _flattened(values)
    if not flat:
        return np.empty(shape, wanted.dtype or _FLOAT)
    try:
        return _from_flat(flat, wanted).reshape(shape)
    except Unfit as error:
        if error.row is not None:
            error.row //= prod(shape[1:])  # it was the position in the flat list
        raise


def text_array(flat: Sequence[str]) -> Array:
    """A StringDType array of texts. Raises `Unfit` for a text with half of a surrogate pair."""
    try:
        return np.array(flat, _TEXT)
    except UnicodeEncodeError:
        i = next(i for i, text in enumerate(flat) if not is_unicode(text))
        raise Unfit("holds half of a surrogate pair, which is no text", row=i) from None


def _columns(columns: Mapping[str, Any], wanted: Callable[[str], Wanted]) -> dict[str, Array]:
    if not columns or not all(isinstance(column, list) for column in columns.values()):
        fields = _listed(columns)
        raise Unfit(f"holds an object with the fields {fields}, not all of them lists, where rows are wanted")
    if len(columns) > _MOST_COLUMNS:
        raise Unfit(f"holds an object with {len(columns):,} fields: more than {_MOST_COLUMNS:,} are not taken")
    arrays = {}
    # A column has rows too, so that each column is checked as a list of rows.
    for name, column in columns.items():
        try:
            arrays[name] = array(column, wanted(name))
        except Unfit as error:
            message = f"of {name[:_LONGEST_NAME]!r} {error.args[0]}"
            raise Unfit(message, row=error.row, error_kind=error.error_kind, lengths=error.lengths) from None
    return arrays


def _transposed(rows: list[Any]) -> dict[str, list[Any]]:
    """A list of objects as an object of lists."""
    keys = rows[0].keys()
    for i, row in enumerate(rows):
        if type(row) is not dict:
            raise Unfit(f"holds {_json_name(type(row))} where others hold an object", row=i)
        if row.keys() != keys:
            raise Unfit(f"has the fields {_listed(row)}, row 0 has {_listed(keys)}", row=i)
    return {key: [row[key] for row in rows] for key in keys}


def _listed(names: Iterable[str]) -> str:
    """Some names for a message, shortened because a server chooses them."""
    names = sorted(name[:_LONGEST_NAME] for name in islice(names, _MOST_NAMED + 1))
    return f"{names[:_MOST_NAMED]}" + (" and more" if len(names) > _MOST_NAMED else "")


def _flattened(values: Sequence[Any]) -> tuple[Sequence[Any], list[int]]:
    """The innermost values in row-major order, and the shape that the nesting makes."""
    flat, shape = values, [len(values)]
    # One level of nesting after the other, in C: a recursion would visit every value.
    while flat and isinstance(flat[0], list | tuple):
        _check_nesting(flat, prod(shape[1:]))
        shape.append(len(flat[0]))
        if len(shape) > _MOST_AXES:
            raise Unfit(f"is nested more than {_MOST_AXES} deep", row=0)
        flat = list(chain.from_iterable(flat))
    return flat, shape


def _check_nesting(lists: Sequence[Any], per_row: int) -> None:
    if not set(map(type, lists)) <= {list, tuple}:
        i, odd = next((i, item) for i, item in enumerate(lists) if not isinstance(item, list | tuple))
        raise Unfit(f"holds {_json_name(type(odd))} where others hold a list", row=i // per_row)
    if len(set(map(len, lists))) > 1:
        length, lengths = len(lists[0]), Counter(map(len, lists))
        i, odd = next((i, item) for i, item in enumerate(lists) if len(item) != length)
        message = f"is ragged: it has {len(odd)} values where row 0 has {length}"
        raise Unfit(message, row=i // per_row, error_kind="shape", lengths=lengths)


def _from_flat(flat: Sequence[Any], wanted: Wanted) -> Array:
    types = set(map(type, flat))
    dtype = wanted.dtype
    # MLServer writes NaN as null.
    if wanted.nulls and type(None) in types and (dtype is None or dtype.kind == "f"):
        flat = [nan if value is None else value for value in flat]
        types = set(map(type, flat))
    allowed = _allowed(flat[0], dtype)
    # One look at the set of types instead of one at each value: this runs for every answer.
    if not types <= allowed:
        i, odd = next((i, value) for i, value in enumerate(flat) if type(value) not in allowed)
        # The message names the dtype, or the kind of the first value where no dtype was given.
        wish = f"{dtype} was asked for" if dtype is not None else f"others hold {_json_name(type(flat[0]))}"
        raise Unfit(f"holds {_json_name(type(odd))}" + (f" where {wish}" if allowed else ""), row=i)
    if str in allowed:
        return text_array(flat)
    if bool in allowed:
        return np.array(flat, bool)
    if dtype is None:
        return _integers(flat) if wanted.whole and types == {int} else _floats(flat, types, _FLOAT, keep=wanted.keep)
    if dtype.kind in "iu":
        return _whole(flat, types, dtype)
    return _floats(flat, types, dtype, keep=wanted.keep)


def _allowed(first: object, dtype: np.dtype[Any] | None) -> set[type]:
    kind = (
        {bool: "b", int: "f", float: "f", Decimal: "f", str: "T"}.get(type(first), "") if dtype is None else dtype.kind
    )
    others: dict[str, set[type]] = {"b": {bool}, "T": {str}, "": set()}
    return others.get(kind, {int, float, Decimal})


def _floats(flat: Sequence[float], types: set[type], dtype: np.dtype[Any], *, keep: bool) -> Array:
    try:
        wide = np.array(flat, np.float64)
    except OverflowError:
        i = next(i for i, value in enumerate(flat) if type(value) is int and abs(value) > _EXACT)
        raise Unfit(f"holds an integer that {dtype} does not hold exactly", row=i) from None
    with np.errstate(all="ignore"):
        # The first integer beyond the bound has been rounded down to the bound itself, so that it counts.
        if int in types and np.fmax.reduce(np.abs(wide)) >= min(_EXACT, 2 ** exact_digits(dtype)):
            _check_integers(flat, dtype)
        if dtype == _FLOAT:
            return wide
        narrow = wide.astype(dtype)
        if not keep and dtype.itemsize < wide.itemsize and not isfinite(narrow.sum()):
            _check_overflow(wide, narrow)
    return narrow


def _check_integers(flat: Sequence[float], dtype: np.dtype[Any]) -> None:
    for i, value in enumerate(flat):
        if type(value) is int and (abs(value) > _EXACT or float(dtype.type(value)) != value):
            raise Unfit(f"holds {_shown(value)}, an integer that {dtype} does not hold exactly", row=i)


def _check_overflow(wide: Array, narrow: Array) -> None:
    over = np.flatnonzero(np.isfinite(wide) & ~np.isfinite(narrow))
    if len(over):
        raise Unfit(f"holds {wide[over[0]]}, which overflows {narrow.dtype}", row=int(over[0]), error_kind="nonfinite")


def _whole(flat: Sequence[Any], types: set[type], dtype: np.dtype[Any]) -> Array:
    # A float may be an integer that the server wrote with a point or an exponent.
    if float in types:
        for i, value in enumerate(flat):
            if type(value) is float and not value.is_integer():
                raise Unfit(f"holds {value} where {dtype} was asked for", row=i, error_kind="dtype")
        raise MayBeRounded
    if Decimal in types:
        flat = [_integer(value, i, dtype) for i, value in enumerate(flat)]
    try:
        return np.array(flat, dtype)
    except OverflowError:
        info = np.iinfo(dtype)
        i = next(i for i, value in enumerate(flat) if not info.min <= value <= info.max)
        raise Unfit(f"holds {_shown(flat[i])}, which overflows {dtype}", row=i, error_kind="dtype") from None


def _integer(value: int | Decimal, i: int, dtype: np.dtype[Any]) -> int:
    if isinstance(value, int):
        return value
    if value.adjusted() > _MOST_DIGITS:  # to write out 1e300 as an integer takes long, and there may be many
        raise Unfit(f"holds {_shown(value)}, which overflows {dtype}", row=i, error_kind="dtype")
    whole = int(value)
    if whole != value:
        raise Unfit(f"holds {_shown(value)} where {dtype} was asked for", row=i, error_kind="dtype")
    return whole


def _shown(number: float | Decimal) -> str:
    return shortened(str(number), _LONGEST_SHOWN)  # it has as many digits as the server has written


def _integers(flat: Sequence[int]) -> Array:
    signed = np.dtype(np.int64)
    # numpy itself would make float64 of a list with integers beyond int64.
    fits = min(flat) < 0 or max(flat) <= np.iinfo(signed).max
    return _whole(flat, {int}, signed if fits else np.dtype(np.uint64))


def _json_name(kind: type) -> str:
    return _JSON_NAMES.get(kind, f"a {kind.__name__}")
