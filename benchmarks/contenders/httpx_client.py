"""httpx, or httpx2: the same hand-written program on another HTTP client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders.handwritten import answer_of, request_of
from benchmarks.session import Session
from benchmarks.workloads import Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(workload: Workload, origin: str, *, package: str = "httpx") -> AsyncIterator[Session]:
    """Open an ``AsyncClient`` of the package and a semaphore."""
    semaphore = asyncio.Semaphore(workload.concurrency)
    request, answer = request_of(workload.wire), answer_of(workload.wire)
    async with import_module(package).AsyncClient(timeout=60) as client:

        async def one(rows: Any) -> Array:
            async with semaphore:
                response = await client.post(origin + workload.url_path, json=request(rows))
                return answer(response.raise_for_status().json())

        async def send(rows: Any) -> Array:
            return np.concatenate(
                await asyncio.gather(*(one(rows[chunk]) for chunk in slices(rows, workload.chunk_rows)))
            )

        yield Session(send)
