"""Measure the cost of an output file, and of a journal beside it."""

from __future__ import annotations

import inspect
import tempfile
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fanout
from benchmarks.contenders.fanout_client import client_of
from benchmarks.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.workloads import Array, Workload


def lacking() -> str | None:
    """Return the reason that the installed fanout cannot be measured, or None."""
    if not hasattr(fanout, "open_sink") or "journal" not in inspect.signature(fanout.Client.run).parameters:
        return "this fanout has no journal"
    return None


@asynccontextmanager
async def opened(workload: Workload, origin: str, *, journal: bool) -> AsyncIterator[Session]:
    """``run`` into a ``.npy`` file in the system's temporary folder, with a journal beside it or without."""
    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
        async with client_of(workload, origin) as client:
            numbers = count()

            async def send(rows: Any) -> Array:
                path = Path(folder) / f"{next(numbers)}.npy"
                sink = fanout.open_sink(path)
                journal_path = path.with_suffix(".journal")
                options: dict[str, Any] = {"journal": journal_path} if journal else {}
                await client.run(rows, sink, **options)
                if journal_path.exists() != journal:  # the two cost nearly the same, so a mix-up would be invisible
                    raise ValueError(f"a journal was {'not ' if journal else ''}written")
                values: Array = np.load(path)
                return values

            yield Session(send)
