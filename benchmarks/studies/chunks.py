"""Does a chunk cost the same in a long run as in a short one, and does memory stay where it was?"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.fanout_client import client_of
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.works import Array, ChunkTask


@asynccontextmanager
async def streamed(work: ChunkTask, origin: str) -> AsyncIterator[Session]:
    """``stream`` in place of ``map``; what it yields is copied to its place by the one who asks."""
    async with client_of(work, origin) as client:

        async def send(rows: Any) -> Array:
            out = work.blank(len(rows))
            answered = 0
            async with client.stream(rows) as results:
                async for done in results:
                    out[done.start : done.stop] = done.values
                    answered += done.stop - done.start
            if answered != len(rows):
                raise ValueError(f"{answered} of {len(rows)} rows were answered")
            return out

        yield Session(send)
