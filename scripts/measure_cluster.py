"""Measure what a cluster costs beside one process: time and processor time of shards, and of batches.

    python scripts/measure_cluster.py                 plain processes
    python scripts/measure_cluster.py ray dask        also these engines, where they are installed

Times are from the first request to the last response, as the server sees them: starting an engine is not in them, and
is printed by itself. The processor time of a row is that of all processes but the server, between the answer to a
quarter of the rows, when all workers are warm, and the end of the run: an engine starts and ends in seconds of
processor time, which vary more than the rows take. Each figure is the best of three, taken in turns, because other work
on the machine only adds to it.

Of `map_batches` (Ray) and `map_blocks` (Dask), the processor time of a row is printed beside that of `Client.map` in
one process, that of the same batches without an engine, and that of the engine with a function which sends nothing and
returns as many columns. An engine takes processor time while it does nothing, too; that is printed by itself, and not
counted in the time of a row, because it depends on how quick the API is. Rows and answers stay with the engine, as
they do between two steps of its program.
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
from fanout.cluster.batches import BatchMapper, BatchSettings

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
    """Answer each request after ``latency`` seconds; print the port, and tell the times of the requests at /span.

    /rows returns the number of rows so far, and POST /rows adds to it.
    """
    row = json.dumps(np.random.default_rng(0).random(WIDTH, np.float32).tolist())
    bodies: dict[int, bytes] = {}
    span, rows = [0.0, 0.0], [0]

    async def answer(request: web.Request) -> web.Response:
        span[0] = span[0] or time.monotonic()
        # Rows are counted by their brackets: parsing them would make the server the bottleneck.
        n_rows = (await request.read()).count(b"[") - 1
        await asyncio.sleep(latency)
        if n_rows not in bodies:
            bodies[n_rows] = f'{{"predictions":[{",".join([row] * n_rows)}]}}'.encode()
        span[1] = time.monotonic()
        rows[0] += n_rows
        return web.Response(body=bodies[n_rows], content_type="application/json")

    async def report(_: web.Request) -> web.Response:
        seconds, span[:] = span[1] - span[0], [0.0, 0.0]
        return web.json_response(seconds)

    async def count(request: web.Request) -> web.Response:
        rows[0] += int(await request.read() or 0)
        return web.json_response(rows[0])

    app = web.Application(client_max_size=2**30)
    app.router.add_get("/span", report)
    app.router.add_route("*", "/rows", count)
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


def get(url: str, data: bytes | None = None) -> Any:
    with urlopen(url, data) as response:  # noqa: S310 - of this machine
        return json.load(response)


class Bench:
    """Runs jobs against one server, in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._number = 0

    def run(self, n_rows: int, *options: str) -> tuple[float, float]:
        """Run a job; return seconds between the first request and the last response, and processor seconds of a row."""
        return self._run([self._job(n_rows)], n_rows, *options)

    def run_two(self, n_rows: int) -> tuple[float, float]:
        """Run two independent jobs at the same time, each with half of the rows; return the same of both."""
        return self._run([self._job(n_rows // 2, concurrency=8) for _ in range(2)], n_rows)

    def _run(self, jobs: list[Path], n_rows: int, *options: str) -> tuple[float, float]:
        outputs = [job.with_suffix(".npy") for job in jobs]
        with Meter(self.url, n_rows, lambda: all(output.exists() for output in outputs)) as meter:
            commands = [[sys.executable, "-m", "fanout", "run", str(job), "--quiet", *options] for job in jobs]
            for process in [subprocess.Popen(command, env=meter.environment) for command in commands]:
                assert process.wait() == 0
        return get(f"{self.url}/span"), meter.cost

    def _job(self, n_rows: int, concurrency: int = 16) -> Path:
        self._number += 1
        rows, path = self.folder / f"rows{n_rows}.npy", self.folder / f"{self._number}.toml"
        if not rows.exists():
            np.save(rows, np.random.default_rng(1).random((n_rows, WIDTH), np.float32))
        text = JOB.format(rows=rows, url=f"{self.url}/v1/models/m:predict", output=f"{self._number}.npy")
        path.write_text(text.replace("concurrency = 16", f"concurrency = {concurrency}"))
        return path


class Meter:
    """Adds up the processor time of processes and all that they start, even of those that nobody waits for (Ray's).

    A variable of their environment marks them. It measures from the answer to a quarter of ``n_rows`` until ``ended``.
    """

    _PERIOD = 0.02
    _TICKS = os.sysconf("SC_CLK_TCK")

    def __init__(self, url: str, n_rows: int, ended: Callable[[], bool]) -> None:
        self._mark = f"MEASURED={os.getpid()}.{time.monotonic_ns()}"
        self.environment = os.environ | dict([self._mark.split("=")])
        self._url, self._ended = f"{url}/rows", ended
        self._before: int = get(self._url)
        self._warm = self._before + n_rows // 4
        self._looks: list[tuple[float, int, float]] = []
        self.at_rest = 0.0
        """Processor seconds in a second in which nothing is done."""

        self._ticks: dict[str, int] = {}
        # Of later processes one may have the environment of its parent still, until it runs its program.
        self._others = {path.name for path in Path("/proc").glob("[0-9]*")}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def cost(self) -> float:
        """Processor seconds of a row, without those at rest."""
        (first, warm, began), (last, end, ended) = self._looks
        return (last - first - self.at_rest * (ended - began)) / (end - warm)

    def _watch(self) -> None:
        while not self._over.wait(self._PERIOD):
            ended, rows = self._ended(), get(self._url)
            look = self.look(), rows, time.monotonic()
            if rows >= self._warm and not self._looks:
                self._looks.append(look)
            if ended:
                self._looks.append(look)
                return

    def look(self) -> float:
        """Return the processor seconds so far."""
        for pid in (path.name for path in Path("/proc").glob("[0-9]*")):
            if pid not in self._others:
                with suppress(OSError):
                    self._look_at(pid)
        return sum(self._ticks.values()) / self._TICKS

    def _look_at(self, pid: str) -> None:
        if pid not in self._ticks and self._mark.encode() not in Path("/proc", pid, "environ").read_bytes():
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
        bench.run(2 * CHUNK, *options)
        start_seconds = time.monotonic() - began
        one, cluster, two = [], [], []
        for _ in range(ROUNDS):
            one.append(bench.run(n_rows))
            cluster.append(bench.run(n_rows, *options))
            two.append(bench.run_two(n_rows))
    (wall, cpu), (wall_cluster, cpu_cluster), (wall_two, cpu_two) = map(_best, (one, cluster, two))
    return {
        "engine": engine,
        "latency": latency,
        "start and end (s)": round(start_seconds, 1),
        "wall of one process (s)": round(wall, 2),
        "wall / one process": round(wall_cluster / wall, 3),
        "CPU of a row in one process (us)": round(cpu * 1e6, 1),
        "CPU / one process": round(cpu_cluster / cpu, 3),
        # Two processes at a time take more of it than one, because they share caches and cores.
        "CPU / two processes": round(cpu_cluster / cpu_two, 3),
        "throughput / two processes": round(wall_two / wall_cluster, 3),
    }


def _best(figures: list[tuple[float, float]]) -> tuple[float, float]:
    return min(wall for wall, _ in figures), min(cpu for _, cpu in figures)


BATCH_ROWS = 64 * CHUNK
REST = 3.0


def measure_batches(engine: str, requests: int) -> dict[str, Any]:
    """Compare the processor time of a row in batches of an engine with that of ``map`` and of the engine alone."""
    with server(0.0) as url:
        costs: dict[str, list[tuple[float, float]]] = {"plain": [], "mapper": [], engine: [], f"{engine} alone": []}
        for _ in range(ROUNDS):
            for name, found in costs.items():
                found.append(_batches(name, url, requests))
    (_, plain), (_, mapper), (at_rest, batches), (_, alone) = map(_best, costs.values())
    return {
        "engine": engine,
        "CPU of a row in map (us)": round(plain * 1e6, 1),
        "in batches without the engine": round(mapper * 1e6, 1),
        "in batches of the engine": round(batches * 1e6, 1),
        "in the engine alone": round(alone * 1e6, 1),
        "batches / map": round(batches / plain, 3),
        "CPU of the engine at rest (s/s)": round(at_rest, 3),
    }


def _batches(name: str, url: str, requests: int) -> tuple[float, float]:
    """Send rows in a process of its own. Returns processor seconds: in a second at rest, and of a row."""
    n_rows = requests * CHUNK
    command = [sys.executable, __file__, "--batches", name, url, str(n_rows)]
    ended = threading.Event()
    with (
        Meter(url, n_rows, ended.is_set) as meter,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=meter.environment) as process,
    ):
        assert process.stdout is not None
        assert "open\n" in process.stdout
        began = meter.look()
        assert "rested\n" in process.stdout
        meter.at_rest = (meter.look() - began) / REST
        assert "done\n" in process.stdout
        ended.set()
        assert process.wait() == 0
    return meter.at_rest, meter.cost


def run_batches(name: str, url: str, n_rows: int) -> None:
    """Send so many rows once, and print a line before and after."""
    codec, limits = fanout.codec("v1", dtype="float32"), fanout.Limits(concurrency=16)
    target = {"endpoint": f"{url}/v1/models/m:predict", "codec": codec, "chunk_rows": CHUNK, "limits": limits}
    rows = np.random.default_rng(1).random((n_rows, WIDTH), np.float32)
    engine, _, alone = name.partition(" ")
    idle = Idle(f"{url}/rows") if alone else None
    programs = {"plain": _plain, "mapper": _mapper, "ray": _ray, "dask": _dask}
    with programs[engine](target, idle) as prepare:
        # Processes import much at their first batch.
        prepare(rows[: 2 * CHUNK])()
        run = prepare(rows)
        print("open", flush=True)
        time.sleep(REST)
        print("rested", flush=True)
        run()
        time.sleep(0.5)  # for what an engine does afterwards
        print("done", flush=True)
        # The last look at the processes comes before they end.
        time.sleep(1)


class Idle:
    """Stands in for a client: returns as many columns, and sends nothing."""

    def __init__(self, url: str) -> None:
        self.url = url

    def columns(self, n_rows: int) -> dict[str, Any]:
        time.sleep(0.25)  # so that the rows are seen to be done one batch after the other
        get(self.url, str(n_rows).encode())
        texts = np.full(n_rows, "", object)
        return {"y": np.ones((n_rows, WIDTH), np.float32), "ok": np.ones(n_rows, bool), "reason": texts}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, **self.columns(len(batch["data"]))}


Rows: TypeAlias = "np.ndarray[Any, Any]"
Program: TypeAlias = "Callable[[Rows], Callable[[], None]]"
"""Gives rows to an engine; what it returns sends them."""


@contextmanager
def _plain(target: dict[str, Any], _: Idle | None) -> Iterator[Program]:
    async def send(rows: Rows) -> None:
        async with fanout.Client(**target) as client:
            assert len(await client.map(rows)) == len(rows)

    yield lambda rows: lambda: asyncio.run(send(rows))


@contextmanager
def _mapper(target: dict[str, Any], _: Idle | None) -> Iterator[Program]:
    mapper = BatchMapper(BatchSettings.of(target, OUTPUTS, workers=1), stopped=str, stop=print)

    def send(rows: Rows) -> None:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            assert mapper(batch, len(batch))["ok"].all()

    yield lambda rows: lambda: send(rows)
    mapper.close()


@contextmanager
def _ray(target: dict[str, Any], idle: Idle | None) -> Iterator[Program]:
    import ray

    import fanout.ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def prepare(rows: Rows) -> Callable[[], None]:
        # The rows are with Ray before it begins.
        parts = np.array_split(rows, max(2, len(rows) // BATCH_ROWS))
        dataset = ray.data.from_numpy(parts).materialize()

        def run() -> None:
            if idle is None:
                answered = fanout.ray.map_batches(dataset, target, column="data", outputs=OUTPUTS)
            else:
                workers = ray.data.ActorPoolStrategy(size=2)
                answered = dataset.map_batches(
                    Idle, fn_constructor_args=(idle.url,), compute=workers, batch_size=BATCH_ROWS,
                    batch_format="numpy", num_cpus=1,
                )  # fmt: skip
            assert answered.materialize().count() == len(rows)

        return run

    yield prepare
    ray.shutdown()


@contextmanager
def _dask(target: dict[str, Any], idle: Idle | None) -> Iterator[Program]:
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    import fanout.dask

    def send(array: Any) -> Any:
        if idle is None:
            return fanout.dask.map_blocks(array, target, outputs=OUTPUTS).values()
        answer = dask.delayed(_idle_block, pure=False)
        answers = [(answer(block, idle), n) for block, n in zip(array.to_delayed()[:, 0], array.chunks[0], strict=True)]
        return [
            da.concatenate([da.from_delayed(one[name], (n, *shape), dtype) for one, n in answers])
            for name, dtype, shape in (("y", np.float32, (WIDTH,)), ("ok", bool, ()), ("reason", object, ()))
        ]

    def prepare(rows: Rows) -> Callable[[], None]:
        np.save(file, rows)
        sizes = [(start, min(BATCH_ROWS, len(rows) - start)) for start in range(0, len(rows), BATCH_ROWS)]
        blocks = [da.from_delayed(dask.delayed(_block)(file, start, n), (n, WIDTH), np.float32) for start, n in sizes]
        # The rows are with Dask before it begins.
        array = da.concatenate(blocks).persist()
        wait(array)

        def run() -> None:
            kept = dask.persist(*send(array))
            wait(kept)
            assert kept[1].all().compute()

        return run

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.npy")
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
            yield prepare


def _idle_block(block: Rows, idle: Idle) -> dict[str, Any]:
    return idle.columns(len(block))


def _block(file: Path, start: int, n_rows: int) -> Rows:
    return np.array(np.load(file, mmap_mode="r")[start : start + n_rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", default=["processes"])
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--only", choices=("shards", "batches"), help="measure these alone")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--batches", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    if arguments.batches is not None:
        name, url, n_rows = arguments.batches
        run_batches(name, url, int(n_rows))
        return
    for engine in arguments.engines:
        if arguments.only != "batches":
            for latency in (0.05, 0.0):
                print(json.dumps(measure_shards(engine, arguments.requests, latency)), flush=True)
        if arguments.only != "shards" and engine != "processes":
            print(json.dumps(measure_batches(engine, 2 * arguments.requests)), flush=True)


if __name__ == "__main__":
    main()
