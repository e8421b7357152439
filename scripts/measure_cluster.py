"""Measure what a cluster costs beside one process: time and processor time of shards, and of batches.

    python scripts/measure_cluster.py                 plain processes
    python scripts/measure_cluster.py ray dask        also these engines, where they are installed

Times are from the first request to the last response, as the server sees them: starting an engine is not in them, and
is printed by itself. The processor time is that of all processes of a run but the server, less that of a run of one
request a worker. Each figure is the best of three, taken in turns, because other work on the machine only adds to it.

Of `map_batches` (Ray) and `map_blocks` (Dask), the processor time of a row is printed beside that of `Client.map` in
one process. Rows and answers stay with the engine, as they do between two steps of its program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.request import urlopen

import numpy as np
from aiohttp import web

import fanout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH, CHUNK = 768, 64
ROUNDS = 3
OUTPUTS = {"y": ("float32", (WIDTH,))}

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
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


class Bench:
    """Runs jobs against one server, in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._number = 0

    def run(self, n_rows: int, *options: str) -> tuple[float, float]:
        """Run a job; return seconds between the first request and the last response, and processor seconds."""
        return self._run([self._command(self._job(n_rows), *options)])

    def run_two(self, n_rows: int) -> tuple[float, float]:
        """Run two independent jobs at the same time, each with half of the rows; return the same of both."""
        return self._run([self._command(self._job(n_rows // 2, concurrency=8)) for _ in range(2)])

    def _run(self, commands: list[list[str]]) -> tuple[float, float]:
        with Meter() as meter:
            for process in [subprocess.Popen(command, env=meter.environment) for command in commands]:
                assert process.wait() == 0
            return self.span(), meter.seconds()

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


class Meter:
    """Adds up the processor time of processes and all that they start, even of those that nobody waits for (Ray's).

    A variable of their environment marks them. What a process takes after the last look at it is not counted.
    """

    _PERIOD = 0.05
    _TICKS = os.sysconf("SC_CLK_TCK")

    def __init__(self) -> None:
        self._mark = f"MEASURED={os.getpid()}.{time.monotonic_ns()}"
        self.environment = os.environ | dict([self._mark.split("=")])
        self._ticks: dict[str, int] = {}
        self._others: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def seconds(self) -> float:
        self._look()
        return sum(self._ticks.values()) / self._TICKS

    def _watch(self) -> None:
        while not self._over.wait(self._PERIOD):
            self._look()

    def _look(self) -> None:
        for pid in (path.name for path in Path("/proc").glob("[0-9]*")):
            if pid not in self._others:
                with suppress(OSError):
                    self._look_at(pid)

    def _look_at(self, pid: str) -> None:
        if pid not in self._ticks and self._mark.encode() not in Path("/proc", pid, "environ").read_bytes():
            self._others.add(pid)
            return
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        self._ticks[pid] = max(self._ticks.get(pid, 0), int(fields[11]) + int(fields[12]))


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
        "CPU / one process": round(busy["cluster"] / busy["one"], 3),
        # Two processes at a time take more of it than one, because they share caches and cores.
        "CPU / two processes": round(busy["cluster"] / (min(cpu for _, cpu in two) - 2 * start_one), 3),
        "throughput / two processes": round(min(wall for wall, _ in two) / seconds["cluster"], 3),
    }


BATCH_ROWS = 64 * CHUNK


def measure_batches(engine: str, requests: int) -> dict[str, Any]:
    """Compare the processor time of a row in batches of an engine with that of a plain ``map``."""
    with server(0.0) as url:
        costs: dict[str, list[float]] = {"plain": [], engine: []}
        for _ in range(ROUNDS):
            for name, found in costs.items():
                found.append(_cost_of_a_row(name, url, requests))
    best = {name: min(found) for name, found in costs.items()}
    return {
        "engine": engine,
        "CPU of a row in map (us)": round(best["plain"] * 1e6, 1),
        "CPU of a row in batches (us)": round(best[engine] * 1e6, 1),
        "batches / map": round(best[engine] / best["plain"], 3),
    }


def _cost_of_a_row(name: str, url: str, requests: int) -> float:
    """Return the processor seconds of a row, by the difference of a long and a short run in one process."""
    sizes = (2 * BATCH_ROWS, requests * CHUNK)
    command = [sys.executable, __file__, "--batches", name, url, *map(str, sizes)]
    with (
        Meter() as meter,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=meter.environment) as process,
    ):
        assert process.stdout is not None
        # A line after the start, and after each of the two runs.
        marks = [meter.seconds() for line in process.stdout if line == "done\n"]
        assert process.wait() == 0
    first, second = marks[1] - marks[0], marks[2] - marks[1]
    return (second - first) / (sizes[1] - sizes[0])


def run_batches(name: str, url: str, sizes: list[int]) -> None:
    """Send so many rows once for each size, and print a line after each."""
    codec, limits = fanout.codec("v1", dtype="float32"), fanout.Limits(concurrency=16)
    target = {"endpoint": f"{url}/v1/models/m:predict", "codec": codec, "chunk_rows": CHUNK, "limits": limits}
    rows = np.random.default_rng(1).random((max(sizes), WIDTH), np.float32)
    with {"plain": _plain, "ray": _ray, "dask": _dask}[name](target, rows) as run:
        for n_rows in (CHUNK, *sizes):
            run(n_rows)
            time.sleep(0.5)  # for what an engine does afterwards
            print("done", flush=True)


Rows: TypeAlias = "np.ndarray[Any, Any]"
Runner: TypeAlias = "Callable[[int], None]"


@contextmanager
def _plain(target: dict[str, Any], rows: Rows) -> Iterator[Runner]:
    async def send(n_rows: int) -> None:
        async with fanout.Client(**target) as client:
            assert len(await client.map(rows[:n_rows])) == n_rows

    yield lambda n_rows: asyncio.run(send(n_rows))


@contextmanager
def _ray(target: dict[str, Any], rows: Rows) -> Iterator[Runner]:
    import ray

    import fanout.ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run(n_rows: int) -> None:
        dataset = ray.data.from_numpy(np.array_split(rows[:n_rows], max(2, n_rows // BATCH_ROWS)))
        answered = fanout.ray.map_batches(dataset, target, column="data", outputs=OUTPUTS).materialize()
        assert answered.count() == n_rows

    yield run
    ray.shutdown()


@contextmanager
def _dask(target: dict[str, Any], rows: Rows) -> Iterator[Runner]:
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    import fanout.dask

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.npy")
        np.save(file, rows)

        def run(n_rows: int) -> None:
            starts = range(0, n_rows, BATCH_ROWS)
            blocks = [
                da.from_delayed(
                    dask.delayed(_block)(file, start, min(BATCH_ROWS, n_rows - start)),
                    (min(BATCH_ROWS, n_rows - start), WIDTH),
                    np.float32,
                )
                for start in starts
            ]
            answers = fanout.dask.map_blocks(da.concatenate(blocks), target, outputs=OUTPUTS)
            kept = dask.persist(*answers.values())
            wait(kept)
            assert kept[1].all().compute()

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
            yield run


def _block(file: Path, start: int, n_rows: int) -> Rows:
    return np.array(np.load(file, mmap_mode="r")[start : start + n_rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", default=["processes"])
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--only", choices=("shards", "batches"), help="measure these alone")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--batches", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    if arguments.batches is not None:
        name, url, *sizes = arguments.batches
        run_batches(name, url, [int(size) for size in sizes])
        return
    for engine in arguments.engines:
        if arguments.only != "batches":
            for latency in (0.05, 0.0):
                print(json.dumps(measure_shards(engine, arguments.requests, latency)), flush=True)
        if arguments.only != "shards" and engine != "processes":
            print(json.dumps(measure_batches(engine, 2 * arguments.requests)), flush=True)


if __name__ == "__main__":
    main()
