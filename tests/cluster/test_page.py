"""The programs of docs/cluster.md, on clusters of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from fanout.testing import Background
from tests.jobs import served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]

PAGE = (Path(__file__).absolute().parents[2] / "docs" / "cluster.md").read_text("utf-8")

JOB = """
[input]
path = "unused.npy"
[endpoint]
url = "{url}/v1/models/m:predict"
[codec]
name = "v1"
[output]
path = "unused-too.npy"
"""


async def quarters(request: web.Request) -> web.Response:
    rows = (await request.json())["instances"]
    return web.json_response({"predictions": [[len(row) / 4] * 4 for row in rows]})


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Returns the program of the page for a module, with its job file in the working folder."""
    monkeypatch.chdir(tmp_path)
    with Background(served(quarters)) as url:
        (tmp_path / "job.toml").write_text(JOB.format(url=url))
        yield lambda module: next(
            block for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if module in block
        )


def test_the_program_for_ray(program, tmp_path) -> None:
    ray = pytest.importorskip("ray")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": ["ab", "abcd", ""]}), tmp_path / "texts.parquet")
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        exec(program("fanout.ray"), {})
        rows = pq.read_table(tmp_path / "embeddings").to_pylist()
    finally:
        ray.shutdown()
    found = {row["text"]: (row["ok"], np.ravel(row["embedding"])[0]) for row in rows}
    assert found == {"ab": (True, 0.5), "abcd": (True, 1.0), "": (True, 0.0)}


def test_the_program_for_dask(program, tmp_path) -> None:
    da = pytest.importorskip("dask.array")
    pytest.importorskip("distributed")
    da.to_npy_stack(tmp_path / "stack", da.ones((8, 3), chunks=(4, 3)))
    namespace: dict[str, np.ndarray] = {}
    exec(program("fanout.dask"), namespace)
    assert namespace["ok"].all()
    assert namespace["y"].tolist() == [[0.75] * 4] * 8
