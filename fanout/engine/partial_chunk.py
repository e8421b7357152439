"""A chunk whose rows come back in parts, and the places and values of these rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.results import ChunkResult
from fanout.types import Chunk
from fanout.usage import TokenCounts, token_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fanout.engine.chunker import ChunkTask
    from fanout.results import Failure
    from fanout.types import Array, Values


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
                # Without a copy: nothing else is placed in this chunk.
                self._outputs, self._open[:] = dict(outputs), False
                return
            # Filled, since rows that fail or stay pending keep these values.
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
    # An API counts a request, not its rows.
    share = np.array(counts) / task.n if counts.total else np.nan
    return np.full((task.n, len(counts)), share)


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
