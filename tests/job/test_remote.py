"""Jobs whose input and output are in an object store."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

import fanout
from fanout.errors import ConfigError, InputError
from fanout.job import check_job, dry_run, job_status, load_job, load_job_or_outline, recreate_report, run_job
from fanout.job.failures import job_failures
from tests.cli.conftest import ended, start
from tests.jobs import served
from tests.stores import s3, s3_server

__all__ = ["s3", "s3_server", "start"]
ROWS = np.arange(10.0)
JOB = """
[input]
path = "s3://data/in/x.npy"
[endpoint]
url = "{url}"
[codec]
name = "json"
[chunks]
rows = 4
[retry]
max_attempts = 2
initial_backoff = 0.01
[output]
path = "s3://data/out/y.npy"
"""


def as_npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def stored(s3, key="out/y.npy"):
    return np.load(io.BytesIO(s3.get(key)))


@pytest.fixture
def write_remote_job(s3, doubler, write_job):
    """Writes a job file, and its input into the store."""

    def write(rows=ROWS, text=JOB):
        s3.put("in/x.npy", as_npy(rows))
        return write_job(text + s3.table, url=doubler.url)

    return write


async def test_a_job_reads_from_a_store_and_writes_to_it(write_remote_job, s3, doubler, tmp_path):
    file = write_remote_job()
    summary = await run_job(load_job(file))
    np.testing.assert_array_equal(stored(s3), 2 * ROWS)
    assert (summary.exit_code, summary.files.outputs, summary.not_uploaded) == (0, ("s3://data/out/y.npy",), None)
    assert s3.listed() == ["in/x.npy", "out/y.npy"]
    local = tmp_path / "fanout-uploads" / "s3" / "data" / "out"
    assert summary.files.report == str(local / "y.npy.report.html")
    assert {path.name.removeprefix("y.npy") for path in local.iterdir()} == {
        "", ".journal", ".report.html", ".report.jsonl", ".uploads.json"
    }  # fmt: skip
    for path in local.iterdir():
        assert s3.options["secret_access_key"].encode() not in path.read_bytes()


async def test_a_complete_run_sends_nothing_and_uploads_nothing(write_remote_job, s3, doubler):
    file = write_remote_job()
    await run_job(load_job(file))
    doubler.requests = 0
    s3.requests.clear()
    summary = await run_job(load_job(file))
    assert (summary.exit_code, summary.earlier, doubler.requests) == (0, 10, 0)
    assert {method for method, _ in s3.requests} == {"HEAD", "GET"}


async def test_a_failed_upload_is_a_stop_after_which_a_run_only_uploads(write_remote_job, s3, doubler, tmp_path):
    file = write_remote_job()
    s3.before = lambda method, path: 403 if method == "PUT" else None
    summary = await run_job(load_job(file))
    assert (summary.exit_code, summary.stop.kind, summary.ok, summary.pending) == (3, "output", 10, 0)
    assert "could not be uploaded to s3://data/out/y.npy" in summary.stop.reason
    assert (summary.resumable, summary.not_uploaded) == (False, "s3://data/out/y.npy")
    assert [Path(path).name for path in summary.files.outputs] == ["y.npy"]
    assert s3.listed() == ["in/x.npy"]
    assert job_status(load_job(file)).uploaded is False
    again = await run_job(load_job(file))
    assert (again.exit_code, again.earlier) == (3, 10)
    doubler.requests = 0
    s3.before = lambda method, path: None
    last = await run_job(load_job(file))
    assert (last.exit_code, last.files.outputs, doubler.requests) == (0, ("s3://data/out/y.npy",), 0)
    np.testing.assert_array_equal(stored(s3), 2 * ROWS)
    assert job_status(load_job(file)).uploaded is True


async def test_masks_and_failures_are_uploaded_and_go_with_the_next_run(write_remote_job, s3, doubler):
    doubler.lowest = 1.0
    file = write_remote_job()
    summary = await run_job(load_job(file))
    urls = [f"s3://data/out/y.npy{suffix}" for suffix in ("", ".ok.npy", ".failures.jsonl")]
    assert (summary.exit_code, [*summary.files.outputs, summary.files.mask, summary.files.failures]) == (1, urls)
    np.testing.assert_array_equal(stored(s3, "out/y.npy.ok.npy"), ROWS > 0)
    assert b'"start":0' in s3.get("out/y.npy.failures.jsonl")
    doubler.lowest = 0.0
    assert (await run_job(load_job(file), only_failed=True)).exit_code == 0
    np.testing.assert_array_equal(stored(s3), 2 * ROWS)
    assert s3.listed() == ["in/x.npy", "out/y.npy"]


async def test_an_object_has_the_name_that_the_url_gives_it(write_remote_job, s3, doubler):
    doubler.lowest = 1.0
    file = write_remote_job(text=JOB.replace("out/y.npy", "out/ü ?.npy"))
    summary = await run_job(load_job(file))
    assert summary.files.outputs == ("s3://data/out/ü ?.npy",)
    assert s3.listed() == ["in/x.npy", *(f"out/ü ?.npy{suffix}" for suffix in ("", ".failures.jsonl", ".ok.npy"))]
    doubler.lowest = 0.0
    assert (await run_job(load_job(file), only_failed=True)).exit_code == 0
    assert s3.listed() == ["in/x.npy", "out/ü ?.npy"]


async def test_fresh_sends_all_rows_and_replaces_the_object(write_remote_job, s3, doubler):
    file = write_remote_job()
    await run_job(load_job(file))
    doubler.answer = lambda rows: [3 * row for row in rows]
    await run_job(load_job(file), fresh=True)
    np.testing.assert_array_equal(stored(s3), 3 * ROWS)


async def test_columns_of_a_remote_input_are_kept(s3, doubler, write_job):
    s3.put("in/x.csv", b"id,n,stars\n" + b"".join(b"k%d,%d,5\n" % (i, i) for i in range(10)))
    text = JOB.replace("x.npy", 'x.csv"\ncolumn = "n"\nid = "id').replace("y.npy", 'y.csv"\nkeep = ["stars')
    file = write_job(text.replace('keep = ["stars"', 'keep = ["stars"]') + s3.table, url=doubler.url)
    assert (await run_job(load_job(file))).exit_code == 0
    assert s3.get("out/y.csv").decode().splitlines()[:2] == ["id,stars,value,error", "k0,5,0.0,"]


async def test_the_failed_rows_of_a_remote_input_become_a_table(s3, doubler, write_job, tmp_path):
    s3.put("in/x.csv", b"id,n\n" + b"".join(b"k%d,%d\n" % (i, i) for i in range(10)))
    doubler.lowest = 1.0
    text = JOB.replace("x.npy", 'x.csv"\ncolumn = "n').replace("y.npy", "y.csv") + s3.table
    job = load_job(write_job(text, url=doubler.url))
    assert (await run_job(job)).exit_code == 1
    job_failures(job, to=tmp_path / "failed.csv")
    assert (tmp_path / "failed.csv").read_text().splitlines()[1].startswith("0,k0,0,")
    s3.put("in/x.csv", b"id,n\n" + b"".join(b"k%d,%d\n" % (i, i + 1) for i in range(10)))
    with pytest.raises(InputError, match="has changed since the run"):
        job_failures(job, to=tmp_path / "again.csv")


async def test_the_progress_of_an_upload_counts_the_bytes_of_all_files(write_remote_job, s3, doubler, monkeypatch):
    monkeypatch.setattr("fanout.io.remote.destination._PIECE", 2**14)
    job = load_job(write_remote_job(np.arange(10_000.0), JOB.replace("rows = 4", "rows = 5000")))
    sinks = []
    for _ in range(2):  # the second run only uploads
        await run_job(job, on_start=lambda client, rows, earlier, sink: sinks.append(sink))
        stored = len(s3.get("out/y.npy"))
        assert sinks.pop().destination.progress == (stored, stored)
        s3.remove("out/y.npy")


async def test_a_stop_while_an_output_is_uploaded_keeps_the_rows(write_remote_job, s3, doubler, monkeypatch):
    rows = np.arange(150_000.0)
    file = write_remote_job(rows, JOB.replace("rows = 4", "rows = 50000"))
    control = fanout.RunControl()
    s3.before = lambda method, path: control.drain() if "partNumber" in path else None
    with monkeypatch.context() as patched:
        patched.setattr("fanout.io.remote.object_stores._PART_BYTES", 2**16)
        patched.setattr("fanout.io.remote.destination._PIECE", 2**14)
        summary = await run_job(load_job(file), control=control)
    assert (summary.exit_code, summary.stop.kind, summary.pending) == (130, "interrupted", 0)
    assert summary.not_uploaded == "s3://data/out/y.npy"
    assert s3.listed() == ["in/x.npy"]
    s3.before, doubler.requests = lambda method, path: None, 0
    assert (await run_job(load_job(file))).exit_code == 0
    assert (s3.get("out/y.npy"), doubler.requests) == (as_npy(2 * rows), 0)


@pytest.mark.parametrize("kind", ["check", "dry run"])
async def test_checks_name_the_output_by_its_url(write_remote_job, s3, kind):
    job = load_job(write_remote_job())
    report = await (check_job(job) if kind == "check" else dry_run(job))
    assert (report.output, report.exit_code) == ("s3://data/out/y.npy", 0)
    assert s3.listed() == ["in/x.npy"]


async def test_status_and_report_need_no_code_and_no_credentials(write_remote_job, s3, doubler, tmp_path):
    file = write_remote_job()
    assert job_status(load_job(file)).begun is False
    await run_job(load_job(file))
    text = file.read_text().replace(f'"{s3.options["secret_access_key"]}"', '"${NOT_SET}"')
    file.write_text(text)
    outline = load_job_or_outline(file)
    assert (job_status(outline).complete, job_status(outline).uploaded) == (True, None)
    assert recreate_report(outline).name == "y.npy.report.html"


async def test_a_rehearsal_uploads_nothing(write_remote_job, s3, doubler, tmp_path):
    job = load_job(write_remote_job(), ["mock.shape=[]"])
    summary = await run_job(job, mock=True)
    assert summary.files.outputs == (str(tmp_path / "fanout-uploads/s3/data/out/y.mock.npy"),)
    assert s3.listed() == ["in/x.npy"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["output.path=s3://data/in/x.npy"], "s3://data/in/x.npy would overwrite the input s3://data/in/x.npy"),
        (["input.path=s3://data/in/x.npy.ok.npy", "output.path=s3://data/in/x.npy"], "would overwrite the input"),
        (["output.path=s3://missing/y.npy"], "s3://missing/y.npy cannot be written: NoSuchBucket"),
        (["output.path=s3://data/y.odd"], "an output cannot be a .odd file"),
        (["storage.s3.endpoit=x"], "storage.s3.endpoit: Configuration key"),
    ],
)
async def test_what_cannot_work_is_an_error_before_any_row_is_sent(write_remote_job, s3, doubler, settings, problem):
    file = write_remote_job()
    s3.put("in/x.npy.ok.npy", as_npy(ROWS))
    for examine in (run_job, check_job):
        with pytest.raises(ConfigError) as caught:
            await examine(load_job(file, settings))
        assert problem in str(caught.value)
    assert doubler.requests == 0


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("output.path=https://host/y.npy", "output.path: https://host/y.npy cannot be written: outputs go to s3://"),
        ("output.path=s3://data/a/../y.npy", "output.path: s3://data/a/../y.npy is not the name of a file"),
        ("output.path=ftp://host/y.npy", "output.path: ftp:// is the scheme of no file"),
        ('storage.https={ Authorization = "x\\ny" }', "storage.https: header 'Authorization' holds a line break"),
        ("storage.s4={}", "storage.s4: unknown key; known here are s3, gs, az, https"),
    ],
)
def test_an_output_or_option_that_cannot_be_is_an_error_of_the_job_file(write_job, s3, setting, problem):
    with pytest.raises(ConfigError) as caught:
        load_job(write_job(JOB), [setting])
    assert problem in str(caught.value)


BAD_KEY = b"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId></Error>"


@pytest.mark.parametrize("refusal", [401, (403, BAD_KEY)])
async def test_a_wrong_key_of_the_store_is_an_error_before_any_row_is_sent(write_job, s3, doubler, refusal):
    file = write_job(JOB.replace("s3://data/in/x.npy", "x.npy") + s3.table, url=doubler.url)
    s3.before = lambda method, path: refusal
    for examine in (run_job, check_job):
        with pytest.raises(ConfigError, match=r"s3://data/out/y\.npy cannot be written") as caught:
            await examine(load_job(file))
        assert "AKIAEXAMPLE" not in str(caught.value)
    assert doubler.requests == 0


async def test_a_key_that_may_only_write_is_enough_for_an_output(write_job, s3, doubler):
    file = write_job(JOB.replace("s3://data/in/x.npy", "x.npy") + s3.table, url=doubler.url)
    denied = (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    s3.before = lambda method, path: None if method == "PUT" else denied
    assert (await run_job(load_job(file))).exit_code == 0
    s3.before = lambda method, path: None
    np.testing.assert_array_equal(stored(s3), 2 * ROWS)


async def test_the_failed_rows_of_a_web_input_are_listed_without_its_signature(write_job, doubler):
    async def served_rows(request):
        return web.Response(body=as_npy(ROWS), headers={"ETag": '"1"'})

    doubler.lowest = 1.0
    async with served(served_rows) as origin:
        url = f"{origin}/x.npy?signature=very-secret"
        text = JOB.replace("s3://data/in/x.npy", url).replace("s3://data/out/y.npy", "y.npy")
        file = write_job(text, url=doubler.url)
        assert (await run_job(load_job(file))).exit_code == 1
    report = job_failures(load_job_or_outline(file))
    assert (report.failed, report.input) == (1, f"{origin}/x.npy?signature=***")


async def test_secrets_of_the_store_are_in_no_message(write_remote_job, s3, tmp_path):
    file = write_remote_job()
    text = file.read_text().replace(s3.options["secret_access_key"], "${STORE_KEY}")
    file.write_text(text)
    job = load_job(file, [], {"STORE_KEY": "of-the-environment"})
    assert job.redactor.text("the key of-the-environment") == "the key ***"
    assert "of-the-environment" not in repr(job) + repr(job.tables)
    literal = load_job(file, ["storage.s3.secret_access_key=a-literal-secret"], {"STORE_KEY": "x"})
    assert literal.redactor.text("a-literal-secret") == "***"


async def test_python_calls_take_urls(s3, doubler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in s3.options.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    s3.put("in/x.npy", as_npy(ROWS))
    async with fanout.Client(doubler.url, codec="json", chunk_rows=4) as client:
        result = await client.run("s3://data/in/x.npy", "s3://data/out/y.npy")
        np.testing.assert_array_equal(stored(s3), 2 * ROWS)
        assert (result.ok.sum(), doubler.requests) == (10, 3)
        with pytest.raises(ConfigError, match=r"would overwrite the input s3://data/in/x\.npy"):
            await client.run("s3://data/in/x.npy", "s3://data/in/x.npy")
        s3.before = lambda method, path: 403 if method == "PUT" else None
        with pytest.raises(fanout.RunStopped, match="could not be uploaded") as stop:
            await client.run("s3://data/in/x.npy", "s3://data/z.npy", journal=tmp_path / "z.journal")
        assert (stop.value.kind, stop.value.result.ok.sum()) == ("output", 10)
        s3.before, doubler.requests = lambda method, path: None, 0
        await client.run("s3://data/in/x.npy", "s3://data/z.npy", journal=tmp_path / "z.journal")
    assert (doubler.requests, s3.listed()) == (0, ["in/x.npy", "out/y.npy", "z.npy"])


async def test_a_changed_object_stops_the_run_and_carry_goes_on(write_remote_job, s3, doubler):
    rows = np.arange(150_000.0)
    file = write_remote_job(rows, JOB.replace("rows = 4", "rows = 10000"))

    async def change(number):
        if number == 2:
            s3.put("in/x.npy", as_npy(rows + (rows == 149_999)))

    doubler.before_answer = change
    settings = ["limits.concurrency=1"]
    with pytest.raises(InputError, match=r"s3://data/in/x\.npy was changed while it was read"):
        await run_job(load_job(file, settings))
    doubler.before_answer = None
    with pytest.raises(ConfigError, match="unfinished run with another input"):
        await run_job(load_job(file, settings))
    summary = await run_job(load_job(file, settings), carry=True)
    assert summary.exit_code == 0
    assert summary.earlier > 0
    np.testing.assert_array_equal(stored(s3), 2 * (rows + (rows == 149_999)))


LARGE = np.arange(150_000.0)
KILLED = JOB.replace("rows = 4", "rows = 20000")


async def until_complete(start, arguments):
    process = await start("run", "job.toml", "--quiet", *arguments)
    return await ended(process)


async def killed_at(start, s3, is_reached):
    """Run the job, and kill it at the first request for which ``is_reached`` is true."""
    process = await start("run", "job.toml", "--quiet")

    def kill(method, path):
        if is_reached(method, path) and process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            return 500
        return None

    s3.before = kill
    assert (await ended(process)).code == -signal.SIGKILL
    s3.before = lambda method, path: None


@pytest.mark.slow
async def test_a_run_that_is_killed_while_it_reads_goes_on(write_remote_job, start, s3, doubler):
    write_remote_job(LARGE, KILLED)
    gets = []

    def is_reached(method, path):
        gets.extend([path] if (method, path) == ("GET", "/data/in/x.npy") else [])
        return len(gets) == 3

    await killed_at(start, s3, is_reached)
    assert (await until_complete(start, ())).code == 0
    assert s3.get("out/y.npy") == as_npy(2 * LARGE)
    assert doubler.requests <= 8 + 7


async def test_a_run_that_is_killed_while_it_uploads_only_uploads(write_remote_job, start, s3, doubler):
    write_remote_job(LARGE, KILLED)
    await killed_at(start, s3, lambda method, path: method == "PUT")
    assert s3.listed() == ["in/x.npy"]
    doubler.requests = 0
    assert (await until_complete(start, ())).code == 0
    assert (s3.get("out/y.npy"), doubler.requests) == (as_npy(2 * LARGE), 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kills_at_every_request_to_the_store_lose_nothing(write_remote_job, start, s3, doubler):
    rows = np.arange(1_500_000.0)
    doubler.lowest = 1.0
    write_remote_job(rows, KILLED.replace("rows = 20000", "rows = 30000"))
    seen = step = 0
    exit_code: int | None = None
    while exit_code not in (0, 1):
        step += 1
        seen = 0
        process = await start("run", "job.toml", "--quiet")

        def kill(method, path, process=process, step=step):
            nonlocal seen
            seen += 1
            # Half of the kills come before the store has done what it was asked for.
            if seen == step:
                os.kill(process.pid, signal.SIGKILL)
                return 500 if step % 2 else None
            return None

        s3.before = kill
        exit_code = (await ended(process)).code
        s3.before = lambda method, path: None
        values, mask = (key in s3.listed() for key in ("out/y.npy", "out/y.npy.ok.npy"))
        assert mask or not values
    assert exit_code == 1
    assert step > 8
    np.testing.assert_array_equal(stored(s3, "out/y.npy.ok.npy"), rows > 0)
    np.testing.assert_array_equal(stored(s3)[1:], 2 * rows[1:])
