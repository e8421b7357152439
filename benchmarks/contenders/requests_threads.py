"""requests in a pool of threads, one session per thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import requests

from benchmarks.contenders.handwritten import instances, predictions
from benchmarks.session import Session
from benchmarks.workloads import Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open a pool with one thread per request in flight. Sending blocks the loop, on which nothing else runs."""
    local = threading.local()
    url = origin + workload.url_path

    def prepare() -> None:
        local.session = requests.Session()

    def one(rows: Any) -> Array:
        response = local.session.post(url, json=instances(rows), timeout=60)
        response.raise_for_status()
        return predictions(response.json())

    with ThreadPoolExecutor(workload.concurrency, initializer=prepare) as pool:

        async def send(rows: Any) -> Array:
            return np.concatenate(list(pool.map(one, (rows[chunk] for chunk in slices(rows, workload.chunk_rows)))))

        yield Session(send)
