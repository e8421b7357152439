"""``fanout run --on``: its options and its errors; runs are in tests/cluster."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--workers", "2"], "--workers is for --on"),
        (["--on", "processes", "--record", "r.cassette"], "are for one process: leave --on out"),
        (["--on", "spark"], "--on is processes, ray, dask, ray://HOST:PORT or dask://HOST:PORT, not spark"),
        (["--on", "processes", "--set", "auth.token=a-literal-secret"], "--set auth.token has a secret"),
        (["--on", "processes", "--set", "input.path=-", "--set", "input.format=jsonl"], "stdin"),
    ],
)
def test_a_wrong_use_is_an_error(command, write_job, options, problem) -> None:
    write_job(url="http://127.0.0.1:9/predict")
    result = command("run", "job.toml", *options)
    assert result.code == 2
    assert problem in result.err
    assert "a-literal-secret" not in result.err


def test_an_error_is_an_object_with_json(command, write_job) -> None:
    write_job(url="http://127.0.0.1:9/predict")
    result = command("run", "job.toml", "--on", "spark", "--json")
    assert "not spark" in json.loads(result.out)["error"]
