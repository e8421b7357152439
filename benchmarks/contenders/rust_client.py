"""baseten-performance-client: Rust under Python. All requests go in at once, as Python objects.

Its embeddings cannot decode base64. It has no arrays going in: they are made lists.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from baseten_performance_client import PerformanceClient, RequestProcessingPreference

from benchmarks.contenders.handwritten import instances
from benchmarks.session import Session
from benchmarks.works import MODEL, Array, ChunkTask, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(work: ChunkTask, origin: str) -> AsyncIterator[Session]:
    """A ``PerformanceClient``."""
    client = PerformanceClient(origin + work.base, api_key="none")
    preference = RequestProcessingPreference(max_concurrent_requests=work.concurrency, batch_size=work.chunk_rows)

    async def predict(rows: Array) -> Array:
        payloads = [instances(rows[chunk]) for chunk in slices(rows, work.chunk_rows)]
        answers = await client.async_batch_post(work.path, payloads, preference=preference)
        return np.concatenate([np.array(answer["predictions"], np.float32) for answer in answers.data])

    async def embed(rows: list[str]) -> Array:
        answers = await client.async_embed(rows, model=MODEL, preference=preference)
        vectors: Array = answers.numpy()
        return vectors

    send: dict[str, Any] = {"predict": predict, "floats": embed}
    yield Session(send[work.wire])
