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

from fanout import Client, ConfigError, Limits, Source, open_sink, open_source
from fanout.testing import MockEndpoint
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
GOLDEN = Path(__file__).with_name("golden")
X = np.arange(120.0).reshape(40, 3)


def rows_for(name: str, folder: Path) -> Source | np.ndarray:
    return open_source(folder / "x.jsonl", "x", id="id") if name == "y.jsonl" else X


@pytest.mark.parametrize("name", ["y.npy", "y-xxh3.npy", "y.jsonl", "y.parquet"])
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


TEXTS = [f"text {i}" for i in range(40)]


async def shouted(folder: Path, name: str, texts: list[str], **options: Any) -> list[str]:
    """Have the rest of a run over texts answered in capitals; return the texts that were sent."""
    with MockEndpoint(lambda texts: [text.upper() for text in texts]) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=7, limits=Limits(concurrency=1)) as client:
            sink, journal = open_sink(folder / name), folder / f"{name}.journal"
            result = await client.run(texts, sink, journal=journal, **options)
        assert result.ok.all()
        lines = (folder / name).read_bytes().splitlines()
        assert list(map(orjson.loads, lines)) == [text.upper() for text in texts]
        return [text for request in mock.requests for text in orjson.loads(request.body)["instances"]]


@pytest.mark.parametrize("name", ["texts-blake2b.jsonl", "texts-xxh3.jsonl"])
async def test_texts_are_compared_by_the_digests_of_the_earlier_version(tmp_path: Path, name: str) -> None:
    shutil.copytree(GOLDEN, tmp_path / "same")
    assert await shouted(tmp_path / "same", name, TEXTS) == TEXTS[20:]
    assert await shouted(tmp_path / "same", name, TEXTS) == []  # it is complete

    edited = [*TEXTS]
    edited[3], edited[30] = "other", "another"
    shutil.copytree(GOLDEN, tmp_path / "edited")
    with pytest.raises(ConfigError, match=r"another input \(of the 20 rows that are done, these differ: 3\)"):
        await shouted(tmp_path / "edited", name, edited)
    # Rows keep their answers under other numbers, too, and the new journal is read as the old one was.
    moved = [*edited[5:], *edited[:5]]
    unknown = [text for text in moved if text not in TEXTS[:20]]
    assert await shouted(tmp_path / "edited", name, moved, carry=True) == unknown
    assert await shouted(tmp_path / "edited", name, moved) == []


def values_of(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".jsonl":
        return [orjson.loads(line)["value"] for line in path.read_bytes().splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(path)["value"].to_pylist()
