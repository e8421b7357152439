"""Each row has the right answer, with duplicates and a cache, whatever fails and whenever the run is stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanout
from fanout import Client, Limits, RetryPolicy, RunControl, RunStopped
from fanout.testing import MockEndpoint, VirtualClock
from tests.engine.test_sharing import Model, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from fanout import Result

pytestmark = pytest.mark.virtual_time

STEPS = [None, None, None, 503, 500, 429, "reset-mid-body", "short-body"]


class Case(NamedTuple):
    """A run, and the times at which it is stopped before it may end."""

    numbers: list[float]
    bad: frozenset[int]
    steps: list[Any]
    chunk_rows: int
    concurrency: int
    dedupe: bool
    cache: bool
    stops: list[tuple[float, bool]]
    form: str


CASES = st.builds(
    Case,
    # A good row comes first: an endpoint that refuses its first rows seems to accept none.
    numbers=st.lists(st.integers(0, 12), min_size=1, max_size=60).map(lambda numbers: [20, 21, 22, *numbers]),
    bad=st.frozensets(st.integers(0, 12), max_size=2),
    steps=st.lists(st.sampled_from(STEPS), max_size=12),
    chunk_rows=st.integers(1, 9),
    concurrency=st.integers(1, 4),
    dedupe=st.booleans(),
    cache=st.booleans(),
    stops=st.lists(st.tuples(st.floats(0.05, 3.0), st.booleans()), max_size=3),
    form=st.sampled_from(["map", "stream", "run"]),
)


class Taken:
    """The rows that a consumer has."""

    def __init__(self, n_rows: int) -> None:
        self.ok = np.zeros(n_rows, bool)
        self.values = np.zeros((n_rows, 2))
        self.stopped = False

    def take(self, done: fanout.ChunkResult) -> None:
        assert not self.ok[done.start : done.stop].any(), "a row comes once"
        self.ok[done.start : done.stop] = done.ok
        if done.outputs is not None:
            self.values[done.start : done.stop] = done.values


async def send(client: Client, case: Case, folder: Path, control: RunControl) -> tuple[Result, Taken]:
    X = rows_of(*case.numbers)
    taken = Taken(len(X))
    try:
        if case.form == "map":
            result = await client.map(X, on_error="keep", control=control)
        elif case.form == "run":
            sink = fanout.open_sink(folder / "y.npy")
            result = await client.run(X, sink, journal=folder / "y.journal", control=control)
        else:
            async with client.stream(iter(list(X)), control=control) as stream:
                async for done in stream:
                    taken.take(done)
            result = stream.result()
    except RunStopped as stopped:
        assert stopped.kind == "interrupted" or (stopped.kind == "rejected" and case.bad), stopped  # noqa: PT017
        result, taken.stopped = stopped.result, True
    if case.form == "map" and result.values is not None:
        taken.values, taken.ok = result.values, result.ok
    elif case.form == "run" and not result.pending and not taken.stopped:  # a run that stopped has published nothing
        taken.values, taken.ok = np.load(folder / "y.npy"), result.ok
    return result, taken


async def attempt(case: Case, url: str, folder: Path, stop: tuple[float, bool] | None) -> bool:
    """Run once, check every row, and return True if it came to its end."""
    control = RunControl()
    if stop is not None:
        asyncio.get_running_loop().call_later(stop[0], control.cut if stop[1] else control.drain)
    async with Client(
        url,
        codec=fanout.codec("v1", shape=[2], dtype="float64"),
        chunk_rows=case.chunk_rows,
        dedupe=case.dedupe,
        cache=folder / "answers.sqlite" if case.cache else None,
        limits=Limits(concurrency=case.concurrency),
        retry=RetryPolicy(max_attempts=8),
    ) as client:
        result, taken = await send(client, case, folder, control)
    X = rows_of(*case.numbers)
    assert (taken.values[taken.ok] == X[taken.ok] * 2).all()
    failed = {row for failure in result.failures for row in range(failure.start, failure.stop)}
    assert {case.numbers[row] for row in failed} <= case.bad
    if not taken.stopped:
        assert failed == {row for row, number in enumerate(case.numbers) if number in case.bad}
        assert (result.stats.ok, result.stats.failed) == (sum(result.ok), len(failed)) or case.form == "run"
    return not taken.stopped


def check(case: Case, folder: Path) -> None:
    model = Model(bad=list(case.bad))
    with asyncio.Runner(loop_factory=VirtualClock) as runner, MockEndpoint(model, latency=0.3) as mock:
        mock.script(*case.steps)
        finished = [runner.run(attempt(case, mock.url("v1"), folder, stop)) for stop in [*case.stops, None]]
    assert finished[-1] or case.bad
    if case.dedupe and not case.stops and not any(case.steps):
        assert max(model.answered.values()) == 1


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES)
def test_each_row_has_the_right_answer(tmp_path_factory: pytest.TempPathFactory, case: Case):
    check(case, tmp_path_factory.mktemp("case"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES)
def test_the_same_for_many_runs(tmp_path_factory: pytest.TempPathFactory, case: Case):
    check(case, tmp_path_factory.mktemp("case"))
