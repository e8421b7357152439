"""Compare the cost of a chunk, and the memory, in long and in short runs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.fanout_client import client_of
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.workloads import Array, Workload


@asynccontextmanager
async def streamed(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Use ``stream`` in place of ``map``; the caller copies each chunk to its place."""
    async with client_of(workload, origin) as client:

        async def send(rows: Any) -> Array:
            out = workload.blank(len(rows))
            answered = 0
            async with client.stream(rows) as results:
                async for done in results:
                    out[done.start : done.stop] = done.values
                    answered += done.stop - done.start
            if answered != len(rows):
                raise ValueError(f"{answered} of {len(rows)} rows were answered")
            return out

        yield Session(send)
