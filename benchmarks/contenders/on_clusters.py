"""One job on two workers of Ray or of Dask: fanout's, Ray Data's HTTP processor, and aiohttp in tasks of Dask.

All read a Parquet file, send the same requests of `Workload.chunk_rows` texts, and write Parquet. Ray Data sends one
row in a request, so its file has rows of many texts. The workers are started, and have sent something, before the time
begins. A session of fanout also returns which rows have an answer; the others raise, and have none.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders.handwritten import answer_of, request_of, retried
from benchmarks.servers.vectors import WIDTH
from benchmarks.session import Session
from benchmarks.workloads import MODEL, slices
from fanout.cluster import Cluster, open_engine
from fanout.job import load_job, run_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from benchmarks.workloads import Array, Workload

WORKERS = 2

_JOB = """
[input]
path = "{table}"
column = "text"
id = "id"
[endpoint]
url = "{url}"
[codec]
name = "openai-embeddings"
model = "{model}"
encoding_format = "float"
[chunks]
rows = {chunk_rows}
[limits]
concurrency = {concurrency}
[retry]
initial_backoff = 0.05
[output]
path = "{output}"
[report]
write = false
"""


@asynccontextmanager
async def fanout_on(workload: Workload, origin: str, *, engine: str) -> AsyncIterator[Session]:
    """Run a job as ``fanout run --on ENGINE`` does, on an engine that stays open."""
    workers = open_engine(engine, WORKERS)
    await workers.open()
    close = workers.close
    # Each run opens its engine, and closes it.
    for name in ("open", "close"):
        setattr(workers, name, _nothing)
    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
        paths = _paths(Path(folder))

        async def send(rows: list[str]) -> Any:
            table, output = next(paths)
            pq.write_table(pa.table({"id": np.arange(len(rows)), "text": rows}), table)
            job = output.with_suffix(".toml")
            text = _JOB.format(
                table=table, output=output, url=origin + workload.url_path, model=MODEL,
                chunk_rows=workload.chunk_rows, concurrency=workload.concurrency,
            )  # fmt: skip
            job.write_text(text)
            loaded = load_job(job)
            await run_job(loaded, remote=Cluster(loaded, workers))
            answers = pq.read_table(output)
            (name,) = (name for name in answers.column_names if name not in ("id", "error"))
            column = answers[name].to_pylist()
            ok = np.array([vector is not None for vector in column])
            return np.array([vector or [np.nan] * WIDTH for vector in column], np.float32), ok

        try:
            yield await _warmed(Session(send), workload)
        finally:
            await close()


@asynccontextmanager
async def ray_processor(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Send rows of many texts with Ray Data's HTTP processor, which retries."""
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=WORKERS)
    ray.data.DataContext.get_current().enable_progress_bars = False
    config = HttpRequestProcessorConfig(
        url=origin + workload.url_path,
        concurrency=WORKERS,
        batch_size=workload.concurrency // WORKERS,
        max_retries=5,
        base_retry_wait_time_in_s=0.05,
    )

    def payload(row: dict[str, Any]) -> dict[str, Any]:
        texts = list(row["texts"])
        return {"payload": {"model": MODEL, "input": texts, "encoding_format": "float"}, "number": row["number"]}

    def embeddings(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "values": [item["embedding"] for item in row["http_response"]["data"]]}

    processor = build_processor(config, preprocess=payload, postprocess=embeddings)

    def run(rows: list[str], table: Path, output: Path) -> Array:
        texts = [rows[chunk] for chunk in slices(rows, workload.chunk_rows)]
        pq.write_table(pa.table({"number": np.arange(len(texts)), "texts": texts}), table)
        processor(ray.data.read_parquet(str(table))).write_parquet(str(output))
        vectors = pq.read_table(output).sort_by("number")["values"].combine_chunks()
        return _array(vectors.flatten())

    try:
        with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
            paths = _paths(Path(folder))
            yield await _warmed(Session(lambda rows: asyncio.to_thread(run, rows, *next(paths))), workload)
    finally:
        ray.shutdown()


@asynccontextmanager
async def dask_aiohttp(workload: Workload, origin: str, *, tenacity: bool = False) -> AsyncIterator[Session]:
    """Gather requests behind a semaphore in one task for each worker, with or without tenacity."""
    from distributed import Client, LocalCluster

    url = origin + workload.url_path
    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
        async with (
            LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            paths = _paths(Path(folder))

            async def send(rows: list[str]) -> Array:
                table, output = next(paths)
                pq.write_table(pa.table({"id": np.arange(len(rows)), "text": rows}), table)
                output.mkdir()
                share, wanted = -(-len(rows) // WORKERS), (workload.wire, workload.chunk_rows)
                settings = (*wanted, workload.concurrency // WORKERS, tenacity)
                starts = range(0, len(rows), share)
                tasks = [
                    client.submit(_gathered, table, output, start, share, url, *settings, pure=False)
                    for start in starts
                ]
                await client.gather(tasks)
                return _array(pq.read_table(output).sort_by("id")["embedding"].combine_chunks())

            yield await _warmed(Session(send), workload)


def _gathered(
    table: Path,
    output: Path,
    start: int,
    n_rows: int,
    url: str,
    wire: str,
    chunk_rows: int,
    concurrency: int,
    tenacity: bool,
) -> None:
    columns = pq.read_table(table).slice(start, n_rows)
    rows = columns["text"].to_pylist()
    request, answer = request_of(wire), answer_of(wire)

    async def main() -> Array:
        semaphore = asyncio.Semaphore(concurrency)
        async with aiohttp.ClientSession() as session:

            async def post(body: dict[str, Any]) -> Array:
                async with session.post(url, json=body) as response:
                    response.raise_for_status()
                    return answer(await response.json())

            attempt = retried(post) if tenacity else post

            async def one(part: Sequence[str]) -> Array:
                async with semaphore:
                    return await attempt(request(part))

            return np.concatenate(await asyncio.gather(*(one(rows[chunk]) for chunk in slices(rows, chunk_rows))))

    vectors = asyncio.run(main())
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"id": columns["id"], "embedding": lists}), output / f"{start}.parquet")


def _paths(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the paths of an input and an output for each call."""
    return ((folder / f"{number}.parquet", folder / f"{number}.out.parquet") for number in count())


def _array(lists: Any) -> Array:
    """Return an array of Arrow lists as one array; shape (rows, WIDTH)."""
    values: Array = np.asarray(lists.flatten()).astype(np.float32).reshape(-1, WIDTH)
    return values


async def _warmed(session: Session, workload: Workload) -> Session:
    # A request for each worker, so that all have started; the server gives the first ones no fault.
    await session.send(workload.rows(WORKERS))
    return session


async def _nothing() -> None:
    return
