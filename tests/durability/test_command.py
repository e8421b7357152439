"""Rows 42, 43, 47, 49, 51 and 52 of the fault matrix on ``fanout run``, a process as a user starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.cli.conftest import ROOT, doubler, ended, run, start, write_job
from tests.durability.test_kills import traced

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["doubler", "run", "start", "write_job"]
pytestmark = pytest.mark.slow
ROWS = np.arange(200.0)
JOB = ("run", "job.toml", "--json", "--set", "limits.concurrency=2")


def output(tmp_path: Path) -> np.ndarray:
    return np.load(tmp_path / "out" / "y.npy")


async def until(doubler: Any, requests: int) -> None:
    """Answer so many requests, and none after them."""
    arrived = asyncio.Event()

    async def before_answer(number: int) -> None:
        if number > requests:
            arrived.set()
            await asyncio.sleep(60)

    doubler.before_answer = before_answer
    await asyncio.wait_for(arrived.wait(), 20)


async def test_42_the_second_signal_stops_at_once_and_the_run_goes_on_later(start, run, write_job, doubler, tmp_path):
    write_job(rows=ROWS, url=doubler.url)
    process = await start(*JOB)
    await until(doubler, 20)
    process.send_signal(signal.SIGINT)
    assert b"finishing 2 requests" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stopped = await ended(process)
    summary = json.loads(stopped.out)
    assert (stopped.code, summary["ok"], summary["pending"], summary["resumable"]) == (130, 80, 120, True)
    assert not (tmp_path / "out" / "y.npy").exists()
    doubler.before_answer, doubler.requests = None, 0
    resumed = json.loads((await run(*JOB)).out)
    assert (resumed["earlier"], resumed["ok"], resumed["resumable"], doubler.requests) == (80, 200, False, 30)
    np.testing.assert_array_equal(output(tmp_path), 2 * ROWS)


async def test_43_a_killed_run_goes_on(start, run, write_job, doubler, tmp_path):
    write_job(rows=ROWS, url=doubler.url)
    process = await start(*JOB)
    await until(doubler, 30)
    await asyncio.sleep(0.3)  # for the last group to be committed, which cannot be seen from outside
    process.kill()
    assert (await ended(process)).code == -signal.SIGKILL
    doubler.before_answer, doubler.requests = None, 0
    resumed = json.loads((await run(*JOB)).out)
    assert (resumed["earlier"], resumed["ok"], doubler.requests) == (120, 200, 20)
    np.testing.assert_array_equal(output(tmp_path), 2 * ROWS)


@traced
@pytest.mark.parametrize(("call", "error"), [("pwrite64", "ENOSPC"), ("fsync", "EIO")])
async def test_47_49_a_journal_that_cannot_be_written(run, write_job, doubler, tmp_path, call, error):
    write_job(rows=ROWS, url=doubler.url)
    journal, options = tmp_path / "out" / "y.npy.journal", ("-f", "-qq", "-o", str(tmp_path / "trace"))
    command = [sys.executable, "-m", "fanout", *JOB]
    inject = f"inject={call}:error={error}:when=2+"  # the first is that of the journal's head
    strace = ["strace", *options, "-P", str(journal), "-P", f"{journal}.new", "-e", f"trace={call}", "-e", inject]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *strace, *command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe
    )
    stopped = await ended(process)
    summary = json.loads(stopped.out)
    assert (stopped.code, summary["stop_kind"], summary["ok"], summary["resumable"]) == (3, "output", 0, True)
    assert os.strerror({"ENOSPC": 28, "EIO": 5}[error]) in stopped.err
    assert (tmp_path / "trace").read_text().count("(INJECTED)") == 1  # not tried again
    assert json.loads((await run(*JOB)).out)["ok"] == 200
    np.testing.assert_array_equal(output(tmp_path), 2 * ROWS)


async def test_51_a_second_process_is_refused_and_the_first_goes_on(start, run, write_job, doubler, tmp_path):
    write_job(rows=ROWS, url=doubler.url)
    process = await start(*JOB)
    await until(doubler, 10)
    for options in ((), ("--fresh",), ("--only-failed",)):
        second = await run(*JOB, *options)
        assert second.code == 2
        assert "another run is writing" in second.out
        assert "y.npy.journal at this moment" in second.out
    process.send_signal(signal.SIGINT)
    await process.stderr.readline()  # two that come at once may be one
    process.send_signal(signal.SIGINT)
    await ended(process)
    doubler.before_answer = None
    assert json.loads((await run(*JOB)).out)["ok"] == 200


@pytest.fixture
async def unfinished(start, write_job, doubler, tmp_path):
    write_job(rows=ROWS, url=doubler.url)
    process = await start(*JOB)
    await until(doubler, 20)
    process.send_signal(signal.SIGINT)
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    await ended(process)
    doubler.before_answer, doubler.requests = None, 0


async def test_52_another_codec_or_path_is_refused(run, unfinished, doubler):
    for option, differs in (
        ("codec.dtype=float32", "codec"),
        ('codec.request={ a = 1, instances = "{{rows}}" }', "codec"),
        ("codec.name=v1", "codec"),
        (f"endpoint.url={doubler.url.replace('/predict', '/v2/predict')}", "path"),
    ):
        refused = await run(*JOB, "--set", option)
        assert refused.code == 2
        assert f"unfinished run with another {differs}; put that back" in refused.out
    assert doubler.requests == 0


async def test_52_another_input_is_refused_with_the_rows_that_differ_and_carry_sends_the_others(
    run, unfinished, doubler, tmp_path
):
    edited = ROWS.copy()
    edited[[3, 150]] += 0.5
    np.save(tmp_path / "x.npy", edited)
    refused = await run(*JOB)
    assert refused.code == 2
    assert (
        "unfinished run with another input (of the 80 rows that are done, these differ: 3); put that back"
        in refused.out
    )
    assert "--carry" in refused.out
    assert doubler.requests == 0
    carried = json.loads((await run(*JOB, "--carry")).out)
    assert (carried["earlier"], carried["ok"], doubler.requests) == (79, 200, 31)
    np.testing.assert_array_equal(output(tmp_path), 2 * edited)


async def test_63_an_input_of_which_the_time_alone_is_another_goes_on(run, unfinished, doubler, tmp_path):
    os.utime(tmp_path / "x.npy", (1, 1))
    resumed = json.loads((await run(*JOB)).out)
    assert (resumed["earlier"], resumed["ok"], doubler.requests) == (80, 200, 30)
    os.utime(tmp_path / "x.npy", (2, 2))
    assert json.loads((await run("status", "job.toml", "--json")).out)["current"]
    complete = json.loads((await run(*JOB)).out)
    assert (complete["ok"], complete["requests"], doubler.requests) == (200, 0, 30)


async def test_63_answers_with_other_bytes_than_were_committed_are_refused(run, unfinished, doubler, tmp_path):
    partial = tmp_path / "out" / "y.npy.partial"
    data = bytearray(partial.read_bytes())
    data[128 + 8 * 5] ^= 1
    partial.write_bytes(data)
    refused = await run(*JOB)
    assert refused.code == 2
    assert "y.npy.partial are not those that the journal has noted (checksum)" in refused.out
    assert doubler.requests == 0


async def test_63_another_query_is_another_run(run, unfinished, doubler):
    refused = await run(*JOB, "--set", f"endpoint.url={doubler.url}?model=B")
    assert refused.code == 2
    assert "unfinished run with another query; put that back" in refused.out
    assert doubler.requests == 0


async def test_63_an_input_that_is_rewritten_while_it_is_read_is_noticed(start, run, write_job, doubler, tmp_path):
    write_job(rows=ROWS, url=doubler.url)

    async def rewrite(number: int) -> None:
        if number == 20:
            np.save(tmp_path / "x.npy", ROWS + 1)

    doubler.before_answer = rewrite
    noticed = await run(*JOB)
    assert noticed.code == 2
    assert "x.npy was changed while it was read: of the 200 rows that are done, these differ: 0:200" in noticed.out
    assert not (tmp_path / "out" / "y.npy").exists()


async def test_52_settings_that_do_not_change_the_answers_may_change(run, unfinished, doubler, tmp_path):
    changes = ["limits.concurrency=5", "chunks.rows=7", "retry.max_attempts=3", "timeouts.attempt=7"]
    changes.append(f"endpoint.url={doubler.url.replace('127.0.0.1', 'localhost')}")
    resumed = json.loads((await run(*JOB, *(part for change in changes for part in ("--set", change)))).out)
    assert (resumed["earlier"], resumed["ok"], resumed["exit_code"]) == (80, 200, 0)
    np.testing.assert_array_equal(output(tmp_path), 2 * ROWS)
