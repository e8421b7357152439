"""The outcomes of a batch, one for each of `predict`'s callers: nothing in one tells of another's row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.client.verdicts import ending, pending_row, rows_failed
from fanout.errors import RunStopped
from fanout.types import Result, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine import Batch, Stop
    from fanout.types import Array, ChunkResult, Failure, Statistics


def answer_each(batch: Batch, done: ChunkResult, statistics: Callable[[], Statistics]) -> None:
    """Return or raise in `predict` for the rows of a chunk. Rows of it that are pending have their outcome later."""
    absent = {row for rows in done.pending for row in range(rows.start, rows.stop)}
    for failure in done.failures:
        attempts = batch.attempts + failure.attempts
        for row in range(failure.start, failure.stop):
            absent.add(row)
            alone = replace(failure, start=0, stop=1, attempts=attempts)
            batch.answer(row, rows_failed(_result(alone, statistics())))
    if done.outputs is None:
        return
    for row in range(done.start, done.stop):
        if row not in absent:
            place = row - done.start
            batch.answer(row, unwrapped({name: _row_of(array, place) for name, array in done.outputs.items()}))


def answer_rest(batch: Batch, stop: Stop | None, statistics: Callable[[], Statistics]) -> None:
    """Raise in `predict` for the rows without an outcome. Only after a stop may there be any."""
    lost = None if stop is not None else "a row was lost, although the run was not stopped"
    stop = ending(stop, lost)
    assert stop is not None
    for row in batch.open:
        error = RunStopped(stop.reason, kind=stop.kind, result=pending_row(statistics()))
        error.__cause__ = stop.cause
        batch.answer(row, error)


def _row_of(array: Array, place: int) -> Any:
    """A row in memory of its own: a view would keep the answers of all other callers."""
    value = array[place]
    return value.copy() if isinstance(value, np.ndarray) else value


def _result(failure: Failure, stats: Statistics) -> Result:
    return Result(outputs=None, ok=np.zeros(1, bool), failures=(failure,), pending=(), stats=stats)
