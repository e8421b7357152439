"""What does it cost to write answers to a file, and to note in a journal what is done?"""

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

    from benchmarks.works import Array, ChunkTask


def lacking() -> str | None:
    """Why this cannot be measured with the fanout that is installed; None: it can."""
    if not hasattr(fanout, "open_sink") or "journal" not in inspect.signature(fanout.Client.run).parameters:
        return "this fanout has no journal"
    return None


@asynccontextmanager
async def opened(work: ChunkTask, origin: str, *, journal: bool) -> AsyncIterator[Session]:
    """``run`` into a ``.npy`` file in the system's temporary folder, with a journal beside it or without."""
    with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder:
        async with client_of(work, origin) as client:
            numbers = count()

            async def send(rows: Any) -> Array:
                path = Path(folder) / f"{next(numbers)}.npy"
                sink = fanout.open_sink(path)
                noted = path.with_suffix(".journal")
                options: dict[str, Any] = {"journal": noted} if journal else {}
                await client.run(rows, sink, **options)
                if noted.exists() != journal:  # on and off are close enough to each other to be mixed up unseen
                    raise ValueError(f"a journal was {'not ' if journal else ''}written")
                values: Array = np.load(path)
                return values

            yield Session(send)
