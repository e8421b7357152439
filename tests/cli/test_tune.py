"""``fanout tune``: its output on stdout and stderr, its edit of the job file, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import numpy as np
import pytest

from tests.cli.conftest import ended

NOTHING_LISTENS = "http://127.0.0.1:9/predict"
ROWS = np.arange(2000.0)
SMALL = ("--max-requests", "200", "--seconds", "0.2")


async def test_a_job_is_tuned_at_a_local_server_and_its_file_gets_the_two_values(run, write_job, tmp_path):
    file = write_job(rows=np.zeros((500, 8)), url="local://echo")
    text = file.read_text("utf-8").replace('"json"', '"v1"').replace("rows = 4", "rows   =   4  # why not")
    file.write_text(text, "utf-8")
    result = await run("tune", "job.toml", "--write", *SMALL)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert lines[0] == "tuning local://echo, codec v1"
    assert lines[1] == "sends at most 200 requests and 500,000 rows, for at most 60 s"
    assert lines[4].startswith("4 rows in a chunk, 1 in flight: ")
    assert " chunk rows  in flight " in result.out.splitlines()[0]
    rows, concurrency = (
        result.out.splitlines()[-1].removeprefix("written:  job.toml: chunks.rows = ").split(", limits.concurrency = ")
    )
    wanted = text.replace("rows   =   4  # why not", f"rows   =   {rows}  # why not")
    assert file.read_text("utf-8") == f"{wanted}\n[limits]\nconcurrency = {concurrency}\n"
    assert not (tmp_path / "out").exists()


def test_json_is_one_object_on_stdout_and_a_rehearsal_opens_no_connection(command, write_job):
    write_job(rows=ROWS, url="http://nobody.test/x?key=s3cret")
    mock = ("--mock", "--set", "mock.shape=[2]", "--set", "mock.latency=30.0", "--set", "timeouts.attempt=90.0")
    result = command("tune", "job.toml", "--json", *mock, "--max-requests", "300", "--max-seconds", "1e6")
    report = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert (result.code, report["exit_code"], report["schema_version"], report["answers"]) == (0, 0, 1, "mock")
    assert report["endpoint"] == "http://nobody.test/x?key=***"
    assert "s3cret" not in result.out + result.err
    assert report["settings"].keys() == {"chunks.rows", "limits.concurrency"}
    assert report["best"] in report["trials"]
    assert report["requests"] <= 300


async def line_with(stream: asyncio.StreamReader, words: str) -> None:
    """Read until a line has ``words`` in it."""
    while words not in (line := (await asyncio.wait_for(stream.readline(), 10)).decode()):
        assert line, f"nothing was said of {words!r}"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
async def test_a_signal_ends_the_search_and_its_measurements_are_reported(start, write_job, doubler, number, code):
    file = write_job(rows=ROWS, url=doubler.url)
    before, arrived, release = file.read_bytes(), asyncio.Event(), asyncio.Event()

    async def before_answer(request: int) -> None:
        if request > 40:
            arrived.set()
            await release.wait()

    doubler.before_answer = before_answer
    process = await start("tune", "job.toml", "--write", *SMALL)
    await asyncio.wait_for(arrived.wait(), 10)
    while b"rows/s" not in (line := await asyncio.wait_for(process.stderr.readline(), 5)):
        assert line
    process.send_signal(number)
    await asyncio.sleep(0.1)
    release.set()
    result = await ended(process)
    assert result.code == code
    assert "in flight; press Ctrl-C again to stop now" in result.err
    assert (
        result.err.splitlines()[-1] == f"error: stopped early: interrupted by {number.name}; the job file is as it was"
    )
    assert "best:     4 rows in a chunk" in result.out
    assert file.read_bytes() == before


def test_an_unreachable_endpoint_ends_with_code_3(command, write_job):
    write_job(rows=ROWS, url=NOTHING_LISTENS)
    result = command("tune", "job.toml", "--json")
    assert result.code == 3
    assert result.err.splitlines()[-1].startswith("error: stopped early (unreachable): ")
    report = json.loads(result.out)
    assert (report["stop_kind"], report["best"], report["trials"]) == ("unreachable", None, [])


def test_when_nothing_keeps_the_bounds_the_code_is_1_and_nothing_is_written(command, write_job, doubler_aside):
    file = write_job(rows=ROWS, url=doubler_aside.url)
    before = file.read_bytes()
    result = command("tune", "job.toml", "--max-p95", "0.00001", "--write", *SMALL)
    assert result.code == 1
    assert "best:     none keeps the bounds" in result.out
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write", "--mock"], "--write is for what an endpoint gave"),
        (["--write", "--set", "limits.concurrency=8"], "cannot be overridden by --set limits.concurrency=8"),
        (["--write", "--set", "chunks={rows=8}"], "--write sets chunks.rows in the job file"),
        (["--chunk-rows", "8,x"], "'8,x' is not a list of whole numbers from 1 on"),
        (["--concurrency", "0"], "'0' is not a list of whole numbers"),
        (["--max-errors", "2"], "not in the range"),
        (["--seconds", "0"], "not in the range"),
        (["--max-requests", "2"], "2 requests and 500,000 rows are too few"),
        (["--rows", "5000:"], "there are no rows to send"),
        (["--set", "limits.concurency=8"], 'did you mean "concurrency"?'),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_sent(
    command, write_job, doubler_aside, arguments, message
):
    write_job(rows=ROWS, url=doubler_aside.url)
    result = command("tune", "job.toml", *arguments)
    assert (result.code, doubler_aside.requests) == (2, 0)
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_job_file_that_cannot_be_written_does_not_lose_the_report(command, write_job, doubler_aside, tmp_path):
    write_job(rows=ROWS, url=doubler_aside.url)

    async def before_answer(request: int) -> None:
        if request == 30:
            (tmp_path / "job.toml").unlink()

    doubler_aside.before_answer = before_answer
    result = command("tune", "job.toml", "--write", *SMALL)
    assert result.code == 2
    assert "use it:   fanout run job.toml --set chunks.rows=" in result.out
    assert result.err.splitlines()[-1] == "error: job.toml: cannot be written: No such file or directory"


@pytest.mark.slow
async def test_chats_and_rows_from_stdin_can_be_tuned(start, write_job):
    write_job()
    chat = ("--set", "codec={name='openai-chat', model='echo'}", "--set", "endpoint.url=local://echo")
    texts = ("--set", "input={path='-', format='txt'}", "--set", "output.path=y.jsonl")
    process = await start("tune", "job.toml", "--json", *chat, *texts, *SMALL, stdin=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(b"hello\nhow are you\n"), 20)
    report = json.loads(out)
    assert (process.returncode, report["rows"], report["settings"]["chunks.rows"]) == (0, 2, 1)


@pytest.mark.slow
async def test_a_closed_stderr_does_not_end_the_search(start, write_job, doubler):
    write_job(rows=ROWS, url=doubler.url)
    reader, writer = os.pipe()
    process = await start("tune", "job.toml", *SMALL, stderr=writer)
    os.close(writer)
    os.close(reader)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert b"best:     " in out
