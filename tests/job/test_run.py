"""A job goes from its input to its output, whatever happens on the way."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fanout.cluster.shard import Shard
from fanout.engine import RunControl
from fanout.errors import ConfigError, InputError
from fanout.io.writers.base import FileSink
from fanout.job import check_job, job_status, load_job, run_job
from fanout.job import run as run_module


async def test_every_row_is_answered_in_its_place(write_job, doubler, tmp_path):
    job = load_job(write_job(url=doubler.url))
    started = []
    summary = await run_job(
        job, on_start=lambda client, *arguments: started.append((type(client).__name__, *arguments[:2]))
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * np.arange(10.0))
    assert started == [("Client", 10, 0)]
    assert (summary.rows, summary.ok, summary.failed, summary.pending, summary.exit_code) == (10, 10, 0, 0, 0)
    assert summary.stats.requests == 3
    assert summary.files.outputs == (str(tmp_path / "out" / "y.npy"),)
    assert (summary.files.mask, summary.files.failures, summary.stop) == (None, None, None)
    assert summary.stats.latency_p50 > 0
    assert json.dumps(summary.as_dict())


async def test_headers_and_json_lines_are_as_the_job_says(write_job, doubler, tmp_path):
    settings = ["output.path=y.jsonl", 'endpoint.headers={ X-Key = "${KEY}" }']
    job = load_job(write_job(url=doubler.url), settings, {"KEY": "s3cret"})
    summary = await run_job(job)
    assert doubler.headers["X-Key"] == "s3cret"
    assert (tmp_path / "y.jsonl").read_text().split() == [str(2.0 * i) for i in range(10)]
    assert "s3cret" not in repr(summary)


@pytest.mark.parametrize(
    ("rows", "expected"), [(slice(2, 5), [4, 6, 8]), (slice(-2, None), [16, 18]), (slice(8, 99), [16, 18])]
)
async def test_a_pilot_sends_and_writes_its_rows_alone(write_job, doubler, tmp_path, rows, expected):
    await run_job(load_job(write_job(url=doubler.url)), rows=rows)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), expected)


@pytest.mark.parametrize(
    ("files", "settings"),
    [
        ({"in.jsonl": '{"n": 1}\n{"n": 2.5}\n'}, ["input.path=in.jsonl", "input.column=n"]),
        ({"in.csv": "key,n\n7,1\n8,2.5\n"}, ["input.path=in.csv", "input.id=key"]),
        ({"in/10.jsonl": "2.5\n", "in/9.jsonl": "1\n"}, ["input.path=in"]),
        ({"in/9.jsonl": "1\n", "in/10.jsonl": "2.5\n", "in/x.txt": ""}, ["input.path=in/*.jsonl"]),
        ({"in.data": "1\n2.5\n"}, ["input.path=in.data", "input.format=jsonl"]),
    ],
)
async def test_rows_come_from_any_format_and_from_several_files(write_job, doubler, tmp_path, files, settings):
    job = load_job(write_job(url=doubler.url), settings)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    await run_job(job)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), [2, 5])


async def test_a_bad_line_of_the_input_is_named_with_its_key(write_job, doubler, tmp_path):
    (tmp_path / "in.jsonl").write_text("1\noops\n")
    with pytest.raises(InputError, match=r"job\.toml: input\.path: .*in\.jsonl, line 2: not JSON"):
        await run_job(load_job(write_job(url=doubler.url), ["input.path=in.jsonl"]))
    assert doubler.requests == 0


async def test_failed_rows_are_reported_by_their_place_in_the_pilot(write_job, doubler, tmp_path):
    rows = np.arange(20.0)
    rows[[7, 13]] *= -1
    job = load_job(write_job(rows=rows, url=doubler.url))
    summary = await run_job(job, rows=slice(5, None))
    assert (summary.ok, summary.failed, summary.exit_code) == (13, 2, 1)
    assert [failure.start for failure in summary.first_failures] == [2, 8]
    mask = np.load(tmp_path / "out" / "y.npy.ok.npy")
    assert np.flatnonzero(~mask).tolist() == [2, 8]
    written = np.load(tmp_path / "out" / "y.npy")
    np.testing.assert_array_equal(written[mask], 2 * rows[5:][mask])
    assert np.isnan(written[~mask]).all()
    failures = (tmp_path / "out" / "y.npy.failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in failures] == [422, 422]


async def test_no_rows_need_no_server(write_job, tmp_path):
    summary = await run_job(load_job(write_job(rows=np.zeros((0, 3)), url="http://127.0.0.1:9/")))
    assert (summary.rows, summary.exit_code, summary.as_dict()["latency_p50"]) == (0, 0, None)
    assert np.load(tmp_path / "out" / "y.npy").shape == (0,)


async def test_a_run_stopped_from_outside_is_resumed(write_job, doubler, tmp_path):
    control = RunControl()

    async def before_answer(number: int) -> None:
        if number == 3:
            control.drain("enough", "interrupted")

    doubler.before_answer = before_answer
    job = load_job(write_job(rows=np.arange(40.0), url=doubler.url), ["limits.concurrency=1"])
    summary = await run_job(job, control=control)
    assert (summary.ok, summary.failed, summary.pending) == (12, 0, 28)
    assert (summary.stop.kind, summary.exit_code) == ("interrupted", 130)
    assert summary.stop.reason.startswith("enough")
    assert summary.resumable
    assert not (tmp_path / "out" / "y.npy").exists()
    doubler.before_answer = None
    summary = await run_job(job)
    assert (summary.ok, summary.earlier, summary.stats.requests, summary.resumable) == (40, 12, 7, False)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * np.arange(40.0))
    assert doubler.requests == 10


async def test_a_job_that_is_complete_sends_nothing(write_job, doubler, tmp_path):
    job = load_job(write_job(url=doubler.url))
    first = await run_job(job)
    again = await run_job(job)
    assert (doubler.requests, again.stats.requests, again.earlier, again.exit_code) == (3, 0, 10, 0)
    assert again.files.outputs == first.files.outputs
    await run_job(job, fresh=True)
    assert doubler.requests == 6
    (tmp_path / "out" / "y.npy").unlink()
    assert (await run_job(job)).ok == 10
    assert doubler.requests == 9


async def test_another_input_begins_anew_and_replaces_the_output_when_it_is_whole(write_job, doubler, tmp_path):
    await run_job(load_job(write_job(url=doubler.url)))
    before = (tmp_path / "out" / "y.npy").read_bytes()
    doubler.status = 401
    job = load_job(write_job(rows=np.arange(4.0), url=doubler.url))
    assert (await run_job(job)).exit_code == 3
    assert (tmp_path / "out" / "y.npy").read_bytes() == before
    doubler.status = 200
    assert (await run_job(job)).earlier == 0
    assert len(np.load(tmp_path / "out" / "y.npy")) == 4


async def test_failed_rows_alone_are_sent_again(write_job, doubler, tmp_path):
    rows = np.arange(20.0)
    rows[[7, 13]] *= -1
    job = load_job(write_job(rows=rows, url=doubler.url))
    assert (await run_job(job)).failed == 2
    assert (await run_job(job)).exit_code == 1
    doubler.lowest, doubler.requests = -99, 0
    summary = await run_job(job, only_failed=True)
    assert (summary.ok, summary.failed, summary.stats.requests, summary.exit_code) == (20, 0, 2, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "y.npy", "y.npy.journal", "y.npy.report.html", "y.npy.report.jsonl",
    ]  # fmt: skip


async def test_only_failed_needs_a_complete_run(write_job, doubler):
    doubler.lowest = 5
    control = RunControl()

    async def before_answer(number: int) -> None:
        if number == 12:
            control.drain()

    doubler.before_answer = before_answer
    job = load_job(write_job(rows=np.arange(40.0), url=doubler.url), ["limits.concurrency=1"])
    await run_job(job, control=control)
    with pytest.raises(ConfigError, match="without --only-failed first"):
        await run_job(job, only_failed=True)


async def test_rows_that_are_still_bad_do_not_show_that_the_endpoint_accepts_no_row(write_job, doubler, tmp_path):
    rows = np.arange(200.0)
    rows[1::5] *= -1
    job = load_job(write_job(rows=rows, url=doubler.url))
    assert (await run_job(job)).failed == 40
    before = np.load(tmp_path / "out" / "y.npy")
    summary = await run_job(job, only_failed=True)
    assert (summary.ok, summary.failed, summary.stop, summary.exit_code) == (160, 40, None, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), before)
    doubler.lowest = -100
    summary = await run_job(job, only_failed=True)
    assert (summary.ok, summary.failed, summary.exit_code) == (180, 20, 1)


async def test_a_resumed_run_of_which_only_bad_rows_are_left_comes_to_its_end(write_job, doubler, tmp_path):
    rows = np.arange(52.0)
    rows[40:] *= -1
    control = RunControl()

    async def before_answer(number: int) -> None:
        if number == 10:
            control.drain()

    doubler.before_answer = before_answer
    job = load_job(write_job(rows=rows, url=doubler.url), ["limits.concurrency=1"])
    assert (await run_job(job, control=control)).ok == 40
    doubler.before_answer = None
    summary = await run_job(job)
    assert (summary.ok, summary.failed, summary.exit_code) == (40, 12, 1)


async def test_sending_failed_rows_again_leaves_a_complete_run_complete_until_it_is_done(write_job, doubler, tmp_path):
    rows = np.arange(40.0)
    rows[[7, 13, 21, 33]] *= -1
    job = load_job(write_job(rows=rows, url=doubler.url), ["limits.concurrency=1"])
    first = await run_job(job)
    assert (first.ok, first.failed) == (36, 4)
    names = ("y.npy", first.files.mask.rpartition("/")[2], first.files.failures.rpartition("/")[2])
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    control = RunControl()
    doubler.lowest, doubler.requests = -99, 0

    async def before_answer(number: int) -> None:
        if number == 2:
            control.drain()

    doubler.before_answer = before_answer
    stopped = await run_job(job, only_failed=True, control=control)
    assert (stopped.stop.kind, stopped.pending, stopped.resumable) == ("interrupted", 2, True)
    doubler.before_answer = None
    status = job_status(job)
    assert (status.complete, status.ok, status.failed, status.pending) == (True, 36, 4, 0)
    again = await run_job(job)
    assert (again.ok, again.failed, again.stats.requests, again.exit_code) == (36, 4, 0, 1)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == before
    doubler.requests = 0
    done = await run_job(job, only_failed=True)
    assert (done.ok, done.failed, doubler.requests, done.exit_code) == (40, 0, 2, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "y.npy", "y.npy.journal", "y.npy.report.html", "y.npy.report.jsonl",
    ]  # fmt: skip


async def test_another_run_forgets_failed_rows_that_were_being_sent_again(write_job, doubler, tmp_path):
    rows = np.arange(40.0)
    rows[[7, 13, 21]] *= -1
    path = write_job(rows=rows, url=doubler.url)
    await run_job(load_job(path))
    control = RunControl()
    doubler.lowest = -99
    doubler.before_answer = control_after(control, doubler.requests + 1)
    job = load_job(path, ["limits.concurrency=1"])
    await run_job(job, only_failed=True, control=control)
    doubler.before_answer = None
    np.save(tmp_path / "x.npy", rows + 100)
    await run_job(job)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 2 * (rows + 100))
    assert job_status(job).failed == 0


def control_after(control: RunControl, number: int):
    async def before_answer(current: int) -> None:
        if current == number:
            control.drain()

    return before_answer


async def test_only_failed_names_the_answered_rows_that_have_changed_and_sends_nothing(write_job, doubler):
    rows = np.arange(20.0)
    rows[7] *= -1
    await run_job(load_job(write_job(rows=rows, url=doubler.url)))
    doubler.requests = 0
    changed = rows.copy()
    changed[[3, 7, 12]] = 99
    for other, named in ((changed, r"19 rows that are answered, these differ: 3, 12\)"), (rows[:19], "it has 19 rows")):
        with pytest.raises(ConfigError, match=named):
            await run_job(load_job(write_job(rows=other, url=doubler.url)), only_failed=True)
    elsewhere = load_job(write_job(rows=rows, url=f"{doubler.url}/v2"))
    with pytest.raises(ConfigError, match="there is no earlier run of this input, codec and path"):
        await run_job(elsewhere, only_failed=True)
    assert doubler.requests == 0


async def test_refused_credentials_stop_the_run_with_code_3(write_job, doubler, tmp_path):
    doubler.status = 401
    summary = await run_job(load_job(write_job(url=doubler.url)))
    assert (summary.stop.kind, summary.exit_code, summary.pending) == ("refused", 3, 10)
    assert summary.files.outputs == ()
    assert not (tmp_path / "out" / "y.npy").exists()


async def test_the_summary_has_the_time_of_every_phase(write_job, doubler, monkeypatch):
    """The output is put in order on a helper thread: its time is that of the loop's clock between two looks at it."""
    loop = asyncio.get_running_loop()
    skipped = [0.0]
    usual = loop.time
    monkeypatch.setattr(loop, "time", lambda: usual() + skipped[0])

    def longer(owner, name, seconds):
        call = getattr(owner, name)

        def taking_long(*args, **keywords):
            skipped[0] += seconds
            return call(*args, **keywords)

        monkeypatch.setattr(owner, name, taking_long)

    longer(run_module, "read_input", 1000.0)
    longer(FileSink, "finish", 5000.0)
    summary = await run_job(load_job(write_job(url=doubler.url)))
    assert 1000 <= summary.reading_seconds < 2000
    assert summary.stats.seconds < 1000
    assert 5000 <= summary.stats.writing_seconds < 6000
    assert summary.seconds == summary.reading_seconds + summary.stats.seconds + summary.stats.writing_seconds
    assert summary.stats.rows_per_second == summary.ok / summary.stats.seconds


async def test_a_full_disk_stops_the_run_and_keeps_the_earlier_output(write_job, doubler, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "y.npy").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    summary = await run_job(load_job(write_job(url=doubler.url)))
    assert (summary.stop.kind, summary.exit_code, summary.ok) == ("output", 3, 0)
    assert "No space left" in summary.stop.reason
    assert (tmp_path / "out" / "y.npy").read_bytes() == b"old"


async def test_a_disk_that_fails_at_the_end_stops_the_run(write_job, doubler, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(FileSink, "finish", fail)
    summary = await run_job(load_job(write_job(url=doubler.url)))
    assert (summary.stop.kind, summary.exit_code) == ("output", 3)
    assert "could not be finished" in summary.stop.reason


async def test_a_missing_input_is_named_before_anything_is_sent(write_job, doubler, tmp_path):
    job = load_job(write_job(url=doubler.url), ["input.path=z.npy"])
    with pytest.raises(InputError) as caught:
        await run_job(job)
    assert str(caught.value).startswith(f"{tmp_path / 'job.toml'}: input.path: there is no file")
    assert doubler.requests == 0


async def test_an_output_that_cannot_be_written_is_named_before_anything_is_sent(write_job, doubler):
    job = load_job(write_job(url=doubler.url), ["output.path=y.xls"])
    with pytest.raises(ConfigError, match=r"output\.path: y\.xls: an output cannot be a \.xls file"):
        await run_job(job)
    assert doubler.requests == 0


@pytest.mark.parametrize(
    ("source", "path", "output"),
    [
        ("x.npy", "x.npy", "./x.npy"),
        ("y.npy.ok.npy", "y.npy.ok.npy", "y.npy"),
        ("y.npy.images.npy", "y.npy.images.npy", "y.npy"),
        ("b.npy", "*.npy", "b.npy"),
    ],
)
@pytest.mark.parametrize("work", [run_job, check_job])
async def test_a_job_never_overwrites_or_removes_its_input(write_job, doubler, tmp_path, source, path, output, work):
    job = load_job(write_job(url=doubler.url), [f"input.path={path}", f"output.path={output}"])
    (tmp_path / "x.npy").rename(tmp_path / source)
    with pytest.raises(ConfigError, match=r"output\.path: .*would overwrite the input"):
        await work(job)
    assert (tmp_path / source).exists()
    assert doubler.requests == 0


@pytest.mark.parametrize(
    ("path", "output", "listed"),
    [
        ("*.npy", "y.npy", "y.npy"),
        ("**/*.npy", "out/y.npy", "y.npy"),
        ("in", "in/y.npy", "y.npy"),
        ("./x*", "x.jsonl", "x.jsonl"),
        ("in/../in/*.npy", "in/y.npy", "y.npy"),
        ("*.npy", "y.jsonl", "y.jsonl.ok.npy"),
    ],
)
@pytest.mark.parametrize("work", [run_job, check_job])
async def test_an_output_that_the_input_will_list_is_refused_before_anything_is_sent(
    write_job, doubler, tmp_path, path, output, listed, work
):
    job = load_job(write_job(url=doubler.url), [f"input.path={path}", f"output.path={output}"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes())
    with pytest.raises(ConfigError, match=rf"output\.path: the next run would take {listed} for an input"):
        await work(job)
    assert doubler.requests == 0


@pytest.mark.parametrize(("path", "output"), [("in", "y.npy"), ("in/*.npy", "y.npy"), ("*.npy", "_y.npy")])
async def test_an_output_that_the_input_passes_over_is_written(write_job, doubler, tmp_path, path, output):
    (tmp_path / "in").mkdir()
    job = load_job(write_job(url=doubler.url), [f"input.path={path}", f"output.path={output}"])
    (tmp_path / "in" / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes())
    for _ in range(2):
        assert (await run_job(job)).exit_code == 0


async def test_a_job_in_a_folder_whose_name_is_no_text_is_run_recorded_replayed_and_shipped(
    write_job, doubler, tmp_path
):
    folder = tmp_path / os.fsdecode(b"\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system has texts as names")
    for file in (write_job(url=doubler.url), tmp_path / "x.npy"):
        file.rename(folder / file.name)
    job = load_job(folder / "job.toml")
    summary = await run_job(job, record=folder / "a.cassette")
    np.testing.assert_array_equal(np.load(folder / "out" / "y.npy"), 2 * np.arange(10.0))
    assert summary.files.report is not None
    assert (await run_job(job, replay=folder / "a.cassette")).exit_code == 0
    shard = Shard(job=str(job.file), output=str(job.output_path), run="r", attempt=1)
    assert Shard(**json.loads(shard.as_json())) == shard


async def test_texts_for_an_npy_file_end_the_job_with_the_remedy(write_job, doubler, tmp_path):
    doubler.answer = lambda rows: ["text"] * len(rows)
    with pytest.raises(ConfigError, match=r"output\.path: .*write to y\.jsonl"):
        await run_job(load_job(write_job(url=doubler.url), ["codec.dtype=str"]))
    assert list((tmp_path / "out").iterdir()) == []


async def test_an_unknown_local_model_is_blamed_on_the_url(write_job):
    with pytest.raises(ConfigError, match=r"job\.toml: endpoint\.url: .*digts"):
        await run_job(load_job(write_job(url="local://digts")))


async def test_a_crash_leaves_the_earlier_output_and_no_lock(write_job, doubler, tmp_path, monkeypatch):
    await run_job(load_job(write_job(url=doubler.url)))
    before = (tmp_path / "out" / "y.npy").read_bytes()

    async def hang(number: int) -> None:
        await asyncio.sleep(60)

    doubler.before_answer = hang
    task = asyncio.create_task(run_job(load_job(write_job(rows=np.arange(4.0), url=doubler.url))))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "y.npy", "y.npy.journal", "y.npy.report.html", "y.npy.report.jsonl",
    ]  # fmt: skip
    assert (tmp_path / "out" / "y.npy").read_bytes() == before


def files_open():
    """Return the names of all open files."""
    links = Path("/proc/self/fd").iterdir()
    return [str(link.readlink()) for link in links if link.is_symlink()]


@pytest.mark.parametrize("how", ["run", "only_failed", "complete"])
async def test_a_job_that_is_cancelled_holds_no_lock_and_no_file(how, write_job, doubler, tmp_path, monkeypatch):
    """While a helper thread opens the journal, reopens the failures, or checks for a complete run."""
    import threading

    from fanout.client import file_run

    doubler.lowest = 3.0
    job = load_job(write_job(url=doubler.url))
    if how != "run":
        await run_job(job)
    module, name = {
        "run": (run_module, "open_job_journal"),
        "only_failed": (run_module, "reopen_failed_rows"),
        "complete": (file_run, "complete"),
    }[how]
    working, going_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
    real = getattr(module, name)

    def held(*args, **options):
        done = real(*args, **options)
        loop.call_soon_threadsafe(working.set)
        going_on.wait()
        return done

    with monkeypatch.context() as patched:
        patched.setattr(module, name, held)
        task = asyncio.create_task(run_job(job, only_failed=how == "only_failed"))
        await working.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # as impatient callers do
        going_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    gc.collect()
    assert [name for name in files_open() if str(tmp_path) in name] == []
    assert (await run_job(job)).ok == 7


async def test_the_progress_of_a_csv_shows_its_number_of_rows(write_job, doubler, tmp_path):
    (tmp_path / "x.csv").write_text("a\n" + "".join(f"{i}\n" for i in range(9)))
    started = []
    job = load_job(write_job(url=doubler.url), ["input.path=x.csv"])
    await run_job(job, on_start=lambda client, rows, earlier, sink: started.append(rows))
    assert started == [9]
