"""The chunker: any input into chunks, none lost, none twice, none out of place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import deque
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.engine.inputs import as_rows, chunker_of, stacked
from fanout.errors import InputError
from fanout.io.readers.base import Source
from fanout.limits import ConcurrencyLimiter
from fanout.rows import RowSet, count_rows
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


async def drained(
    rows: Any, chunk_rows: int, fixed: list[tuple[int, int]] | None = None
) -> list[tuple[int, int, list[Any]]]:
    chunker = chunker_of(rows, chunk_rows)
    if fixed is not None:
        chunker.fix(fixed)
    chunks = []
    try:
        while (task := await chunker.get()) is not None:
            assert task.n == count_rows(task.rows)
            chunks.append((task.chunk.start, task.chunk.stop, np.asarray(task.rows).tolist()))
        assert chunker.rows_taken == (chunks[-1][1] if chunks else 0)
        assert await chunker.get() is None
    finally:
        await chunker.close()
    return chunks


async def as_async(rows: list[Any]) -> AsyncIterator[Any]:
    for row in rows:
        yield row


@given(n=st.integers(0, 50), chunk_rows=st.integers(1, 20), kind=st.sampled_from(["array", "list", "iter", "async"]))
def test_chunks_cover_the_rows_in_order(n: int, chunk_rows: int, kind: str) -> None:
    rows = list(range(n))
    given_rows: Any = {
        "array": lambda: np.array(rows, int),
        "list": lambda: rows,
        "iter": lambda: iter(rows),
        "async": lambda: as_async(rows),
    }[kind]()
    chunks = asyncio.run(drained(given_rows, chunk_rows))
    assert [row for _, _, part in chunks for row in part] == rows
    assert [start for start, _, _ in chunks] == list(range(0, n, chunk_rows))
    assert all(stop - start == chunk_rows for start, stop, _ in chunks[:-1])


@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=12),
    chunk_rows=st.integers(1, 7),
    kind=st.sampled_from(["array", "list", "iter", "async"]),
)
def test_fixed_ranges_are_chunks_whatever_the_size_of_the_others(
    lengths: list[tuple[int, bool]], chunk_rows: int, kind: str
) -> None:
    stops = list(accumulate(length for length, _ in lengths))
    ranges = [(stop - length, stop) for stop, (length, is_fixed) in zip(stops, lengths, strict=True) if is_fixed]
    rows = list(range(sum(length for length, _ in lengths)))
    given_rows: Any = {
        "array": lambda: np.array(rows, int),
        "list": lambda: rows,
        "iter": lambda: iter(rows),
        "async": lambda: as_async(rows),
    }[kind]()
    # The order of the ranges is that in which an earlier process has recorded them.
    chunks = asyncio.run(drained(given_rows, chunk_rows, ranges[::-1]))
    assert [row for _, _, part in chunks for row in part] == rows
    bounds = [(start, stop) for start, stop, _ in chunks]
    assert set(ranges) <= set(bounds)
    assert all(stop - start <= chunk_rows for start, stop in bounds if (start, stop) not in ranges)


async def test_mappings_of_arrays_are_cut_together() -> None:
    chunker = chunker_of({"a": np.arange(5), "b": [[i, i] for i in range(5)]}, 3)
    first, second = await chunker.get(), await chunker.get()
    assert first is not None
    assert second is not None
    assert chunker.total == 5
    assert first.rows["a"].tolist() == [0, 1, 2]
    assert second.rows["b"].tolist() == [[3, 3], [4, 4]]


async def test_chunks_shrink_from_the_moment_of_the_limit() -> None:
    chunker = chunker_of(np.arange(20), 8)
    sizes = [(await chunker.get()).n]
    chunker.bounds.limit(4)
    chunker.bounds.limit(6)
    while (task := await chunker.get()) is not None:
        sizes.append(task.n)
    assert sizes == [8, 4, 4, 4]


@pytest.mark.parametrize("kind", ["iter", "async"])
async def test_workers_that_take_at_once_get_different_rows(kind: str) -> None:
    rows = iter(range(100)) if kind == "iter" else as_async(list(range(100)))
    chunker = chunker_of(rows, 7)
    taken: list[Any] = []

    async def worker() -> None:
        while (task := await chunker.get()) is not None:
            assert list(task.rows) == list(range(task.chunk.start, task.chunk.stop))
            taken.extend(task.rows)
            await asyncio.sleep(0)

    await asyncio.gather(*[worker() for _ in range(5)])
    assert sorted(taken) == list(range(100))
    await chunker.close()


async def test_a_window_bounds_the_chunks_taken_ahead() -> None:
    window = ConcurrencyLimiter(2)
    chunker = chunker_of(np.arange(10), 1, window)
    await chunker.get()
    await chunker.get()
    third = asyncio.create_task(chunker.get())
    await asyncio.sleep(0)
    assert not third.done()
    window.release()
    task = await third
    assert task is not None
    assert task.chunk.start == 2


async def test_a_blocking_iterable_is_read_on_one_thread_of_its_own() -> None:
    threads: set[str] = set()

    def rows() -> Iterator[int]:
        for row in range(1000):
            threads.add(threading.current_thread().name)
            yield row

    assert len(await drained(rows(), 10)) == 100
    assert len(threads) == 1
    assert threads.pop().startswith("fanout-source")


async def test_errors_of_the_input_are_passed_on() -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise LookupError("disk on fire")

    with pytest.raises(LookupError, match="disk on fire"):
        await drained(rows(), 1)


async def test_rows_before_an_async_inputs_error_come_first() -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise LookupError("disk on fire")

    chunker = chunker_of(rows(), 4)
    task = await chunker.get()
    assert task is not None
    assert task.rows == [1, 2]
    with pytest.raises(LookupError, match="disk on fire"):
        await chunker.get()


async def test_an_async_input_is_not_asked_again_after_its_end() -> None:
    class Queue:
        ended = False

        def __init__(self) -> None:
            self.rows = [1, 2, 3]

        def __aiter__(self) -> Queue:
            return self

        async def __anext__(self) -> int:
            assert not self.ended, "it would wait for ever"
            if not self.rows:
                self.ended = True
                raise StopAsyncIteration
            return self.rows.pop(0)

    assert len(await drained(Queue(), 2)) == 2


async def test_rows_pulled_ahead_are_cut_to_a_size_learnt_later() -> None:
    chunker = chunker_of(iter(range(1000)), 50)
    sizes = [(await chunker.get()).n]
    chunker.bounds.limit(20)
    while (task := await chunker.get()) is not None:
        sizes.append(task.n)
        assert task.rows == list(range(task.chunk.start, task.chunk.stop))
    await chunker.close()
    assert sizes[0] == 50
    assert max(sizes[1:]) == 20
    assert sum(sizes) == 1000


async def test_a_deque_is_a_list_of_rows() -> None:
    assert len(await drained(deque(range(10)), 3)) == 4


def test_an_input_that_never_speaks_again_does_not_hold_the_interpreter() -> None:
    code = """
import asyncio, threading
from fanout.engine.inputs import chunker_of
def silent():
    yield 1
    threading.Event().wait()
async def main():
    chunker = chunker_of(silent(), 1)
    task = asyncio.create_task(chunker.get())
    await asyncio.wait([task], timeout=0.2)
    task.cancel()
    await chunker.close()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


async def test_an_async_generator_is_closed_with_the_chunker() -> None:
    closed = []

    async def rows() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    chunker = chunker_of(rows(), 1)
    await chunker.get()
    await chunker.close()
    assert closed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a text", "a text is one row"),
        (b"bytes", "a text is one row"),
        (np.array(3.0), "without rows"),
        (np.array([{}, {}]), "dtype object"),
        (np.array(["2020"], "M8"), "cannot be sent"),
        ({"a": np.arange(3), "b": np.arange(2)}, "differ in length"),
        ({"a": np.array([None])}, "column 'a'"),
        (42, "not int"),
        ({"a": [0.5, 2**53 + 1]}, "column 'a': .*9007199254740993"),
        ({"a": [2**63, -1]}, "column 'a': .*9223372036854775808"),
        ({"a": [1, 2**64]}, "column 'a': row 1: "),
        ({"a": ["1", 2]}, "column 'a': row 1: "),
        ({"a": [True, True, 2]}, "column 'a': row 2: "),
        ({"a": [1.0, None, 2.0]}, "column 'a': row 1: "),
        ({"a": [[1, 2], [3], [4, 5]]}, "column 'a': row 1: "),
    ],
)
def test_rows_that_nothing_could_send_are_refused_with_a_remedy(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chunker_of(rows, 4)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ([1, 2**62], np.int64),
        ((1, 2**64 - 1), np.uint64),
        ([1, 0.5], np.float64),
        ([True, False], np.bool_),
        ([[1.0, 2.0], [3.0, 4.0]], np.float64),
        ([np.float32(0.5), np.float32(1)], np.float32),
        (["a", "b"], np.dtypes.StringDType()),
        ([b"a", b"b\0"], object),
        ([], np.float64),
    ],
)
def test_a_list_is_a_column_if_it_is_one_exactly(column: Any, dtype: Any) -> None:
    array = as_rows({"a": column})["a"]  # type: ignore[call-overload, index]
    assert array.dtype == dtype
    assert array.tolist() == list(column)


def test_an_object_array_of_texts_is_a_list_of_texts() -> None:
    assert as_rows(np.array(["a", "bb"], object)) == ["a", "bb"]


def test_single_rows_are_stacked_where_they_are_alike() -> None:
    assert isinstance(stacked([np.zeros(3), np.ones(3)]), np.ndarray)
    assert isinstance(stacked([np.float32(1), np.float32(2)]), np.ndarray)
    assert isinstance(stacked([np.zeros(3), np.zeros(4)]), list)
    assert isinstance(stacked([np.zeros(3), [0, 0, 0]]), list)
    assert stacked(["a", "b"]) == ["a", "b"]


class Blocks(Source):
    """Rows of which each block is a given one."""

    def __init__(self, *blocks: Block) -> None:
        self._blocks = blocks
        self.n_rows = sum(count_rows(block.rows) for block in blocks)
        self.closed = threading.Event()

    def fingerprint(self) -> None:
        return None

    def blocks(self) -> Iterator[Block]:
        try:
            yield from self._blocks
        finally:
            self.closed.set()


@given(
    sizes=st.lists(st.integers(1, 9), max_size=8),
    chunk_rows=st.integers(1, 12),
    done=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4),
    kind=st.sampled_from(["array", "list", "mapping", "sized", "iter", "async"]),
)
def test_rows_that_are_done_are_passed_over_and_the_others_keep_their_numbers(
    sizes: list[int], chunk_rows: int, done: list[tuple[int, int]], kind: str
) -> None:
    n, skip = sum(sizes), RowSet(done)
    rows = np.arange(n)
    edges = np.cumsum([0, *sizes])
    parts = [rows[a:b] for a, b in pairwise(edges)]
    given_rows: Any = {
        "array": lambda: Blocks(*(Block(part, part.tolist()) for part in parts)),
        "list": lambda: Blocks(*(Block(part.tolist()) for part in parts)),
        "mapping": lambda: Blocks(*(Block({"a": part}) for part in parts)),
        "sized": lambda: rows,
        "iter": lambda: iter(rows.tolist()),
        "async": lambda: as_async(rows.tolist()),
    }[kind]()

    async def taken() -> list[Any]:
        chunker = chunker_of(given_rows, chunk_rows, skip=skip)
        tasks = []
        while (task := await chunker.get()) is not None:
            tasks.append(task)
        assert chunker.position == n
        await chunker.close()
        return tasks

    tasks = asyncio.run(taken())
    assert [row for task in tasks for row in range(task.chunk.start, task.chunk.stop)] == [
        row for a, b in skip.gaps(0, n) for row in range(a, b)
    ]
    for task in tasks:
        own = task.rows["a"] if kind == "mapping" else task.rows
        assert np.asarray(own).tolist() == list(range(task.chunk.start, task.chunk.stop))
        assert task.n <= chunk_rows
        if kind == "array":
            assert task.chunk.ids == np.asarray(own).tolist()
    gaps = list(skip.gaps(0, n))
    assert len(tasks) == sum(-(-(b - a) // chunk_rows) for a, b in gaps)  # no chunk is short but at the end of a gap


async def test_blocks_of_another_kind_are_not_mixed() -> None:
    source = Blocks(Block(np.arange(3)), Block(np.arange(3, 5.0)), Block([5, 6]), Block({"a": np.arange(7, 8)}))
    assert [stop for _, stop, _ in await drained_source(source)] == [3, 5, 7, 8]


async def drained_source(source: Source) -> list[tuple[int, int, Any]]:
    chunker, chunks = chunker_of(source, 10), []
    while (task := await chunker.get()) is not None:
        chunks.append((task.chunk.start, task.chunk.stop, task.rows))
    await chunker.close()
    return chunks


async def test_a_source_is_released_with_the_chunker() -> None:
    source = Blocks(Block(np.arange(3)), Block(np.arange(3)))
    chunker = chunker_of(source, 2)
    await chunker.get()
    await chunker.close()
    assert await asyncio.to_thread(source.closed.wait, 5)
