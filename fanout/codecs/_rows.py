"""Rows of any kind -> JSON and texts, with all that JSON cannot express found before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.errors import EncodeError, InputError
from fanout.extent import within
from fanout.masks import without_mask

if TYPE_CHECKING:
    from fanout.types import Array, Rows

# Dataclasses are refused: orjson would write the NaN in one as null, out of sight of `holds_nonfinite`.
DUMPS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS

_NONFINITE = "NaN or infinity, which JSON cannot express"


def to_json(rows: Rows) -> bytes:
    """The rows as one JSON list; a mapping of columns becomes a list of objects.

    Raises:
        EncodeError: rows with NaN, infinity, or anything else that JSON does not have.
        InputError: an array of a dtype that no row of can be sent.
    """
    if isinstance(rows, np.ndarray):
        if rows.ndim and rows.dtype.char in "fd" and type(rows) is np.ndarray and native(rows) is rows:
            written = orjson.dumps(rows, option=DUMPS)
            if b"n" not in written:  # in "null" alone, as orjson writes NaN and infinity; one byte is found quickest
                return written
        return orjson.dumps(jsonable(rows), option=DUMPS)
    if isinstance(rows, Mapping):
        return _objects(rows)
    return _listed(rows)


def jsonable(array: Array) -> Any:
    """``array`` in a form that orjson takes: native and contiguous, or nested lists of texts. First axis: the rows.

    Raises as `to_json` does.
    """
    if array.dtype.kind in "USTO":
        return texts(array)
    array = without_mask(array)
    require_numbers(array)
    require_finite(array)
    return native(array)


def require_numbers(array: Array) -> None:
    """Raise `InputError` unless ``array`` has rows, and a dtype of numbers or bool that a wire format knows."""
    if array.ndim == 0:
        raise InputError("the input is a single value without rows; wrap it: array[None]")
    if array.dtype.kind not in "biuf" or array.dtype.char == "g":
        raise InputError(
            f"rows of dtype {array.dtype} cannot be sent; convert them to numbers first, for instance "
            "with .astype(np.float64), or to texts with .astype(str)"
        )


def require_finite(array: Array) -> None:
    """Raise `EncodeError` for the rows that hold NaN or infinity."""
    if array.dtype.kind != "f":
        return
    if within(array):
        return
    bad = rows_where(~np.isfinite(array))
    if bad:
        raise EncodeError(_NONFINITE, rows=bad)


def rows_where(mask: Array) -> list[int]:
    """The rows in which any element of ``mask`` is true."""
    if not mask.size:
        return []
    rows: list[int] = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1)).tolist()
    return rows


def native(array: Array) -> Array:
    """``array`` in native byte order and row-major memory; itself if it is so. No subclass: orjson takes none."""
    if type(array) is np.ndarray and array.dtype.isnative and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def texts(rows: Array | Sequence[Any]) -> list[Any]:
    """A list of texts, or an array of them as nested lists.

    Raises:
        EncodeError: rows where a text is missing (None, NaN), or bytes that are not UTF-8.
        InputError: anything else that is no text.
    """
    if not isinstance(rows, np.ndarray):
        return _checked_texts(rows, 1)
    if rows.ndim == 0:
        raise InputError("the input is a single text without rows; put it into a list")
    flat = _checked_texts(rows.ravel().tolist(), max(1, prod(rows.shape[1:])))
    if rows.ndim == 1:
        return flat
    nested = np.empty(len(flat), object)
    nested[:] = flat
    shaped: list[Any] = nested.reshape(rows.shape).tolist()
    return shaped


def _checked_texts(flat: Sequence[Any], per_row: int) -> list[str]:
    if set(map(type, flat)) <= {str}:
        return list(flat)
    found, bad = [], []
    for i, item in enumerate(flat):
        try:
            text = _text(item)
        except UnicodeDecodeError:
            text = None
        found.append(text)
        if text is None:
            bad.append(i // per_row)
    if bad:
        raise EncodeError("a text is missing, or is not UTF-8", rows=sorted(set(bad)))
    return [text for text in found if text is not None]


def _text(item: object) -> str | None:
    """None where a text is missing."""
    if isinstance(item, str):
        return str(item)
    if isinstance(item, bytes):
        return item.decode()
    if item is None or item != item:  # NaN is the only value unlike itself, and pandas' word for a missing text
        return None
    raise InputError(
        f"expected texts, but a row holds {type(item).__name__}; make every row a str, "
        "or use a plain numeric array: np.stack(rows).astype(np.float32)"
    )


def _objects(columns: Mapping[str, Array]) -> bytes:
    arrays = {name: np.asarray(without_mask(column, f"column {name!r}")) for name, column in columns.items()}
    if len({len(array) for array in arrays.values()}) != 1:
        raise InputError(f"columns differ in length: { {name: len(array) for name, array in arrays.items()} }")
    # Rows of numbers stay arrays, which orjson writes at once; single values are faster as Python's own.
    cells = [_cells(jsonable(array)) for array in arrays.values()]
    return orjson.dumps([dict(zip(arrays, row, strict=True)) for row in zip(*cells, strict=True)], option=DUMPS)


def _cells(column: Any) -> list[Any]:
    single = isinstance(column, np.ndarray) and column.ndim == 1
    return list(column.tolist() if single else column)


def _listed(rows: Sequence[Any]) -> bytes:
    rows = rows if isinstance(rows, list) else list(rows)
    try:
        written = orjson.dumps(rows, option=DUMPS)
    except orjson.JSONEncodeError:
        rows = _plain_rows(rows)
        written = orjson.dumps(rows, option=DUMPS)
    # orjson writes NaN as null, so only where there is a null is there anything to look for.
    if b"null" in written:
        bad = [i for i, row in enumerate(rows) if holds_nonfinite(row)]
        if bad:
            raise EncodeError(_NONFINITE, rows=bad)
    return written


def _plain_rows(rows: list[Any]) -> list[Any]:
    """The rows with their arrays in a form that orjson takes. Raises `EncodeError` for rows that have none."""
    plain, bad, told = [], [], ""
    for i, row in enumerate(rows):
        try:
            plain.append(_plain(row))
            orjson.dumps(plain[-1], option=DUMPS)
        except (InputError, orjson.JSONEncodeError, RecursionError) as error:
            told = told or str(error)
            bad.append(i)
    if bad:
        raise EncodeError(f"JSON cannot express it: {told}", rows=bad)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = without_mask(value, "an array")
        # Of other dtypes too: orjson then says what is wrong with them.
        return value.tolist() if value.dtype.kind in "UT" else native(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def holds_nonfinite(value: object) -> bool:
    """True if there is a NaN or an infinity anywhere in nested lists, tuples, dicts and arrays."""
    if isinstance(value, float | np.floating):
        return not isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and not np.isfinite(value).all()
    if isinstance(value, Mapping):
        return any(map(holds_nonfinite, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_nonfinite, value))
