"""baseten-performance-client: Rust under Python. It takes all requests at once, as Python objects.

Its embeddings cannot decode base64. It takes lists, not arrays.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from baseten_performance_client import PerformanceClient, RequestProcessingPreference

from benchmarks.contenders.handwritten import instances
from benchmarks.session import Session
from benchmarks.workloads import MODEL, QUERY, Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open a ``PerformanceClient``."""
    client = PerformanceClient(origin + workload.base, api_key="none")
    preference = RequestProcessingPreference(
        max_concurrent_requests=workload.concurrency, batch_size=workload.chunk_rows
    )

    async def predict(rows: Array) -> Array:
        payloads = [instances(rows[chunk]) for chunk in slices(rows, workload.chunk_rows)]
        answers = await client.async_batch_post(workload.path, payloads, preference=preference)
        return np.concatenate([np.array(answer["predictions"], np.float32) for answer in answers.data])

    async def embed(rows: list[str]) -> Array:
        answers = await client.async_embed(rows, model=MODEL, preference=preference)
        vectors: Array = answers.numpy()
        return vectors

    async def rerank(rows: list[str]) -> Array:
        answers = await client.async_rerank(QUERY, rows, preference=preference)
        # The index of an answer counts from the first row of all.
        out = workload.blank(len(rows))
        for answer in answers.data:
            out[answer.index] = answer.score
        return out

    send: dict[str, Any] = {"predict": predict, "floats": embed, "rerank": rerank}
    yield Session(send[workload.wire])
