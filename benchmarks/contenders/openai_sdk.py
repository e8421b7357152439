"""OpenAI's SDK: a worker loop around ``embeddings.create`` or ``chat.completions.create``, with its default retries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai

from benchmarks.contenders._chat import request
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
                out[chunk] = await (texts if workload.wire == "chat" else vectors)(rows[chunk])

        async def vectors(rows: list[str]) -> list[Any]:
            answer = await client.embeddings.create(model=MODEL, input=rows)
            return [item.embedding for item in answer.data]

        async def texts(rows: list[str]) -> list[Any]:
            messages: Any = request(rows[0])["messages"]
            answer = await client.chat.completions.create(model=MODEL, messages=messages)
            return [answer.choices[0].message.content]

        yield Session(send)
