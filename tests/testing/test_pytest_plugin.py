"""The fixtures in projects of their own: under each mode of pytest-asyncio, without it, on several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fanout

ROOT = Path(fanout.__file__).absolute().parents[1]

TESTS = '''
import numpy as np
import pytest
import random

import fanout
from fanout.testing import Scripted, assert_attempts, in_virtual_time

X = np.arange(6.0)


def score(url, **options):
    """What a user's code might be."""
    return fanout.map(X, url, codec="v1", chunk_rows=2, **options)


@pytest.mark.asyncio
async def test_mock(fanout_mock, fanout_no_network):
    mock = fanout_mock(lambda x: x * 2)
    mock.script(503)
    async with fanout.Client(mock.url("v1"), codec="v1", chunk_rows=2) as client:
        assert np.array_equal(await client.map(X), X * 2)
    assert_attempts(mock, at_most=2)


def test_mock_in_blocking_code(fanout_mock):
    assert np.array_equal(score(fanout_mock(lambda x: x + 1).url("v1")), X + 1)


@pytest.mark.parametrize("number", range(4))
def test_server(fanout_server, number):
    server = fanout_server(lambda x: x * number)
    server.script("reset-before-headers")
    assert np.array_equal(score(server.url("v1")), X * number)
    assert server.received == 4


@in_virtual_time
async def test_an_hour(fanout_mock, fanout_seed):
    fanout_seed(3)
    mock = fanout_mock(lambda x: x)
    mock.script(Scripted(status=429, headers={"Retry-After": "3600"}))
    patient = fanout.RetryPolicy(max_pushback=4000, stall=10000)
    async with fanout.Client(mock.url("v1"), codec="v1", retry=patient) as client:
        assert np.array_equal(await client.map(X), X)
    assert 3600 < mock.times[-1] < 4000


def test_seeds(fanout_seed):
    fanout_seed(1)
    one = random.random()
    fanout_seed(1)
    assert random.random() == one
'''
INI = """
[pytest]
filterwarnings =
    error
    ignore::pytest.PytestConfigWarning
asyncio_default_fixture_loop_scope = function
"""
RECORDED = """
import os

import fanout

URL = os.environ.get("URL", "http://gone.test/v1/models/faulty:predict")


def test_scores(fanout_cassette):
    assert fanout.map([1.0, 2.0], URL, codec="v1", transport=fanout_cassette()).tolist() == [2, 4]


def test_named(fanout_cassette):
    assert fanout.map([3.0], URL, codec="v1", transport=fanout_cassette("shared")).tolist() == [6]
"""


def run(folder: Path, *arguments: str, python: str = sys.executable, **environment: str) -> str:
    """Return pytest's output for a project in ``folder``."""
    (folder / "pytest.ini").write_text(INI)
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "mode",
    [
        ["--asyncio-mode=strict"],
        pytest.param(["--asyncio-mode=auto"], marks=pytest.mark.slow),
        pytest.param(["--asyncio-mode=auto", "-n2"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_fixtures_work_in_a_project_that_does_nothing_for_it(tmp_path: Path, mode: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    assert "8 passed" in run(tmp_path, *mode)


def test_a_guarded_test_that_connects_fails_with_the_address(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import fanout\n\ndef test_it(fanout_no_network):\n    fanout.map([1.0], 'http://127.0.0.1:9/x', codec='v1')\n"
    )
    output = run(tmp_path)
    assert "1 failed" in output
    assert "tried to reach 127.0.0.1:9" in output


@pytest.mark.slow
def test_a_cassette_is_recorded_on_request_and_replayed_else(tmp_path: Path) -> None:
    from fanout.testing import Background, FaultServer

    (tmp_path / "test_it.py").write_text(RECORDED)
    output = run(tmp_path)
    assert "2 failed" in output
    assert "record it with pytest --fanout-record" in output
    with Background(FaultServer(lambda x: x * 2)) as server:
        for _ in range(2):
            assert "2 passed" in run(tmp_path, "--fanout-record", URL=server.url("v1"))
        assert server.received == 4
    names = sorted(path.name for path in (tmp_path / "cassettes").iterdir())
    assert names == ["shared.cassette", "test_it.test_scores.cassette"]
    assert "2 passed" in run(tmp_path, "-n2")


def test_the_plugin_imports_nothing_heavy_until_a_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n"
        "    assert 'fanout.pytest_plugin' in sys.modules\n"
        "    assert not {'aiohttp', 'numpy', 'orjson', 'fanout.testing', 'fanout.client'} & set(sys.modules)\n"
    )
    # Other plugins of this environment import some of them.
    output = run(tmp_path, "-p", "fanout.pytest_plugin", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "1 passed" in output, output


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_fixtures_work_where_nothing_but_the_extra_test_is_installed(tmp_path: Path) -> None:
    venv, project = tmp_path / "venv", tmp_path / "project"
    project.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = str(venv / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", f"fanout-ml[test] @ {ROOT.as_uri()}"], check=True)
    (project / "test_it.py").write_text(TESTS)
    for mode in ("auto", "strict"):
        for processes in ("-n0", "-n2"):
            output = run(project, f"--asyncio-mode={mode}", processes, python=python, PYTHONPATH="")
            assert "8 passed" in output, output
