"""A run with a journal goes on where it was, from Python as from a job file."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout import Client, ConfigError, Journal, Limits, RunControl, RunStopped, open_sink, open_source
from fanout.io.writers.npy import NpySink
from fanout.testing import MockEndpoint
from tests.client.scene import X, double, no_seven
from tests.support import Plain

if TYPE_CHECKING:
    from pathlib import Path

    from fanout import Event

pytestmark = pytest.mark.virtual_time


async def run(
    mock: MockEndpoint,
    folder: Path,
    rows: Any = X,
    *,
    journal: Any = None,
    control: RunControl | None = None,
    **options: Any,
) -> Any:
    options = {"chunk_rows": 10, "limits": Limits(concurrency=2), **options}
    async with Client(mock.url(Plain), codec=Plain, **options) as client:
        sink = open_sink(folder / "y.npy")
        return await client.run(rows, sink, journal=journal or folder / "y.npy.journal", control=control)


async def stopped(mock: MockEndpoint, folder: Path, requests: int, rows: Any = X, **options: Any) -> RunStopped:
    control = RunControl()

    def stop(event: Event) -> None:
        if len(mock.requests) >= requests:
            control.drain()

    with pytest.raises(RunStopped) as caught:
        await run(mock, folder, rows, control=control, on_event=stop, **options)
    return caught.value


async def test_the_same_call_resumes_a_stopped_run(tmp_path: Path) -> None:
    with MockEndpoint(no_seven, latency=0.1) as mock:
        stop = await stopped(mock, tmp_path, 12)
        done = stop.result.ok.sum()
        assert 0 < done < 300
        assert not (tmp_path / "y.npy").exists()
        sent = len(mock.requests)
        result = await run(mock, tmp_path)
        again = {
            int(row[0]) // 3 for request in mock.requests[sent:] for row in orjson.loads(request.body)["instances"]
        }
    assert again == {row for chunk in stop.result.pending for row in range(chunk.start, chunk.stop)}
    assert np.flatnonzero(~result.ok).tolist() == [7]
    assert [failure.start for failure in result.failures] == [7]
    assert result.stats.ok == 299 - done
    written = np.load(tmp_path / "y.npy")
    assert np.array_equal(written[result.ok], X[result.ok] * 2)
    assert np.isnan(written[7]).all()


async def test_rows_of_an_earlier_process_count_that_lie_beyond_those_read_now(tmp_path: Path) -> None:
    """Only reading to the end shows how many rows there are, and this process is stopped long before."""
    (tmp_path / "x.csv").write_text("x\n" + "".join(f"{i}\n" for i in range(40)))
    source = partial(open_source, tmp_path / "x.csv", column="x")
    with MockEndpoint(double, latency=lambda number: 10.0 if number == 0 else 0.01) as mock:
        control = RunControl()
        asyncio.get_running_loop().call_later(1, control.cut)
        with pytest.raises(RunStopped, match="30 rows done"):
            await run(mock, tmp_path, source(), control=control)
        control = RunControl()
        control.drain()
        with pytest.raises(RunStopped) as caught:
            await run(mock, tmp_path, source(), control=control)
        assert caught.value.kind == "interrupted"
        assert caught.value.result.ok.tolist() == [False] * 10 + [True] * 30
        assert (await run(mock, tmp_path, source())).ok.all()


async def test_a_run_that_is_complete_gives_its_account_and_sends_nothing(tmp_path: Path) -> None:
    with MockEndpoint(no_seven) as mock:
        first = await run(mock, tmp_path)
        sent = len(mock.requests)
        again = await run(mock, tmp_path)
        assert len(mock.requests) == sent
    assert np.array_equal(first.ok, again.ok)
    assert (first.failures, again.pending, again.stats.requests) == (again.failures, (), 0)


async def test_events_of_done_rows_come_after_the_commit(tmp_path: Path) -> None:
    committed: list[int] = []

    class Noting(Journal):
        def commit(self, done: Any, note: Any, schema: Any) -> None:
            super().commit(done, note, schema)
            committed.extend(chunk.start for chunk in done)

    def listen(event: Event) -> None:
        if event.kind == "done":
            starts.append(event.start)
            assert event.start in committed

    starts: list[int] = []
    journal = Noting(tmp_path / "y.npy.journal", {"any": "thing"})
    with MockEndpoint(double, latency=0.01) as mock:
        await run(mock, tmp_path, journal=journal, on_event=listen)
    journal.close()
    assert sorted(starts) == list(range(0, 300, 10))


@pytest.mark.parametrize(
    ("latency", "groups"), [pytest.param(0.1, 1000 // 16 + 3, marks=pytest.mark.slow), (0.001, 1000 // 64)]
)
async def test_chunks_that_come_fast_are_committed_more_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latency: float, groups: int
) -> None:
    """Every commit costs two trips to the disk, so there are no more of them than one in 10 ms."""
    commits: list[int] = []
    commit = Journal.commit

    def counted(journal: Journal, done: Any, *rest: Any) -> None:
        commits.append(len(done))
        commit(journal, done, *rest)

    monkeypatch.setattr(Journal, "commit", counted)
    with MockEndpoint(double, latency=latency) as mock:
        await run(mock, tmp_path, np.ones((1000, 3)), chunk_rows=1, limits=Limits(concurrency=16))
    assert sum(commits) == 1000
    assert len(commits) <= groups
    assert latency < 0.1 or max(commits) == 16


async def test_quick_chunks_are_written_as_they_come_and_committed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write gives the memory of the values back, a commit costs two syncs. No chunk waits for it much over 50 ms."""
    now = asyncio.get_running_loop().time
    came: list[float] = []
    waited: list[float] = []
    written = 0
    commit, write = Journal.commit, NpySink.write

    def counted_write(sink: NpySink, done: Any) -> None:
        nonlocal written
        written += 1
        came.extend([now()] * len(done))
        write(sink, done)

    def counted_commit(journal: Journal, done: Any, *rest: Any) -> None:
        waited.append(now() - came[0])
        del came[: len(done)]
        commit(journal, done, *rest)

    monkeypatch.setattr(Journal, "commit", counted_commit)
    monkeypatch.setattr(NpySink, "write", counted_write)
    with MockEndpoint(double, latency=0.01) as mock:
        await run(mock, tmp_path, np.ones((1600, 3)), chunk_rows=1, limits=Limits(concurrency=16))
    assert now() >= 1.0
    assert len(waited) <= 1.1 / 0.05
    assert written >= 4 * len(waited)
    assert max(waited) <= 0.05 + 0.01
    assert not came
    assert np.array_equal(np.load(tmp_path / "y.npy"), np.full((1600, 3), 2.0))


async def test_no_commit_waits_for_more_chunks_than_may_be_in_hand(tmp_path: Path) -> None:
    """The window is full before 10 ms of such quick chunks have come, and no other comes until some are written."""
    with MockEndpoint(double, latency=1e-4) as mock:
        await run(mock, tmp_path, np.ones((900, 3)), chunk_rows=1, limits=Limits(concurrency=16))
    assert asyncio.get_running_loop().time() < 0.1


async def test_the_answers_that_wait_for_the_disk_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of three doubles a chunk: a hundred may be in hand, rather than 256."""
    monkeypatch.setattr("fanout.client.writing._BACKLOG_BYTES", 100 * 24)
    in_hand: list[int] = []
    commit, committed = Journal.commit, 0

    def counted(journal: Journal, done: Any, *rest: Any) -> None:
        nonlocal committed
        in_hand.append(len(mock.requests) - committed)
        commit(journal, done, *rest)
        committed += len(done)

    monkeypatch.setattr(Journal, "commit", counted)
    with MockEndpoint(double) as mock:
        await run(mock, tmp_path, np.ones((500, 3)), chunk_rows=1, limits=Limits(concurrency=16))
    assert 34 < max(in_hand) <= 100


async def test_other_rows_are_refused(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        await stopped(mock, tmp_path, 4)
        with pytest.raises(ConfigError, match="unfinished run with another input"):
            await run(mock, tmp_path, np.where(X == 0, 5, X))
        assert (await run(mock, tmp_path)).ok.all()


async def test_other_limits_chunks_and_retries_go_on(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        await stopped(mock, tmp_path, 4)
        assert (await run(mock, tmp_path, chunk_rows=7, limits=Limits(concurrency=5))).ok.all()
    assert np.array_equal(np.load(tmp_path / "y.npy"), X * 2)


async def test_rows_of_an_iterator_need_an_identity_of_their_own(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        with pytest.raises(ConfigError, match="have no identity: give the journal an identity"):
            await run(mock, tmp_path, iter(X))
        journal = Journal(tmp_path / "y.npy.journal", {"rows": "of Tuesday"})
        await stopped(mock, tmp_path, 4, iter(X), journal=journal)
        journal.close()
        journal = Journal(tmp_path / "y.npy.journal", {"rows": "of Tuesday"})
        result = await run(mock, tmp_path, iter(X), journal=journal)
        journal.close()
    assert result.ok.all()
    assert len(result.ok) == 300
    assert np.array_equal(np.load(tmp_path / "y.npy"), X * 2)


async def test_a_journal_needs_a_sink_that_can_promise_something(tmp_path: Path) -> None:
    class Forgetful:
        def write(self, done: Any) -> None:
            raise AssertionError

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(ConfigError, match="a journal needs a sink"):
                await client.run(X, Forgetful(), journal=tmp_path / "j")


async def test_answers_of_another_form_than_before_the_stop_are_not_merged(tmp_path: Path) -> None:
    width = 3
    with MockEndpoint(lambda x: x[:, :width], latency=0.1) as mock:
        await stopped(mock, tmp_path, 4)
        width = 2
        with pytest.raises(RunStopped, match=r"rows of shape \[2\], other answers have \[3\]"):
            await run(mock, tmp_path)


async def test_without_a_journal_a_stopped_run_publishes_the_rows_that_succeeded(tmp_path: Path) -> None:
    control = RunControl()

    def stop(event: Event) -> None:
        control.drain()

    with MockEndpoint(double, latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=1), on_event=stop) as client:
            with pytest.raises(RunStopped):
                await client.run(X, sink := open_sink(tmp_path / "y.npy"), control=control)
    assert sink.outputs == (tmp_path / "y.npy",)
    written, ok = np.load(tmp_path / "y.npy"), np.load(tmp_path / "y.npy.ok.npy")
    assert 0 < ok.sum() < 300
    assert np.array_equal(written[ok], X[ok] * 2)
    assert np.isnan(written[~ok]).all()
