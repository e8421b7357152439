"""Ray Data: its HTTP request processor over a table. It sends one row in a request; its processes are Ray's own."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor

from benchmarks.contenders.whole_job import job
from benchmarks.workloads import MODEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.session import Session
    from benchmarks.workloads import Workload


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Start Ray on this machine, unless it runs already."""
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, num_cpus=2)
    config = HttpRequestProcessorConfig(url=origin + workload.url_path, concurrency=1, max_retries=3)

    def payload(row: dict[str, Any]) -> dict[str, Any]:
        return {"payload": {"model": MODEL, "input": [row["text"]], "encoding_format": "float"}, "id": row["id"]}

    def embedding(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "embedding": row["http_response"]["data"][0]["embedding"]}

    processor = build_processor(config, preprocess=payload, postprocess=embedding)

    def run(table: Path, output: Path) -> None:
        processor(ray.data.read_parquet(str(table))).write_parquet(str(output))

    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
        yield job(Path(folder), lambda table, output: asyncio.to_thread(run, table, output))
