"""A job against an asynchronous API is killed at random moments: no prediction is created twice but in one window.

The window is the time between the POST and the record of its URL in the journal.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

import fanout
from fanout.io.journal import read_state
from tests.jobs import served
from tests.predictions import JOB, Predictions, table

INSTALLED = Path(fanout.__file__).absolute().parents[1]


async def run(folder, predictions, kill_after=None):
    """Run the job; kill it that many seconds after its first request. Returns its exit code."""
    predictions.asked.clear()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fanout", "run", "job.toml",
        cwd=folder, env={**os.environ, "PYTHONPATH": str(INSTALLED)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    ended = asyncio.create_task(process.wait())
    if kill_after is not None:
        asked = asyncio.create_task(predictions.asked.wait())
        await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([ended], timeout=kill_after)
        asked.cancel()
        if not ended.done():
            process.kill()
    return await asyncio.wait_for(ended, 60)


@pytest.mark.parametrize(
    ("n_kills", "n_rows"), [(2, 24), pytest.param(50, 400, marks=pytest.mark.slow)], ids=["two", "fifty"]
)
async def test_a_killed_run_goes_on_waiting_for_the_jobs_in_its_journal(tmp_path, n_kills, n_rows):
    moments = random.Random(n_kills)
    predictions = Predictions(polls=3)
    (tmp_path / "in.csv").write_text(table(n_rows))
    async with served(predictions.handle) as url:
        (tmp_path / "job.toml").write_text(JOB.replace("{url}", url).replace("{every}", "0.03"))
        known: set[int] = set()
        for _ in range(n_kills):
            before = len(predictions.created)
            await run(tmp_path, predictions, moments.uniform(0.01, 0.12))
            # A job that the journal had is awaited, and not started again by the next process.
            assert known.isdisjoint(predictions.created[before:])
            state = read_state(tmp_path / "out.jsonl.journal")
            known = known if state is None else {row for start, stop in state.jobs for row in range(start, stop)}
        before = len(predictions.created)
        assert await run(tmp_path, predictions) == 0
        assert known.isdisjoint(predictions.created[before:])
    assert known
    text = (tmp_path / "out.jsonl").read_text()
    answers = {line["id"]: line["double"] for line in map(json.loads, text.splitlines())}
    assert answers == {f"r{i}": 2.0 * i for i in range(n_rows)}
    # Each kill may have cut off as many POSTs as requests may be in flight.
    assert sum(count - 1 for count in Counter(predictions.created).values()) <= 4 * n_kills
