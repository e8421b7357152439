"""fanout as a user gets it: every promise on, nothing tuned but what the work itself says."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import fanout
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.works import ChunkTask


@asynccontextmanager
async def opened(work: ChunkTask, origin: str) -> AsyncIterator[Session]:
    """A client of fanout; ``map`` does the work."""
    async with client_of(work, origin) as client:
        yield Session(client.map)


def client_of(
    work: ChunkTask, origin: str, *, chunk_rows: int | None = None, retry: fanout.RetryPolicy | None = None
) -> fanout.Client[fanout.Array]:
    """A client for this work."""
    return fanout.Client(
        origin + work.url_path,
        codec=fanout.codec(work.codec, **work.codec_options),
        chunk_rows=chunk_rows or work.chunk_rows,
        limits=fanout.Limits(concurrency=work.concurrency),
        retry=retry,
    )
