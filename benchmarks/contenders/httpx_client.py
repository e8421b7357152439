"""httpx: the same hand-written program on another HTTP client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from benchmarks.contenders.handwritten import instances, predictions
from benchmarks.session import Session
from benchmarks.workloads import Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open an ``AsyncClient`` and a semaphore."""
    semaphore = asyncio.Semaphore(workload.concurrency)
    async with httpx.AsyncClient(timeout=60) as client:

        async def one(rows: Any) -> Array:
            async with semaphore:
                response = await client.post(origin + workload.url_path, json=instances(rows))
                return predictions(response.raise_for_status().json())

        async def send(rows: Any) -> Array:
            return np.concatenate(
                await asyncio.gather(*(one(rows[chunk]) for chunk in slices(rows, workload.chunk_rows)))
            )

        yield Session(send)
