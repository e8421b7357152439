"""Rows of tables in memory: frames, Arrow tables and datasets.

No library that makes such tables is imported: a table is recognised by its attributes, and brings its library along.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io import fingerprint
from fanout.io.readers.arrow import ArrowColumns, pyarrow
from fanout.io.readers.base import SeekableSource, Source, rows_per_block
from fanout.io.readers.columns import ColumnOptions
from fanout.io.readers.rows import insert_missing, rows_from_columns
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.arrow import Arrow
    from fanout.io.readers.rows import Column
    from fanout.types import Array, Rows

# A block's size is computed from this many rows at the beginning.
_SAMPLE_ROWS = 16
_NUMBERS = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
}  # fmt: skip


def as_source(rows: object) -> Source | None:
    """Return the source of a table with columns; None if ``rows`` is not one.

    Tables are those of pandas and polars (frames and series), pyarrow, Hugging Face's ``datasets``, and every other
    object with Arrow's C stream or C array interface. One column makes bare rows, several make a mapping by name.

    Raises:
        InputError: a table that cannot be sent as it is, or that needs pyarrow, which is not installed.
    """
    if type(rows) in (list, np.ndarray):  # neither is a table; each batch of `predict` comes through here
        return None
    if _is_from(rows, "polars") and type(rows).__name__ == "LazyFrame":
        raise InputError("a LazyFrame has no rows yet: call its .collect() first")
    if _is_from(rows, "pandas") and hasattr(rows, "iloc"):
        return PandasSource(rows)
    if hasattr(rows, "column_names") and isinstance(rows, Mapping):
        raise InputError(f"this is a dataset of several splits: choose one of {', '.join(map(str, rows))}")
    if hasattr(rows, "column_names") and hasattr(rows, "features") and hasattr(rows, "__len__"):
        return DatasetSource(rows)
    # A reader of record batches has the stream interface too, but no length: its rows can be read only once.
    if hasattr(rows, "__arrow_c_array__") or (hasattr(rows, "__arrow_c_stream__") and hasattr(rows, "__len__")):
        return ArrowTableSource(rows)
    return ArrowStreamSource(rows) if hasattr(rows, "__arrow_c_stream__") else None


def _is_from(rows: object, package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(rows).__mro__)


class TableSource(SeekableSource):
    """Rows of a table that can be sliced.

    Args:
        n_rows: number of rows.
        schema: names and types of the columns, as JSON can express them.
    """

    def __init__(self, n_rows: int, schema: Any) -> None:
        self.n_rows: int = n_rows
        self._schema = schema

    @abstractmethod
    def rows(self, start: int, stop: int) -> Rows:
        """Return the rows ``start <= i < stop``."""

    def blocks_from(self, row: int) -> Iterator[Block]:
        if row >= self.n_rows:
            return
        sample = min(_SAMPLE_ROWS, self.n_rows)
        size = rows_per_block(len(fingerprint.rows_as_bytes(self.rows(0, sample))) / sample)
        for start in range(row, self.n_rows, size):
            yield Block(self.rows(start, min(start + size, self.n_rows)))

    def fingerprint(self) -> dict[str, Any]:
        rows = (block.rows for block in self.blocks_from(0))
        return {"n_rows": self.n_rows, "schema": self._schema, "digest": fingerprint.of_rows(rows)}


class PandasSource(TableSource):
    """A frame: a mapping from column names to arrays, or bare values if it has one column; or a series.

    Numbers keep their dtype, nullable ones the numpy dtype of their values. A missing value (NA, None, NaN) in a
    nullable column or in a column of objects is None; NaN in a plain column of floats is NaN.

    Raises:
        InputError: the frame has two columns of one name, no column, or one without numbers, texts or objects.
    """

    def __init__(self, table: Any) -> None:
        self._series = {str(name): series for name, series in table.items()} if table.ndim == 2 else {"": table}
        if table.ndim == 2 and len(self._series) != table.shape[1]:
            raise InputError(f"the frame has {table.shape[1]} columns, but only {len(self._series)} names: rename some")
        if not self._series:
            raise InputError("the frame has no columns")
        for name, series in self._series.items():
            # Extension dtypes without a kind, such as pandas' strings, hold objects.
            if getattr(series.dtype, "kind", "O") not in "biufOSUT":
                problem = f"column {name!r} has dtype {series.dtype}, which no request can hold"
                raise InputError(f"{problem}; convert it to numbers or texts first, with .astype()")
        super().__init__(len(table), {name: str(series.dtype) for name, series in self._series.items()})

    def rows(self, start: int, stop: int) -> Rows:
        columns = {name: _pandas_column(series.iloc[start:stop]) for name, series in self._series.items()}
        return rows_from_columns(columns, bare=len(columns) == 1)


def _pandas_column(series: Any) -> Column:
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        numbers: Column = series.to_numpy()
        return numbers
    missing = series.isna().to_numpy(dtype=bool)
    present = series[~missing]
    # Only nullable numbers have this attribute.
    numpy_dtype = getattr(dtype, "numpy_dtype", None)
    if numpy_dtype is not None and numpy_dtype.kind in "biuf":
        return insert_missing(present.to_numpy(dtype=numpy_dtype), missing)
    return insert_missing(present.to_list(), missing)


class DatasetSource(TableSource):
    """A dataset of Hugging Face: a mapping from column names to arrays, or bare values if it has one column.

    Numbers, and lists of numbers that have one length, are arrays of the dtype in the dataset's features.

    Raises:
        InputError: the dataset has no columns.
    """

    def __init__(self, dataset: Any) -> None:
        if not dataset.column_names:
            raise InputError("the dataset has no columns")
        self._dataset = dataset
        self._names: list[str] = list(dataset.column_names)
        self._features: Mapping[str, Any] = dataset.features or {}
        super().__init__(len(dataset), {name: str(self._features.get(name)) for name in self._names})

    def rows(self, start: int, stop: int) -> Rows:
        part = self._dataset[start:stop]
        columns = {name: _dataset_column(part[name], self._features.get(name)) for name in self._names}
        return rows_from_columns(columns, bare=len(columns) == 1)


def _dataset_column(values: Any, feature: Any) -> Column:
    if isinstance(values, np.ndarray):
        array: Array = values
        return array if array.dtype.kind in "biufUST" else list(array)
    column: list[Any] = list(values)
    present = [value for value in column if value is not None]
    dtype = _feature_dtype(feature)
    # numpy would turn a None inside a list into NaN.
    if dtype is None or _has_none(present):
        return column
    try:
        as_stored = np.array(present)
        numbers: Array = np.array(present, dtype)
    # The lists have several lengths, or the values are not those of the features.
    except (ValueError, OverflowError):
        return column
    if dtype.kind != "f" and not np.array_equal(as_stored, numbers):
        return column
    return insert_missing(numbers, np.array([value is None for value in column]))


def _feature_dtype(feature: Any) -> np.dtype[Any] | None:
    """Return the dtype of the numbers in a column, or in the lists in it; None for other values."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    name = getattr(feature, "dtype", None)
    return np.dtype(name) if name in _NUMBERS else None


def _has_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_has_none, value)))


class ArrowTableSource(TableSource):
    """An Arrow table: a mapping from column names to arrays, or bare values if it has one column; or an array.

    Raises:
        InputError: the table has two columns of one name, no column, or one that no request can hold.
    """

    def __init__(self, table: Any) -> None:
        self._table = _as_arrow_table(table)
        self._columns = _all_columns(self._table.schema)
        super().__init__(self._table.num_rows, self._columns.schema)

    def rows(self, start: int, stop: int) -> Rows:
        # Chunks of a table are separate batches: they are copied into one, a block at a time.
        (batch,) = self._table.slice(start, stop - start).combine_chunks().to_batches()
        return self._columns.block(batch).rows


class ArrowStreamSource(Source):
    """A stream of Arrow record batches, which can be read once."""

    repeatable = False

    def __init__(self, stream: Any) -> None:
        self._reader = pyarrow().RecordBatchReader.from_stream(stream)
        self._columns = _all_columns(self._reader.schema)
        self._is_read = False

    def blocks(self) -> Iterator[Block]:
        if self._is_read:
            raise InputError("a stream of record batches can be read only once; to read it again, make a table of it")
        self._is_read = True
        for batch in self._reader:
            yield from self._columns.blocks(batch, 0)

    def fingerprint(self) -> None:
        return


def _as_arrow_table(table: Any) -> Arrow:
    pa = pyarrow()
    try:
        if hasattr(table, "schema"):
            return pa.table(table)
        array = pa.chunked_array(table) if hasattr(table, "__arrow_c_stream__") else pa.array(table)
    except (pa.ArrowException, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"pyarrow cannot read the table ({reason}); convert its columns first") from None
    return pa.table({"": array})


def _all_columns(schema: Arrow) -> ArrowColumns:
    # None selects the only column, whose values are then bare rows.
    several = tuple(schema.names) if len(schema.names) > 1 else None
    return ArrowColumns(schema, ColumnOptions(columns=several), "the table")
