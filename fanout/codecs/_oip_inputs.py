"""Arrays -> the tensors of an infer request, in the datatype that the model wants; nothing is changed on the way."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.codecs._rows import native, require_finite, require_numbers, rows_where, texts
from fanout.codecs._values import is_unicode
from fanout.errors import ConfigError, EncodeError
from fanout.masks import without_mask
from fanout.tensors import datatype_of, dtype_of, pack, rounded_to_bfloat16

if TYPE_CHECKING:
    from fanout.codecs._stacking import Fits, Schema
    from fanout.types import Array, Buffer, Tensor


_BRAIN_DIGITS = 8
"""As `_digits`, of BF16, which numpy does not know."""


class Input(NamedTuple):
    """One tensor, ready to be written."""

    name: str
    datatype: str
    array: Array

    def binary(self) -> tuple[dict[str, Any], Buffer]:
        """Its description and its bytes. Raises `EncodeError` for texts that are not Unicode."""
        try:
            data = pack(self.array, self.datatype)
        except UnicodeEncodeError:
            raise EncodeError("half of a surrogate pair is no text", rows=_surrogates(self.array)) from None
        return {**self._described(), "parameters": {"binary_data_size": len(data)}}, data

    def json(self) -> dict[str, Any]:
        """Its description with the data in it. Raises `EncodeError` for NaN, infinity, and bytes that are no text."""
        if self.datatype == "BYTES":
            data: Any = np.array(texts(self.array), object).reshape(-1).tolist()
        else:
            require_finite(self.array)
            data = native(self.array).reshape(-1)
        return {**self._described(), "data": data}

    def _described(self) -> dict[str, Any]:
        return {"name": self.name, "shape": self.array.shape, "datatype": self.datatype}


def fitted(name: str, array: Array, model: Tensor | None) -> Input:
    """``array`` as the model's input: in its datatype if that is known, its own if not.

    Raises:
        ConfigError: a datatype that is not known here.
        EncodeError: rows of another shape than the model's, or of a kind that the datatype cannot hold, such as floats
            for INT64 (these are all alike); or with numbers that it does not hold exactly, or that overflow it.
        InputError: a dtype that the protocol does not have.
    """
    array = without_mask(array, f"input {name!r}")
    is_text = array.dtype.kind in "USTO"
    if not is_text:
        require_numbers(array)
    elif array.dtype.kind == "O" and not _all_bytes(array):
        array = np.array(texts(array), np.dtypes.StringDType())
    own = "BYTES" if is_text else str(datatype_of(array.dtype))
    if model is None:
        return Input(name, own, array)
    array = _with_axis(array, model)
    datatype = model.datatype or own
    target = dtype_of(datatype)
    if target is None:
        raise ConfigError(f"input {name!r} of the model has the datatype {datatype}, which fanout does not know")
    if is_text != (datatype == "BYTES") or not (is_text or _castable(array.dtype, target)):
        remedy = "give it numbers" if is_text else f"convert them first, with .astype({_python_name(target)})"
        raise _misfit(name, datatype, array, model, remedy)
    if not _shape_fits(array.shape[1:], model):
        raise _misfit(name, datatype, array, model, _way_to_shape(array, model))
    return Input(name, datatype, array if is_text else _cast(name, array, target, datatype))


def fits(model: Tensor | None) -> Fits:
    """Tells whether rows of some form can be what the model's input wants."""

    def check(form: Schema) -> bool:
        kind, shape = form
        if model is None:
            return True
        return (kind == "texts") == (model.datatype == "BYTES") and (
            _shape_fits(shape, model) or (shape == () and _has_axis_for_one(model))
        )

    return check


def _with_axis(array: Array, model: Tensor) -> Array:
    """One value a row as (rows, 1), where the model has an axis for it."""
    return array.reshape(-1, 1) if array.ndim == 1 and _has_axis_for_one(model) else array


def _has_axis_for_one(model: Tensor) -> bool:
    return model.shape is not None and len(model.shape) == 2 and model.shape[1] in (1, -1)


def _shape_fits(row: tuple[int, ...], model: Tensor) -> bool:
    """True if the model may take rows of that shape. An input of a single axis says nothing of its rows."""
    if model.shape is None or len(model.shape) < 2:
        return True
    wanted = model.shape[1:]
    return len(row) == len(wanted) and all(want in (-1, have) for want, have in zip(wanted, row, strict=True))


def _misfit(name: str, datatype: str, array: Array, model: Tensor, remedy: str) -> EncodeError:
    """The error for rows that are all of another form than the model's input."""
    shape = f" of shape {list(model.shape[1:])}" if model.shape is not None and len(model.shape) > 1 else ""
    given = "texts" if array.dtype.kind in "USTO" else f"{array.dtype} numbers"
    row = f"rows of shape {list(array.shape[1:])}" if array.ndim > 1 else "single values a row"
    told = f"wants {datatype} rows{shape}, but was given {given}, {row}"
    return EncodeError(f"input {name!r} of the model {told}: {remedy}", rows=range(len(array)), every_row=True)


def _way_to_shape(array: Array, model: Tensor) -> str:
    assert model.shape is not None
    wanted = list(model.shape[1:])
    if -1 not in wanted and prod(wanted) == prod(array.shape[1:]):
        return f"reshape them first, with .reshape({', '.join(map(str, [-1, *wanted]))})"
    return "give it rows of that shape" + (" (-1: any length)" if -1 in wanted else "")


def _castable(dtype: np.dtype[Any], target: np.dtype[Any]) -> bool:
    integers = dtype.kind in "iu" and target.kind in "iu"
    # numpy has int64 -> uint8 as another kind, but each number is looked at when it is cast.
    return integers or np.can_cast(dtype, target, "same_kind")


def _python_name(target: np.dtype[Any]) -> str:
    return "str" if target.kind == "T" else repr(target.name)


def _cast(name: str, array: Array, target: np.dtype[Any], datatype: str) -> Array:
    is_brain = datatype == "BF16"
    if array.dtype == target and not is_brain:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(target, copy=False)
    held, digits = (rounded_to_bfloat16(cast), _BRAIN_DIGITS) if is_brain else (cast, _digits(target))
    if bad := rows_where(_changed(array, held, digits)):
        raise EncodeError(f"input {name!r} has numbers that {datatype} does not hold", rows=bad)
    return cast


def _digits(dtype: np.dtype[Any]) -> int:
    """Up to 2 to this power a floating dtype holds every integer; 0 for another dtype."""
    return int(np.finfo(dtype).nmant) + 1 if dtype.kind == "f" else 0


def _changed(array: Array, cast: Array, digits: int) -> Array:
    """Mask of the numbers that the cast has not kept: integers exactly, floats as far as they must stay finite."""
    if array.dtype.kind == "f":
        return np.asarray(np.isfinite(array) & ~np.isfinite(cast))
    if cast.dtype.kind in "iu" and array.dtype.kind in "iu":
        info = np.iinfo(cast.dtype)
        return np.asarray((array < info.min) | (array > info.max))
    changed = np.zeros(array.shape, bool)
    if array.dtype.kind in "iu":
        exact = 2**digits
        # Python compares an integer and a float exactly, numpy does not.
        for i in np.flatnonzero((array > exact) | (array < -exact)):
            changed.flat[i] = int(array.flat[i]) != float(cast.flat[i])
    return changed


def _all_bytes(array: Array) -> bool:
    return set(map(type, array.ravel().tolist())) == {bytes}


def _surrogates(array: Array) -> list[int]:
    flat = array.reshape(len(array), -1).tolist()
    return [i for i, row in enumerate(flat) if not all(isinstance(text, bytes) or is_unicode(text) for text in row)]
