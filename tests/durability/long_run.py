"""One long run with a journal, to measure: prints the process's peak memory, its CPU time, and the rows that are done.

``python -m tests.durability.long_run URL FOLDER INPUT ROWS OUTPUT``
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanout import Client, Journal, Limits, open_sink
from fanout.io.readers.opening import open_source
from tests.durability.work import WIDTH, Raw

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_ROWS = 5000
WIDE = 50


def generated(n_rows: int) -> Iterator[np.ndarray]:
    for start in range(0, n_rows, CHUNK_ROWS):
        yield from np.repeat(np.arange(start, min(start + CHUNK_ROWS, n_rows), dtype="<f4"), WIDTH).reshape(-1, WIDTH)


async def main(url: str, folder: Path, source: str, n_rows: int, output: Path) -> None:
    rows = generated(n_rows) if source == "generator" else open_source(folder / source)
    journal = Journal(output.with_name(f"{output.name}.journal"), {"long": source})
    begin = time.process_time()
    codec = Raw(width=WIDTH if source == "generator" else WIDE)
    async with Client(url, codec=codec, chunk_rows=CHUNK_ROWS, limits=Limits(concurrency=8)) as client:
        result = await client.run(rows, open_sink(output), journal=journal)
    journal.close()
    # Not getrusage, whose peak begins with that of the parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(
        json.dumps(
            {"peak": int(peak.split()[1]) * 1024, "cpu": time.process_time() - begin, "rows": int(result.ok.sum())}
        )
    )


if __name__ == "__main__":
    url, folder, source, n_rows, output = sys.argv[1:]
    asyncio.run(main(url, Path(folder), source, int(n_rows), Path(folder) / output))
