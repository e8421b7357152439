"""Chunks back into whole arrays: copied once, into place, in whatever order they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanout.engine.task import filled
from fanout.rowset import RowSet
from fanout.types import Array, Chunk, ChunkResult, Failure, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Statistics


class Ledger:
    """Which rows are answered and which have failed; the rest is pending.

    Args:
        resolved: rows that are answered or have failed already.
        failures: those of them that have failed.
    """

    def __init__(self, resolved: RowSet | None = None, failures: Sequence[Failure] = ()) -> None:
        self._resolved = RowSet(resolved or ())
        self._failures = list(failures)
        self._n_failed = sum(failure.stop - failure.start for failure in failures)
        self._n_ok = len(self._resolved) - self._n_failed
        self._n_empty = 0

    def add(self, done: ChunkResult) -> None:
        """Take note of a chunk."""
        n_ok = done.stop - done.start
        if done.pending:
            n_ok -= sum(map(len, done.pending))
        for failure in done.failures:
            n_ok -= failure.stop - failure.start
            self._n_failed += failure.stop - failure.start
        self._n_ok += n_ok
        if done.outputs is None:
            self._n_empty += n_ok
        self._resolved.add(done.start, done.stop)
        for rows in done.pending:
            self._resolved.remove(rows.start, rows.stop)
        self._failures += done.failures

    def withdraw(self, rows: RowSet) -> int:
        """Count ``rows`` as pending where they count as answered. Returns how many these were."""
        failed = RowSet((failure.start, failure.stop) for failure in self._failures)
        before = len(self._resolved)
        for start, stop in rows:
            for answered in failed.gaps(start, stop):
                self._resolved.remove(*answered)
        withdrawn = before - len(self._resolved)
        self._n_ok -= withdrawn
        return withdrawn

    def result(self, n_rows: int, stats: Statistics, outputs: dict[str, Array] | None = None) -> Result:
        """The account of ``n_rows`` rows of input."""
        pending = tuple(Chunk(start, stop) for start, stop in self._resolved.gaps(0, n_rows))
        ok = self._resolved.mask(n_rows)
        for failure in self._failures:
            ok[failure.start : failure.stop] = False
        failures = tuple(sorted(self._failures, key=lambda failure: failure.start))
        return Result(outputs=outputs, ok=ok, failures=failures, pending=pending, stats=stats)

    def violation(self, result: Result, *, stopped: bool) -> str | None:
        """How ``result`` breaks rows = ok + failed + pending, where it does. Only a stopped run may have pending rows.

        The rows of a result and the counts of the chunks that were taken in are kept apart, so that each shows an error
        in the other.
        """
        n_ok, n_rows = int(result.ok.sum()), len(result.ok)
        failed = sum(failure.stop - failure.start for failure in result.failures)
        pending = sum(map(len, result.pending))
        account = f"{n_ok:,} ok, {failed:,} failed, {pending:,} pending of {n_rows:,}"
        if n_ok + failed + pending != n_rows or (n_ok, failed) != (self._n_ok, self._n_failed):
            return f"the account of rows is wrong: {account}; {self._n_ok:,} ok and {self._n_failed:,} failed came in"
        if self._n_empty:
            return f"{self._n_empty:,} rows count as answered, but have no values: {account}"
        if pending and not stopped:
            return f"{pending:,} rows were lost, although the run was not stopped: {account}"
        return None


class Merger:
    """Whole outputs of a run whose number of rows is known: one allocation, one copy of every answer."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        # No rows give an empty array, so that code which goes on with it needs no special case.
        self._outputs: dict[str, Array] | None = None if n_rows else {"": np.empty(0)}
        self._ledger = Ledger()

    def add(self, done: ChunkResult) -> None:
        """Copy a chunk's answers into place. Dtype and shape are proven, so nothing can be cast or broadcast."""
        if done.outputs is not None:
            if self._outputs is None:
                self._outputs = {
                    name: np.empty((self._n_rows, *array.shape[1:]), array.dtype)
                    for name, array in done.outputs.items()
                }
            for name, array in done.outputs.items():
                self._outputs[name][done.start : done.stop] = array
        self._ledger.add(done)

    def withdraw(self, rows: RowSet) -> int:
        """As `Ledger.withdraw`."""
        return self._ledger.withdraw(rows)

    def violation(self, result: Result, *, stopped: bool) -> str | None:
        """As `Ledger.violation`."""
        return self._ledger.violation(result, stopped=stopped)

    def result(self, stats: Statistics) -> Result:
        """All rows; those without an answer are filled in. To be asked once: the arrays are the caller's alone then."""
        # A run is a knot of objects that only the garbage collector undoes: it is not to hold on to what may be large.
        outputs, self._outputs = self._outputs, None
        result = self._ledger.result(self._n_rows, stats, outputs)
        if outputs is not None and not result.ok.all():
            for array in outputs.values():
                array[~result.ok] = filled((), array.dtype)
        return result
