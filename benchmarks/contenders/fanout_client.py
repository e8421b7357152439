"""fanout with its defaults; the workload sets chunk size and concurrency."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fanout
from benchmarks.session import Session
from benchmarks.workloads import PROMPT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.workloads import Workload


@asynccontextmanager
async def opened(workload: Workload, origin: str, *, template: bool = False) -> AsyncIterator[Session]:
    """Open a client of fanout, to be used through ``map``; with a ``template`` of the prompts, if wanted."""
    if template:
        options = {**workload.codec_options, "prompt": PROMPT.format("{{row}}")}
        workload = replace(workload, codec_options=options)
    async with client_of(workload, origin) as client:

        async def texts(rows: Any) -> fanout.Array:
            values: fanout.Array = (await client.map(rows))["text"]
            return values

        yield Session(texts if workload.wire == "chat" else client.map)


def client_of(
    workload: Workload, origin: str, *, chunk_rows: int | None = None, retry: fanout.RetryPolicy | None = None
) -> fanout.Client[Any]:
    """Return a client for this workload."""
    return fanout.Client(
        origin + workload.url_path,
        codec=fanout.codec(workload.codec, **workload.codec_options),
        chunk_rows=chunk_rows or workload.chunk_rows,
        limits=fanout.Limits(concurrency=workload.concurrency),
        retry=retry,
    )
