"""A run that an earlier version has begun goes on: an upgrade may not make users pay for its answers again.

The folder golden/ holds the journals and partial outputs of such runs, each stopped after 20 of 40 rows. Where a test
fails, read the old form too, rather than write the files anew: users have such files.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from fanout import Client, Limits, Source, open_sink, open_source
from fanout.testing import MockEndpoint
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
GOLDEN = Path(__file__).with_name("golden")
X = np.arange(120.0).reshape(40, 3)


def rows_for(name: str, folder: Path) -> Source | np.ndarray:
    return open_source(folder / "x.jsonl", "x", id="id") if name == "y.jsonl" else X


@pytest.mark.parametrize("name", ["y.npy", "y.jsonl", "y.parquet"])
async def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path, name: str) -> None:
    if name == "y.parquet":
        pytest.importorskip("pyarrow")
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, limits=Limits(concurrency=1)) as client:
            rows: Any = rows_for(name, tmp_path)
            result = await client.run(rows, open_sink(tmp_path / name), journal=tmp_path / f"{name}.journal")
        sent = [row for request in mock.requests for row in orjson.loads(request.body)["instances"]]
    assert sent == X[20:].tolist()
    assert result.ok.all()
    assert np.array_equal(values_of(tmp_path / name), X * 2)


def values_of(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".jsonl":
        return [orjson.loads(line)["value"] for line in path.read_bytes().splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(path)["value"].to_pylist()
