"""Outcomes: failures and chunks know their rows, a result shows its counts."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.results import ChunkResult, Failure, Result, Statistics, unwrapped
from fanout.types import Chunk


def failure(start: int, stop: int) -> Failure:
    return Failure(start=start, stop=stop, reason="HTTP 400: no", status=400, attempts=1, endpoint="http://h")


@pytest.mark.parametrize(("rows", "text"), [((4, 5), "row 4: HTTP 400: no"), ((4, 6), "rows 4:6: HTTP 400: no")])
def test_a_failure_says_its_rows_and_the_reason(rows, text):
    assert str(failure(*rows)) == text


def test_done_without_failures_is_ok_everywhere_and_gives_its_only_array():
    values = np.ones((3, 2))
    done = ChunkResult(start=5, stop=8, outputs={"": values})
    assert done.values is values
    np.testing.assert_array_equal(done.ok, [True, True, True])


def test_done_masks_failed_and_pending_rows_relative_to_its_start():
    done = ChunkResult(start=5, stop=10, outputs=None, failures=(failure(6, 7),), pending=(Chunk(8, 10),))
    np.testing.assert_array_equal(done.ok, [True, False, True, False, False])
    assert done.values is None


def test_outputs_are_unwrapped_only_where_there_is_one():
    a, b = np.zeros(2), np.ones(2)
    assert unwrapped(None) is None
    assert unwrapped({"y": a}) is a
    assert unwrapped({"y": a, "z": b}) == {"y": a, "z": b}


def test_a_result_shows_its_counts_not_its_values():
    ok = np.array([True, False, False, False])
    result = Result(
        outputs={"": np.full(4, 12345.0)},
        ok=ok,
        failures=(failure(1, 2),),
        pending=(Chunk(2, 4),),
        stats=Statistics(failed=1),
    )
    assert repr(result) == "<Result rows=4 ok=1 failed=1 pending=2>"
    np.testing.assert_array_equal(result.values, [12345.0] * 4)


def test_rows_per_second_is_zero_before_any_time_has_passed():
    assert Statistics(ok=10, seconds=4.0).rows_per_second == 2.5
    assert Statistics(ok=10).rows_per_second == 0.0
