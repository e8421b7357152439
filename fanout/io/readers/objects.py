"""Which source fits a table in memory. The libraries that make such tables are known by their marks, not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fanout.errors import InputError
from fanout.io.readers.arrow_objects import ArrowStreamSource, ArrowTableSource
from fanout.io.readers.datasets import DatasetSource
from fanout.io.readers.frames import PandasSource

if TYPE_CHECKING:
    from fanout.io.readers.base import Source


def as_source(rows: object) -> Source | None:
    """The source for a table with columns; None if ``rows`` is none.

    Tables are those of pandas and polars (frames and series), pyarrow, Hugging Face's ``datasets``, and whatever else
    offers Arrow's C stream or C array interface. One column gives bare rows, several give a mapping by name.

    Raises:
        InputError: a table that cannot be sent as it is, or one that needs pyarrow where it is not installed.
    """
    if _comes_from(rows, "polars") and type(rows).__name__ == "LazyFrame":
        raise InputError("a LazyFrame has no rows yet: call its .collect() first")
    if _comes_from(rows, "pandas") and hasattr(rows, "iloc"):
        return PandasSource(rows)
    if hasattr(rows, "column_names") and isinstance(rows, Mapping):
        raise InputError(f"this is a dataset of several splits: choose one of {', '.join(map(str, rows))}")
    if hasattr(rows, "column_names") and hasattr(rows, "features") and hasattr(rows, "__len__"):
        return DatasetSource(rows)
    if hasattr(rows, "__arrow_c_array__") or (hasattr(rows, "__arrow_c_stream__") and hasattr(rows, "__len__")):
        return ArrowTableSource(rows)
    return ArrowStreamSource(rows) if hasattr(rows, "__arrow_c_stream__") else None


def _comes_from(rows: object, package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(rows).__mro__)
