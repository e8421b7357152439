"""An answer takes at most 16 times its bytes and 32 MiB to decode, or it is refused; honest ones never are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.codecs.decode_large import HONEST, HOSTILE

ROOT = Path(__file__).parents[2]
CAP = 64 * 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is told by Linux's /proc")


def measured(size: int, *options: str) -> dict[str, dict[str, Any]]:
    """The measurements of a process of its own."""
    command = [sys.executable, "-m", "tests.codecs.decode_large", str(size), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    costs: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    return costs


def check(costs: dict[str, dict[str, Any]]) -> None:
    assert costs.keys() == HONEST.keys() | HOSTILE.keys()
    for name, of in costs.items():
        assert of["peak"] <= 16 * of["bytes"] + 32 * 2**20, f"{name}: {of}"
        if name in HONEST:
            assert of["outcome"] == "ok", f"{name}: {of}"


@pytest.mark.parametrize(
    ("mib", "options"),
    [
        pytest.param(4, [], id="4-installed"),
        pytest.param(2, ["hidden"], id="2-hidden"),
        pytest.param(16, [], id="16-installed", marks=pytest.mark.slow),
        pytest.param(16, ["hidden"], id="16-hidden", marks=pytest.mark.slow),
    ],
)
def test_an_answer_takes_no_more_memory_than_it_may(mib: int, options: list[str]) -> None:
    check(measured(mib * 2**20, *options))


@pytest.mark.soak  # it measures how long a thread waits for the interpreter: on a machine with nothing else to do
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [[], ["hidden"]], ids=["installed", "hidden"])
def test_an_answer_at_the_cap_takes_no_more_memory_than_it_may_and_no_time_that_matters(options: list[str]) -> None:
    """The thread has less than 100 ms of CPU between two looks of another, which wants the interpreter every ms."""
    costs = measured(CAP, *options)
    check(costs)
    for name, of in costs.items():
        assert of["held"] < 0.1, f"{name}: {of}"
        assert of["cpu"] < 30, f"{name}: {of}"
