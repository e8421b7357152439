"""Measure what a cluster costs beside one process: time and processor time of shards, and of batches.

    python scripts/measure_cluster.py                 plain processes
    python scripts/measure_cluster.py ray dask        also these engines, where they are installed

Times are from the first request to the last response, as the server sees them: starting an engine is not in them, and
is printed by itself. The processor time is that of all processes of a run but the server, less that of a run of one
request a worker. Each figure is the best of three, taken in turns, because other work on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, CHUNK = 768, 64
ROUNDS = 3

JOB = """
[input]
path = "{rows}"
[endpoint]
url = "{url}"
[codec]
name = "v1"
dtype = "float32"
[chunks]
rows = 64
[limits]
concurrency = 16
[output]
path = "{output}"
[report]
write = false
"""


async def serve(latency: float) -> None:
    """Answer each request after ``latency`` seconds; print the port, and tell the times of the requests at /span."""
    row = json.dumps(np.random.default_rng(0).random(WIDTH, np.float32).tolist())
    bodies: dict[int, bytes] = {}
    span = [0.0, 0.0]

    async def answer(request: web.Request) -> web.Response:
        span[0] = span[0] or time.monotonic()
        # Rows are counted by their brackets: parsing them would make the server the bottleneck.
        n_rows = (await request.read()).count(b"[") - 1
        await asyncio.sleep(latency)
        if n_rows not in bodies:
            bodies[n_rows] = f'{{"predictions":[{",".join([row] * n_rows)}]}}'.encode()
        span[1] = time.monotonic()
        return web.Response(body=bodies[n_rows], content_type="application/json")

    async def report(_: web.Request) -> web.Response:
        seconds, span[:] = span[1] - span[0], [0.0, 0.0]
        return web.json_response(seconds)

    app = web.Application(client_max_size=2**30)
    app.router.add_get("/span", report)
    app.router.add_post("/v1/models/m:predict", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def server(latency: float) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


class Bench:
    """Runs jobs against one server, in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._number = 0

    def run(self, n_rows: int, *options: str) -> tuple[float, float]:
        """Run a job; return seconds between the first request and the last response, and processor seconds."""
        job = self._job(n_rows)
        before = _processor_seconds()
        subprocess.run(self._command(job, *options), check=True)
        return self.span(), _processor_seconds() - before

    def run_two(self, n_rows: int) -> float:
        """Run two independent jobs at the same time, each with half of the rows; return the seconds of both."""
        jobs = [self._job(n_rows // 2, concurrency=8) for _ in range(2)]
        for process in [subprocess.Popen(self._command(job)) for job in jobs]:
            assert process.wait() == 0
        return self.span()

    def span(self) -> float:
        with urlopen(f"{self.url}/span") as response:  # noqa: S310 - of this machine
            return float(json.load(response))

    def _job(self, n_rows: int, concurrency: int = 16) -> Path:
        self._number += 1
        rows, path = self.folder / f"{n_rows}.npy", self.folder / f"{self._number}.toml"
        if not rows.exists():
            np.save(rows, np.random.default_rng(1).random((n_rows, WIDTH), np.float32))
        text = JOB.format(rows=rows, url=f"{self.url}/v1/models/m:predict", output=f"{self._number}.npy")
        path.write_text(text.replace("concurrency = 16", f"concurrency = {concurrency}"))
        return path

    def _command(self, job: Path, *options: str) -> list[str]:
        return [sys.executable, "-m", "fanout", "run", str(job), "--quiet", *options]


def _processor_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def measure_shards(engine: str, requests: int, latency: float) -> dict[str, Any]:
    """Compare a run on two workers with one process, and with two independent processes."""
    n_rows, options = requests * CHUNK, ("--on", engine, "--workers", "2")
    with server(latency) as url, tempfile.TemporaryDirectory() as folder:
        bench = Bench(url, Path(folder))
        began = time.monotonic()
        # A request for each worker, so that both start.
        _, start_cluster = bench.run(2 * CHUNK, *options)
        start_seconds = time.monotonic() - began
        _, start_one = bench.run(CHUNK)
        one, cluster, two = [], [], []
        for _ in range(ROUNDS):
            one.append(bench.run(n_rows))
            cluster.append(bench.run(n_rows, *options))
            two.append(bench.run_two(n_rows))
    seconds = {"one": min(wall for wall, _ in one), "cluster": min(wall for wall, _ in cluster)}
    busy = {"one": min(cpu for _, cpu in one) - start_one, "cluster": min(cpu for _, cpu in cluster) - start_cluster}
    return {
        "engine": engine,
        "latency": latency,
        "start (s)": round(start_seconds, 1),
        "wall of one process (s)": round(seconds["one"], 2),
        "wall / one process": round(seconds["cluster"] / seconds["one"], 3),
        # The workers of Ray are no descendants that this process waits for.
        "CPU / one process": None if engine == "ray" else round(busy["cluster"] / busy["one"], 3),
        "throughput / two processes": round(min(two) / seconds["cluster"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", default=["processes"])
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    for engine in arguments.engines:
        for latency in (0.05, 0.0):
            print(json.dumps(measure_shards(engine, arguments.requests, latency)), flush=True)


if __name__ == "__main__":
    main()
