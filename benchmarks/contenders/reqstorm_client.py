"""reqstorm: all requests at once, a result for each."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import reqstorm

from benchmarks.contenders import _chat
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.workloads import Array, Workload


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open one session for all calls of ``fetch_all``, with two retries."""
    url = origin + workload.url_path
    async with aiohttp.ClientSession() as session:

        async def send(rows: Any) -> Array:
            requests = [reqstorm.Request(url, method="POST", json=_chat.request(row)) for row in rows]
            results = await reqstorm.fetch_all(requests, concurrency=workload.concurrency, retries=2, session=session)
            for result in results:
                result.raise_for_error()
            return _chat.array(_chat.text(result.json()) for result in results)

        yield Session(send)
