"""Measure the cost of an attempt when some attempts fail."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from benchmarks.contenders.fanout_client import client_of
from benchmarks.session import Session
from fanout import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.workloads import Workload

_SHORT = RetryPolicy(initial_backoff=0.01, max_attempts=10)
"""Waiting costs no CPU time, so short waits only shorten the benchmark."""


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Use ``map`` with a server that answers some requests with 503; the units are attempts."""
    async with client_of(workload, origin, retry=_SHORT) as client:
        yield Session(client.map, units=lambda: client.statistics().requests)
