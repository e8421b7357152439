"""Things that a user or a machine may do to a journalled run, beyond the rows of the fault matrix."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout import Client, ConfigError, Journal, Limits, RunControl, RunStopped, open_sink
from fanout.io.journal.format import read_state
from fanout.io.publication import Publication
from fanout.io.writers.npy import NpySink
from tests.durability.work import Kind, Raw, files_of, rows_of, send

if TYPE_CHECKING:
    from tests.durability.processes import Model

MANY = 2000
"""Rows of 500 chunks: more than have been sent, on any disk, when the first are reported as done."""

SUFFIXES = pytest.mark.parametrize(
    "suffix", [".npy", pytest.param(".jsonl", marks=pytest.mark.slow), pytest.param(".parquet", marks=pytest.mark.slow)]
)


def client(model: Model, **options: Any) -> Client:
    return Client(model.url, codec=Raw, chunk_rows=4, limits=Limits(concurrency=2), **options)


def draining_after(events: int) -> tuple[RunControl, Any]:
    control, seen = RunControl(), []

    def listen(event: object) -> None:
        seen.append(event)
        if len(seen) == events:
            control.drain()

    return control, listen


async def expected(folder: Path, kind: Kind, model: Model) -> dict[str, bytes]:
    folder.mkdir()
    await send(folder, kind, model.url)
    return files_of(folder)


@SUFFIXES
async def test_one_journal_serves_a_run_and_the_one_that_goes_on_with_it(
    tmp_path: Path, model: Model, suffix: str
) -> None:
    whole = await expected(tmp_path / "whole", Kind(suffix=suffix, n_rows=MANY), model)
    path = tmp_path / f"run/y{suffix}"
    journal = Journal(path.with_name("y.journal"), {"rows": "of Tuesday"})
    control, listen = draining_after(1)
    async with client(model, on_event=listen) as opened:
        with pytest.raises(RunStopped) as stopped:
            await opened.run(rows_of(MANY), open_sink(path), journal=journal, control=control)
        assert 0 < stopped.value.result.ok.sum() < MANY
        result = await opened.run(rows_of(MANY), open_sink(path), journal=journal)
    journal.close()
    assert result.ok.all()
    assert result.stats.ok == MANY - stopped.value.result.ok.sum()
    assert path.read_bytes() == whole[f"y{suffix}"]


@pytest.mark.parametrize("blocked", ["open", "write", "sync", "finish"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_run_ends_only_when_its_thread_has(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, blocked: str, times: int
) -> None:
    entered, go, order = threading.Event(), threading.Event(), []
    call, close = getattr(NpySink, blocked), NpySink.close

    def slow(*arguments: Any, **options: Any) -> Any:
        entered.set()
        go.wait(10)
        try:
            return call(*arguments, **options)
        finally:
            order.append(blocked)

    monkeypatch.setattr(NpySink, blocked, slow)
    monkeypatch.setattr(NpySink, "close", lambda sink: (order.append("close"), close(sink)))  # type: ignore[func-returns-value]
    path = tmp_path / "y.npy"
    async with client(model) as opened:
        running = asyncio.create_task(opened.run(rows_of(40), open_sink(path), journal=tmp_path / "y.journal"))
        await asyncio.to_thread(entered.wait, 10)
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0.05)
        assert not running.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert order[-2:] == [blocked, "close"]
        monkeypatch.undo()
        result = await opened.run(rows_of(40), open_sink(path), journal=tmp_path / "y.journal")
    assert result.ok.all()
    assert np.array_equal(np.load(path), 2 * rows_of(40))


async def test_a_cancellation_while_the_journal_is_opened_leaves_it_free(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    opening = Journal.__init__

    def slow(*arguments: Any, **extra: Any) -> None:
        entered.set()
        go.wait(10)
        opening(*arguments, **extra)

    async with client(model) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "__init__", slow)
            run = opened.run(rows_of(40), open_sink(tmp_path / "y.npy"), journal=tmp_path / "y.journal")
            running = asyncio.create_task(run)
            await asyncio.to_thread(entered.wait, 10)
            running.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await running
        await opened.run(rows_of(40), open_sink(tmp_path / "y.npy"), journal=tmp_path / "y.journal")


async def test_a_client_that_is_closed_in_the_middle_keeps_the_rows_that_are_done(tmp_path: Path, model: Model) -> None:
    closing: list[asyncio.Task[None]] = []

    def listen(event: object) -> None:
        if not closing:
            closing.append(asyncio.create_task(opened.close()))

    opened = client(model, on_event=listen)
    await opened.open()
    with pytest.raises(RunStopped) as stopped:
        await opened.run(rows_of(MANY), open_sink(tmp_path / "y.npy"), journal=tmp_path / "y.journal")
    await closing[0]
    state = read_state(tmp_path / "y.journal")
    assert state is not None
    assert len(state.resolved) == stopped.value.result.ok.sum() > 0
    async with client(model) as opened:
        await opened.run(rows_of(MANY), open_sink(tmp_path / "y.npy"), journal=tmp_path / "y.journal")
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * rows_of(MANY))


async def test_a_sink_that_fails_in_the_middle_of_a_group_commits_none_of_it(tmp_path: Path, model: Model) -> None:
    class Fragile(NpySink):
        written = 0

        def write(self, done: Any) -> None:
            for chunk in done:
                Fragile.written += 1
                if Fragile.written == 7:
                    raise ValueError("a bug")
                super().write([chunk])

    async with client(model) as opened:
        with pytest.raises(ValueError, match="a bug"):
            await opened.run(rows_of(400), Fragile(tmp_path / "y.npy"), journal=tmp_path / "y.journal")
        result = await opened.run(rows_of(400), Fragile(tmp_path / "y.npy"), journal=tmp_path / "y.journal")
    assert result.ok.all()
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * rows_of(400))


async def test_a_journal_that_could_not_be_written_once_is_not_written_again(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "y.journal", {"rows": "of Tuesday"})
    synced, fsync = [], os.fsync

    def fail(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "y.journal":
            synced.append(fd)
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    async with client(model) as opened:
        for why in ("Input/output error", "an earlier write to it has failed"):
            with pytest.raises(RunStopped, match=why):
                await opened.run(rows_of(40), open_sink(tmp_path / "y.npy"), journal=journal)
        assert len(synced) == 1
        journal.close()
        monkeypatch.undo()
        journal = Journal(tmp_path / "y.journal", {"rows": "of Tuesday"})
        assert (await opened.run(rows_of(40), open_sink(tmp_path / "y.npy"), journal=journal)).ok.all()
        journal.close()


async def test_a_disk_that_takes_its_time_does_not_hold_the_workers_up(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = NpySink.sync
    seen: list[Any] = []

    def slow(sink: NpySink) -> None:
        until = time.monotonic() + 30
        while len(seen) == 1 and len(model.asked(str(tmp_path))) < 800 and time.monotonic() < until:
            time.sleep(0.2)
        seen.append(len(model.asked(str(tmp_path))))
        sync(sink)

    monkeypatch.setattr(NpySink, "sync", slow)
    async with client(model, headers={"x-run": str(tmp_path)}) as opened:
        await opened.run(rows_of(1600), open_sink(tmp_path / "y.npy"), journal=tmp_path / "y.journal")
    assert 800 <= seen[1] <= 4 * (16 * 16 + 2 * 16)  # bounded, too


@SUFFIXES
async def test_a_journal_is_moved_with_its_files(tmp_path: Path, model: Model, suffix: str) -> None:
    kind = Kind(suffix=suffix, n_rows=400)
    whole = await expected(tmp_path / "whole", kind, model)
    control, listen = draining_after(40)
    (tmp_path / "here").mkdir()
    with pytest.raises(RunStopped):
        await send(tmp_path / "here", kind, model.url, on_event=listen, control=control)
    (tmp_path / "here").rename(tmp_path / "there")
    await send(tmp_path / "there", kind, model.url)
    assert files_of(tmp_path / "there") == whole


async def test_an_output_behind_a_symbolic_link_is_resumed_in_its_place(tmp_path: Path, model: Model) -> None:
    kind = Kind(n_rows=400, refused="7")
    far = tmp_path / "far"
    for folder in (far, tmp_path / "run"):
        folder.mkdir()
    (tmp_path / "run" / "y.npy").symlink_to(far / "real.npy")
    control, listen = draining_after(40)
    with pytest.raises(RunStopped):
        await send(tmp_path / "run", kind, model.url, on_event=listen, control=control)
    assert (far / "real.npy.partial").exists()
    await send(tmp_path / "run", kind, model.url)
    assert (tmp_path / "run" / "y.npy").is_symlink()
    assert np.isnan(np.load(far / "real.npy")[7]).all()
    assert not np.load(tmp_path / "run" / "y.npy.ok.npy")[7]
    assert sorted(path.name for path in far.iterdir()) == ["real.npy"]


async def test_two_runs_that_would_share_a_file_are_kept_apart(tmp_path: Path, model: Model) -> None:
    """The outputs of ``y.npy`` are y.npy.part0.npy and so on, which the other run writes too."""
    other = open_sink(tmp_path / "y.npy.part0.npy")
    other.open(40)
    with pytest.raises(RunStopped, match=r"/y\.npy\.part0\.npy\.partial: another run is writing it at this"):
        await send(tmp_path, Kind(outputs=2), model.url)
    other.close()
    await send(tmp_path, Kind(outputs=2), model.url)
    assert sorted(files_of(tmp_path)) == ["y.npy.part0.npy", "y.npy.part1.npy"]


async def test_a_run_with_other_outputs_leaves_none_of_the_earlier_ones_beside_its_mask(
    tmp_path: Path, model: Model
) -> None:
    def names() -> list[str]:
        return sorted(files_of(tmp_path))

    await send(tmp_path, Kind(outputs=2), model.url)
    assert names() == ["y.npy.part0.npy", "y.npy.part1.npy"]
    await send(tmp_path, Kind(salt="other", refused="7"), model.url)
    assert names() == ["y.npy", "y.npy.failures.jsonl", "y.npy.ok.npy"]
    await send(tmp_path, Kind(salt="other", refused="", only_failed=True), model.url)
    assert names() == ["y.npy"]
    (tmp_path / "y.npy.mine.npy").touch()
    await send(tmp_path, Kind(outputs=3, salt="third"), model.url)
    assert names() == ["y.npy.mine.npy", "y.npy.part0.npy", "y.npy.part1.npy", "y.npy.part2.npy"]


@pytest.mark.parametrize("length", [233, 234, 247, 251])
async def test_a_name_too_long_for_the_files_beside_it_is_refused_at_the_start(
    tmp_path: Path, model: Model, length: int
) -> None:
    path = tmp_path / ("y" * (length - len(".npy")) + ".npy")
    async with client(model, headers={"x-refused": "7", "x-run": path.name}) as opened:
        try:
            await opened.run(rows_of(40), open_sink(path), journal=path.with_name(f"{path.name}.journal"))
            assert path.exists()
        except ConfigError as error:
            assert "too long" in str(error)  # noqa: PT017 - the one or the other, by the file system's own bound
            assert not model.asked(path.name)


async def test_a_publication_whose_files_are_missing_names_the_remedy(tmp_path: Path, model: Model) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publication, "carry_out", lambda _: (_ for _ in ()).throw(OSError(5, "I/O")))
        with pytest.raises(RunStopped, match="could not be finished"):
            await send(tmp_path, Kind(), model.url)
    (tmp_path / "y.npy.partial").unlink()
    with pytest.raises(ConfigError, match=r"y\.npy\.partial.*--fresh"):
        await send(tmp_path, Kind(), model.url)
    await send(tmp_path, Kind(fresh=True), model.url)
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * rows_of(40))


async def test_a_journal_of_another_release_is_not_guessed_at(tmp_path: Path, model: Model) -> None:
    from fanout.io.journal.records import record

    head = orjson.dumps({"fanout": 99, "identity": {}, "n_rows": 40})
    Kind().journal(tmp_path).write_bytes(record(0, head))
    with pytest.raises(ConfigError, match="another release of fanout wrote it"):
        await send(tmp_path, Kind(), model.url)


async def test_a_source_is_let_go_of_when_its_output_cannot_be_opened(tmp_path: Path, model: Model) -> None:
    def reading() -> bool:
        return "fanout-source" in [thread.name for thread in threading.enumerate()]

    taken = open_sink(tmp_path / "y.npy")
    taken.open(40)
    async with client(model) as opened:
        with pytest.raises(ConfigError, match="another run is writing"):
            await opened.run(iter(rows_of(40)), open_sink(tmp_path / "y.npy"))
        taken.close()
        for _ in range(100):
            if not reading():
                break
            await asyncio.sleep(0.01)
        assert not reading()
