"""Rows of Hugging Face's datasets, which are known by their form: nothing is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers.columns import rows_of, with_missing
from fanout.io.readers.sampled import TableSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.io.readers.columns import Column
    from fanout.types import Array, Rows

_NUMBERS = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
}  # fmt: skip


class DatasetSource(TableSource):
    """A dataset: a mapping from column names to arrays, or bare values where it has one column.

    Numbers, and lists of them that have one length, are arrays of the dtype that the dataset's features tell.

    Raises:
        InputError: a dataset without columns.
    """

    def __init__(self, dataset: Any) -> None:
        if not dataset.column_names:
            raise InputError("the dataset has no columns")
        self._dataset = dataset
        self._names: list[str] = list(dataset.column_names)
        self._features: Mapping[str, Any] = dataset.features or {}
        super().__init__(len(dataset), {name: str(self._features.get(name)) for name in self._names})

    def rows(self, start: int, stop: int) -> Rows:
        """See `TableSource.rows`."""
        part = self._dataset[start:stop]
        columns = {name: _column(part[name], self._features.get(name)) for name in self._names}
        return rows_of(columns, bare=len(columns) == 1)


def _column(values: Any, feature: Any) -> Column:
    if isinstance(values, np.ndarray):
        array: Array = values
        return array if array.dtype.kind in "biufUST" else list(array)
    listed: list[Any] = list(values)
    present = [value for value in listed if value is not None]
    dtype = _dtype(feature)
    if dtype is None or _lacks_any(present):  # numpy would make NaN of what is missing
        return listed
    try:
        as_given = np.array(present)
        numbers: Array = np.array(present, dtype)
    except (ValueError, OverflowError):  # lists of several lengths, or not the numbers that the features tell
        return listed
    if dtype.kind != "f" and not np.array_equal(as_given, numbers):
        return listed
    return with_missing(numbers, np.array([value is None for value in listed]))


def _dtype(feature: Any) -> np.dtype[Any] | None:
    """That of the numbers in a column, or in the lists in it; None where it holds something else."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    told = getattr(feature, "dtype", None)
    return np.dtype(told) if told in _NUMBERS else None


def _lacks_any(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_lacks_any, value)))
