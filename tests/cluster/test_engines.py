"""Datasets of Ray and arrays of Dask on clusters of this machine, and clusters that do not answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fanout
from fanout.cluster import Cluster, open_engine
from fanout.job import load_job, run_job
from fanout.testing import Background
from tests.jobs import doubling, write_job

__all__ = ["write_job"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OUTPUTS = {"y": ("float32", ())}


@pytest.fixture
def model():
    with Background(doubling()) as model:
        yield model


def target_of(model) -> dict[str, object]:
    return {"endpoint": model.url, "codec": "json", "chunk_rows": 4}


@pytest.fixture
def ray():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def dask_client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.filterwarnings("default")
def test_batches_of_a_ray_dataset(ray, model) -> None:
    from fanout.ray import map_batches

    rows = np.arange(400.0)
    rows[5] = -1.0
    table = [{"x": row, "name": f"n{i}"} for i, row in enumerate(rows)]
    dataset = ray.data.from_items(table, override_num_blocks=4)
    answered = map_batches(dataset, target_of(model), column="x", outputs=OUTPUTS, workers=2, batch_rows=50)
    found = sorted(answered.take_all(), key=lambda row: int(row["name"][1:]))
    assert [row["ok"] for row in found] == [i != 5 for i in range(400)]
    assert all(row["y"] == 2 * row["x"] for row in found if row["ok"])
    assert "a row is below 0" in found[5]["reason"]
    # The endpoint refuses: every row comes back, with the reason.
    model.status = 401
    answered = map_batches(dataset, target_of(model), column="x", outputs=OUTPUTS, workers=2, batch_rows=50)
    found = answered.take_all()
    assert len(found) == 400
    assert not any(row["ok"] for row in found)
    assert {row["reason"][:8] for row in found} == {"not sent"}


@pytest.mark.filterwarnings("default")
def test_blocks_of_a_dask_array(dask_client, model) -> None:
    import dask
    import dask.array as da

    from fanout.dask import map_blocks

    rows = np.arange(400.0)
    rows[5] = -1.0
    columns = map_blocks(da.from_array(rows, chunks=40), target_of(model), outputs=OUTPUTS)
    assert (columns["y"].dtype, columns["y"].shape) == (np.float32, (400,))
    y, ok, reason = dask.compute(*columns.values())
    assert ok.tolist() == [i != 5 for i in range(400)]
    np.testing.assert_array_equal(y[ok], 2 * rows[ok])
    assert "a row is below 0" in reason[5]
    model.status = 401
    _, ok, reason = dask.compute(
        *map_blocks(da.from_array(rows, chunks=40), target_of(model), outputs=OUTPUTS).values()
    )
    assert not ok.any()
    assert {text[:8] for text in reason} == {"not sent"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["ray", "dask"])
@pytest.mark.parametrize("missing", ["job", "output"])
async def test_workers_without_the_disk_of_the_driver_are_an_error_before_any_request(
    name, missing, model, write_job, monkeypatch
) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[name])
    job, engine = load_job(write_job(url=model.url)), open_engine(name, 2)
    run = engine.run

    async def run_elsewhere(shard: str) -> str:
        # To the worker the path means another disk.
        return await run(json.dumps({**json.loads(shard), missing: "/of/the/driver"}))

    monkeypatch.setattr(engine, "run", run_elsewhere)
    with pytest.raises(fanout.ConfigError, match=r"/of/the/driver.*: .* one shared disk .* .on the worker"):
        await run_job(job, remote=Cluster(job, engine))
    assert model.requests == 0


@pytest.mark.parametrize("name", ["ray", "dask"])
async def test_a_cluster_that_does_not_answer_is_an_error(name, monkeypatch) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[name])
    monkeypatch.setattr("fanout.cluster.engines.on_dask._CONNECT_SECONDS", 1)
    monkeypatch.setenv("RAY_CLIENT_CONNECT_TIMEOUT", "1")
    engine = open_engine(f"{name}://127.0.0.1:9")
    with pytest.raises(fanout.ConfigError, match=r"no (Ray cluster|Dask scheduler) at 127\.0\.0\.1:9"):
        await engine.open()
    # The process may start a cluster of its own afterwards.
    engine = open_engine(name, 1)
    await engine.open()
    await engine.close()
