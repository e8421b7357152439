"""fanout with its defaults; the workload sets chunk size and concurrency."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import fanout
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.workloads import Workload


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open a client of fanout, to be used through ``map``."""
    async with client_of(workload, origin) as client:
        yield Session(client.map)


def client_of(
    workload: Workload, origin: str, *, chunk_rows: int | None = None, retry: fanout.RetryPolicy | None = None
) -> fanout.Client[fanout.Array]:
    """Return a client for this workload."""
    return fanout.Client(
        origin + workload.url_path,
        codec=fanout.codec(workload.codec, **workload.codec_options),
        chunk_rows=chunk_rows or workload.chunk_rows,
        limits=fanout.Limits(concurrency=workload.concurrency),
        retry=retry,
    )
