"""Rows of Arrow's tables and arrays in memory."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from fanout.errors import InputError
from fanout.io.readers.tables import as_source
from tests.io.readers.reading import blocks, holds_in_parts, plain, read

TABLE = pa.table({"a": pa.array([1, None, 3, 4], pa.int16()), "text": ["x", "y", "z", None]})
ROWS = TABLE.to_pylist()


@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        TABLE.to_batches()[0],
        pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),
        pl.DataFrame({"a": pl.Series([1, None, 3, 4], dtype=pl.Int16), "text": ["x", "y", "z", None]}),
    ],
    ids=["Table", "RecordBatch", "Table of chunks", "polars"],
)
def test_a_table_of_several_columns_can_be_read_in_parts(table):
    holds_in_parts(as_source(table), ROWS)


@pytest.mark.parametrize(
    "table",
    [
        TABLE.select(["a"]),
        TABLE["a"],
        TABLE["a"].chunk(0),
        pa.chunked_array([[1], [None, 3, 4]], pa.int16()),
        pl.Series([1, None, 3, 4], dtype=pl.Int16),
        pl.DataFrame({"a": pl.Series([1, None, 3, 4], dtype=pl.Int16)}),
    ],
    ids=["Table", "ChunkedArray", "Array", "ChunkedArray of two", "polars Series", "polars DataFrame"],
)
def test_one_column_and_an_array_are_bare(table):
    holds_in_parts(as_source(table), [1, None, 3, 4])


def test_several_columns_without_gaps_are_arrays_by_name():
    rows = read(as_source(pl.DataFrame({"a": [1.5, 2.5], "text": ["x", "y"]})))
    assert (rows["a"].dtype, rows["text"].dtype) == (np.float64, np.dtypes.StringDType())


def test_vectors_are_an_array():
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    lists = pl.Series(vectors.tolist(), dtype=pl.List(pl.Float32))
    for table in (pl.Series("v", vectors), pl.DataFrame({"v": vectors}), lists):
        rows = read(as_source(table))
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, vectors)


def test_categories_are_texts():
    assert read(as_source(pl.Series(["a", None, "b"], dtype=pl.Categorical))) == ["a", None, "b"]
    assert read(as_source(TABLE["text"].dictionary_encode())) == ["x", "y", "z", None]
    assert read(as_source(pl.Series([["a"], None, ["b", None]]))) == [["a"], None, ["b", None]]


def test_a_stream_of_batches_is_read_once():
    source = as_source(pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(max_chunksize=3)))
    assert (source.repeatable, source.n_rows, source.fingerprint()) == (False, None, None)
    assert plain(read(source)) == ROWS
    with pytest.raises(InputError, match="read only once"):
        blocks(source)


def test_tables_that_no_request_can_hold_are_refused():
    with pytest.raises(InputError, match='column "when" of the table has the type timestamp'):
        as_source(pa.table({"when": pa.array([0], pa.timestamp("s"))}))
    with pytest.raises(InputError, match='the table has 2 columns "a": rename all but one'):
        as_source(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]))
    with pytest.raises(InputError, match="holds 0 columns"):
        as_source(pa.table({}))


def test_without_pyarrow_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'fanout-ml\[arrow\]'"):
        as_source(pl.DataFrame({"a": [1]}))


def test_the_fingerprint_goes_by_the_values_their_types_and_their_number():
    tables = [
        pa.table({"a": range(1000)}),
        pa.table({"a": range(999)}),
        pa.table({"a": range(1, 1001)}),
        pa.table({"b": range(1000)}),
        pa.table({"a": pa.array(range(1000), pa.int32())}),
        pa.table({"a": pa.array([], pa.int32())}),
    ]
    prints = [as_source(table).fingerprint() for table in tables]
    assert all(prints.count(one) == 1 for one in prints)
    assert as_source(pa.table({"a": range(1000)})).fingerprint() == prints[0]
