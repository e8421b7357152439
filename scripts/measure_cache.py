"""Measure the cache of answers: a first run with it, and later runs that it answers, beside a run without it.

``python scripts/measure_cache.py [CONCURRENCY] [ROUNDS]``. Chunks of 64 texts go to an embeddings server in another
process, which answers after 50 ms with vectors of 768 floats in base64. Each figure is the best of the rounds, because
other programs on the machine only add to it. "Shuffled" asks for the same rows in another order, so that answers which
lie together in the file are wanted apart.
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson
from aiohttp import web

import fanout

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

LATENCY = 0.05
ROWS = [f"text number {i} with some words" for i in range(12_800)]
SHUFFLED = [ROWS[i] for i in np.random.default_rng(0).permutation(len(ROWS))]


class Cost(NamedTuple):
    """The cost of one run."""

    wall: float
    cpu: float
    requests: int


def serve(ports: Queue[int]) -> None:
    """Answer requests for embeddings in this process, and put the port in ``ports``."""
    vector = base64.b64encode(np.random.default_rng(0).normal(size=768).astype("<f4").tobytes()).decode()

    async def answer(request: web.Request) -> web.Response:
        n_rows = len(orjson.loads(await request.read())["input"])
        await asyncio.sleep(LATENCY)
        data = [{"index": i, "embedding": vector} for i in range(n_rows)]
        return web.Response(body=orjson.dumps({"data": data}), content_type="application/json")

    async def main() -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/embeddings", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


async def run(port: int, concurrency: int, rows: list[str], cache: Path | None) -> Cost:
    """Run all rows with a client of its own."""
    async with fanout.Client(
        f"http://127.0.0.1:{port}/v1/embeddings",
        codec=fanout.codec("openai-embeddings", model="m"),
        chunk_rows=64,
        limits=fanout.Limits(concurrency=concurrency),
        cache=cache,
    ) as client:
        wall, cpu = perf_counter(), process_time()
        result = await client.map(rows, on_error="keep")
        return Cost(perf_counter() - wall, process_time() - cpu, result.stats.requests)


def measure(port: int, concurrency: int, rounds: int) -> None:
    """Print the costs."""
    costs: dict[str, list[Cost]] = {}

    def add(name: str, rows: list[str], cache: Path | None) -> None:
        costs.setdefault(name, []).append(asyncio.run(run(port, concurrency, rows, cache)))

    asyncio.run(run(port, concurrency, ROWS, None))  # imports
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder, "answers.sqlite")
            add("without a cache", ROWS, None)
            add("first", ROWS, cache)
            add("warm", ROWS, cache)
            add("warm, shuffled", SHUFFLED, cache)
    plain = min(cost.wall for cost in costs["without a cache"])
    for name, each in costs.items():
        wall, cpu = min(cost.wall for cost in each), min(cost.cpu for cost in each)
        print(
            f"{name:16} {wall:.3f} s, {wall / plain:.3f} of the time without a cache, "
            f"{cpu / len(ROWS) * 1e6:.1f} us of CPU a row, {max(cost.requests for cost in each)} requests"
        )


def main() -> None:
    """Start the server, and measure."""
    concurrency = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    ports: Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    measure(ports.get(), concurrency, rounds)
    server.terminate()


if __name__ == "__main__":
    main()
