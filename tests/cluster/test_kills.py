"""Real clusters of processes on this machine: workers, drivers and Redis are killed at random; no row is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanout.io.parts import PartsFolder
from fanout.job import job_status, load_job, run_job
from fanout.testing import Background
from tests.cluster.conftest import files_of
from tests.jobs import doubling, write_job
from tests.limits.shared_scene import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["write_job"]

ROWS, CHUNK, CONCURRENCY = 4000, 4, 8

# Chunks that may wait for the disk in a process, as fanout/client/writing.py bounds them, and those in flight.
MOST_UNSYNCED = 16 * 16 + CONCURRENCY

MODULES = {"processes": "fanout", "ray": "ray", "dask": "distributed"}

# Many seeds take an hour.
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 50))]

engines = pytest.mark.parametrize("engine", list(MODULES))


class Rows:
    """Counts how often each row was sent, and answers after some milliseconds."""

    def __init__(self, model) -> None:
        self.sent = np.zeros(ROWS, int)
        model.answer, model.before_answer, model.lowest = self.answer, lambda number: asyncio.sleep(0.02), -1.0

    def answer(self, rows: list[float]) -> list[object]:
        self.sent[np.array(rows, int)] += 1
        return [2 * row for row in rows]

    @property
    def done(self) -> int:
        return int((self.sent > 0).sum())


@pytest.fixture
def model():
    with Background(doubling()) as model:
        yield model


@contextmanager
def driver(job: Path, engine: str, workers: int, *settings: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fanout", "run", str(job), "--on", engine, "--workers", str(workers), "--quiet"]
    for setting in settings:
        command += ["--set", setting]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        # Whatever is left of the cluster ends with the test.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> bool:
    """Return True once ``condition`` holds, False if the process has ended before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def kill_worker(folder: PartsFolder, choose: random.Random) -> bool:
    """Kill the process of one attempt that is under way. Returns False if there is none."""
    manifest = folder.read_manifest()
    attempts = [] if manifest is None else sorted(manifest.attempts)
    choose.shuffle(attempts)
    for number in attempts:
        with suppress(OSError, ValueError, IndexError):
            pid = int(folder.part(number).with_suffix(".claim").read_text().split()[-1])
            os.kill(pid, signal.SIGKILL)
            return True
    return False


@contextmanager
def dying_redis(folder: Path, choose: random.Random) -> Iterator[tuple[str, ...]]:
    """Run a Redis that is killed three times, and each time comes back without its state. Gives the settings for it."""
    over = Event()
    with redis_server(folder) as redis:

        def kill() -> None:
            for _ in range(3):
                if over.wait(choose.uniform(1, 5)):
                    return
                redis.kill()
                over.wait(choose.uniform(0.1, 1))
                redis.start()

        killing = Thread(target=kill)
        killing.start()
        try:
            yield f"limits.shared={redis.url}", "limits.shared_key=kills"
        finally:
            over.set()
            killing.join()


@pytest.fixture
def settings_of(tmp_path: Path) -> Iterator[Callable[[int, random.Random], tuple[str, ...]]]:
    """Returns the settings of a seed; those of every other one share their limits through a Redis."""
    with ExitStack() as stack:

        def settings(seed: int, choose: random.Random) -> tuple[str, ...]:
            if seed % 2:
                return ()
            pytest.importorskip("redis")
            return stack.enter_context(dying_redis(tmp_path, choose))

        yield settings


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
@engines
def test_kills_lose_and_double_no_row(engine, seed, tmp_path, model, write_job, settings_of) -> None:
    pytest.importorskip(MODULES[engine])
    choose, suffix = random.Random(seed), ("npy", "jsonl", "parquet")[seed % 3]
    job = write_job(rows=np.arange(float(ROWS)), url=model.url)
    settings = (f"output.path=out/y.{suffix}", f"limits.concurrency={CONCURRENCY}", *settings_of(seed, choose))
    folder, rows, lost = PartsFolder(tmp_path / f"out/y.{suffix}"), Rows(model), 0
    first, second = sorted(choose.uniform(0.1, 0.6) * ROWS for _ in range(2))
    with driver(job, engine, 2, *settings) as process:
        assert wait_until(lambda: rows.done > first, process)
        lost += kill_worker(folder, choose)
        assert wait_until(lambda: rows.done > second, process)
        process.kill()
        process.wait()
        lost += 2
    status = job_status(load_job(job, settings))
    assert not status.complete
    earlier = status.ok
    with driver(job, engine, 3, *settings) as process:
        if wait_until(lambda: rows.done > choose.uniform(0.7, 0.9) * ROWS, process):
            lost += kill_worker(folder, choose)
        assert process.wait() == 0, process.stderr.read()
    # Rows that a journal has are not sent again.
    assert rows.done == ROWS
    assert earlier > 0
    assert rows.sent.sum() - ROWS <= lost * MOST_UNSYNCED * CHUNK
    asyncio.run(run_job(load_job(job, [f"output.path=one/y.{suffix}"])))
    assert files_of(tmp_path / "out", "y") == files_of(tmp_path / "one", "y")
    assert not folder.path.exists()


@pytest.mark.slow
@pytest.mark.timeout(120)
@engines
def test_ctrl_c_stops_all_workers_and_keeps_their_rows(engine, tmp_path, model, write_job) -> None:
    pytest.importorskip(MODULES[engine])
    job, rows = write_job(rows=np.arange(float(ROWS)), url=model.url), Rows(model)
    settings = (f"limits.concurrency={CONCURRENCY}",)
    with driver(job, engine, 2, *settings) as process:
        assert wait_until(lambda: rows.done > ROWS // 4, process)
        # The terminal sends it to the whole group of processes.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130
    sent = rows.sent.copy()
    status = job_status(load_job(job, settings))
    assert status.ok == sent.sum() == (sent > 0).sum()
    with driver(job, engine, 2, *settings) as process:
        assert process.wait() == 0
    assert (rows.sent == 1).all()
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), 2 * np.arange(float(ROWS)))
