"""A whole job: texts in a Parquet file to embeddings in another, with fanout, and as a hand-written program.

The other contenders of this work use `job`, which writes the input, and reads and checks the output: for all of them
this is part of the measured time.
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

import fanout
from benchmarks.contenders.fanout_client import client_of
from benchmarks.contenders.handwritten import answer_of, request_of
from benchmarks.session import Session
from benchmarks.workloads import slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.workloads import Array, Workload


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Use ``run`` with a source and a sink, and a journal as the command has one."""
    async with client_of(workload, origin) as client:

        async def run(table: Path, output: Path) -> None:
            source = fanout.open_source(table, column="text", id="id")
            sink = fanout.open_sink(output)
            await client.run(source, sink, journal=output.with_suffix(".journal"))

        with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
            yield job(Path(folder), run)


@asynccontextmanager
async def by_hand(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Read all, gather behind a semaphore, write all."""
    semaphore = asyncio.Semaphore(workload.concurrency)
    request, answer = request_of(workload.wire), answer_of(workload.wire)
    async with aiohttp.ClientSession() as session:

        async def one(rows: list[str]) -> Array:
            async with semaphore, session.post(origin + workload.url_path, json=request(rows)) as response:
                response.raise_for_status()
                return answer(await response.json())

        async def run(table: Path, output: Path) -> None:
            columns = pq.read_table(table)
            texts = columns["text"].to_pylist()
            parts = await asyncio.gather(*(one(texts[rows]) for rows in slices(texts, workload.chunk_rows)))
            vectors = np.concatenate(parts)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            pq.write_table(pa.table({"id": columns["id"], "embedding": lists}), output)

        with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
            yield job(Path(folder), run)


def job(folder: Path, run: Callable[[Path, Path], Awaitable[None]]) -> Session:
    """Return the session of a contender: ``run`` takes the path of the input, and that of its output.

    The output is a file, or a folder of files. It has the columns ``id`` and another with the vectors, in any order.
    """
    numbers = count()

    async def send(rows: Any) -> Array:
        number = next(numbers)
        table, output = folder / f"{number}.parquet", folder / f"{number}.out.parquet"
        pq.write_table(pa.table({"id": np.arange(len(rows)), "text": rows}), table)
        await run(table, output)
        result = pq.read_table(output)
        (column,) = (name for name in result.column_names if name not in ("id", "error"))
        vectors = np.stack(result[column].to_numpy()).astype(np.float32, copy=False)
        values: Array = vectors[np.argsort(result["id"].to_numpy(), kind="stable")]
        return values

    return Session(send)
