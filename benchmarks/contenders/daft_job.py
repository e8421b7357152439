"""Daft: ``embed_text`` over a table, by its OpenAI provider, which is the SDK of OpenAI."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import daft
from daft.ai.openai.provider import OpenAIProvider
from daft.functions import embed_text

from benchmarks.contenders.whole_job import job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.session import Session
    from benchmarks.workloads import Workload

_MODEL = "text-embedding-3-small"
"""Daft takes only the names of models that it knows. The server takes any."""


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Use the native runner. Daft chooses the number of requests in flight by itself."""
    provider = OpenAIProvider(base_url=f"{origin}{workload.base}/v1", api_key="none")

    def run(table: Path, output: Path) -> None:
        embedding = embed_text(
            daft.col("text"), provider=provider, model=_MODEL, dimensions=workload.answer.shape[1],
            batch_size=workload.chunk_rows,
        )  # fmt: skip
        frame = daft.read_parquet(str(table)).with_column("embedding", embedding).select("id", "embedding")
        frame.write_parquet(str(output))

    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
        yield job(Path(folder), lambda table, output: asyncio.to_thread(run, table, output))
