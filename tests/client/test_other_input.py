"""A run with a journal whose input is no longer the one that was sent: touched, edited, grown, or changed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout import (
    Client,
    ConfigError,
    InputError,
    Limits,
    Prices,
    RetryPolicy,
    RunControl,
    RunStopped,
    open_sink,
    open_source,
)
from fanout.clock import VirtualClock
from fanout.io.journal.format import read_state
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout import Event

pytestmark = pytest.mark.virtual_time
X = np.arange(120.0).reshape(60, 2)


def double(x: np.ndarray) -> np.ndarray:
    if (x[:, 0] < 0).any():
        raise StatusError(422, "negative")
    return x * 2


def sent(mock: MockEndpoint, since: int = 0) -> list[list[float]]:
    return [row for request in mock.requests[since:] for row in orjson.loads(request.body)["instances"]]


async def run(
    mock: MockEndpoint, folder: Path, rows: Any, *, stop_after: int = 0, suffix: str = ".npy", **how: Any
) -> Any:
    control, seen = RunControl(), []

    def listen(event: Event) -> None:
        seen.append(event)
        if len(seen) == stop_after:
            control.drain()

    options = {"chunk_rows": 5, "limits": Limits(concurrency=2), "on_event": listen}
    async with Client(mock.url(Plain), codec=Plain, **options) as client:
        path = folder / f"y{suffix}"
        journal = path.with_name(f"{path.name}.journal")
        return await client.run(rows, open_sink(path), journal=journal, control=control, **how)


async def stopped(mock: MockEndpoint, folder: Path, rows: Any, **how: Any) -> np.ndarray:
    """Stop a run in the middle; the mask of the rows that are done."""
    with pytest.raises(RunStopped) as caught:
        await run(mock, folder, rows, stop_after=2, **how)
    assert 0 < caught.value.result.ok.sum() < len(X)
    return caught.value.result.ok


async def test_an_edited_row_is_named_and_nothing_is_sent(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        done = int((await stopped(mock, tmp_path, X)).sum())
        edited = X.copy()
        edited[[3, 7, 8], 1] = 0.5
        n_requests = len(mock.requests)
        with pytest.raises(
            ConfigError, match=rf"another input \(of the {done} rows that are done, these differ: 3, 7:9\).*--carry"
        ):
            await run(mock, tmp_path, edited)
        edited = X.copy()
        edited[50] = 0.5
        with pytest.raises(ConfigError, match=rf"the {done} rows that are done are the same; .*not: {done}:60\)"):
            await run(mock, tmp_path, edited)
        with pytest.raises(ConfigError, match=rf"it has 61 rows in place of 60, and the {done} rows .* are the same\)"):
            await run(mock, tmp_path, np.concatenate([X, X[:1]]))
        assert len(mock.requests) == n_requests
        assert (await run(mock, tmp_path, X)).ok.all()


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
async def test_carry_sends_only_rows_that_are_new_or_changed_or_failed(tmp_path: Path, suffix: str) -> None:
    before = X.copy()
    before[2, 0] = -1  # fails
    with MockEndpoint(double, latency=0.1) as mock:
        done = {tuple(row) for row in before[await stopped(mock, tmp_path, before, suffix=suffix)]}
        after = np.concatenate([[[1000.0, 1000.0]], before[::-1]])
        after[-3] = [77.5, 77.5]  # the row that had failed
        after[-5, 1] = 0.25
        n_requests = len(mock.requests)
        result = await run(mock, tmp_path, after, suffix=suffix, carry=True)
        expected = [row for row in after.tolist() if tuple(row) not in done]
        assert sorted(sent(mock, n_requests)) == sorted(expected)
        assert result.ok.all()
        (tmp_path / "whole").mkdir()
        await run(mock, tmp_path / "whole", after, suffix=suffix)
    if suffix == ".npy":
        assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * after)
    else:
        assert values(tmp_path / f"y{suffix}") == (2 * after).tolist()
    assert names(tmp_path) == sorted(["whole", f"y{suffix}", f"y{suffix}.journal"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def values(path: Path) -> Any:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path)["value"].to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_carry_from_a_complete_run_leaves_its_output_in_place_until_the_new_one_is_whole(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        await run(mock, tmp_path, X)
        more = np.concatenate([X[30:], X[:30], X + 1000])
        n_requests = len(mock.requests)
        with pytest.raises(RunStopped):
            await run(mock, tmp_path, more, carry=True, stop_after=2)
        assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * X)
        await run(mock, tmp_path, more, carry=True)
        assert sorted(sent(mock, n_requests)) == (X + 1000).tolist()
        n_requests = len(mock.requests)
        await run(mock, tmp_path, more, carry=True)
        assert len(mock.requests) == n_requests
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * more)


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
async def test_the_answers_of_an_output_that_was_sorted_since_are_carried_to_no_row(
    tmp_path: Path, suffix: str
) -> None:
    more, output = np.concatenate([X, X + 1000]), tmp_path / f"y{suffix}"
    with MockEndpoint(double) as mock:
        await run(mock, tmp_path, X, suffix=suffix)
        written, n_requests = output.read_bytes(), len(mock.requests)
        if suffix == ".jsonl":
            output.write_bytes(b"".join(reversed(output.read_bytes().splitlines(keepends=True))))
        elif suffix == ".npy":
            np.save(output, np.load(output)[::-1])
        else:
            import pyarrow.parquet as pq

            pq.write_table(pq.read_table(output).take(list(range(len(X)))[::-1]), output)
        for _ in range(2):
            with pytest.raises(ConfigError, match=rf"y\{suffix} is not as the run has written it.*put the file back"):
                await run(mock, tmp_path, more, suffix=suffix, carry=True)
        assert len(mock.requests) == n_requests
        output.write_bytes(written)
        await run(mock, tmp_path, more, suffix=suffix, carry=True)
        assert sorted(sent(mock, n_requests)) == (X + 1000).tolist()
    got = np.load(output).tolist() if suffix == ".npy" else values(output)
    assert got == (2 * more).tolist()


async def test_another_id_is_another_row(tmp_path: Path) -> None:
    def write(ids: list[str]) -> None:
        rows = [{"id": label, "x": row} for label, row in zip(ids, X.tolist(), strict=True)]
        (tmp_path / "x.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    async def send(**how: Any) -> None:
        await run(mock, tmp_path, open_source(tmp_path / "x.jsonl", "x", id="id"), suffix=".jsonl", **how)

    ids = [f"row {i}" for i in range(60)]
    with MockEndpoint(double, latency=0.1) as mock:
        write(ids)
        await send()
        n_requests = len(mock.requests)
        write([*ids[:10], "another", *ids[11:]])
        await send(carry=True)
        assert sent(mock, n_requests) == [X[10].tolist()]
    lines = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    assert lines[9:12] == [
        {"id": label, "value": (2 * X[i]).tolist(), "error": None}
        for i, label in ((9, "row 9"), (10, "another"), (11, "row 11"))
    ]


async def test_carry_is_for_another_input_alone(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        await stopped(mock, tmp_path, X)
        async with Client(mock.url(Plain), codec=Plain(dtype="float32")) as client:
            with pytest.raises(ConfigError, match="cannot be carried over: it is of a run with another codec"):
                await client.run(X, open_sink(tmp_path / "y.npy"), journal=tmp_path / "y.npy.journal", carry=True)
            with pytest.raises(ConfigError, match="carry needs the path of a journal"):
                await client.run(X, open_sink(tmp_path / "y.npy"), carry=True)
        assert (await run(mock, tmp_path, X, carry=True)).ok.all()
        assert len(sent(mock)) == 60


def write_rows(path: Path, rows: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".jsonl":
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows.tolist()))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"x": rows.tolist()}), path)


FILES = pytest.mark.parametrize("name", ["x.npy", "x.jsonl", "x.parquet"])


@FILES
async def test_a_file_that_was_only_touched_is_the_same_input(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, X)
    with MockEndpoint(double, latency=0.1) as mock:
        await stopped(mock, tmp_path, open_source(tmp_path / name))
        os.utime(tmp_path / name, (1, 1))
        assert (await run(mock, tmp_path, open_source(tmp_path / name))).ok.all()
        assert len(sent(mock)) == 60
        os.utime(tmp_path / name, (2, 2))
        result = await run(mock, tmp_path, open_source(tmp_path / name))
        assert (result.ok.all(), len(sent(mock))) == (True, 60)


async def test_an_edit_between_the_samples_is_found_once_the_time_has_changed(tmp_path: Path) -> None:
    rows = np.zeros((60, 5000))
    rows[:, 0] = np.arange(60)
    np.save(tmp_path / "x.npy", rows)
    with MockEndpoint(lambda x: x[:, :2] * 2, latency=0.1) as mock:
        await stopped(mock, tmp_path, open_source(tmp_path / "x.npy"))
        with (tmp_path / "x.npy").open("r+b") as file:
            file.seek(128 + 3 * 40_000 + 20_000)
            file.write(b"\1")
        os.utime(tmp_path / "x.npy", (1, 1))
        with pytest.raises(ConfigError, match="rows that are done, these differ: 3"):
            await run(mock, tmp_path, open_source(tmp_path / "x.npy"))
        n_requests = len(mock.requests)
        assert (await run(mock, tmp_path, open_source(tmp_path / "x.npy"), carry=True)).ok.all()
        assert 3.0 in [row[0] for row in sent(mock, n_requests)]


def rewriting(path: Path, rewrite: Callable[[Path], None], at: int) -> Any:
    """A model that rewrites the input as it answers a request."""
    asked = []

    def answer(x: np.ndarray) -> np.ndarray:
        asked.append(x)
        if len(asked) == at:
            rewrite(path)
        return x * 2

    return answer


@FILES
@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize("at", [1, 12])
async def test_an_input_that_is_rewritten_as_it_is_read_is_noticed(
    tmp_path: Path, name: str, journal: bool, at: int
) -> None:
    path = tmp_path / name
    edited = X.copy()
    edited[4] += 1

    def rewrite(path: Path) -> None:
        write_rows(path, edited)
        os.utime(path, (at, at))

    write_rows(path, X)
    with MockEndpoint(rewriting(path, rewrite, at), latency=0.1) as mock:
        if journal:
            with pytest.raises(
                InputError, match=rf"{name} was changed while it was read: of the 60 .*, these differ: 4"
            ):
                await run(mock, tmp_path, open_source(path))
            assert not (tmp_path / "y.npy").exists()
            with pytest.raises(ConfigError, match="unfinished run with another input"):
                await run(mock, tmp_path, open_source(path))
            n_requests = len(mock.requests)
            await run(mock, tmp_path, open_source(path), carry=True)
            assert sent(mock, n_requests) == [edited[4].tolist()]
            assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * edited)
        else:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, limits=Limits(concurrency=1)) as client:
                with pytest.raises(InputError, match=f"{name} was changed while it was read: run again"):
                    await client.run(open_source(path), open_sink(tmp_path / "y.npy"))
            assert not (tmp_path / "y.npy").exists()


async def test_one_of_several_files_that_is_rewritten_is_named(tmp_path: Path) -> None:
    for part in (1, 2):
        np.save(tmp_path / f"part-{part}.npy", X * part)
    path = tmp_path / "part-1.npy"
    with (
        MockEndpoint(rewriting(path, lambda path: np.save(path, X * 5), 3), latency=0.1) as mock,
        pytest.raises(
            InputError, match=r"part-1\.npy was changed while it was read: of the 120 .*, these differ: 0:60"
        ),
    ):
        await run(mock, tmp_path, open_source(tmp_path / "part-*.npy"))


async def test_an_input_that_is_touched_as_it_is_read_is_published(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with MockEndpoint(rewriting(path, lambda path: os.utime(path, (1, 1)), 3), latency=0.1) as mock:
        assert (await run(mock, tmp_path, open_source(path))).ok.all()
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * X)


async def streamed(client: Client, path: Path) -> None:
    async with client.stream(open_source(path)) as results:
        async for _ in results:
            pass


@pytest.mark.parametrize("how", ["map", "stream"])
async def test_map_and_stream_notice_a_rewritten_file_too(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with MockEndpoint(rewriting(path, lambda path: np.save(path, X + 1), 3), latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5) as client:
            with pytest.raises(InputError, match=r"x\.npy was changed while it was read"):
                await (client.map(open_source(path)) if how == "map" else streamed(client, path))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_edit_gives_the_output_of_the_edited_input_and_sends_no_row_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("carry")
    numbers = st.lists(st.integers(0, 40), min_size=1, max_size=40)
    first, second = (np.array(data.draw(numbers), float)[:, None] for _ in range(2))

    async def both() -> tuple[list[Any], list[Any]]:
        with MockEndpoint(double, latency=0.1) as mock:
            with contextlib.suppress(RunStopped):
                await run(mock, folder, first, stop_after=data.draw(st.integers(0, 4)))
            before, n_requests = sent(mock), len(mock.requests)
            await run(mock, folder, second, carry=True)
            return before, sent(mock, n_requests)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        before, again = runner.run(both())
    assert np.array_equal(np.load(folder / "y.npy"), 2 * second)
    # An unchanged input is not a case for --carry: rows that were in flight are sent again.
    if not np.array_equal(first, second):
        assert not [row for row in again if row in before]


async def test_carry_from_a_run_without_an_answer_counts_what_it_has_spent(tmp_path: Path) -> None:
    async def spend(rows: np.ndarray, *script: str, **how: Any) -> float:
        """Send rows; return the cost of all runs."""
        with MockEndpoint(double) as mock:
            mock.script(*script)
            retry, cost = RetryPolicy(max_attempts=1), Prices(per_request=1.0)
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, retry=retry, cost=cost) as client:
                with contextlib.suppress(RunStopped):
                    journal = tmp_path / "y.npy.journal"
                    await client.run(rows, open_sink(tmp_path / "y.npy"), journal=journal, **how)
        state = read_state(tmp_path / "y.npy.journal")
        assert state is not None
        assert state.charged is not None
        return state.charged.cost

    before = await spend(X, *["truncated-json"] * 99)
    assert before > 0
    assert await spend(X[:10], carry=True) == before + 2
