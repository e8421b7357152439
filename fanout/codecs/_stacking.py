"""Rows given one by one -> one array, or the rows that do not go with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import EncodeError
from fanout.masks import without_masks

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Array

# What cannot be sent is for the wire format to say; here only nothing may be changed.
_AS_IT_IS = Wanted(keep=True, whole=True)


Schema: TypeAlias = tuple[str, tuple[int, ...]]
"""``"numbers"``, ``"texts"`` or ``"booleans"``, and the shape of one row."""

Fits: TypeAlias = "Callable[[Schema], bool]"


def columns(rows: Sequence[Mapping[str, Any]], fits: Mapping[str, Fits] | None = None) -> dict[str, Array]:
    """Dicts with the same keys -> key -> array. Raises `EncodeError` for rows that are different from most."""
    keys = [tuple(sorted(row)) if isinstance(row, Mapping) else None for row in rows]
    common = _most_common(keys)
    if bad := [i for i, found in enumerate(keys) if found != common]:
        raise EncodeError(f"the row is not a dict with the keys {list(common)} as the others are", rows=bad)
    return {name: stacked([row[name] for row in rows], (fits or {}).get(name, _any)) for name in rows[0]}


def _any(form: Schema) -> bool:
    return True


def stacked(values: Sequence[Any], fits: Fits = _any) -> Array:
    """Numbers, texts, bytes, arrays or nested lists -> one array; integers become int64, other numbers float64.

    Bytes become an object array of them. Raises `EncodeError` for rows whose shape or kind is different from most; only
    those that ``fits`` takes are counted, if it takes any.
    """
    values = without_masks(values)
    first = values[0]
    if isinstance(first, np.ndarray | np.generic) and first.dtype.kind in "biuf" and _alike(values):
        return np.stack(values)
    if set(map(type, values)) == {bytes}:
        return _objects(values)
    try:
        return array(values, _AS_IT_IS)
    except Unfit:
        plain = [_plain(value) for value in values]
    forms = [_schema(value) for value in plain]
    common = _most_common([form for form in forms if form and fits(form)] or forms)
    if bad := [i for i, form in enumerate(forms) if form is None or form != common]:
        others = "" if common is None else f", as {common[0]} of shape {list(common[1])} do in most rows"
        raise EncodeError(f"the row makes no tensor with the others{others}", rows=bad)
    try:
        return array(plain, _AS_IT_IS)
    except Unfit as error:
        raise EncodeError(str(error.args[0]), rows=range(len(values)) if error.row is None else [error.row]) from None


def _alike(values: Sequence[Any]) -> bool:
    forms = {(value.shape, value.dtype) if isinstance(value, np.ndarray | np.generic) else None for value in values}
    return len(forms) == 1


def _objects(values: Sequence[bytes]) -> Array:
    made = np.empty(len(values), object)
    made[:] = values
    return made


def _plain(value: Any) -> Any:
    """Without numpy in it, so that each number's type can be told."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _schema(value: object) -> Schema | None:
    """The kind and shape of one row; None if no tensor can be made of it."""
    try:
        made = array([value], _AS_IT_IS)
    except Unfit:
        return None
    return {"b": "booleans", "T": "texts"}.get(made.dtype.kind, "numbers"), made.shape[1:]


def _most_common(forms: Sequence[Any]) -> Any:
    known = Counter(form for form in forms if form is not None)
    return known.most_common(1)[0][0] if known else None
