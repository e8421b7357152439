"""Measure what a cluster costs beside one process: time and processor time of shards, and of batches.

    python scripts/measure_cluster.py                 plain processes
    python scripts/measure_cluster.py ray dask        also these engines, where they are installed

Every program opens its engine, sends a request for each worker, and then waits, so that processes have started and
imported all that they need; the measured rows follow. Times are from the first request to the last response, as the
server sees them. Processor time is that of all processes but the server, from the answer to a fiftieth of the rows
until the output is published; of batches from a quarter, since Ray starts new workers for each data set. An engine
takes processor time while it does nothing, too: the program stays open for some seconds before, and afterwards for as
long again, with nothing to do. The smaller of what its processes take in these times is printed by itself, and not
counted in the time of a row. Each figure is the best of several, taken in turns, because other work on the machine only
adds to it.

Shards (`fanout run --on`) stand beside `fanout run` in one process, and in two processes with half of the rows each.
Batches (`map_batches` on Ray, `map_blocks` on Dask) stand beside `Client.map` in one process, the same batches without
an engine, and the engine with a function that sends nothing and returns as many columns. Rows and answers of batches
stay with the engine, as they do between two steps of its program.
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
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.request import urlopen

import numpy as np
from aiohttp import web

import fanout
from fanout.client.loop_thread import LoopThread
from fanout.cluster import Cluster, open_engine
from fanout.cluster.batches import BatchMapper, BatchSettings
from fanout.cluster.engines import Engine
from fanout.job import load_job, run_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH, CHUNK, CONCURRENCY = 768, 64, 16
BATCH_ROWS = 64 * CHUNK
REST = 3.0
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
concurrency = {concurrency}
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


class Meter:
    """Adds up the processor time of processes and all that they start, even of those that nobody waits for (Ray's).

    A variable of their environment marks them.
    """

    _PERIOD = 0.05
    _TICKS = os.sysconf("SC_CLK_TCK")

    def __init__(self) -> None:
        self._mark = f"MEASURED={os.getpid()}.{time.monotonic_ns()}"
        self.environment = os.environ | dict([self._mark.split("=")])
        self._ticks: dict[str, int] = {}
        # Of later processes one may have the environment of its parent still, until it runs its program.
        self._others = {path.name for path in Path("/proc").glob("[0-9]*")}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        # Of a process that has ended, the last look counts.
        while not self._over.wait(self._PERIOD):
            self.look()

    def look(self) -> float:
        """Return the processor seconds so far."""
        with self._lock:
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


class Figures(NamedTuple):
    """Seconds between the first request and the last response; processor seconds of a row; and in a second at rest."""

    wall: float
    cpu: float
    at_rest: float


def measure(name: str, url: str, rows: Path, *, processes: int = 1) -> Figures:
    """Run a program, or several at the same time, each with an even part of the rows."""
    n_rows = int(rows.stem)
    command = [sys.executable, __file__, "--program", name, url, str(rows), str(processes)]
    with Meter() as meter:
        started = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=meter.environment)
            for _ in range(processes)
        ]
        _await(started, "open")
        get(f"{url}/span")
        at_rest = _at_rest(meter, REST)
        warm = get(f"{url}/rows") + n_rows // (50 if name.startswith("run") else 4)
        for process in started:
            print(file=process.stdin, flush=True)
        while (n_before := get(f"{url}/rows")) < warm:
            time.sleep(0.02)
        before, began = meter.look(), time.monotonic()
        _await(started, "done")
        time.sleep(0.5)  # for what an engine does afterwards
        after, seconds, n_after = meter.look(), time.monotonic() - began, get(f"{url}/rows")
        # Ray begins to start other workers in place of those that it has ended.
        at_rest = min(at_rest, _at_rest(meter, seconds))
        for process in started:
            process.communicate()
            assert process.returncode == 0
    return Figures(get(f"{url}/span"), (after - before - at_rest * seconds) / (n_after - n_before), at_rest)


def _at_rest(meter: Meter, seconds: float) -> float:
    began = meter.look()
    time.sleep(seconds)
    return (meter.look() - began) / seconds


def _await(started: list[subprocess.Popen[str]], line: str) -> None:
    for process in started:
        assert process.stdout is not None
        assert f"{line}\n" in process.stdout


def compare(
    names: list[tuple[str, int]], latency: float, requests: int, rounds: int
) -> tuple[list[Figures], list[Figures]]:
    """Run programs in turns, named with their number of processes; return the best figures and the medians."""
    measured: list[list[Figures]] = [[] for _ in names]
    with server(latency) as url, tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, f"{requests * CHUNK}.npy")
        np.save(rows, np.random.default_rng(1).random((requests * CHUNK, WIDTH), np.float32))
        for _ in range(rounds):
            for (name, processes), figures in zip(names, measured, strict=True):
                figures.append(measure(name, url, rows, processes=processes))
    columns = [list(zip(*each, strict=True)) for each in measured]
    return [Figures(*map(min, each)) for each in columns], [Figures(*map(median, each)) for each in columns]


def measure_shards(engine: str, requests: int, rounds: int, latency: float) -> dict[str, Any]:
    """Compare a run on two workers with one process, and with two independent processes."""
    names = [("run", 1), (f"run {engine}", 1), ("run", 2)]
    (one, cluster, two), medians = compare(names, latency, requests, rounds)
    return {
        "engine": engine,
        "latency": latency,
        "wall of one process (s)": round(one.wall, 2),
        "wall / one process": round(cluster.wall / one.wall, 3),
        "CPU of a row in one process (us)": round(one.cpu * 1e6, 1),
        "CPU of a row on the cluster (us)": round(cluster.cpu * 1e6, 1),
        "CPU / one process": round(cluster.cpu / one.cpu, 3),
        # Two processes at a time take more of it than one, because they share caches and cores.
        "CPU / two processes": round(cluster.cpu / two.cpu, 3),
        "medians": [round(each.cpu * 1e6, 1) for each in medians],
        "throughput / two processes": round(two.wall / cluster.wall, 3),
        "CPU of the engine at rest (s/s)": round(cluster.at_rest, 3),
    }


def measure_batches(engine: str, requests: int, rounds: int) -> dict[str, Any]:
    """Compare the processor time of a row in batches of an engine with that of ``map`` and of the engine alone."""
    names = [(name, 1) for name in ("map", "batches", f"batches {engine}", f"batches {engine} alone")]
    (plain, mapper, batches, alone), _ = compare(names, 0.0, requests, rounds)
    return {
        "engine": engine,
        "CPU of a row in map (us)": round(plain.cpu * 1e6, 1),
        "in batches without the engine": round(mapper.cpu * 1e6, 1),
        "in batches of the engine": round(batches.cpu * 1e6, 1),
        "in the engine alone": round(alone.cpu * 1e6, 1),
        "batches / map": round(batches.cpu / plain.cpu, 3),
        "CPU of the engine at rest (s/s)": round(batches.at_rest, 3),
    }


Rows: TypeAlias = "np.ndarray[Any, Any]"
Program: TypeAlias = "Callable[[Rows], Callable[[], None]]"
"""Gives rows to an engine; what it returns sends them."""


def run_program(name: str, url: str, file: Path, processes: int) -> None:
    """Send some rows, print a line, and on a line of the input send all; stay until the input ends."""
    rows = np.load(file, mmap_mode="r")[: int(file.stem) // processes]
    kind, engine, *alone = (*name.split(), "")
    idle = Idle(f"{url}/rows") if "alone" in alone else None
    endpoint = f"{url}/v1/models/m:predict"
    if kind == "run":
        program = _run(endpoint, engine, CONCURRENCY // processes)
    else:
        program = {"map": _map, "batches": _mapper, "ray": _ray, "dask": _dask}[engine or kind](endpoint, idle)
    with program as prepare:
        # Processes import much at their first rows.
        prepare(rows[: 2 * CHUNK])()
        run = prepare(rows)
        print("open", flush=True)
        sys.stdin.readline()
        run()
        print("done", flush=True)
        sys.stdin.read()


class Kept(Engine):
    """Keeps an engine open from one run to the next."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.workers)
        self._engine, self.name = engine, engine.name

    async def open(self) -> None:
        return

    async def share_rates(self, limits: fanout.Limits, key: str) -> dict[str, Any]:
        return await self._engine.share_rates(limits, key)

    async def run(self, shard: str) -> str:
        return await self._engine.run(shard)

    async def close(self) -> None:
        return


@contextmanager
def _run(endpoint: str, on: str, concurrency: int) -> Iterator[Program]:
    """``fanout run``, with ``--on`` if an engine is named."""
    engine = open_engine(on, 2) if on else None
    # The loop runs while nothing is done, too: a part of Dask lives in it.
    with closing(LoopThread()) as loop, tempfile.TemporaryDirectory() as folder:
        if engine is not None:
            loop.run(engine.open())

        def prepare(rows: Rows) -> Callable[[], None]:
            file, job = Path(folder, f"{len(rows)}.npy"), Path(folder, f"{len(rows)}.toml")
            np.save(file, rows)
            text = JOB.format(rows=file, url=endpoint, output=f"y{len(rows)}.npy", concurrency=concurrency)
            job.write_text(text)

            async def send() -> None:
                loaded = load_job(job)
                summary = await run_job(loaded, remote=None if engine is None else Cluster(loaded, Kept(engine)))
                assert summary.exit_code == 0

            return lambda: loop.run(send())

        yield prepare
        if engine is not None:
            loop.run(engine.close())


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


def _target(endpoint: str) -> dict[str, Any]:
    codec, limits = fanout.codec("v1", dtype="float32"), fanout.Limits(concurrency=CONCURRENCY)
    return {"endpoint": endpoint, "codec": codec, "chunk_rows": CHUNK, "limits": limits}


@contextmanager
def _map(endpoint: str, _: Idle | None) -> Iterator[Program]:
    async def send(rows: Rows) -> None:
        async with fanout.Client(**_target(endpoint)) as client:
            assert len(await client.map(rows)) == len(rows)

    yield lambda rows: lambda: asyncio.run(send(np.array(rows)))


@contextmanager
def _mapper(endpoint: str, _: Idle | None) -> Iterator[Program]:
    mapper = BatchMapper(BatchSettings.of(_target(endpoint), OUTPUTS, workers=1), stopped=str, stop=print)

    def send(rows: Rows) -> None:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            assert mapper(batch, len(batch))["ok"].all()

    yield lambda rows: lambda: send(rows)
    mapper.close()


@contextmanager
def _ray(endpoint: str, idle: Idle | None) -> Iterator[Program]:
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
                answered = fanout.ray.map_batches(dataset, _target(endpoint), column="data", outputs=OUTPUTS)
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
def _dask(endpoint: str, idle: Idle | None) -> Iterator[Program]:
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    import fanout.dask

    def send(array: Any) -> Any:
        if idle is None:
            return fanout.dask.map_blocks(array, _target(endpoint), outputs=OUTPUTS).values()
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
    parser.add_argument("--requests", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("shards", "batches"), help="measure these alone")
    parser.add_argument("--latency", type=float, help="seconds, for shards; 0.05 and 0 if not given")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--program", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    if arguments.program is not None:
        name, url, file, processes = arguments.program
        run_program(name, url, Path(file), int(processes))
        return
    latencies = (0.05, 0.0) if arguments.latency is None else (arguments.latency,)
    for engine in arguments.engines:
        if arguments.only != "batches":
            for latency in latencies:
                print(json.dumps(measure_shards(engine, arguments.requests, arguments.rounds, latency)), flush=True)
        if arguments.only != "shards" and engine != "processes":
            print(json.dumps(measure_batches(engine, arguments.requests // 2, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
