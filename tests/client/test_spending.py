"""The limit on the cost of a journalled run holds for all of its processes, also for those that were killed."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout import (
    Client,
    ConfigError,
    Hedge,
    Journal,
    Limits,
    Prices,
    RetryPolicy,
    RunControl,
    RunStopped,
    Timeouts,
    open_sink,
)
from fanout.io.journal.format import read_state
from tests.upstream.metered import Counting, MeteredApi

if TYPE_CHECKING:
    from fanout import Result

pytestmark = pytest.mark.virtual_time

ROW = 20.0
N_ROWS = 40


async def run(api: MeteredApi, folder: Path, cap: int | None, n_rows: int = N_ROWS, **options: Any) -> Result:
    limits = Limits(concurrency=options.pop("concurrency", 4), max_cost=None if cap is None else cap * ROW)
    control, identity = options.pop("control", None), options.pop("identity", {"input": "rows"})
    options = {"chunk_rows": 1, "limits": limits, "cost": Prices(per_row=ROW), **options}
    async with Client("http://metered.test", codec=Counting, transport=api, **options) as client:
        journal = Journal(folder / "y.npy.journal", identity)
        try:
            return await client.run(np.arange(n_rows), open_sink(folder / "y.npy"), journal=journal, control=control)
        finally:
            journal.close()


async def stopped(api: MeteredApi, folder: Path, cap: int | None, **options: Any) -> RunStopped:
    with pytest.raises(RunStopped) as caught:
        await run(api, folder, cap, **options)
    return caught.value


def spent(folder: Path) -> float | None:
    state = read_state(folder / "y.npy.journal")
    assert state is not None
    return None if state.charged is None else state.charged.cost / ROW


async def test_a_run_resumes_once_its_limit_is_raised(tmp_path: Path) -> None:
    api = MeteredApi()
    stop = await stopped(api, tmp_path, 20)
    assert (stop.kind, int(stop.result.ok.sum()), spent(tmp_path)) == ("cost", 20, 20)
    assert (await stopped(api, tmp_path, 20)).kind == "cost"
    assert api.rows == 20
    assert int((await stopped(api, tmp_path, 35)).result.ok.sum()) == 35
    result = await run(api, tmp_path, N_ROWS)
    assert result.ok.all()
    assert (api.rows, spent(tmp_path)) == (N_ROWS, N_ROWS)
    assert np.array_equal(np.load(tmp_path / "y.npy")[:, 0], 2.0 * np.arange(N_ROWS))


async def test_the_spending_is_recorded_without_a_limit(tmp_path: Path) -> None:
    await run(MeteredApi(), tmp_path, None)
    assert spent(tmp_path) == N_ROWS
    state = read_state(tmp_path / "y.npy.journal")
    assert state is not None
    assert state.spent is not None
    assert state.spent.is_known


async def test_a_new_run_begins_with_an_account_of_its_own(tmp_path: Path) -> None:
    await run(MeteredApi(), tmp_path, N_ROWS)
    api = MeteredApi()
    await run(api, tmp_path, N_ROWS, identity={"input": "others"})
    assert (api.rows, spent(tmp_path)) == (N_ROWS, N_ROWS)


async def test_a_run_without_an_answer_may_change_its_identity_but_keeps_its_spending(tmp_path: Path) -> None:
    silent = MeteredApi(lambda number: "hang")
    control = RunControl()
    options: dict[str, Any] = {"timeouts": Timeouts(attempt=1.0), "control": control}
    await stopped(silent, tmp_path, 3, **options)
    assert spent(tmp_path) == silent.rows == 3
    stop = await stopped(MeteredApi(), tmp_path, 5, identity={"input": "others"})
    assert (stop.kind, int(stop.result.ok.sum())) == ("cost", 2)
    with pytest.raises(ConfigError, match="unfinished run with another input"):
        await run(MeteredApi(), tmp_path, 5, identity={"input": "rows"})


async def test_the_tokens_of_rows_are_kept_through_splits_and_resumes(tmp_path: Path) -> None:
    api = MeteredApi(lambda number: "400" if number in (2, 3, 5) else "ok")
    limits = Limits(concurrency=2, max_cost=9 * ROW)
    options: dict[str, Any] = {"chunk_rows": 4, "cost": Prices(per_row=ROW), "retry": RetryPolicy(max_attempts=9)}
    for cap in (limits.max_cost, 1000 * ROW):
        limits = Limits(concurrency=2, max_cost=cap)
        async with Client("http://m.test", codec=Counting, transport=api, limits=limits, **options) as client:
            sink, journal = open_sink(tmp_path / "y.parquet"), tmp_path / "y.journal"
            with suppress(RunStopped):
                result = await client.run(np.arange(N_ROWS), sink, journal=journal, keep_usage=True)
    table = pq.read_table(tmp_path / "y.parquet").to_pydict()
    assert result.ok.sum() == N_ROWS
    assert table["usage.input_tokens"] == [10.0] * N_ROWS
    assert table["usage.output_tokens"] == [5.0] * N_ROWS
    assert [value[0] for value in table["value"]] == [2.0 * row for row in range(N_ROWS)]


@pytest.mark.parametrize("cap", [8, 40])
async def test_a_kill_under_a_small_limit_charges_a_share_of_it_alone(tmp_path: Path, cap: int) -> None:
    charged_too_much = []

    def step(number: int) -> str:
        # As a process that resumes the run would count now: this request, and those in flight, are sent.
        charged_too_much.append((spent(tmp_path) or 0) - (number + 1))
        return "ok"

    with suppress(RunStopped):
        await run(MeteredApi(step), tmp_path, cap)
    assert len(charged_too_much) == cap
    assert min(charged_too_much) >= 0
    assert max(charged_too_much) <= cap / 8


class Killed:
    """An API that is left at a request: the files are copied as they are then, and nothing is billed after it."""

    def __init__(self, folder: Path, copy: Path, steps: list[str], kill_at: int, control: RunControl) -> None:
        self._folder = folder
        self._copy = copy
        self._steps = steps
        self._kill_at = kill_at
        self._control = control
        self.is_dead = False
        self.billed = 0

    def step(self, number: int) -> str:
        if number == self._kill_at:
            self.is_dead = True
            shutil.copytree(self._folder, self._copy, ignore=shutil.ignore_patterns("copy-*"))
            self._control.cut()
            self.billed += 1
        if self.is_dead:
            return "hang"
        step = self._steps[number] if number < len(self._steps) else "ok"
        self.billed += step in ("ok", "slow", "hang")
        return step


@settings(max_examples=8, deadline=None)
@given(
    kills=st.lists(st.integers(0, 20), max_size=3),
    steps=st.lists(st.sampled_from(["ok", "ok", "slow", "hang", "500", "429", "refused"]), max_size=30),
    cap=st.integers(1, 60),
    concurrency=st.integers(1, 8),
    hedged=st.booleans(),
)
async def test_the_limit_holds_for_killed_and_resumed_processes(
    kills: list[int], steps: list[str], cap: int, concurrency: int, hedged: bool
) -> None:
    billed, done = 0, 0
    hedge = Hedge(share=1.0, delay=1.5) if hedged else None
    with TemporaryDirectory() as root:
        folder = Path(root)
        for process, kill_at in enumerate([*kills, 10**9], 1):
            copy, control = Path(root, f"copy-{process}"), RunControl()
            killed = Killed(folder, copy, steps, kill_at, control)
            api = MeteredApi(killed.step)
            options: dict[str, Any] = {"hedge": hedge, "concurrency": concurrency, "timeouts": Timeouts(attempt=10.0)}
            kind = "cost"
            try:
                result = await run(api, folder, cap, control=control, **options)
            except RunStopped as stop:
                result, kind = stop.result, stop.kind
            assert killed.is_dead or kind == "cost"
            billed += killed.billed
            assert billed <= cap
            if killed.is_dead:
                folder = copy
                continue
            assert billed <= (spent(folder) or 0) <= cap
            answered = int(result.ok.sum())
            assert answered >= done
            done = answered
        # Enough money brings the rest, and every row its own answer.
        result = await run(MeteredApi(), folder, 1000)
        assert np.array_equal(np.load(folder / "y.npy")[result.ok, 0], 2.0 * np.flatnonzero(result.ok))
        assert len(result.pending) == 0
