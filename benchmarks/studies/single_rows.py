"""Measure the cost of a single row: batched with others by ``predict``, or in its own request."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.fanout_client import client_of
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from benchmarks.workloads import Array, Workload

_CALLERS = 256


@asynccontextmanager
async def predicted(workload: Workload, origin: str, *, chunk_rows: int) -> AsyncIterator[Session]:
    """Call ``predict`` from many tasks that wait for each answer; at most ``chunk_rows`` rows share a request."""
    async with client_of(workload, origin, chunk_rows=chunk_rows) as client:

        async def send(rows: Any) -> Array:
            out, todo = workload.blank(len(rows)), iter(range(len(rows)))
            await asyncio.gather(*(caller(rows, out, todo) for _ in range(_CALLERS)))
            return out

        async def caller(rows: Any, out: Array, todo: Iterator[int]) -> None:
            for i in todo:
                out[i] = await client.predict(rows[i])

        yield Session(send)
