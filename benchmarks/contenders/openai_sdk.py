"""OpenAI's own SDK for embeddings: a worker loop around ``embeddings.create``, retries as they are by default."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai

from benchmarks.session import Session
from benchmarks.works import MODEL, Array, ChunkTask, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@asynccontextmanager
async def opened(work: ChunkTask, origin: str) -> AsyncIterator[Session]:
    """An ``AsyncOpenAI``; it asks for base64 by itself."""
    async with openai.AsyncOpenAI(base_url=f"{origin}{work.base}/v1", api_key="none") as client:

        async def send(rows: Any) -> Array:
            out = work.blank(len(rows))
            todo = iter(slices(rows, work.chunk_rows))
            await asyncio.gather(*(worker(rows, out, todo) for _ in range(work.concurrency)))
            return out

        async def worker(rows: Any, out: Array, todo: Iterator[slice]) -> None:
            for chunk in todo:
                answer = await client.embeddings.create(model=MODEL, input=rows[chunk])
                out[chunk] = [item.embedding for item in answer.data]

        yield Session(send)
