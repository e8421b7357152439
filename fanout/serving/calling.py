"""Calling the model: JSON rows to what a function takes, what it returns to named columns of one entry a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout._escape import print_exception
from fanout.serving.exchange import StatusError
from fanout.types import Array

if TYPE_CHECKING:
    from fanout.serving.models import Model

Column: TypeAlias = Array | list[Any]
"""One output: an array whose first axis is the rows, or a list where its entries make no array (texts, dicts)."""

UNNAMED = ""


def require_model(model: Model, name: str) -> None:
    """Raises `StatusError` (404), naming the model served, unless that is ``name``."""
    if name != model.name:
        raise StatusError(404, f"unknown model {name!r}: this server has {model.name!r}", code="model_not_found")


def rows_of(instances: list[Any]) -> Column:
    """JSON rows as a numeric array where they are one; texts, dicts and rows of unequal length stay a list."""
    if not instances or isinstance(instances[0], str | Mapping):
        return instances
    try:
        array = np.array(instances)
    except ValueError:  # rows of unequal length
        return instances
    return array if array.dtype.kind in "biuf" else instances


def call(model: Model, rows: Any, n_rows: int, function: Callable[[Any], Any] | None = None) -> dict[str, Column]:
    """The model's outputs for ``rows``; the key ``""`` where it names none.

    Raises `StatusError`: 400 for no rows or too many; 500 for an exception in the function, whose traceback goes to
    stderr, and for a result that has not one entry a row.
    """
    if n_rows == 0:
        raise StatusError(400, "the batch is empty: send at least one row")
    if model.max_batch_size is not None and n_rows > model.max_batch_size:
        raise StatusError(
            400, f"batch-size must be <= {model.max_batch_size} for {model.name!r}; this has {n_rows} rows"
        )
    try:
        result = (function or model.function)(rows)
        named = result if isinstance(result, Mapping) else {UNNAMED: result}
        outputs = {str(name): _column(value) for name, value in named.items()}
    except StatusError:
        raise
    except (Exception, SystemExit) as error:  # user code: whatever it raises is an answer, not the server's end
        print_exception()
        raise StatusError(500, f"model {model.name!r} failed: {type(error).__name__}: {error}") from error
    if not outputs:
        raise StatusError(500, f"model {model.name!r} returned no output")
    for name, column in outputs.items():
        _require_rows(model, name, column, n_rows)
    return outputs


def require_finite(model: Model, outputs: Mapping[str, Column]) -> None:
    """Raises `StatusError` (500) for NaN and infinity: JSON has no word for them, and null would hide them."""
    for name, column in outputs.items():
        if not _finite(column):
            raise StatusError(500, f"{_title(model, name)} holds NaN or infinity, which JSON cannot express")


def jsonable(column: Column) -> Any:
    """``column`` as orjson writes it: native, C-contiguous numbers stay an array, anything else becomes lists."""
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind in "biuf":
        return np.ascontiguousarray(column, column.dtype.newbyteorder("="))
    return np.char.decode(column, "utf-8").tolist() if column.dtype.kind == "S" else column.tolist()


def _column(value: Any) -> Column:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | tuple):
        # A list of arrays is stacked by the same rule as a list of lists.
        return rows_of(list(value))
    return np.asarray(value)  # data frames, series and tensors of other libraries know how to become an array


def _require_rows(model: Model, name: str, column: Column, n_rows: int) -> None:
    if isinstance(column, np.ndarray) and column.ndim == 0:
        kind = type(column.item()).__name__
        raise StatusError(500, f"{_title(model, name)} is of type {kind}, not an array of {n_rows} rows")
    if len(column) != n_rows:
        raise StatusError(500, f"{_title(model, name)} has {len(column)} rows for the {n_rows} rows sent")


def _title(model: Model, name: str) -> str:
    return f"output {name!r} of model {model.name!r}" if name else f"what model {model.name!r} returned"


def _finite(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return _finite(value.tolist()) if value.dtype.kind == "O" else _all_finite(value)
    if isinstance(value, float | np.floating):
        return bool(np.isfinite(value))
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True


def _all_finite(array: Array) -> bool:
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
