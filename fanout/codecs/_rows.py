"""Make texts, arrays and values in JSON of rows of any kind; refuse whatever a wire format cannot express.

Every refusal names the rows at fault, so that they fail alone and before anything is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import orjson

from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import EncodeError, InputError
from fanout.rows import within, without_mask, without_masks

if TYPE_CHECKING:
    from fanout.types import Array, Rows

Schema: TypeAlias = tuple[str, tuple[int, ...]]
"""``"numbers"``, ``"texts"`` or ``"booleans"``, and the shape of one row."""

Fits: TypeAlias = Callable[[Schema], bool]
"""True if rows of this schema can be an input of the model."""

# orjson would write NaN in a dataclass as null, and `holds_nonfinite` does not look into one.
DUMPS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS

# Only the wire format refuses values; stacking changes none of them.
_AS_IT_IS = Wanted(keep=True, whole=True)

NONFINITE = "NaN or infinity, which JSON cannot express"


def require_numbers(array: Array) -> None:
    """Raise `InputError` unless ``array`` has rows, and a dtype of numbers or bool that a wire format knows."""
    if array.ndim == 0:
        raise InputError("the input is a single value without rows; wrap it: array[None]")
    # "g" is long double, which no format knows.
    if array.dtype.kind not in "biuf" or array.dtype.char == "g":
        raise InputError(
            f"rows of dtype {array.dtype} cannot be sent; convert them to numbers first, for instance "
            "with .astype(np.float64), or to texts with .astype(str)"
        )


def require_finite(array: Array) -> None:
    """Raise `EncodeError` for the rows that hold NaN or infinity."""
    if array.dtype.kind != "f" or within(array):
        return
    if bad := rows_where(~np.isfinite(array)):
        raise EncodeError(NONFINITE, rows=bad)


def rows_where(mask: Array) -> list[int]:
    """The rows in which any element of ``mask`` is true."""
    if not mask.size:
        return []
    rows: list[int] = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1)).tolist()
    return rows


def native(array: Array) -> Array:
    """``array`` in native byte order and row-major memory, without a copy if possible; orjson takes no subclass."""
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
    # numpy would make a fixed-width dtype of the texts, which drops trailing NUL characters.
    nested = np.empty(len(flat), object)
    nested[:] = flat
    shaped: list[Any] = nested.reshape(rows.shape).tolist()
    return shaped


def columns(rows: Sequence[Mapping[str, Any]], fits: Mapping[str, Fits] | None = None) -> dict[str, Array]:
    """Dicts with the same keys -> key -> array. Raises `EncodeError` for rows that are different from most."""
    keys = [tuple(sorted(row)) if isinstance(row, Mapping) else None for row in rows]
    common = _most_common(keys)
    if bad := [i for i, names in enumerate(keys) if names != common]:
        raise EncodeError(f"the row is not a dict with the keys {list(common)} as the others are", rows=bad)
    return {name: stacked([row[name] for row in rows], (fits or {}).get(name)) for name in rows[0]}


def stacked(values: Sequence[Any], fits: Fits | None = None) -> Array:
    """Numbers, texts, bytes, arrays or nested lists -> one array; integers become int64, other numbers float64.

    Bytes become an object array of them. Raises `EncodeError` for rows whose shape or kind is different from most; only
    those that ``fits`` takes are counted, if it takes any.
    """
    values = without_masks(values)
    first = values[0]
    # Arrays of one dtype and shape are stacked without a look at their values.
    if isinstance(first, np.ndarray | np.generic) and first.dtype.kind in "biuf" and _alike(values):
        return np.stack(values)
    if set(map(type, values)) == {bytes}:
        objects = np.empty(len(values), object)
        objects[:] = values  # numpy would make a dtype of fixed width, which drops trailing zero bytes
        return objects
    try:
        return array(values, _AS_IT_IS)
    except Unfit:
        plain = [_without_numpy(value) for value in values]
    schemas = [_schema(value) for value in plain]
    # The rows that most others agree with are right; the others fail alone.
    common = _most_common([schema for schema in schemas if schema and (fits is None or fits(schema))] or schemas)
    if bad := [i for i, schema in enumerate(schemas) if schema is None or schema != common]:
        others = "" if common is None else f", as {common[0]} of shape {list(common[1])} do in most rows"
        raise EncodeError(f"the row makes no tensor with the others{others}", rows=bad)
    try:
        return array(plain, _AS_IT_IS)
    except Unfit as error:
        raise EncodeError(str(error.args[0]), rows=range(len(values)) if error.row is None else [error.row]) from None


def _checked_texts(flat: Sequence[Any], per_row: int) -> list[str]:
    if set(map(type, flat)) <= {str}:
        return list(flat)
    checked = [_text(item) for item in flat]
    if bad := {i // per_row for i, text in enumerate(checked) if text is None}:
        raise EncodeError("a text is missing, or is not UTF-8", rows=sorted(bad))
    return [text for text in checked if text is not None]


def _text(item: object) -> str | None:
    """``item`` as a text; None where it is missing or not UTF-8."""
    if isinstance(item, str):
        return str(item)
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError:
            return None
    if item is None or item != item:  # pandas has NaN, the only value unlike itself, for a missing text
        return None
    raise InputError(
        f"expected texts, but a row holds {type(item).__name__}; make every row a str, "
        "or use a plain numeric array: np.stack(rows).astype(np.float32)"
    )


def value_to_json(value: Any) -> bytes:
    """One value of a row as JSON. Raises `Unfit` where JSON cannot express it."""
    try:
        try:
            written = orjson.dumps(value, option=DUMPS)
        except orjson.JSONEncodeError:
            written = orjson.dumps(plain(value), option=DUMPS)
    except (InputError, orjson.JSONEncodeError, RecursionError) as error:
        hint = "; for bytes write the filter | base64" if isinstance(value, bytes) else ""
        raise Unfit(f"holds what JSON cannot express: {error}{hint}") from None
    if b"null" in written and holds_nonfinite(value):
        raise Unfit(f"holds {NONFINITE}")
    return written


def json_text(value: Any) -> str:
    """``value`` as JSON text."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """``value`` with its arrays as orjson accepts them."""
    if isinstance(value, np.ndarray):
        value = without_mask(value, "an array")
        # orjson then names the dtypes that it does not accept.
        return value.tolist() if value.dtype.kind in "UT" else native(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def holds_nonfinite(value: object) -> bool:
    """True if there is a NaN or an infinity anywhere in nested lists, tuples, dicts and arrays."""
    if isinstance(value, float | np.floating):
        return not isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and not np.isfinite(value).all()
    if isinstance(value, Mapping):
        return any(map(holds_nonfinite, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_nonfinite, value))


def _alike(values: Sequence[Any]) -> bool:
    kinds = {(value.shape, value.dtype) if isinstance(value, np.ndarray | np.generic) else None for value in values}
    return len(kinds) == 1


def _without_numpy(value: Any) -> Any:
    """``value`` as Python objects, whose types `array` checks."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_without_numpy(item) for item in value]
    return value


def _schema(value: object) -> Schema | None:
    """The kind and shape of one row; None if no tensor can be made of it."""
    try:
        row = array([value], _AS_IT_IS)
    except Unfit:
        return None
    return {"b": "booleans", "T": "texts"}.get(row.dtype.kind, "numbers"), row.shape[1:]


def _most_common(values: Sequence[Any]) -> Any:
    known = Counter(value for value in values if value is not None)
    return known.most_common(1)[0][0] if known else None


def to_json(rows: Rows) -> bytes:
    """The rows as one JSON list; a mapping of columns becomes a list of objects.

    Raises:
        EncodeError: rows with NaN, infinity, or anything else that JSON does not have.
        InputError: an array of a dtype that no row of can be sent.
    """
    if isinstance(rows, np.ndarray):
        return orjson.dumps(jsonable(rows), option=DUMPS)
    if isinstance(rows, Mapping):
        return _objects(rows)
    return _listed(rows)


def jsonable(array: Array) -> Any:
    """``array`` (first axis: the rows) as orjson accepts it: native and contiguous, or nested lists of texts.

    Raises as `to_json` does.
    """
    if array.dtype.kind in "USTO":
        return texts(array)
    array = without_mask(array)
    require_numbers(array)
    require_finite(array)
    return native(array)


def _objects(named: Mapping[str, Array]) -> bytes:
    arrays = {name: np.asarray(without_mask(column, f"column {name!r}")) for name, column in named.items()}
    if len({len(array) for array in arrays.values()}) != 1:
        raise InputError(f"columns differ in length: { {name: len(array) for name, array in arrays.items()} }")
    # Rows of numbers stay arrays, which orjson writes at once; single values are faster as Python's own.
    columns_of_cells = [jsonable(array) for array in arrays.values()]
    cells = [one.tolist() if isinstance(one, np.ndarray) and one.ndim == 1 else one for one in columns_of_cells]
    return orjson.dumps([dict(zip(arrays, row, strict=True)) for row in zip(*cells, strict=True)], option=DUMPS)


def _listed(rows: Sequence[Any]) -> bytes:
    # orjson accepts a list and a tuple, but no other sequence.
    rows = rows if isinstance(rows, list) else list(rows)
    try:
        written = orjson.dumps(rows, option=DUMPS)
    except orjson.JSONEncodeError:
        rows = _plain_rows(rows)
        written = orjson.dumps(rows, option=DUMPS)
    # orjson writes NaN as null, so that only rows with a null have to be searched.
    if b"null" in written and (bad := [i for i, row in enumerate(rows) if holds_nonfinite(row)]):
        raise EncodeError(NONFINITE, rows=bad)
    return written


def _plain_rows(rows: list[Any]) -> list[Any]:
    """The rows with their arrays as orjson accepts them. Raises `EncodeError` for rows that it accepts in no form."""
    # Reached only after the whole list was refused, so that its cost does not matter.
    accepted, bad, reason = [], list[int](), ""
    for i, row in enumerate(rows):
        try:
            # Each row is written once more for itself, so that the error names the rows at fault.
            accepted.append(plain(row))
            orjson.dumps(accepted[-1], option=DUMPS)
        except (InputError, orjson.JSONEncodeError, RecursionError) as error:
            reason = reason or str(error)
            bad.append(i)
    if bad:
        raise EncodeError(f"JSON cannot express it: {reason}", rows=bad)
    return accepted
