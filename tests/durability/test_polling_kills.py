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
from fanout.io.journal.format import read_state
from tests.jobs import served
from tests.predictions import JOB, OF_SEVERAL_ROWS, Predictions, table

INSTALLED = Path(fanout.__file__).absolute().parents[1]


async def run(folder, predictions, kill_after=None, settings=()):
    """Run the job; kill it that many seconds after its first request. Returns its exit code."""
    predictions.asked.clear()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fanout", "run", "job.toml", *settings,
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
    ("n_kills", "n_rows", "most_rows"),
    [
        pytest.param(2, 24, 7, id="two-chunks"),
        pytest.param(2, 24, 1, id="two-single rows", marks=pytest.mark.slow),
        pytest.param(50, 400, 7, id="fifty-chunks", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
        pytest.param(50, 400, 1, id="fifty-single rows", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
async def test_a_killed_run_goes_on_waiting_for_the_jobs_in_its_journal(tmp_path, n_kills, n_rows, most_rows):
    draw = random.Random(n_kills)
    predictions = Predictions(polls=3)
    n_rows *= most_rows
    (tmp_path / "in.csv").write_text(table(n_rows))

    def settings():
        # Every process cuts chunks of another size.
        return ["--set", f"chunks.rows={draw.randint((most_rows + 1) // 2, most_rows)}"]

    async with served(predictions.handle) as url:
        job = JOB.replace("{url}", url).replace("{every}", "0.03")
        if most_rows > 1:
            job = job.replace(next(line for line in JOB.splitlines() if "request =" in line), OF_SEVERAL_ROWS)
        (tmp_path / "job.toml").write_text(job)
        known: set[int] = set()
        for _ in range(n_kills):
            before = len(predictions.created)
            await run(tmp_path, predictions, draw.uniform(0.01, 0.12), settings())
            # A job that the journal had is awaited, and not started again by the next process.
            assert known.isdisjoint(predictions.created[before:])
            state = read_state(tmp_path / "out.jsonl.journal")
            known = known if state is None else {row for start, stop in state.jobs for row in range(start, stop)}
        before = len(predictions.created)
        assert await run(tmp_path, predictions, settings=settings()) == 0
        assert known.isdisjoint(predictions.created[before:])
    assert known
    text = (tmp_path / "out.jsonl").read_text()
    answers = {line["id"]: line["double"] for line in map(json.loads, text.splitlines())}
    assert answers == {f"r{i}": 2.0 * i for i in range(n_rows)}
    # Each kill may have cut off as many POSTs as requests may be in flight.
    assert sum(count - 1 for count in Counter(predictions.created).values()) <= 4 * most_rows * n_kills
