"""Rows of pandas' frames and series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fanout.errors import InputError
from fanout.io.readers.tables import as_source
from tests.io.readers.reading import TINY, holds_in_parts, plain, read


def test_several_columns_are_arrays_by_name():
    frame = pd.DataFrame({"a": np.arange(3, dtype=np.float32), "text": ["x", "y", "z"]})
    rows = read(as_source(frame))
    assert (rows["a"].dtype, rows["text"].dtype) == (np.float32, np.dtypes.StringDType())
    holds_in_parts(as_source(frame), [{"a": 0.0, "text": "x"}, {"a": 1.0, "text": "y"}, {"a": 2.0, "text": "z"}])


def test_one_column_and_a_series_are_bare():
    for table in (pd.DataFrame({"a": [1, 2, 3]}), pd.Series([1, 2, 3])):
        rows = read(as_source(table))
        assert (rows.dtype, rows.tolist()) == (np.int64, [1, 2, 3])


def test_the_index_is_no_matter():
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}, index=[2, 2, 0]).iloc[1:]
    holds_in_parts(as_source(frame), [{"a": 2, "b": 5}, {"a": 3, "b": 6}])


@pytest.mark.parametrize("dtype", ["Int8", "UInt64", "Float32", "boolean", "int64[pyarrow]", "float[pyarrow]"])
def test_nullable_numbers_keep_the_dtype_that_they_stand_for(dtype):
    series = pd.Series([1, 0, 1], dtype=dtype)
    whole = read(as_source(series))
    assert whole.dtype == series.dtype.numpy_dtype
    series[1] = pd.NA
    rows = read(as_source(series))
    assert plain(rows) == [1, None, 1]
    assert [row.dtype for row in rows[::2]] == [whole.dtype] * 2


@pytest.mark.parametrize("dtype", ["str", "string", "string[pyarrow]", object, "category"])
def test_a_missing_text_is_none(dtype):
    series = pd.Series(["a", None, "b"], dtype=dtype)
    assert read(as_source(series)) == ["a", None, "b"]
    assert read(as_source(pd.DataFrame({"t": series, "n": range(3)})))[1] == {"t": None, "n": 1}


def test_numbers_of_categories_are_numbers():
    assert plain(read(as_source(pd.Series([5, 7, None], dtype="category")))) == [5, 7, None]


def test_nan_among_plain_floats_is_nan():
    rows = read(as_source(pd.Series([1.0, None])))
    assert np.isnan(rows[1])


def test_objects_are_as_they_are():
    vectors = [np.zeros(2), np.ones(2)]
    assert read(as_source(pd.Series(vectors))) == vectors
    assert read(as_source(pd.Series([[1, 2], {"a": 3}]))) == [[1, 2], {"a": 3}]


DAY = pd.to_datetime(["2024-01-01"])


@pytest.mark.parametrize("column", [DAY, DAY.tz_localize("UTC"), DAY - DAY, [1j]])
def test_dtypes_that_no_request_has_are_refused(column):
    with pytest.raises(InputError, match=r"column 'when' has dtype .*\.astype\(\)"):
        as_source(pd.DataFrame({"when": column}))


def test_frames_without_columns_or_with_two_of_one_name_are_refused():
    with pytest.raises(InputError, match="no columns"):
        as_source(pd.DataFrame(index=[1]))
    with pytest.raises(InputError, match="2 columns, but only 1 names"):
        as_source(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_the_fingerprint_goes_by_the_values_their_dtypes_and_their_number():
    frames = [
        pd.DataFrame({"a": range(1000)}),
        pd.DataFrame({"a": range(999)}),
        pd.DataFrame({"a": range(1, 1001)}),
        pd.DataFrame({"a": range(1000)}, dtype=np.float64),
        pd.DataFrame({"b": range(1000)}),
        pd.DataFrame({"a": [None] + ["x"] * 999}),
        pd.DataFrame({"a": []}),
    ]
    prints = [as_source(frame).fingerprint() for frame in frames]
    assert all(prints.count(one) == 1 for one in prints)
    assert as_source(frames[0].copy()).fingerprint() == prints[0]


def test_large_texts_make_small_blocks():
    series = pd.Series(["x" * 100_000] * 20)
    sizes = [len(block.rows) for block in as_source(series).blocks()]
    assert max(sizes) <= 5
    assert list(as_source(pd.Series([], dtype="str")).blocks()) == []
    assert read(as_source(pd.Series(["a", "b"])), TINY) == ["a", "b"]
