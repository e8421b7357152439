"""Hugging Face's own `datasets`, in and out. The tests of its reader use a copy of its interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanout

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return pytest.importorskip("datasets")


@pytest.fixture
def dataset(datasets: Any) -> Any:
    columns = {"id": [7, 8, 9, 10], "x": [0.5, 1.5, 2.5, 3.5], "vector": [[i, i + 1.0] for i in range(4)]}
    return datasets.Dataset.from_dict(columns)


def test_rows_of_a_dataset_are_sent_by_map_and_stream(dataset: Any) -> None:
    with fanout.SyncClient("local://echo", codec="v1", chunk_rows=3) as client:
        np.testing.assert_array_equal(client.map(dataset.select_columns(["x"])), [0.5, 1.5, 2.5, 3.5])
        np.testing.assert_array_equal(client.map(dataset.select_columns("vector")), dataset["vector"])
        rows = dataset.to_iterable_dataset().select_columns(["x"])
        chunks = list(client.stream(row["x"] for row in rows))
        np.testing.assert_array_equal(np.concatenate([chunk.values for chunk in chunks]), [0.5, 1.5, 2.5, 3.5])
        tensors = dataset.with_format("numpy")
        np.testing.assert_array_equal(client.map(tensors.select_columns(["x"])), [0.5, 1.5, 2.5, 3.5])


def test_map_frame_gives_a_dataset_with_the_answers(datasets: Any, dataset: Any) -> None:
    chosen = dataset.filter(lambda row: row["id"] > 7).sort("id", reverse=True)
    with fanout.SyncClient("local://echo", codec="v1") as client:
        scored = client.map_frame(chosen, columns="x", keep=["id"])
        whole = client.map_frame(dataset, columns="x")
        vectors = client.map_frame(dataset, columns="vector", keep=[])
    assert isinstance(scored, datasets.Dataset)
    assert scored[:] == {"id": [10, 9, 8], "value": [3.5, 2.5, 1.5], "error": [None] * 3}
    assert whole.column_names == ["id", "x", "vector", "value", "error"]
    assert vectors["value"][:] == dataset["vector"][:]


def test_failed_rows_are_null_in_a_dataset(datasets: Any) -> None:
    dataset = datasets.Dataset.from_dict({"x": [1.0, None, 3.0]})
    with fanout.SyncClient("local://echo", codec="v1") as client:
        scored = client.map_frame(dataset)
    assert scored["value"][:] == [1.0, None, 3.0]
    assert "null" in scored["error"][1]


def test_a_dataset_of_several_splits_is_an_error(datasets: Any, dataset: Any) -> None:
    splits = datasets.DatasetDict({"train": dataset, "test": dataset})
    with fanout.SyncClient("local://echo", codec="v1") as client:
        with pytest.raises(fanout.ConfigError, match="choose one of train, test"):
            client.map_frame(splits)
        with pytest.raises(fanout.ConfigError, match="choose one of train, test"):
            client.map(splits)
