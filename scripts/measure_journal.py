"""Measure the cost of the journal: throughput with it over throughput without, on 64-row chunks, in pairs of runs.

``python scripts/measure_journal.py FOLDER [PAIRS] [ROWS]``, with FOLDER on the disk to measure. CPU time is steadier:
other programs that use the disk change the wall time.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np

import fanout


async def one(client: fanout.Client, rows: np.ndarray, folder: str, *, journal: bool) -> tuple[float, float]:
    """Return the seconds of wall and of CPU time of one run into a .npy file."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        sink = fanout.open_sink(Path(temporary, "y.npy"))
        wall, cpu = perf_counter(), process_time()
        await client.run(rows, sink, journal=Path(temporary, "y.journal") if journal else None)
        return perf_counter() - wall, process_time() - cpu


async def measure(codec: str, folder: str, pairs: int, n_rows: int) -> None:
    """Print the median ratios of pairs of runs."""
    rows = np.random.default_rng(0).random((n_rows, 64), np.float32)
    ratios = []
    async with fanout.Client("local://echo", codec=codec) as client:
        await one(client, rows[: n_rows // 10], folder, journal=True)
        for pair in range(pairs):
            # Either goes first in turn, so that a drift of the machine cancels out.
            order = (False, True) if pair % 2 else (True, False)
            times = {on: await one(client, rows, folder, journal=on) for on in order}
            ratios.append([off / on for off, on in zip(times[False], times[True], strict=True)])
    wall, cpu = (median(column) for column in zip(*ratios, strict=True))
    print(f"{codec}: with a journal {wall:.3f} of the throughput without, {cpu:.3f} by CPU time")


if __name__ == "__main__":
    folder, pairs, n_rows = (*sys.argv[1:], *(".", "10", "256000")[len(sys.argv) - 1 :])
    for name in ("oip", "v1"):
        asyncio.run(measure(name, folder, int(pairs), int(n_rows)))
