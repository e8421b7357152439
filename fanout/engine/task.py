"""A chunk under way: its rows and their place, its last attempt, and the parts that it is split into."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.engine.history import History
from fanout.types import Action, Chunk, ChunkResult, Failure, take_rows
from fanout.usage import TokenCounts, token_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fanout.engine.bisection import Bisection
    from fanout.types import Array, Payload, Rows, Values, Verdict
    from fanout.upstream.group import EndpointState


class ChunkTask:
    """Rows that travel in one request: a whole chunk at first, a part of it after a split."""

    is_control = False
    """True for rows of no run, whose answer is discarded."""

    __slots__ = ("_history", "bisection", "chunk", "endpoint", "n", "payload", "place", "rows", "sent", "size",
                 "tokens", "usage")  # fmt: skip

    def __init__(self, chunk: Chunk, rows: Rows) -> None:
        self.chunk = chunk
        self.rows = rows
        self.n = chunk.stop - chunk.start
        self.place: Place | None = None
        """Their place in the chunk, if it comes back in parts; None for a whole chunk."""
        self.size = 0.0
        """Bytes of the rows, if they bound a chunk; 0 before they are measured."""
        self.tokens: float | None = None
        """Tokens of the rows, counted or charged for the last attempt; None if unknown."""
        self.bisection: Bisection | None = None
        """The bisection of the failed task that this is a part of; None before a first failure."""
        self.payload: Payload | None = None
        self.usage: Mapping[str, int] = {}
        """Usage in the last response."""
        self.sent = 0
        """Attempts made for these rows."""
        self.endpoint: EndpointState | None = None
        """The endpoint of the last attempt."""
        self._history: History | None = None

    @property
    def history(self) -> History:
        """The earlier attempts, which only a task that fails, or is part of another, has to know."""
        if self._history is None:
            self._history = History()
        return self._history

    @property
    def charged(self) -> int:
        """Attempts that count against the rows; the others were the endpoint's fault."""
        return self.sent if self._history is None else self.sent - self._history.uncharged

    @charged.setter
    def charged(self, attempts: int) -> None:
        self.history.uncharged = self.sent - attempts

    @property
    def tried(self) -> tuple[EndpointState, ...]:
        """Endpoints that have failed since the last wait: others are asked first."""
        return () if self._history is None else self._history.tried

    @property
    def where(self) -> slice | Array:
        """Positions of the rows in the chunk: a slice, or an index array where rows between them were left out."""
        return slice(0, self.n) if self.place is None else self.place.where

    def positions(self) -> Array:
        """Positions of the rows in the chunk, as an index array."""
        where = self.where
        return np.arange(where.start, where.stop) if isinstance(where, slice) else where

    @property
    def first_row(self) -> int:
        """Number of the first of the rows in the input."""
        return self.chunk.start + int(self.positions()[0])

    def part(self, index: slice | Array) -> ChunkTask:
        """Return some of the rows as a task of their own, which knows its place in the chunk."""
        where = self.where
        if self.place is None:
            self.place = Place(where, PartialChunk(self.chunk))
        part = ChunkTask(self.chunk, take_rows(self.rows, index))
        if isinstance(where, slice) and isinstance(index, slice):
            where = slice(where.start + index.start, where.start + index.stop)
        else:
            where = self.positions()[index]
        part.place = Place(where, self.place.partial, self.attempts)
        part.n = len(part.positions())
        if self._history is not None:
            part.history.successes_seen = self._history.successes_seen
        return part

    def keep(self, index: Array) -> None:
        """Go on with some of the rows alone."""
        rest = self.part(index)
        self.rows, self.n, self.place = rest.rows, rest.n, rest.place
        self.tokens = None

    def in_context(self, verdict: Verdict) -> Verdict:
        """``verdict`` in the light of earlier failures of these rows: the same one again is no accident."""
        history = self.history
        # No row chooses its model.
        twice = verdict.error_kind not in (None, "model") and verdict.error_kind == history.error_kind
        # A single row gets all of its attempts: it may meet accidents, as any other does.
        isolated_for_it = history.suspect == kind_of(verdict) and (self.n > 1 or verdict.error_kind is not None)
        # A reask is another request, so that the same failure does not show that a third one would fail.
        if verdict.action is Action.RETRY and verdict.reask is None and (twice or isolated_for_it):
            return replace(verdict, action=Action.SPLIT)
        return verdict

    def refused_later(self, verdict: Verdict) -> Verdict:
        """Remember that an answer turned out to be unlike the others. Returns ``verdict`` as `in_context` does."""
        in_context = self.in_context(verdict)
        self.history.error_kind = verdict.error_kind
        return in_context

    def in_input(self, text: str, rows: Sequence[int]) -> str:
        """``text``, in which some of these rows are named, with their numbers in the input."""
        if not rows:
            return text
        names = {f"row {row}": row for row in rows if 0 <= row < self.n}
        positions = self.positions()
        return re.sub(
            r"\brow [0-9]{1,18}\b",
            lambda found: (
                found[0] if (row := names.get(found[0])) is None else f"row {self.chunk.start + int(positions[row])}"
            ),
            text,
        )

    @property
    def attempts(self) -> int:
        """All attempts that held these rows."""
        return self.sent if self.place is None else self.sent + self.place.attempts

    def halves(self) -> tuple[ChunkTask, ChunkTask]:
        """Two tasks with half of the rows each; the first has the odd one."""
        middle = (self.n + 1) // 2
        return self.part(slice(0, middle)), self.part(slice(middle, self.n))

    def parts(self, counts: Iterable[int]) -> list[ChunkTask]:
        """Tasks of so many rows each."""
        ends = list(accumulate(counts, initial=0))
        return [self.part(slice(start, stop)) for start, stop in pairwise(ends)]

    def failures(self, reason: str, status: int | None, endpoint: str) -> tuple[Failure, ...]:
        """One failure for each unbroken range of the rows."""
        return tuple(
            Failure(
                start=self.chunk.start + start,
                stop=self.chunk.start + stop,
                reason=reason,
                status=status,
                attempts=self.attempts,
                endpoint=endpoint,
                ids=tuple(self.chunk.ids[start:stop]) if self.chunk.ids is not None else (),
            )
            for start, stop in ranges(self.positions())
        )


class Place(NamedTuple):
    """The place of a task's rows in a chunk that comes back in parts."""

    where: slice | Array
    """Positions of the rows in the chunk."""
    partial: PartialChunk
    attempts: int = 0
    """Attempts of the larger tasks that these rows were part of."""


class PartialChunk:
    """A chunk whose rows come back in parts."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self._open = np.ones(len(chunk), bool)
        self._gone = 0
        self._outputs: dict[str, Array] | None = None
        self._failures: list[Failure] = []
        self._usage: Array | None = None

    def add(self, task: ChunkTask, outputs: Values) -> None:
        """Copy the proven answers of ``task`` into their places."""
        self.place(task.where, outputs)

    def place(self, where: slice | Array, outputs: Values) -> None:
        """Copy proven answers of the rows at these positions into their places; those of all rows are taken as such."""
        if self._outputs is None:
            if isinstance(where, slice) and where == slice(0, len(self.chunk)):
                self._outputs, self._open[:] = dict(outputs), False
                return
            self._outputs = {name: filled((len(self.chunk), *a.shape[1:]), a.dtype) for name, a in outputs.items()}
        for name, values in outputs.items():
            self._outputs[name][where] = values
        self._open[where] = False

    def add_usage(self, task: ChunkTask) -> None:
        """Copy the tokens of the rows of ``task`` into their places."""
        if self._usage is None:
            self._usage = np.full((len(self.chunk), len(TokenCounts._fields)), np.nan)
        self._usage[task.where] = usage_of_rows(task)

    def fail(self, task: ChunkTask, failures: Iterable[Failure]) -> None:
        """Rows that have no answer and get none."""
        self._failures += failures
        self._open[task.where] = False

    def leave(self, task: ChunkTask) -> None:
        """Rows that are sent again elsewhere: for this chunk they stay pending."""
        self._gone += task.n

    @property
    def complete(self) -> bool:
        """True once every row is answered or failed, or has left."""
        return int(np.count_nonzero(self._open)) == self._gone

    def results(self) -> Iterator[ChunkResult]:
        """Yield what is to be delivered of the chunk."""
        yield self.done()

    def done(self) -> ChunkResult:
        """The chunk as it stands; rows still open are pending."""
        start = self.chunk.start
        return ChunkResult(
            start=start,
            stop=self.chunk.stop,
            outputs=self._outputs,
            failures=tuple(sorted(self._failures, key=lambda failure: failure.start)),
            pending=tuple(Chunk(start + a, start + b) for a, b in ranges(np.flatnonzero(self._open))),
            ids=self.chunk.ids,
            usage=self._usage,
        )


def usage_of_rows(task: ChunkTask) -> Array:
    """Return the tokens of each row: its share of those of its request, NaN where they are unknown. Shape (rows, 4)."""
    counts = token_counts(task.usage)
    share = np.array(counts) / task.n if counts.total else np.nan
    return np.full((task.n, len(counts)), share)


def kind_of(verdict: Verdict) -> object:
    """Return the kind of a failure; two of one kind are alike."""
    return verdict.error_kind or verdict.status or ("broke off" if verdict.broke_off else verdict.action)


def filled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the values of rows without an answer: NaN, 0, False or an empty text."""
    if dtype.kind in "fc":
        return np.full(shape, np.nan, dtype)
    return np.zeros(shape, dtype)


def as_slice(index: Array) -> slice | Array:
    """Return ascending ``index`` as a slice where it is one, which takes rows without a copy."""
    if not len(index):
        return slice(0, 0)
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index


def ranges(positions: Array) -> Iterator[tuple[int, int]]:
    """The unbroken ranges (start, stop) in ascending ``positions``."""
    if len(positions):
        breaks = np.flatnonzero(np.diff(positions) != 1) + 1
        for run in np.split(positions, breaks):
            yield int(run[0]), int(run[-1]) + 1
