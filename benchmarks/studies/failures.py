"""What does an attempt cost when some of them fail?"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from benchmarks.contenders.fanout_client import client_of
from benchmarks.session import Session
from fanout import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.works import ChunkTask

_SHORT = RetryPolicy(initial_backoff=0.01, max_attempts=10)
"""Waiting costs no CPU time; it would only make the benchmark long."""


@asynccontextmanager
async def opened(work: ChunkTask, origin: str) -> AsyncIterator[Session]:
    """``map`` against a server of which some answers are a 503; the units are attempts."""
    async with client_of(work, origin, retry=_SHORT) as client:
        yield Session(client.map, units=lambda: client.statistics().requests)
