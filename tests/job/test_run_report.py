"""Each run of a job records itself and writes a report, however it ends; neither can harm the run."""

from __future__ import annotations

import logging
import os
import stat
import sys

import numpy as np
import pytest

from fanout.errors import ConfigError
from fanout.io.parts import PartsFolder
from fanout.job import load_job, recreate_report, run_job
from fanout.report import read_recording
from tests.jobs import JOB

NAME = "y.npy.report"


def page(tmp_path):
    return (tmp_path / "out" / f"{NAME}.html").read_text()


def sessions(tmp_path):
    return read_recording(tmp_path / "out" / f"{NAME}.jsonl")


async def test_a_run_writes_its_report_for_its_owner_alone(write_job, doubler, tmp_path):
    summary = await run_job(load_job(write_job(url=doubler.url)))
    path = tmp_path / "out" / f"{NAME}.html"
    assert summary.files.report == str(path)
    assert summary.as_dict()["report"] == str(path)
    assert [stat.S_IMODE(one.stat().st_mode) for one in sorted(path.parent.glob(f"{NAME}*"))] == [0o600, 0o600]
    assert "complete: every row has an answer" in page(tmp_path)
    (session,) = sessions(tmp_path)
    assert (session.totals.ok, session.totals.pending, session.samples[-1].requests) == (10, 0, (3,))
    assert sum(n for _, n in session.totals.latencies) == 3
    (output,) = session.totals.outputs
    assert sorted(output.numbers) == [2 * n for n in range(10)]


async def test_a_job_can_do_without(write_job, doubler, tmp_path):
    summary = await run_job(load_job(write_job(url=doubler.url), ["report.write=false"]))
    assert summary.files.report is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["y.npy", "y.npy.journal"]


async def test_a_stopped_run_and_its_resumption_have_one_report(write_job, doubler, tmp_path):
    job = load_job(write_job(url=doubler.url), ["limits.max_requests=2", "limits.concurrency=1"])
    await run_job(job)
    assert "stopped early: " in page(tmp_path)
    assert "max_requests" in page(tmp_path)
    await run_job(load_job(write_job(url=doubler.url)))
    first, second = sessions(tmp_path)
    assert (first.totals.ok, first.totals.pending, first.totals.stop_kind) == (8, 2, "max_requests")
    assert (second.session.earlier, second.totals.ok, second.totals.pending) == (8, 2, 0)
    assert ", in 2 sessions." in page(tmp_path)
    assert "complete: every row has an answer" in page(tmp_path)


async def test_failed_rows_are_listed_by_reason(write_job, doubler, tmp_path):
    doubler.lowest = 0
    rows = np.arange(20.0)
    rows[[7, 13]] *= -1
    await run_job(load_job(write_job(rows=rows, url=doubler.url)))
    assert "2 rows failed, for 1 reason." in page(tmp_path)
    assert "a row is below 0" in page(tmp_path)
    assert "7, 13" in page(tmp_path)


async def test_a_run_that_stops_at_once_has_a_report_with_the_reason(write_job, doubler, tmp_path):
    doubler.status = 401
    job = load_job(write_job(url=doubler.url))
    summary = await run_job(job)
    assert summary.exit_code == 3
    assert "stopped early: " in page(tmp_path)
    assert "401" in page(tmp_path)
    assert "stopped early: " in recreate_report(job).read_text()


async def test_a_new_run_begins_a_new_recording(write_job, doubler, tmp_path):
    await run_job(load_job(write_job(url=doubler.url)))
    await run_job(load_job(write_job(url=doubler.url)), fresh=True)
    assert len(sessions(tmp_path)) == 1


async def test_input_rows_are_in_it_only_if_the_job_says_so(write_job, doubler, tmp_path):
    rows = np.arange(123456.0, 123466.0)
    await run_job(load_job(write_job(rows=rows, url=doubler.url)))
    for name in ("html", "jsonl"):
        assert "123460" not in (tmp_path / "out" / f"{NAME}.{name}").read_text()
    doubler.lowest = 123457
    await run_job(load_job(write_job(rows=rows, url=doubler.url), ["report.rows=true"]), fresh=True)
    examples = {one.row: (one.input, one.outcome) for session in sessions(tmp_path) for one in session.examples}
    assert examples[4] == ("123460.0", "246920.0")
    assert examples[0][0] == "123456.0"
    assert "a row is below" in examples[0][1]
    assert "123460.0" in page(tmp_path)


async def test_secrets_are_in_neither_file(write_job, doubler, tmp_path):
    doubler.status = 401
    settings = ['endpoint.headers={ X-Key = "${KEY}" }', f'endpoint.url="{doubler.url}?key=${{KEY}}"']
    await run_job(load_job(write_job(url=doubler.url), settings, {"KEY": "s3cret-t0ken"}))
    for name in ("html", "jsonl"):
        assert "s3cret" not in (tmp_path / "out" / f"{NAME}.{name}").read_text()


async def test_a_recording_that_cannot_be_written_harms_no_run(write_job, doubler, tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fanout.report.recording.RecordingFile.append", fail)
    with caplog.at_level(logging.WARNING, "fanout"):
        summary = await run_job(load_job(write_job(url=doubler.url)))
    assert (summary.ok, summary.exit_code, summary.files.report) == (10, 0, None)
    (record,) = caplog.records
    assert "the run is no longer recorded for its report" in record.message


async def test_a_report_that_cannot_be_written_harms_no_run(write_job, doubler, tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fanout.job.run_report.report_page", fail)
    with caplog.at_level(logging.WARNING, "fanout"):
        summary = await run_job(load_job(write_job(url=doubler.url)))
    assert (summary.ok, summary.exit_code, summary.files.report) == (10, 0, None)
    assert "the report cannot be written" in caplog.text


@pytest.mark.parametrize("name", [f"{NAME}.html", f"{NAME}.jsonl"])
async def test_a_run_overwrites_no_input_of_that_name(write_job, doubler, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("1\n2\n")
    job = load_job(write_job(url=doubler.url), [f"input.path=out/{name}", "input.format=jsonl"])
    with pytest.raises(ConfigError, match="would overwrite the input"):
        await run_job(job)
    assert (tmp_path / "out" / name).read_text() == "1\n2\n"


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe"])
@pytest.mark.parametrize("suffix", ["jsonl", "html"])
async def test_another_kind_of_file_in_its_place_is_an_error_of_the_report_alone(
    write_job, doubler, tmp_path, kind, suffix
):
    job = load_job(write_job(url=doubler.url))
    await run_job(job)
    path = tmp_path / "out" / f"{NAME}.{suffix}"
    path.unlink()
    {"folder": path.mkdir, "loop": lambda: path.symlink_to(path), "pipe": lambda: os.mkfifo(path)}[kind]()
    # They are replaced as a file would be. Before Python 3.13, `Path.resolve` refuses loops.
    replaced = ("pipe", "loop") if sys.version_info >= (3, 13) else ("pipe",)
    if suffix == "html" and kind in replaced:
        assert recreate_report(job) == path
    else:
        with pytest.raises(ConfigError, match=f"y.npy.report.{suffix}|no run into"):
            recreate_report(job)


async def test_a_file_in_the_place_of_the_parts_is_named(write_job, doubler, tmp_path):
    job = load_job(write_job(url=doubler.url))
    await run_job(job)
    parts = PartsFolder(job.output_path).path
    parts.touch()
    with pytest.raises(ConfigError, match=f"{parts.name} cannot be removed: Not a directory"):
        await run_job(job, fresh=True)


async def test_without_a_run_there_is_nothing_to_report(write_job):
    with pytest.raises(ConfigError, match="run the job first"):
        recreate_report(load_job(write_job(JOB)))
