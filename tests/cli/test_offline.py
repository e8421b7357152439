"""``fanout run --record``, ``--replay``, ``--mock`` and ``fanout check --dry-run``."""

from __future__ import annotations

import json

import numpy as np
import pytest

NOBODY = "http://nobody.test/predict"


def test_a_recorded_run_is_replayed_without_its_server(command, write_job, doubler_aside, tmp_path):
    write_job(url=doubler_aside.url)
    result = command("run", "job.toml", "--record", "a.recording")
    assert (result.code, result.err) == (0, "")
    result = command("run", "job.toml", "--replay", "a.recording", "--set", f"endpoint.url={NOBODY}")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("REPLAY:   these answers are from a recording; nothing was sent\n10 rows: 10 ok")
    assert "output:   out/y.replay.npy" in result.out
    assert (tmp_path / "out" / "y.replay.npy").read_bytes() == (tmp_path / "out" / "y.npy").read_bytes()
    again = command("run", "job.toml", "--record", "a.recording")
    assert again.code == 2
    assert "a.recording already exists" in again.err


def test_a_request_that_was_not_recorded_ends_with_code_2_and_the_difference(command, write_job, doubler_aside):
    write_job(url=doubler_aside.url)
    command("run", "job.toml", "--record", "a.recording")
    result = command("run", "job.toml", "--replay", "a.recording", "--set", "chunks.rows=5")
    assert result.code == 2
    assert "the nearest is exchange 1 of 3, body.instances has 5 items where 4 were recorded" in result.err


def test_a_rehearsal_with_hours_of_waiting_ends_at_once(command, write_job, tmp_path):
    write_job(url=NOBODY)
    waits = ("--set", "mock.latency=3000.0", "--set", "timeouts.attempt=5000", "--set", "retry.stall=99999")
    result = command("run", "job.toml", "--mock", "--json", *waits, "--set", "mock.shape=[2]")
    summary = json.loads(result.out)
    assert (result.code, result.err, summary["answers"], summary["seconds"]) == (0, "", "mock", 3000.0)
    assert np.load(tmp_path / "out" / "y.mock.npy").shape == (10, 2)


def test_in_real_time_a_rehearsal_waits(command, write_job):
    write_job(url=NOBODY)
    setting = ("--set", "mock.latency=0.3", "--set", "mock.shape=[]")
    result = command("run", "job.toml", "--mock", "--real-time", "--json", *setting)
    assert json.loads(result.out)["seconds"] >= 0.3


def test_a_dry_run_prints_the_requests_and_their_duration(command, write_job, tmp_path):
    write_job(url=f"{NOBODY}?key=s3cret", rows=np.array([*range(10), np.nan]))
    limits = ("--set", "limits.max_requests=2", "--set", "limits.requests_per_second=2.0")
    result = command("check", "job.toml", "--dry-run", "--latency", "0.5", *limits)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "input:    11 rows, 1 of them cannot be sent\n"
        f"endpoint: {NOBODY}?key=***, codec json; nothing was sent\n"
        "requests: 3: 3 of up to 4 rows\n"
        "          limits.max_requests = 2 stops the run before its end\n"
        "sends:    85 bytes, headers not counted\n"
        "time:     1.5 s if an answer takes 500 ms and nothing fails; 16 in flight, at most 2 requests a second\n"
        "output:   out/y.npy\n"
    )
    assert not (tmp_path / "out").exists()
    result = command("check", "job.toml", "--dry-run", "--json")
    assert json.loads(result.out)["requests"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--mock", "--replay", "x"], "either recorded, or replayed"),
        (["run", "--real-time"], "--real-time is for"),
        (["check", "--latency", "1"], "--latency is for --dry-run"),
        (["check", "--dry-run", "--set", "codec.nam=1"], "unknown|has no option"),
    ],
)
def test_options_that_make_no_sense_are_refused(command, write_job, arguments, message):
    write_job(url=NOBODY)
    result = command(arguments[0], "job.toml", *arguments[1:])
    assert result.code == 2
    assert any(words in result.err for words in message.split("|"))
