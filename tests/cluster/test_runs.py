"""Runs on several workers: the bytes of one process, whatever the workers do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

import fanout
from fanout.cluster import Cluster
from fanout.cluster.collect import Collected, Collector
from fanout.cluster.shard import run_shard
from fanout.engine import RunControl
from fanout.io.journal.format import read_state
from fanout.io.journal.journal import Journal
from fanout.io.parts import Manifest, Orders, PartsFolder
from fanout.job import job_status, load_job, run_job
from fanout.paths import journal_path
from tests.cluster.conftest import Threads, files_of
from tests.jobs import JOB

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 203


@pytest.fixture
def job(write_job, doubler):
    """A job of 203 rows, of which two fail."""
    rows = np.arange(float(ROWS))
    rows[[30, 111]] = -1
    return write_job(rows=rows, url=doubler.url)


async def requested(doubler, number: int) -> None:
    """Return once so many requests have come."""
    while doubler.requests < number:  # noqa: ASYNC110 - it counts on its own
        await asyncio.sleep(0.005)


def names_of(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "csv", "parquet", "arrow"])
async def test_the_output_is_that_of_one_process(job, on_cluster, tmp_path, suffix) -> None:
    (tmp_path / "one").mkdir()
    one, several = f"one/y.{suffix}", f"several/y.{suffix}"
    await run_job(load_job(job, [f"output.path={one}"]))
    summary = await on_cluster(job, f"output.path={several}")
    assert files_of(tmp_path / "several", "y") == files_of(tmp_path / "one", "y")
    assert (summary.rows, summary.ok, summary.failed, summary.pending, summary.exit_code) == (ROWS, ROWS - 2, 2, 0, 1)
    assert summary.files.failures is not None
    # Nothing else is left behind, and the run counts as an ordinary one.
    assert names_of(tmp_path / "several") == names_of(tmp_path / "one")
    status = job_status(load_job(job, [f"output.path={several}"]))
    assert (status.complete, status.current, status.ok, status.failed) == (True, True, ROWS - 2, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
async def test_ids_kept_columns_and_texts_are_those_of_one_process(doubler, on_cluster, tmp_path, suffix) -> None:
    doubler.answer = lambda rows: [{"text": "ä" * (int(row) % 5), "score": 0.5 * row} for row in rows]
    doubler.lowest = 3.0
    lines = [{"key": f"k{i}" if i % 3 else i, "text": "x" * (i % 7), "n": i} for i in range(90)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = JOB.replace('path = "x.npy"', 'path = "x.jsonl"\ncolumn = "n"\nid = "key"')
    text = text.replace("{url}", doubler.url).replace(
        'name = "json"',
        'name = "json"\noutputs.text = "text"\n'
        'outputs.score = "score"\nrequest = { instances = "{{rows}}" }\n'
        'answers = "predictions"',
    )
    text += 'keep = ["text"]\n'
    job = tmp_path / "job.toml"
    job.write_text(text)
    await run_job(load_job(job, [f"output.path=one.{suffix}"]))
    await on_cluster(job, f"output.path=several.{suffix}")
    assert files_of(tmp_path, "one") == files_of(tmp_path, "several")


async def test_a_lost_worker_costs_no_row(job, doubler, engine, on_cluster, tmp_path) -> None:
    async def disturb(number: int, shard: str) -> str:
        if number in (1, 3):
            control = RunControl()
            running = asyncio.create_task(asyncio.to_thread(run_shard, shard, control))
            await asyncio.sleep(0.02)
            control.cut()
            await running
            raise ConnectionError("the worker died")
        return await asyncio.to_thread(run_shard, shard)

    engine.disturb = disturb
    summary = await on_cluster(job)
    assert summary.ok == ROWS - 2
    assert len({shard["attempt"] for shard in engine.shards}) == len(engine.shards)
    expected = 2 * np.load(tmp_path / "x.npy")
    expected[[30, 111]] = np.nan
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), expected)


async def test_workers_that_all_die_stop_the_run(job, engine, on_cluster, monkeypatch) -> None:
    monkeypatch.setattr("fanout.cluster.dispatcher._LONGEST_BACKOFF", 0.0)

    async def disturb(number: int, shard: str) -> str:
        raise ConnectionError("no such host")

    engine.disturb = disturb
    summary = await on_cluster(job)
    assert (summary.exit_code, summary.pending, summary.stop.kind) == (3, ROWS, "error")
    assert "workers in a row were lost" in summary.stop.reason
    assert "no such host" in summary.stop.reason


async def test_a_late_attempt_does_not_count(job, doubler, engine, on_cluster, tmp_path) -> None:
    """The engine reports a worker as lost that lives on, and runs the rows with a wrong codec in its mind."""
    late = []

    async def disturb(number: int, shard: str) -> str:
        if number == 1:
            late.append(shard)
            raise TimeoutError("the worker does not answer")
        return await asyncio.to_thread(run_shard, shard)

    engine.disturb = disturb
    await on_cluster(job)
    before = doubler.requests
    outcome = json.loads(await asyncio.to_thread(run_shard, late[0]))
    # The folder of the parts is gone, so that it cannot begin.
    assert "need one shared disk" in outcome["error"][0]
    assert doubler.requests == before


async def test_an_idle_worker_gets_rows_of_a_slow_one(write_job, doubler, engine, on_cluster, monkeypatch, tmp_path):
    for interval in ("dispatcher._TAIL_POLL_SECONDS", "overseer._BEAT_SECONDS", "shard.POLL_SECONDS"):
        monkeypatch.setattr(f"fanout.cluster.{interval}", 0.01)
    monkeypatch.setattr("fanout.cluster.dispatcher._TAIL_SECONDS", 0.1)
    sent: list[float] = []

    def answer(rows: list[float]) -> list[object]:
        sent.extend(rows)
        return [2 * row for row in rows]

    async def slow(number: int, shard: str) -> str:
        if number == 1:
            shard = json.dumps({**json.loads(shard), "limits": {"concurrency": 1, "requests_per_second": 50.0}})
        return await asyncio.to_thread(run_shard, shard)

    doubler.answer, engine.disturb = answer, slow
    summary = await on_cluster(write_job(rows=np.arange(200.0), url=doubler.url), "limits.concurrency=2")
    assert summary.ok == 200
    assert len(engine.shards) > 3
    # Requests in flight were finished, and no row was sent to both.
    assert sorted(sent) == list(range(200))
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), 2 * np.arange(200.0))


async def test_the_next_shard_begins_before_its_part_is_collected(write_job, doubler, engine, on_cluster, monkeypatch):
    monkeypatch.setattr("fanout.cluster.plan._UNDIVIDED_ROUNDS", 1)
    collect, collected = Collector.collect, []

    def note(self: Collector, *args) -> Collected:
        collected.append(len(engine.shards))
        return collect(self, *args)

    monkeypatch.setattr(Collector, "collect", note)
    engine.workers = 1
    await on_cluster(write_job(rows=np.arange(600.0), url=doubler.url), "limits.concurrency=1")
    assert len(engine.shards) > 3
    # The last part is collected after the last shard; every other one once the shard behind it has begun.
    assert collected == [*range(2, len(engine.shards) + 1), len(engine.shards)]


async def test_an_attempt_that_is_not_in_the_manifest_sends_nothing(job, doubler, engine, on_cluster, tmp_path) -> None:
    outcomes, folder = [], PartsFolder(tmp_path / "out/y.npy")

    async def disturb(number: int, shard: str) -> str:
        if number == 2:
            first = json.dumps(engine.shards[0])
            while 1 in folder.read_manifest().attempts:  # noqa: ASYNC110 - a file that another thread writes
                await asyncio.sleep(0.005)
            # The engine runs the first task again, although it has ended.
            outcomes.append(json.loads(await asyncio.to_thread(run_shard, first)))
        return await asyncio.to_thread(run_shard, shard)

    engine.disturb = disturb
    summary = await on_cluster(job)
    assert outcomes[0]["is_fenced"]
    assert summary.ok == ROWS - 2


async def test_a_worker_stops_once_another_attempt_has_taken_over(job, doubler, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("fanout.cluster.shard.POLL_SECONDS", 0.01)
    asked = asyncio.Event()

    async def hold(number: int) -> None:
        asked.set()
        await asyncio.sleep(0.05)

    doubler.before_answer = hold
    engine = Threads(1)
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def disturb(number: int, shard: str) -> str:
        running = asyncio.create_task(asyncio.to_thread(run_shard, shard))
        if number > 1:
            return await running
        running.add_done_callback(lambda task: first.set_result(task.result()))
        await asked.wait()
        raise ConnectionError("lost from sight")

    engine.disturb = disturb
    job_ = load_job(job, ["limits.concurrency=2"])
    summary = await run_job(job_, remote=Cluster(job_, engine, settings=["limits.concurrency=2"]))
    outcome = json.loads(await first)
    assert summary.ok == ROWS - 2
    assert outcome["stop"][0] == "interrupted"


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of each file in a folder."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


async def test_a_killed_driver_loses_no_row(job, doubler, engine, on_cluster, tmp_path) -> None:
    """Parts that a driver has left count for the next, which has another number of workers."""
    asked: list[float] = []

    def answer(rows: list[float]) -> list[object]:
        asked.extend(rows)
        return [2 * row for row in rows]

    doubler.before_answer, doubler.answer, doubler.lowest = (lambda number: asyncio.sleep(0.01)), answer, -5.0
    dispatched = asyncio.create_task(on_cluster(job))
    while not job_status(load_job(job)).ok:  # noqa: ASYNC110 - files of other threads
        await asyncio.sleep(0.005)
    folder = PartsFolder(tmp_path / "out/y.npy")
    left = tmp_path / "left"
    # A copy of all files is the disk after a SIGKILL, if nothing was written meanwhile: the workers go on.
    while True:
        with suppress(OSError):
            before = stamps(tmp_path / "out")
            shutil.copytree(tmp_path / "out", left)
            if stamps(tmp_path / "out") == before:
                break
        shutil.rmtree(left, ignore_errors=True)
    await dispatched
    shutil.rmtree(tmp_path / "out")
    left.rename(tmp_path / "out")
    assert folder.read_manifest().attempts
    status = job_status(load_job(job))
    assert status.begun
    assert not status.complete
    assert status.ok > 0
    with pytest.raises(fanout.ConfigError, match="were paid for: go on with fanout run --on"):
        await run_job(load_job(job))
    asked.clear()
    summary = await on_cluster(job, engine=Threads(3))
    assert (summary.ok, summary.earlier) == (ROWS, status.ok)
    # Rows that were done are not sent again.
    assert len(asked) == ROWS - status.ok
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), 2 * np.load(tmp_path / "x.npy"))
    assert not folder.path.exists()


@pytest.mark.parametrize("changed", [False, True])
async def test_parts_of_rows_that_have_changed_do_not_count(
    doubler, on_cluster, write_job, monkeypatch, tmp_path, changed
) -> None:
    """An edit between the samples that identify a large file shows in the digests of the rows in the parts."""
    rows = np.arange(20_000.0)
    job = write_job(rows=rows, url=doubler.url)
    with monkeypatch.context() as patched:
        patched.setattr(Collector, "collect", lambda *_: (_ for _ in ()).throw(fanout.ConfigError("killed")))
        with pytest.raises(fanout.ConfigError, match="killed"):
            await on_cluster(job, "chunks.rows=1000", engine=Threads(1))
    rows[12_345] = -1.0 if changed else rows[12_345]
    np.save(tmp_path / "x.npy", rows)
    os.utime(tmp_path / "x.npy", ns=(1, 1))
    if not changed:
        assert (await on_cluster(job, "chunks.rows=1000")).earlier > 0
        return
    for _ in range(2):
        with pytest.raises(fanout.ConfigError, match=r"another input \(.*these differ: 12345\)"):
            await on_cluster(job, "chunks.rows=1000")
    assert (await on_cluster(job, "chunks.rows=1000", fresh=True)).earlier == 0


async def test_ctrl_c_keeps_what_is_done_and_one_process_goes_on(job, doubler, engine, on_cluster, monkeypatch) -> None:
    monkeypatch.setattr("fanout.cluster.shard.POLL_SECONDS", 0.01)
    doubler.before_answer, doubler.lowest = lambda number: asyncio.sleep(0.01), -5.0
    control = RunControl()
    running = asyncio.create_task(on_cluster(job, "limits.concurrency=2", control=control))
    await requested(doubler, 20)
    control.drain()
    summary = await running
    assert (summary.exit_code, summary.stop.kind, summary.resumable) == (130, "interrupted", True)
    assert summary.ok + summary.failed >= 4 * 18
    assert summary.pending > 0
    before, doubler.before_answer = doubler.requests, None
    rest = await run_job(load_job(job))
    assert rest.earlier == summary.ok + summary.failed
    assert rest.ok == ROWS
    assert doubler.requests - before == -(-summary.pending // 4)


async def test_a_refusal_stops_all_workers(job, doubler, on_cluster) -> None:
    doubler.status = 401
    summary = await on_cluster(job)
    assert (summary.exit_code, summary.stop.kind) == (3, "refused")
    assert "401" in summary.stop.reason


async def test_max_requests_holds_for_all_workers_together(job, doubler, on_cluster) -> None:
    doubler.lowest = -5.0
    summary = await on_cluster(job, "limits.max_requests=20", "limits.concurrency=4")
    assert summary.stop == ("max_requests", "the limit of max_requests = 20 is reached by all workers together")
    assert doubler.requests == summary.stats.requests == 20
    assert summary.ok == 4 * 20


async def test_an_error_on_a_worker_is_an_error_of_the_job(job, engine, on_cluster, monkeypatch) -> None:
    monkeypatch.setenv("KEY", "a-secret-token")
    job.write_text(job.read_text() + '[auth]\ntoken = "${KEY}"\n')

    async def disturb(number: int, shard: str) -> str:
        monkeypatch.delenv("KEY", raising=False)
        return await asyncio.to_thread(run_shard, shard)

    engine.disturb = disturb
    with pytest.raises(fanout.ConfigError, match=r"auth.token: .*KEY is not set.*\(on the worker "):
        await on_cluster(job)


async def test_a_worker_with_another_input_stops_the_run(job, engine, on_cluster, tmp_path) -> None:
    async def disturb(number: int, shard: str) -> str:
        if number == 1:
            np.save(tmp_path / "x.npy", np.ones(ROWS))
        return await asyncio.to_thread(run_shard, shard)

    engine.disturb = disturb
    with pytest.raises(fanout.ConfigError, match="this worker sees another input than the driver"):
        await on_cluster(job)


async def test_a_literal_secret_does_not_travel(job, on_cluster) -> None:
    with pytest.raises(fanout.ConfigError, match=r"--set auth.token has a secret.*\$\{NAME\}"):
        await on_cluster(job, "auth.token=a-literal-secret")


async def test_failed_rows_are_sent_again_alone(job, doubler, on_cluster) -> None:
    await on_cluster(job)
    before, doubler.lowest = doubler.requests, -5.0
    summary = await on_cluster(job, only_failed=True)
    assert (summary.ok, summary.failed) == (ROWS, 0)
    assert doubler.requests - before == 2


async def test_a_slice_of_the_rows_and_a_mock(job, doubler, on_cluster, tmp_path) -> None:
    await on_cluster(job, rows=slice(20, 60))
    expected = 2 * np.load(tmp_path / "x.npy")[20:60]
    expected[10] = np.nan
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), expected)
    before = doubler.requests
    settings = ["mock.shape=[2]", "mock.latency=0.0"]
    summary = await on_cluster(job, *settings, mock=True)
    assert (summary.ok, summary.answers, doubler.requests) == (ROWS, "mock", before)
    assert np.load(tmp_path / "out/y.mock.npy").shape == (ROWS, 2)


async def test_a_damaged_part_is_an_error_and_stays(job, doubler, engine, on_cluster, tmp_path) -> None:
    async def disturb(number: int, shard: str) -> str:
        outcome = await asyncio.to_thread(run_shard, shard)
        path = PartsFolder(tmp_path / "out/y.npy").part(number)
        data = path.with_name(path.name + ".partial").read_bytes()
        path.with_name(path.name + ".partial").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return outcome

    engine.disturb = disturb
    with pytest.raises(fanout.ConfigError, match="checksum"):
        await on_cluster(job)
    assert PartsFolder(tmp_path / "out/y.npy").read_manifest().attempts


async def test_the_report_and_the_message_count_all_workers(job, doubler, engine, on_cluster, tmp_path) -> None:
    summary = await on_cluster(job, "limits.requests_per_second=1e6")
    assert engine.said == ["2 workers (threads), each with 1/2 of the 16 requests in flight and of requests_per_second"]
    assert summary.stats.requests == doubler.requests
    assert summary.stats.latency_p50 > 0
    page = (tmp_path / "out/y.npy.report.html").read_text()
    assert f"{ROWS}" in page


async def test_a_kill_between_the_last_row_and_the_end_of_its_part_loses_no_cost(
    job, doubler, on_cluster, tmp_path, monkeypatch
) -> None:
    job.write_text(job.read_text() + "[cost]\nper_request = 0.5\n[limits]\nmax_cost = 1000.0\n")
    doubler.lowest = -5.0  # requests that are refused cost nothing
    left = tmp_path / "left"
    allow = Journal.allow

    def kill(journal: Journal, allowed) -> None:
        # The rows of the last part are recorded, and nothing after them: a copy is the disk after a SIGKILL.
        if allowed is None and journal.path.name == "y.npy.journal":
            shutil.rmtree(left, ignore_errors=True)
            shutil.copytree(tmp_path / "out", left)
        allow(journal, allowed)

    monkeypatch.setattr(Journal, "allow", kill)
    cost = (await on_cluster(job)).stats.cost
    assert cost == doubler.requests * 0.5
    shutil.rmtree(tmp_path / "out")
    left.rename(tmp_path / "out")
    await on_cluster(job)
    assert doubler.requests * 0.5 == cost
    state = read_state(journal_path(tmp_path / "out/y.npy"))
    assert state.spent.cost == cost


def test_a_worker_that_begins_before_the_orders_know_it_goes_on() -> None:
    orders = Orders(run="r", active=[2], last=3)
    assert [orders.fences("r", attempt) for attempt in (1, 2, 3, 4)] == [True, False, True, False]
    assert orders.fences("another driver", 2)


async def test_a_disk_that_cannot_be_read_for_a_while_loses_no_worker(job, engine, on_cluster, monkeypatch) -> None:
    is_claimed = PartsFolder.is_claimed
    failed: list[int] = []

    def fail_once(folder: PartsFolder, attempt: int) -> bool:
        if not failed:
            failed.append(attempt)
            raise OSError("stale file handle")
        return is_claimed(folder, attempt)

    monkeypatch.setattr(PartsFolder, "is_claimed", fail_once)
    beats: list[int] = []
    monkeypatch.setattr(PartsFolder, "write_orders", lambda folder, orders: beats.append(orders.beat))
    monkeypatch.setattr("fanout.cluster.overseer._BEAT_SECONDS", 0.01)
    summary = await on_cluster(job)
    assert failed
    assert len(beats) > 2
    assert summary.ok == ROWS - 2


async def test_an_error_in_passing_orders_ends_the_run(job, on_cluster, monkeypatch) -> None:
    def fail(folder: PartsFolder, orders: Orders) -> None:
        raise ValueError("a fault of the driver")

    monkeypatch.setattr(PartsFolder, "write_orders", fail)
    with pytest.raises(ValueError, match="a fault of the driver"):
        await on_cluster(job)


def test_a_manifest_is_whole_or_an_error(tmp_path) -> None:
    folder = PartsFolder(tmp_path / "y.npy")
    assert folder.read_manifest() is None
    manifest = Manifest(
        run="r", fanout="1", identity={"input": 1}, n_rows=9, rows=(0, None), attempts={3: [(0, 5)]}, last=3
    )
    folder.write_manifest(manifest)
    assert folder.read_manifest() == manifest
    path = folder.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"[0,5]", b"[0,6]"))
    with pytest.raises(fanout.ConfigError, match="checksum"):
        folder.read_manifest()
    folder.write_orders(Orders(run="r", beat=2, active=[1], handing_over=[1]))
    assert folder.read_orders() == Orders(run="r", beat=2, active=[1], handing_over=[1])
    assert folder.claim(1)
    assert not folder.claim(1)
