"""``fanout run``: its output on stdout and stderr, its files, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.cli.conftest import ROOT, ended

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING_LISTENS = "http://127.0.0.1:9/predict"


async def test_a_job_prints_its_summary_on_stdout_alone(run, write_job, doubler, tmp_path):
    write_job(url=doubler.url)
    result = await run("run", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert "10 rows: 10 ok, 0 failed" in result.out
    assert "3 requests, 0 retries; latency p50" in result.out
    assert "output:   out/y.npy" in result.out
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * np.arange(10.0))


def test_json_is_one_object_on_stdout(command, write_job, doubler_aside):
    write_job(url=doubler_aside.url)
    result = command("run", "job.toml", "--json", "--rows", "0:5", "--set", "output.path=y.jsonl")
    summary = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert (result.code, result.err) == (0, "")
    assert (summary["schema_version"], summary["exit_code"], summary["rows"], summary["ok"]) == (1, 0, 5, 5)
    assert summary["outputs"] == ["y.jsonl"]


def test_failed_rows_are_listed_and_end_with_code_1(command, write_job, doubler_aside, tmp_path):
    rows = np.arange(40.0)
    rows[[3, 9, 17, 33]] *= -1
    write_job(rows=rows, url=doubler_aside.url)
    result = command("run", "job.toml")
    assert result.code == 1
    assert "36 ok, 4 failed" in result.out
    assert "row 3: " in result.out
    assert "row 17: " in result.out
    assert "and 1 row more" in result.out
    assert "mask:     out/y.npy.ok.npy" in result.out
    assert "failures: out/y.npy.failures.jsonl" in result.out
    assert "next:     fanout failures lists them by reason; fanout run --only-failed" in result.out
    assert np.load(tmp_path / "out" / "y.npy.ok.npy").sum() == 36


def test_an_unreachable_endpoint_ends_with_code_3(command, write_job):
    write_job(url=NOTHING_LISTENS)
    result = command("run", "job.toml")
    assert result.code == 3
    assert result.err.startswith("error: stopped early (unreachable): cannot connect to ")
    assert result.err.count("\n") == 1
    assert "10 pending" in result.out
    assert "not in place" in result.out


def test_https_to_a_server_without_tls_names_the_scheme(command, write_job, doubler_aside):
    write_job(url=doubler_aside.url.replace("http:", "https:"))
    result = command("run", "job.toml")
    assert (result.code, doubler_aside.requests) == (3, 0)
    assert "if the server speaks no TLS, the url begins with http://" in result.err


def test_quiet_shows_errors_alone(command, write_job, doubler_aside):
    write_job(url=doubler_aside.url)
    result = command("run", "job.toml", "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    doubler_aside.status = 401
    result = command("run", "job.toml", "--quiet", "--fresh")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: stopped early (refused): HTTP 401")


def test_carry_sends_the_edited_rows_of_a_complete_run_alone(command, write_job, doubler_aside, tmp_path):
    rows = np.arange(40.0)
    write_job(rows=rows, url=doubler_aside.url)
    command("run", "job.toml")
    rows[[5, 30]] = 99
    np.save(tmp_path / "x.npy", rows)
    doubler_aside.requests = 0
    summary = json.loads(command("run", "job.toml", "--carry", "--json").out)
    assert (summary["earlier"], summary["ok"], summary["exit_code"], doubler_aside.requests) == (38, 40, 0, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * rows)


def test_a_fresh_run_without_a_finished_row_is_no_run_to_resume(command, write_job, doubler_aside, tmp_path):
    write_job(url=doubler_aside.url)
    assert command("run", "job.toml").code == 0
    result = command("run", "job.toml", "--fresh", "--set", f"endpoint.url={NOTHING_LISTENS}")
    assert result.code == 3
    assert "output:   not in place, since no row of this run is done; give the same command again" in result.out
    assert np.load(tmp_path / "out" / "y.npy").shape == (10,)


def test_a_fresh_run_that_stopped_is_resumed_without_fresh(command, write_job, doubler_aside):
    write_job(url=doubler_aside.url)
    stop = ("--set", "chunks.rows=4", "--set", "limits.max_requests=2")
    assert "; run the job again to resume" in command("run", "job.toml", *stop).out
    # The same command would discard the eight rows that are done, and pay for them again.
    assert "; run the job again without --fresh to resume" in command("run", "job.toml", "--fresh", *stop).out
    assert "8 of them done before" in command("run", "job.toml").out


@pytest.mark.parametrize("other", ["--fresh", "--only-failed"])
def test_carry_is_refused_beside_options_that_contradict_it(command, write_job, other):
    write_job()
    result = command("run", "job.toml", "--carry", other)
    assert result.code == 2
    assert "give it without --fresh and --only-failed" in result.err


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
async def test_one_signal_finishes_and_writes_the_requests_in_flight(start, write_job, doubler, tmp_path, number, code):
    write_job(rows=np.arange(100.0), url=doubler.url)
    arrived, release = asyncio.Event(), asyncio.Event()

    async def before_answer(request: int) -> None:
        if request == 6:
            arrived.set()
        if request > 4:
            await release.wait()

    doubler.before_answer = before_answer
    process = await start("run", "job.toml", "--json", "--set", "limits.concurrency=2")
    await asyncio.wait_for(arrived.wait(), 10)
    process.send_signal(number)
    line = (await asyncio.wait_for(process.stderr.readline(), 5)).decode()
    assert line == "finishing 2 requests in flight; press Ctrl-C again to stop now\n"
    release.set()
    result = await ended(process)
    summary = json.loads(result.out)
    assert (result.code, summary["exit_code"], summary["stop_kind"]) == (code, code, "interrupted")
    assert (summary["ok"], summary["pending"], doubler.requests) == (24, 76, 6)
    assert summary["resumable"]
    doubler.before_answer = None
    result = await ended(await start("run", "job.toml"))
    assert "resuming: 24 rows were done before of 100" in result.err
    assert "100 rows: 100 ok, 0 failed, 24 of them done before" in result.out
    assert doubler.requests == 6 + 19
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * np.arange(100.0))


async def test_two_signals_stop_now_and_still_write_the_answers_so_far(start, command, write_job, doubler):
    write_job(rows=np.arange(100.0), url=doubler.url)
    arrived = asyncio.Event()

    async def before_answer(request: int) -> None:
        if request == 5:
            arrived.set()
            await asyncio.sleep(60)

    doubler.before_answer = before_answer
    process = await start("run", "job.toml", "--set", "limits.concurrency=1")
    await asyncio.wait_for(arrived.wait(), 10)
    process.send_signal(signal.SIGINT)
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    result = await ended(process)
    assert result.code == 130
    assert "Traceback" not in result.err
    assert "stopping now, and writing what is done" in result.err
    assert "16 ok, 0 failed, 84 pending" in result.out
    status = command("status", "job.toml")
    assert status.out.startswith("100 rows: 16 ok, 0 failed, 84 pending; not complete: fanout run resumes")
    assert status.code == 0


async def test_ctrl_c_at_a_terminal_reaches_the_local_server_too_and_does_no_harm(start, write_job, tmp_path):
    job = write_job(rows=np.zeros((100_000, 64), np.float32))
    process = await start("run", job, "--set", "codec.name=v1", start_new_session=True)
    while not (partial := tmp_path / "out" / "y.npy.partial").exists() or not partial.stat().st_size:
        assert process.returncode is None
        await asyncio.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    result = await ended(process)
    assert result.code == 130
    assert " 0 failed" in result.out
    assert "pending" in result.out


def all_of(terminal: int) -> Iterator[bytes]:
    with suppress(OSError):  # how a terminal says that the other side is closed
        while part := os.read(terminal, 100_000):
            yield part


async def test_a_terminal_gets_a_live_bar_that_goes_away(start, write_job, doubler, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    write_job(rows=np.arange(60.0), url=doubler.url)

    async def before_answer(request: int) -> None:
        await asyncio.sleep(0.05)

    doubler.before_answer = before_answer
    leader, follower = os.openpty()
    process = await start("run", "job.toml", "--set", "limits.concurrency=1", stderr=follower)
    result = await ended(process)
    os.close(follower)
    shown = "".join(part.decode(errors="replace") for part in all_of(leader))
    os.close(leader)
    assert result.code == 0
    assert "/60" in shown
    assert "rows/s" in shown
    assert "1 in flight" in shown
    assert "60 rows: 60 ok" in result.out


def test_the_example_runs_as_it_is(command, tmp_path):
    output = tmp_path / "probabilities.npy"
    result = command("run", ROOT / "config.example.toml", "--json", "--set", f"output.path={output}")
    summary = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert (summary["rows"], summary["ok"]) == (1797, 1797)
    assert summary["requests"] == 29 + 3, "chunks; the model, its configuration, the server"
    with np.load(ROOT / "examples" / "digits.npz") as digits:
        guesses = np.load(output).argmax(1)
        assert (guesses == digits["labels"]).mean() > 0.9


@pytest.mark.parametrize("option", [(), pytest.param(("--json",), marks=pytest.mark.slow)])
async def test_a_closed_pipe_on_stdout_does_not_fail_the_run(run, write_job, doubler, tmp_path, option):
    write_job(url=doubler.url)
    nobody, stdout = os.pipe()
    os.close(nobody)
    result = await run("run", "job.toml", *option, stdout=stdout)
    os.close(stdout)
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "out" / "y.npy").exists()


@pytest.mark.parametrize("option", [pytest.param((), marks=pytest.mark.slow), ("--json",)])
async def test_a_full_disk_under_stdout_is_one_line_and_code_2(run, write_job, doubler, option):
    write_job(url=doubler.url)
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123 - a device
        result = await run("run", "job.toml", *option, stdout=full)
    assert (result.code, result.err) == (
        2, "Error: the result cannot be printed on stdout: No space left on device\n",
    )  # fmt: skip
