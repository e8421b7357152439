"""requests in a pool of threads, one session a thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import requests

from benchmarks.contenders.handwritten import instances, predictions
from benchmarks.session import Session
from benchmarks.works import Array, ChunkTask, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(work: ChunkTask, origin: str) -> AsyncIterator[Session]:
    """A pool with as many threads as requests may be in flight. Sending blocks the loop, where nothing else runs."""
    local = threading.local()
    url = origin + work.url_path

    def prepare() -> None:
        local.session = requests.Session()

    def one(rows: Any) -> Array:
        response = local.session.post(url, json=instances(rows), timeout=60)
        response.raise_for_status()
        return predictions(response.json())

    with ThreadPoolExecutor(work.concurrency, initializer=prepare) as pool:

        async def send(rows: Any) -> Array:
            return np.concatenate(list(pool.map(one, (rows[chunk] for chunk in slices(rows, work.chunk_rows)))))

        yield Session(send)
