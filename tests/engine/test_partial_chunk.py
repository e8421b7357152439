"""Tasks: parts of chunks that find their way back."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fanout.engine.chunker import ChunkTask
from fanout.engine.partial_chunk import filled, ranges
from fanout.types import Chunk


@given(st.lists(st.integers(0, 60), unique=True).map(sorted))
def test_ranges_cover_exactly_the_positions(positions: list[int]) -> None:
    spans = list(ranges(np.array(positions, int)))
    assert [i for start, stop in spans for i in range(start, stop)] == positions
    assert all(stop < start for (_, stop), (start, _) in pairwise(spans))


def test_the_fill_values_of_rows_without_an_answer() -> None:
    assert np.isnan(filled((2,), np.dtype("f4"))).all()
    assert filled((2,), np.dtype(int)).tolist() == [0, 0]
    assert filled((2,), np.dtype(bool)).tolist() == [False, False]
    assert filled((2,), np.dtypes.StringDType()).tolist() == ["", ""]


@given(st.data())
def test_split_rows_come_back_to_their_places(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 20))
    rows = np.arange(100, 100 + n)
    whole = ChunkTask(Chunk(50, 50 + n), rows)
    todo, leaves = [whole], []
    while todo:
        task = todo.pop()
        if task.n > 1 and data.draw(st.booleans()):
            if data.draw(st.booleans()):
                mask = np.array(data.draw(st.lists(st.booleans(), min_size=task.n, max_size=task.n)))
                if mask.any() and not mask.all():
                    todo += [task.part(np.flatnonzero(mask)), task.part(np.flatnonzero(~mask))]
                    continue
            todo += task.halves()
        else:
            leaves.append(task)
    if leaves == [whole]:
        return
    assert leaves[0].place is not None
    assembly = leaves[0].place.partial
    failed = []
    for leaf in data.draw(st.permutations(leaves)):
        assert not assembly.complete
        assert leaf.n == len(leaf.rows)
        if data.draw(st.booleans()):
            assembly.add(leaf, {"": np.asarray(leaf.rows) * 2.0})
        else:
            failures = leaf.failures("because", 400, "http://x")
            failed += [row for f in failures for row in range(f.start, f.stop)]
            assembly.fail(leaf, failures)
    done = assembly.done()
    assert assembly.complete
    assert not done.pending
    assert sorted(failed) == [50 + i for i in np.flatnonzero(~done.ok)]
    if done.values is not None:
        assert np.array_equal(done.values[done.ok], rows[done.ok] * 2.0)
        assert np.isnan(done.values[~done.ok]).all()


def test_a_chunk_in_parts_reports_its_pending_rows() -> None:
    first, second = ChunkTask(Chunk(10, 15), list("abcde")).halves()
    assert first.place is not None
    first.place.partial.add(first, {"": np.array([1.0, 2.0, 3.0])})
    done = first.place.partial.done()
    assert done.pending == (Chunk(13, 15),)
    assert done.ok.tolist() == [True] * 3 + [False] * 2
    assert second.rows == ["d", "e"]


def test_failures_count_the_attempts_of_all_requests_that_held_the_row() -> None:
    whole = ChunkTask(Chunk(0, 4), list("abcd"))
    whole.sent = 2
    half = whole.halves()[0]
    half.sent = 1
    (failure,) = half.halves()[1].failures("because", None, "http://x")
    assert (failure.start, failure.stop, failure.attempts) == (1, 2, 3)
    assert str(failure) == "row 1: because"


def test_halves_of_a_large_chunk_take_no_memory_for_the_places_of_their_rows() -> None:
    n_rows = 2**20
    whole = ChunkTask(Chunk(0, n_rows), np.zeros(n_rows, np.uint8))
    tracemalloc.start()
    try:
        first, second = whole.halves()
        quarter = first.halves()[1]
        (failure,) = quarter.failures("refused", 400, "http://host/")
        # The partial chunk has one byte a row; an index array of the rows would have eight.
        assert tracemalloc.get_traced_memory()[1] < 2 * n_rows
    finally:
        tracemalloc.stop()
    assert (first.n, second.n, quarter.n, quarter.first_row) == (n_rows // 2, n_rows // 2, n_rows // 4, n_rows // 4)
    assert (failure.start, failure.stop) == (n_rows // 4, n_rows // 2)
