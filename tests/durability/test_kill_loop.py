"""Row 43 of the fault matrix at length: one run that is killed again and again, after random numbers of requests."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.durability import processes
from tests.durability.work import Kind, resolved, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)
RUN = Kind(chunk_rows=20, concurrency=8, group_chunks=8)
SECONDS_OF_AN_ANSWER = 0.005
LONGEST_LIFE = 48
"""Requests. That many chunks a kill are in the run: all lives together do not come to its end."""


@pytest.fixture
def slow_model() -> Iterator[processes.Model]:
    with processes.model(SECONDS_OF_AN_ANSWER) as server:
        yield server


@pytest.mark.parametrize("kills", [pytest.param(200, marks=pytest.mark.soak), pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_43_many_kills_of_one_run(tmp_path: Path, slow_model: processes.Model, suffix: str, kills: int) -> None:
    kind = replace(RUN, suffix=suffix, n_rows=kills * LONGEST_LIFE * RUN.chunk_rows)
    (tmp_path / "whole").mkdir()
    killed = tmp_path / "killed"
    killed.mkdir()
    dice, alive = random.Random(43), 0
    with processes.nursery(slow_model) as nursery:
        nursery.start(tmp_path / "whole", kind, "undisturbed")
        assert nursery.ended() == 0
        known: set[int] = set()
        for life in range(kills):
            pid = nursery.start(killed, kind, str(life))
            slow_model.wait_for(str(life), dice.randrange(LONGEST_LIFE))
            os.kill(pid, signal.SIGKILL)
            assert nursery.ended() == -signal.SIGKILL
            assert not slow_model.asked(str(life)) & known
            before, known = known, resolved(killed, kind)
            assert known >= before
            alive += known > before
        nursery.start(killed, kind, "last")
        assert nursery.ended() == 0
    assert alive > kills / 3, "most lives were too short to come to anything"
    assert slow_model.asked("last") == set(range(kind.n_rows)) - known
    assert kind.output(killed).read_bytes() == kind.output(tmp_path / "whole").read_bytes()
    if suffix == ".npy":
        assert np.array_equal(np.load(kind.output(killed)), 2 * rows_of(kind.n_rows))
