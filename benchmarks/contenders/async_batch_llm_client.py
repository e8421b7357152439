"""async-batch-llm: a pool of workers over the OpenAI SDK, by its own way to compatible servers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from async_batch_llm import llm, process_prompts

from benchmarks.contenders import _chat
from benchmarks.session import Session
from benchmarks.workloads import MODEL, Array, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Use ``process_prompts`` with its defaults."""
    strategy = llm(f"openai-compatible:{MODEL}", base_url=f"{origin}{workload.base}/v1", api_key="none")

    async def send(rows: Any) -> Array:
        batch = await process_prompts(strategy, rows, concurrency=workload.concurrency, preserve_order=True)
        return _chat.array(result.output for result in batch.results)

    yield Session(send)
