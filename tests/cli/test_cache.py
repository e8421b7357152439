"""``[cache]``, ``[dedupe]`` and ``fanout cache``, from the job file to the summary."""

from __future__ import annotations

import json

import numpy as np
import pytest

CACHE = '\n[cache]\npath = "answers.sqlite"\nnamespace = "one"\n[dedupe]\nenabled = true\n'


@pytest.fixture
def job(write_job, doubler_aside, tmp_path):
    write_job(rows=np.array([1.0, 2.0] * 10), url=doubler_aside.url)
    file = tmp_path / "job.toml"
    file.write_text(file.read_text() + CACHE)
    return file


def test_a_job_sends_equal_rows_once_and_none_again(command, job, doubler_aside, tmp_path):
    first = command("run", "job.toml", "--json")
    assert (first.code, first.err) == (0, "")
    summary = json.loads(first.out)
    assert [summary[name] for name in ("ok", "requests", "shared", "cached")] == [20, 1, 18, 0]
    again = command("run", "job.toml", "--fresh")
    assert "20 rows: 20 ok" in again.out
    assert "20 rows from the cache, 0 shared the request of an equal row\n0 requests" in again.out
    assert doubler_aside.requests == 1
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), [2.0, 4.0] * 10)


def test_a_check_a_recording_and_a_mock_send_every_row(command, job, doubler_aside):
    command("run", "job.toml")
    assert command("check", "job.toml").code == 0
    assert doubler_aside.requests == 2
    command("run", "job.toml", "--fresh", "--record", "tape")
    assert doubler_aside.requests == 3
    mock = json.loads(command("run", "job.toml", "--mock", "--json", "--set", "mock.shape=[]").out)
    assert (mock["cached"], mock["ok"]) == (0, 20)


def test_a_job_whose_answers_are_drawn_at_random_says_so_before_it_runs(command, job, doubler_aside):
    setting = 'codec.request={"instances"="{{rows}}","temperature"=0.5}'
    for name in ("run", "check"):
        result = command(name, "job.toml", "--set", setting, "--set", 'codec.answers="predictions"')
        assert result.code == 2
        assert "job.toml: cache: would repeat answers that the model draws at random (temperature is 0.5)" in result.err
    assert doubler_aside.requests == 0


def test_stats_and_prune(command, job, doubler_aside, tmp_path):
    command("run", "job.toml")
    origin = doubler_aside.url.partition("?")[0]
    stats = command("cache", "stats", "job.toml")
    assert "answers.sqlite: 2 answers, " in stats.out
    assert f"  namespace one, json {origin}: 2 answers, 16 bytes, from 20" in stats.out
    sources = json.loads(command("cache", "stats", "answers.sqlite", "--json").out)["sources"]
    assert [(source["namespace"], source["answers"]) for source in sources] == [("one", 2)]
    assert command("cache", "prune", "job.toml", "--older-than", "1h").out == "0 answers deleted, 2 left\n"
    assert command("cache", "prune", "answers.sqlite", "--namespace", "two").out == "0 answers deleted, 2 left\n"
    assert json.loads(command("cache", "prune", "job.toml", "--all", "--json").out) == {"deleted": 2, "answers": 0}
    command("run", "job.toml", "--fresh")
    assert doubler_aside.requests == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "missing.sqlite"], "missing.sqlite cannot be used as a cache: No such file"),
        (["stats", "x.npy"], "x.npy cannot be used as a cache: file is not a database; give another path or"),
        (["stats", "other.toml"], "there is no job file other.toml"),
        (["stats", "bare.toml"], "bare.toml: cache.path is missing"),
        (["prune", "answers.sqlite"], "give --older-than or --namespace, or both, or else --all"),
        (["prune", "answers.sqlite", "--all", "--older-than", "1d"], "or else --all"),
        (["prune", "answers.sqlite", "--older-than", "soon"], "'soon' is not a time, for instance 30d"),
        (["prune", "answers.sqlite", "--older-than", "500ms"], "'500ms' is not a time, for instance 30d"),
    ],
)
def test_mistakes_are_named(command, write_job, tmp_path, arguments, message):
    write_job(url="http://127.0.0.1:9/")
    (tmp_path / "bare.toml").write_text("[input]\n")
    result = command("cache", *arguments)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "answers.sqlite").exists()


def test_a_cache_without_a_path_is_a_mistake(command, write_job):
    write_job(url="http://127.0.0.1:9/")
    result = command("run", "job.toml", "--set", "cache.ttl=5")
    assert result.code == 2
    assert "cache.path: is missing" in result.err or "cache.path" in result.err
