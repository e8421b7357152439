"""OpenAI's SDK for embeddings: a worker loop around ``embeddings.create``, with its default retries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai

from benchmarks.session import Session
from benchmarks.workloads import MODEL, Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open an ``AsyncOpenAI``, which requests base64 by default."""
    async with openai.AsyncOpenAI(base_url=f"{origin}{workload.base}/v1", api_key="none") as client:

        async def send(rows: Any) -> Array:
            out = workload.blank(len(rows))
            todo = iter(slices(rows, workload.chunk_rows))
            await asyncio.gather(*(worker(rows, out, todo) for _ in range(workload.concurrency)))
            return out

        async def worker(rows: Any, out: Array, todo: Iterator[slice]) -> None:
            for chunk in todo:
                answer = await client.embeddings.create(model=MODEL, input=rows[chunk])
                out[chunk] = [item.embedding for item in answer.data]

        yield Session(send)
