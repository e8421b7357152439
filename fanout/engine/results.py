"""Proven answers on their way back to their rows: assembled into chunks, counted, delivered and merged.

`ResultCollector` is the end of the path of a task. It delivers a chunk once all of its rows are answered or failed.
`RowStatus` keeps account of the rows of a whole run, `MergedRows` keeps their values too, and `ResultQueue` holds
chunks for a consumer that takes them as they come.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fanout.classify import classify_error
from fanout.engine.partial_chunk import filled, usage_of_rows
from fanout.engine.validator import ResponseValidator, Unconfirmed, disagreement
from fanout.results import ChunkResult, Event, Failure, Result
from fanout.rows import RowSet
from fanout.types import Array, Chunk, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.engine.chunker import ChunkTask
    from fanout.engine.partial_chunk import PartialChunk
    from fanout.results import Statistics
    from fanout.statistics import Counters
    from fanout.types import Schema, TensorSpec
    from fanout.upstream.balancer import Balancer

    Refused = list[tuple[ChunkTask, Verdict]]


class ResultCollector:
    """Takes the result of every task, and delivers each chunk once all of its rows have theirs.

    Args:
        counters: the rows that are done are counted here.
        deliver: takes a whole chunk. It must not wait.
        emit: takes the event of a chunk that is settled; None where there is no listener.
        emits_done: whether the listener wants an event of each chunk that succeeded.
        schema: dtype and shape of all answers, where an earlier run has learnt them.
        settle_later: a chunk counts as done when it is given to `settle`, not when it is delivered.
        keep_usage: results have the tokens of their rows.
        on_dropped: called for each result that is not delivered, because its answers are in doubt.
    """

    def __init__(
        self,
        balancer: Balancer,
        counters: Counters,
        deliver: Callable[[ChunkResult], None],
        emit: Callable[[Event], None] | None,
        *,
        emits_done: bool = True,
        schema: Schema | None = None,
        settle_later: bool = False,
        keep_usage: bool = False,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._balancer = balancer
        self.counters = counters
        self._deliver = deliver
        self._emit = emit
        self._emit_done = emit if emits_done else None
        self._schema = schema
        self._settle_later = settle_later
        self._keep_usage = keep_usage
        self._on_dropped = on_dropped
        # A dict, so that a stop delivers what is there in the order in which chunks were split.
        self._partial: dict[Chunk, PartialChunk] = {}
        self._suspect: RowSet | None = None

    def open(
        self, spec: Mapping[str, TensorSpec], *, reject_nonfinite: bool, capacity: int, independent: bool
    ) -> ResponseValidator:
        """Begin, once the codec knows its outputs. Returns the validator of the answers; the options are its."""
        self.validator = ResponseValidator(
            spec, reject_nonfinite=reject_nonfinite, capacity=capacity, schema=self._schema, independent=independent
        )
        return self.validator

    @property
    def suspect(self) -> RowSet:
        """Rows whose answers may be those of other rows. They stay pending."""
        return self._suspect or RowSet()

    def add(self, task: ChunkTask, outputs: dict[str, Array]) -> Refused:
        """Take answers that passed every check.

        They are held for as long as the schema is not known. Returns the tasks whose answers turn out to be unlike the
        others, each with the verdict on it: they have to be sent again.
        """
        # Nearly every chunk takes this way: the schema is settled by the first two answers of a run.
        if self.validator.settled:
            if task.place is None:
                chunk = task.chunk
                done = ChunkResult(start=chunk.start, stop=chunk.stop, outputs=outputs, ids=chunk.ids)
                if self._keep_usage:
                    done.usage = usage_of_rows(task)
                self._finish(done)
            else:
                task.place.partial.add(task, outputs)
                if self._keep_usage:
                    task.place.partial.add_usage(task)
                self._finish_if_whole(task.place.partial)
            return []
        task.history.held = True
        return self._sort(*self.validator.offer(task, outputs))

    def fail(self, task: ChunkTask, verdict: Verdict) -> None:
        """Give up the rows of ``task``."""
        endpoint = task.endpoint or self._balancer.endpoints[0]
        reason = self._balancer.conceal(verdict.reason)
        failures = task.failures(reason, verdict.status, endpoint.transport.shown_url)
        if task.place is None:
            chunk = task.chunk
            self._finish(
                ChunkResult(start=chunk.start, stop=chunk.stop, outputs=None, failures=failures, ids=chunk.ids)
            )
        else:
            task.place.partial.fail(task, failures)
            self._finish_if_whole(task.place.partial)

    def leave(self, task: ChunkTask) -> None:
        """Let the rows of ``task`` go to another run."""
        if task.place is not None:
            task.place.partial.leave(task)
            self._finish_if_whole(task.place.partial)

    def confirm_held(self) -> Refused:
        """Judge the answers that are held, since no other one will come. Returns those to be sent again, if any."""
        accepted, refused, retry = self.validator.close()
        if retry:
            return self._sort(accepted, refused)
        for held in refused:
            self.fail(held.task, _unlike(held))
        return self._sort(accepted, [])

    def flush(self) -> None:
        """Deliver the chunks that a stop has left in parts, so that nothing that succeeded is lost."""
        # Rows that are still open in them count as pending.
        for partial in self._partial.values():
            self._finish_partial(partial)
        self._partial.clear()

    def distrust(self, rows: RowSet) -> None:
        """Keep ``rows`` pending from now on: their answers may be those of other rows."""
        for start, stop in rows:
            if self._suspect is None:
                self._suspect = RowSet()
            self._suspect.add(start, stop)

    def settle(self, done: ChunkResult) -> None:
        """Count a chunk that has reached its place, and emit its events."""
        ok = done.stop - done.start
        if done.pending:
            ok -= sum(map(len, done.pending))
        for failure in done.failures:
            ok -= failure.n_rows
            self.counters.failed += failure.n_rows
            if self._emit is not None:
                self._emit(_event_of(failure))
        self.counters.ok += ok
        # Events of single chunks are the most frequent; a listener that takes none of them costs nothing.
        if ok and self._emit_done is not None:
            self._emit_done(Event(kind="done", start=done.start, stop=done.stop))

    def begin(self, partial: PartialChunk) -> bool:
        """Take a chunk in parts, of which some are known. False if all are, so that it is delivered."""
        self._finish_if_whole(partial)
        return not partial.complete

    def agree(self, schema: Schema, whose: str) -> bool:
        """Settle the schema that answers proven elsewhere have. False if answers that are held have another."""
        accepted = self.validator.agree(schema, whose)
        self._sort(accepted or [], [])
        return accepted is not None

    def is_suspect(self, done: ChunkResult) -> bool:
        """True if the answers of a chunk may be those of other rows."""
        return self._suspect is not None and self._suspect.overlaps(done.start, done.stop)

    def _finish(self, done: ChunkResult) -> None:
        if self._suspect is not None and self._suspect.overlaps(done.start, done.stop):
            self._on_dropped()
            return
        self._deliver(done)
        if not self._settle_later:
            self.settle(done)

    def _finish_if_whole(self, partial: PartialChunk) -> None:
        # Remembered until it is whole, so that a stop can deliver its part of the rows.
        self._partial[partial.chunk] = partial
        if partial.complete:
            del self._partial[partial.chunk]
            self._finish_partial(partial)

    def _finish_partial(self, partial: PartialChunk) -> None:
        for done in partial.results():
            self._finish(done)

    def _sort(self, accepted: list[Unconfirmed], refused: list[Unconfirmed]) -> Refused:
        for held in (*accepted, *refused):
            held.task.history.held = False
        for held in accepted:
            self.add(held.task, held.outputs)
        return [(held.task, held.task.refused_later(_unlike(held))) for held in refused]


class RowStatus:
    """Account of the rows of a run: answered, failed, and the rest pending.

    Args:
        resolved: rows that an earlier run has answered or failed.
        failures: the failed ones among them.
    """

    def __init__(self, resolved: RowSet | None = None, failures: Sequence[Failure] = ()) -> None:
        self._before = RowSet(resolved or ())
        self._start = self._stop = 0
        """The rows of the last chunks, which came one after the other; those of all others are in ``_before``."""

        self._failures = list(failures)
        self._n_failed = sum(failure.n_rows for failure in failures)
        self._n_ok = len(self._before) - self._n_failed
        self._n_empty = 0

    def add(self, done: ChunkResult) -> None:
        """Take the rows of a chunk into account."""
        n_ok = done.stop - done.start
        if done.pending:
            n_ok -= sum(map(len, done.pending))
        for failure in done.failures:
            n_ok -= failure.n_rows
            self._n_failed += failure.n_rows
        self._n_ok += n_ok
        # Rows that count as answered must have values: `violation` looks for these.
        if done.outputs is None:
            self._n_empty += n_ok
        # Most chunks follow the one before, so that a pair of numbers holds their rows, without a call for each.
        if done.start != self._stop:
            self._before.add(self._start, self._stop)
            self._start = done.start
        self._stop = done.stop
        # Pending rows are rare, so that adding all and removing these is quicker than adding what is between.
        if done.pending:
            for rows in done.pending:
                self._resolved.remove(rows.start, rows.stop)
        self._failures += done.failures

    @property
    def _resolved(self) -> RowSet:
        """All rows that are answered or failed."""
        self._before.add(self._start, self._stop)
        self._start = self._stop
        return self._before

    @property
    def end(self) -> int:
        """The number of the last row that is answered or failed, plus 1."""
        return max((stop for _, stop in self._resolved), default=0)

    def withdraw(self, rows: RowSet) -> int:
        """Count the answered ones among ``rows`` as pending. Returns their number."""
        # A failure needs no answer, so that doubts about answers do not concern it.
        failed = RowSet((failure.start, failure.stop) for failure in self._failures)
        before = len(self._resolved)
        for start, stop in rows:
            for answered in failed.gaps(start, stop):
                self._resolved.remove(*answered)
        withdrawn = before - len(self._resolved)
        self._n_ok -= withdrawn
        return withdrawn

    def result(self, n_rows: int, stats: Statistics) -> Result:
        """The `Result` of ``n_rows`` rows of input, without values."""
        return self._result(n_rows, stats, None)

    def violation(self, result: Result, *, stopped: bool) -> str | None:
        """Describe how ``result`` breaks rows = ok + failed + pending; None if it holds.

        Only a stopped run may have pending rows. The mask of the rows and the counts of the chunks are kept apart, so
        that each shows an error in the other.
        """
        n_ok, n_rows = int(result.ok.sum()), len(result.ok)
        failed = sum(failure.n_rows for failure in result.failures)
        pending = sum(map(len, result.pending))
        account = f"{n_ok:,} ok, {failed:,} failed, {pending:,} pending of {n_rows:,}"
        if n_ok + failed + pending != n_rows or (n_ok, failed) != (self._n_ok, self._n_failed):
            return f"the account of rows is wrong: {account}; {self._n_ok:,} ok and {self._n_failed:,} failed came in"
        if self._n_empty:
            return f"{self._n_empty:,} rows count as answered, but have no values: {account}"
        if pending and not stopped:
            return f"{pending:,} rows were lost, although the run was not stopped: {account}"
        return None

    def _result(self, n_rows: int, stats: Statistics, outputs: dict[str, Array] | None) -> Result:
        pending = tuple(Chunk(start, stop) for start, stop in self._resolved.gaps(0, n_rows))
        ok = self._resolved.mask(n_rows)
        for failure in self._failures:
            ok[failure.start : failure.stop] = False
        failures = tuple(sorted(self._failures, key=lambda failure: failure.start))
        return Result(outputs=outputs, ok=ok, failures=failures, pending=pending, stats=stats)


class MergedRows(RowStatus):
    """The same account with the values of all rows: one allocation, one copy of every answer into its place."""

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self._n_rows = n_rows
        # No rows give an empty array, so that code which takes the result needs no special case.
        self._outputs: dict[str, Array] | None = None if n_rows else {"": np.empty(0)}
        self._cached: Array | None = None

    def add(self, done: ChunkResult) -> None:
        """Copy the answers of a chunk into place."""
        if done.outputs is not None:
            if self._outputs is None:
                self._outputs = {
                    # Not filled: most often every row is written, and `result` fills the others.
                    name: np.empty((self._n_rows, *array.shape[1:]), array.dtype)
                    for name, array in done.outputs.items()
                }
            # Dtype and shape are proven, so numpy neither casts nor broadcasts here.
            for name, array in done.outputs.items():
                self._outputs[name][done.start : done.stop] = array
        if done.cached is not None:
            # Most runs have no cache, and need no mask.
            if self._cached is None:
                self._cached = np.zeros(self._n_rows, bool)
            self._cached[done.start : done.stop] = done.cached
        super().add(done)

    def result(self, n_rows: int, stats: Statistics) -> Result:
        """The `Result` with values; rows without an answer hold NaN, 0, False or an empty text. To be called once."""
        # A run is a cycle of objects that only the garbage collector frees, so it must not hold on to the arrays.
        outputs, self._outputs = self._outputs, None
        result = replace(self._result(n_rows, stats, outputs), cached=self._cached)
        if outputs is not None and not result.ok.all():
            for array in outputs.values():
                array[~result.ok] = filled((), array.dtype)
        return result


class ResultQueue:
    """Finished chunks for a consumer that takes them as they come.

    The queue itself is unbounded: the chunker's window bounds it, since no chunk is taken without room for its result.

    Attributes:
        closed: True once no other chunk will come.
    """

    def __init__(self) -> None:
        self._done: list[ChunkResult] = []
        self._something = asyncio.Event()
        self._enough = asyncio.Event()
        self._wanted = 1
        self.closed = False

    def put(self, done: ChunkResult) -> None:
        """Add a chunk."""
        self._done.append(done)
        self._something.set()
        if len(self._done) >= self._wanted:
            self._enough.set()

    def close(self) -> None:
        """Announce that no other chunk will come."""
        self.closed = True
        self._something.set()
        self._enough.set()

    async def get_all(self, *, wanted: int = 1, within: float = 0.0, until: float | None = None) -> list[ChunkResult]:
        """Take all chunks, at least one; an empty list once the queue is closed and empty, or ``until`` is past.

        After the first chunk, wait for more until there are ``wanted`` or ``within`` seconds have passed. ``until`` is
        a time of the event loop.
        """
        # Set before the wait, so that `put` wakes the consumer as soon as these are there.
        self._wanted = wanted
        if until is None or self._something.is_set():
            await self._something.wait()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._something.wait()
        if 0 < len(self._done) < wanted and not self.closed:
            self._enough.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._enough.wait()
        done, self._done = self._done, []
        if not self.closed:
            self._something.clear()
        return done


def _unlike(held: Unconfirmed) -> Verdict:
    return classify_error(disagreement(held))


def _event_of(failure: Failure) -> Event:
    return Event(
        kind="failed",
        start=failure.start,
        stop=failure.stop,
        attempt=failure.attempts,
        status=failure.status,
        reason=failure.reason,
    )
