"""Rows of pandas' frames and series. pandas itself is not imported: what is given brings it along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers.columns import rows_of, with_missing
from fanout.io.readers.sampled import TableSource

if TYPE_CHECKING:
    from fanout.io.readers.columns import Column
    from fanout.types import Rows


class PandasSource(TableSource):
    """A frame: a mapping from column names to arrays, or bare values where it has one column; or a series.

    Numbers keep their dtype, nullable ones that of numpy that they stand for. What is missing in a nullable column or
    in a column of objects (NA, None, NaN) is None; NaN in a plain column of floats is NaN.

    Raises:
        InputError: two columns of one name, no column, or one that holds neither numbers nor texts nor objects.
    """

    def __init__(self, table: Any) -> None:
        self._series = {str(name): series for name, series in table.items()} if table.ndim == 2 else {"": table}
        if table.ndim == 2 and len(self._series) != table.shape[1]:
            raise InputError(f"the frame has {table.shape[1]} columns, but only {len(self._series)} names: rename some")
        if not self._series:
            raise InputError("the frame has no columns")
        for name, series in self._series.items():
            dtype = series.dtype
            if getattr(dtype, "kind", "O") not in "biufOSUT":
                told = f"column {name!r} has dtype {dtype}, of which no request can be made"
                raise InputError(f"{told}; convert it to numbers or texts first, with .astype()")
        super().__init__(len(table), {name: str(series.dtype) for name, series in self._series.items()})

    def rows(self, start: int, stop: int) -> Rows:
        """See `TableSource.rows`."""
        columns = {name: _column(series.iloc[start:stop]) for name, series in self._series.items()}
        return rows_of(columns, bare=len(columns) == 1)


def _column(series: Any) -> Column:
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        plain: Column = series.to_numpy()
        return plain
    missing = series.isna().to_numpy(dtype=bool)
    present = series[~missing]
    stands_for = getattr(dtype, "numpy_dtype", None)  # nullable numbers have one
    if stands_for is not None and stands_for.kind in "biuf":
        return with_missing(present.to_numpy(dtype=stands_for), missing)
    return with_missing(present.to_list(), missing)
