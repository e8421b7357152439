"""Merging: chunks in any order give the array that one request for everything would."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.engine import MergedRows, RowStatus
from fanout.results import ChunkResult, Failure, Result, Statistics
from fanout.types import Chunk

DTYPES = st.sampled_from(["f4", "f8", "f2", "i4", "u1", "?"]).map(np.dtype)


def failed(start: int, stop: int) -> Failure:
    return Failure(start=start, stop=stop, reason="because", status=400, attempts=1, endpoint="http://x")


def assert_same(result: Result, other: Result) -> None:
    assert result.ok.tolist() == other.ok.tolist()
    assert (result.failures, result.pending) == (other.failures, other.pending)


@given(st.data())
def test_any_order_of_chunks_of_any_size_gives_the_same_array(data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    n, shape = data.draw(st.integers(1, 40)), data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    whole = data.draw(hnp.arrays(dtype, (n, *shape)))
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=8))})
    merger, ledger = MergedRows(n), RowStatus()
    fate = {}
    for start, stop in data.draw(st.permutations(list(pairwise(cuts)))):
        fate[start, stop] = data.draw(st.sampled_from(["ok", "ok", "failed", "pending", "lost"]))
        outputs = {"y": whole[start:stop]} if fate[start, stop] == "ok" else None
        failures = (failed(start, stop),) if fate[start, stop] == "failed" else ()
        pending = (Chunk(start, stop),) if fate[start, stop] == "pending" else ()
        if fate[start, stop] != "lost":
            for book in (merger, ledger):
                book.add(ChunkResult(start=start, stop=stop, outputs=outputs, failures=failures, pending=pending))
    result = merger.result(n, Statistics())
    assert_same(result, ledger.result(n, Statistics()))
    wanted = np.concatenate([np.full(b - a, fate[a, b] == "ok") for a, b in pairwise(cuts)])
    assert result.ok.tolist() == wanted.tolist()
    counted = sum(f.stop - f.start for f in result.failures) + sum(map(len, result.pending)) + result.ok.sum()
    assert counted == n
    if wanted.any():
        np.testing.assert_array_equal(result.values[wanted], whole[wanted])
        assert result.values.dtype == dtype
        blank = result.values[~wanted]
        assert np.isnan(blank).all() if dtype.kind == "f" else not blank.any()
    else:
        assert result.values is None


def test_a_ledger_grows_with_input_of_unknown_length() -> None:
    ledger = RowStatus()
    for start in range(0, 100_000, 1000):
        ledger.add(ChunkResult(start=start, stop=start + 1000, outputs=None))
    result = ledger.result(100_500, Statistics())
    assert result.ok.sum() == 100_000
    assert result.pending == (Chunk(100_000, 100_500),)
    assert result.values is None


def test_texts_without_an_answer_are_empty() -> None:
    merger = MergedRows(3)
    merger.add(ChunkResult(start=0, stop=2, outputs={"": np.array(["a", "b"], np.dtypes.StringDType())}))
    assert merger.result(3, Statistics()).values.tolist() == ["a", "b", ""]


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_one_output_is_an_array_and_several_are_a_dict(n_outputs: int) -> None:
    merger = MergedRows(2)
    merger.add(ChunkResult(start=0, stop=2, outputs={f"y{i}": np.full(2, i) for i in range(n_outputs)}))
    values = merger.result(2, Statistics()).values
    assert (values.tolist() if n_outputs == 1 else list(values)) == ([0, 0] if n_outputs == 1 else ["y0", "y1"])


def test_a_result_shows_its_counts() -> None:
    merger = MergedRows(5)
    merger.add(ChunkResult(start=0, stop=2, outputs={"": np.zeros(2)}))
    merger.add(ChunkResult(start=2, stop=3, outputs=None, failures=(failed(2, 3),)))
    assert repr(merger.result(5, Statistics())) == "<Result rows=5 ok=2 failed=1 pending=2>"
