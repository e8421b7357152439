"""Row 43 of the fault matrix at full length: one run of 100,000 rows, killed 200 times at random moments."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.durability import processes
from tests.durability.work import Kind, resolved, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLS = 200
RUN = Kind(n_rows=100_000, chunk_rows=20, concurrency=8, group_chunks=8)
SECONDS_OF_AN_ANSWER = 0.035
LONGEST_LIFE = 0.19
"""Seconds. All lives together are too short for the 5,000 chunks, at 8 of them in the time of an answer."""


@pytest.fixture
def slow_model() -> Iterator[processes.Model]:
    with processes.model(SECONDS_OF_AN_ANSWER) as server:
        yield server


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_43_two_hundred_kills_of_one_run(tmp_path: Path, slow_model: processes.Model, suffix: str) -> None:
    kind = replace(RUN, suffix=suffix)
    (tmp_path / "whole").mkdir()
    killed = tmp_path / "killed"
    killed.mkdir()
    dice, alive = random.Random(43), 0
    with processes.nursery(slow_model) as nursery:
        nursery.start(tmp_path / "whole", kind, "undisturbed")
        assert nursery.ended() == 0
        known: set[int] = set()
        for life in range(KILLS):
            pid = nursery.start(killed, kind, str(life))
            sleep(dice.random() * LONGEST_LIFE)
            os.kill(pid, signal.SIGKILL)
            assert nursery.ended() == -signal.SIGKILL
            assert not slow_model.asked(str(life)) & known
            before, known = known, resolved(killed, kind)
            assert known >= before
            alive += known > before
        nursery.start(killed, kind, "last")
        assert nursery.ended() == 0
    assert alive > KILLS / 3, "most lives were too short to come to anything"
    assert slow_model.asked("last") == set(range(kind.n_rows)) - known
    assert kind.output(killed).read_bytes() == kind.output(tmp_path / "whole").read_bytes()
    if suffix == ".npy":
        assert np.array_equal(np.load(kind.output(killed)), 2 * rows_of(kind.n_rows))
