"""Rows of datasets in the form of Hugging Face's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fanout.errors import InputError
from fanout.io.readers.tables import as_source
from tests.io.readers.reading import TINY, holds_in_parts, plain, read


class Dataset:
    """The interface of a ``datasets.Dataset``: columns with features, and slices that are dicts of lists."""

    def __init__(self, columns: dict[str, Any], dtypes: dict[str, str] | None = None) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features = {name: SimpleNamespace(dtype=(dtypes or {}).get(name, "string")) for name in columns}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, part: slice) -> dict[str, Any]:
        return {name: column[part] for name, column in self.columns.items()}


def test_several_columns_are_arrays_by_name():
    dataset = Dataset({"text": ["a", "b", "c"], "score": [1.0, 2.0, 3.0]}, {"score": "float32"})
    rows = read(as_source(dataset))
    assert (rows["text"].dtype, rows["score"].dtype) == (np.dtypes.StringDType(), np.float32)
    holds_in_parts(as_source(dataset), [{"text": t, "score": s} for t, s in [("a", 1.0), ("b", 2.0), ("c", 3.0)]])


def test_one_column_is_bare_and_a_missing_text_is_none():
    holds_in_parts(as_source(Dataset({"text": ["a", None, "c", "d"]})), ["a", None, "c", "d"])


def test_a_missing_number_is_none_among_numbers_of_their_dtype():
    rows = read(as_source(Dataset({"n": [1, None, 3]}, {"n": "int32"})))
    assert plain(rows) == [1, None, 3]
    assert rows[0].dtype == np.int32


def test_lists_of_one_length_are_an_array_and_others_a_list():
    dataset = Dataset({"v": [[1, 2], [3, 4], None, [5]]})
    dataset.features["v"] = SimpleNamespace(dtype="list", feature=SimpleNamespace(dtype="int8"))
    rows = read(as_source(dataset).sliced(slice(0, 2)), 3)
    assert (rows.dtype, rows.tolist()) == (np.int8, [[1, 2], [3, 4]])
    assert plain(read(as_source(dataset), TINY)) == [[1, 2], [3, 4], None, [5]]


def test_a_number_that_is_missing_in_a_list_does_not_become_nan():
    dataset = Dataset({"v": [[1.0, None], [3.0, 4.0]]})
    dataset.features["v"] = SimpleNamespace(feature=SimpleNamespace(dtype="float32"))
    assert read(as_source(dataset)) == [[1.0, None], [3.0, 4.0]]


@pytest.mark.parametrize(("values", "dtype"), [([1.5, 2.0], "int64"), ([300, 1], "uint8"), ([[0.5], [1]], "int32")])
def test_numbers_unlike_the_features_are_not_bent_to_them(values, dtype):
    """A transform may return arrays of any kind."""
    assert plain(read(as_source(Dataset({"x": values}, {"x": dtype})))) == values


def test_lists_and_dicts_are_as_they_are():
    messages = [[{"role": "user", "content": "hi"}], []]
    assert read(as_source(Dataset({"messages": messages}))) == messages


@pytest.mark.parametrize(("array", "kind"), [(np.zeros((3, 2), np.float16), "f"), (np.array([None, {}, 1]), None)])
def test_a_dataset_that_gives_arrays_is_taken_at_its_word(array, kind):
    rows = read(as_source(Dataset({"x": array})))
    assert (rows.dtype.kind if kind else None) == kind
    assert plain(rows) == array.tolist()


def test_a_dataset_of_several_splits_is_refused_with_their_names():
    class Splits(dict[str, Any]):
        column_names = {"train": ["a"], "test": ["a"]}  # noqa: RUF012 - as theirs

    with pytest.raises(InputError, match="choose one of train, test"):
        as_source(Splits(train=1, test=2))


def test_a_dataset_without_columns_is_refused():
    dataset = Dataset({"a": []})
    dataset.column_names = []
    with pytest.raises(InputError, match="no columns"):
        as_source(dataset)


def test_the_fingerprint_goes_by_the_values():
    prints = [as_source(Dataset({"text": [str(i + k) for i in range(100)]})).fingerprint() for k in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
