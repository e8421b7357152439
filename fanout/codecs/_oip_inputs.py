"""Arrays -> the tensors of an infer request, in the datatype that the model wants; nothing is changed on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.codecs._rows import native, require_finite, require_numbers, rows_where, texts
from fanout.codecs._values import is_unicode
from fanout.errors import ConfigError, EncodeError
from fanout.tensors import datatype_of, dtype_of, pack

if TYPE_CHECKING:
    from fanout.codecs._oip_model import Tensor
    from fanout.types import Array, Buffer


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
        ConfigError: a kind that the datatype cannot hold, such as floats for INT64.
        EncodeError: rows with numbers that it does not hold exactly, or that overflow it.
        InputError: a dtype that the protocol does not have.
    """
    is_text = array.dtype.kind in "USTO"
    if not is_text:
        require_numbers(array)
    elif array.dtype.kind == "O" and not _all_bytes(array):
        array = np.array(texts(array), np.dtypes.StringDType())
    array = _with_axis(array, model)
    datatype = model.datatype if model is not None and model.datatype else None
    if datatype is None:
        return Input(name, "BYTES" if is_text else str(datatype_of(array.dtype)), array)
    target = dtype_of(datatype)
    if target is None:
        raise ConfigError(f"input {name!r} of the model has the datatype {datatype}, which fanout does not know")
    if is_text != (datatype == "BYTES"):
        rows = "texts" if is_text else f"rows of dtype {array.dtype}"
        raise ConfigError(f"input {name!r} of the model has the datatype {datatype}, but was given {rows}")
    return Input(name, datatype, array if is_text else _cast(name, array, target, datatype))


def _with_axis(array: Array, model: Tensor | None) -> Array:
    """One value a row as (rows, 1), where the model has an axis for it."""
    shape = model.shape if model is not None else None
    if shape is not None and array.ndim == 1 and len(shape) == 2 and shape[1] in (1, -1):
        return array.reshape(-1, 1)
    return array


def _cast(name: str, array: Array, target: np.dtype[Any], datatype: str) -> Array:
    if array.dtype == target:
        return array
    integers = array.dtype.kind in "iu" and target.kind in "iu"
    # numpy has int64 -> uint8 as another kind, but each number is looked at below.
    if not integers and not np.can_cast(array.dtype, target, "same_kind"):
        raise ConfigError(
            f"input {name!r} of the model has the datatype {datatype}, which {array.dtype} is not cast to; "
            f"if that is meant, convert the rows with .astype({target.name!r}) first"
        )
    with np.errstate(all="ignore"):
        cast = array.astype(target)
    if bad := rows_where(_changed(array, cast)):
        raise EncodeError(f"input {name!r} has numbers that {datatype} does not hold", rows=bad)
    return cast


def _changed(array: Array, cast: Array) -> Array:
    """Mask of the numbers that the cast has not kept: integers exactly, floats as far as they must stay finite."""
    if array.dtype.kind == "f":
        return np.asarray(np.isfinite(array) & ~np.isfinite(cast))
    if cast.dtype.kind in "iu" and array.dtype.kind in "iu":
        info = np.iinfo(cast.dtype)
        return np.asarray((array < info.min) | (array > info.max))
    changed = np.zeros(array.shape, bool)
    if array.dtype.kind in "iu":
        exact = 2 ** (int(np.finfo(cast.dtype).nmant) + 1)
        # Python compares an integer and a float exactly, numpy does not.
        for i in np.flatnonzero((array > exact) | (array < -exact)):
            changed.flat[i] = int(array.flat[i]) != float(cast.flat[i])
    return changed


def _all_bytes(array: Array) -> bool:
    return set(map(type, array.ravel().tolist())) == {bytes}


def _surrogates(array: Array) -> list[int]:
    flat = array.reshape(len(array), -1).tolist()
    return [i for i, row in enumerate(flat) if not all(isinstance(text, bytes) or is_unicode(text) for text in row)]
