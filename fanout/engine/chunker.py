"""The chunker cuts the input of a run into chunks, as the workers ask for them. Each chunk is a `ChunkTask` at first.

Here are the chunks of an input that has a length; `fanout.engine.inputs` has those of all others.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.engine.history import History, kind_of
from fanout.engine.partial_chunk import PartialChunk, ranges
from fanout.results import Failure
from fanout.rows import RowSet, count_rows, take_rows
from fanout.types import Action, Chunk, Rows

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.engine.bisection import Bisection
    from fanout.engine.chunk_bounds import ChunkBounds
    from fanout.engine.packing import Packed
    from fanout.engine.results import ResultCollector
    from fanout.io.remote.file import InputPath
    from fanout.limits import ConcurrencyLimiter
    from fanout.types import Array, Payload, Verdict
    from fanout.upstream.group import EndpointState


def room_for(concurrency: int) -> int:
    """Return the number of chunks that may be taken from the input before the consumer has finished the first."""
    return 2 * concurrency + 2


class Chunker(ABC):
    """Gives the workers their chunks.

    Args:
        bounds: of each chunk.
        window: bounds the chunks that are taken but not yet consumed, where results are consumed as they come.
        skip: rows that are done already, and passed over.
    """

    total: int | None = None
    """Rows of the whole input, if they are known before its end."""

    uniform = False
    """All rows have one dtype and shape, because they are rows of arrays."""

    def __init__(
        self, bounds: ChunkBounds, window: ConcurrencyLimiter | None = None, skip: RowSet | None = None
    ) -> None:
        self.bounds = bounds
        self.position = 0
        """Number of the next row; at the end of the input, the number of its rows."""
        self.rows_taken = 0
        self.chunks_taken = 0
        self._ungotten: list[ChunkTask] = []
        self._window = window
        self.waits = window is not None
        """True if `get` may have to wait."""
        self._skip = skip or RowSet()
        # Asked for every chunk, and a set of rows computes its truth by a call.
        self._skipping = bool(self._skip)

    @property
    def remaining(self) -> int | None:
        """Rows yet to be taken, if that is known."""
        return None if self.total is None else self.total - len(self._skip) - self.rows_taken

    def fix(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Cut the rows of each range, from start to stop, as one chunk."""
        self.bounds.fix(ranges)

    def unget(self, task: ChunkTask) -> None:
        """Hand out ``task``, a part of a chunk that was taken, before anything else."""
        self._ungotten.append(task)

    def make_room(self, concurrency: int) -> None:
        """Widen the window, so that the consumer does not bound the requests in flight."""
        if self._window is not None and self._window.limit < room_for(concurrency):
            self._window.resize(room_for(concurrency))

    def release(self) -> None:
        """Return the slot of a chunk whose result is dropped, and so reaches no consumer that would return it."""
        if self._window is not None:
            self._window.release()

    def get_nowait(self) -> ChunkTask | None:
        """Return the next chunk if no wait is needed. None means that `get` has to be called."""
        if self._ungotten:
            return self._ungotten.pop()
        if self._window is not None and not self._window.acquire_nowait():
            return None
        task = self._cut()
        # The slot was for this chunk alone; without one, the consumer would never return it.
        if task is None and self._window is not None:
            self._window.release()
        return task

    async def get(self) -> ChunkTask | None:
        """The next chunk, or None at the end of the input."""
        if self._ungotten:
            return self._ungotten.pop()
        if self._window is not None:
            await self._window.acquire()
        task = await self._next()
        if task is None and self._window is not None:
            self._window.release()
        return task

    @abstractmethod
    def _cut(self) -> ChunkTask | None:
        """Cut a chunk from the rows that are present. None if they are too few for a whole one and more may come."""

    async def _next(self) -> ChunkTask | None:
        return self._cut()

    def _task(
        self, start: int, stop: int, rows: Rows, packed: Packed | None, ids: Sequence[Any] | None = None
    ) -> ChunkTask:
        """Make the task of the rows just chosen. No await lies in between, so no row can shift."""
        self.position = stop
        self.rows_taken += stop - start
        self.chunks_taken += 1
        task = ChunkTask(Chunk(start, stop, ids), rows)
        if self.bounds.size is not None:
            self.bounds.note_cut(task.chunk)
        if packed is not None:
            task.size, task.tokens = packed.size, packed.tokens
        return task

    def open(self, codec: Codec, collector: ResultCollector) -> None:
        """Begin, once the codec knows its model. The results of the chunks go to ``collector``."""
        return

    def distrust(self) -> RowSet:
        """Return the rows that were answered without a request of their own, as answers of this run are in doubt."""
        return RowSet()

    def changed_file(self, *, strict: bool = False) -> InputPath | None:
        """Return a file of the input that has changed since the chunker was made. ``strict`` compares inodes too."""
        return None

    async def close(self) -> None:
        """Let go of the source."""
        return


class SizedChunker(Chunker):
    """Slices of something that has a length; views where it gives them."""

    def __init__(self, rows: Rows, bounds: ChunkBounds, window: ConcurrencyLimiter | None, skip: RowSet | None) -> None:
        super().__init__(bounds, window, skip)
        self._rows = rows
        self.total = self._length = count_rows(rows)
        # A list may hold rows of any kind, so each has to show by itself whether it can be sent.
        self.uniform = isinstance(rows, np.ndarray | Mapping)
        self._sliceable = not isinstance(rows, Mapping)

    def _cut(self) -> ChunkTask | None:
        start, stop = self.position, self._length
        if self._skipping:
            # A chunk ends where rows begin that are done, so that it is one range of the input.
            start, stop = self._skip.gap(start, stop) or (stop, stop)
        if start >= stop:
            # The last rows may be ones that are skipped.
            self.position = self._length
            return None
        bounds, packed = self.bounds, None
        if bounds.fixed is None and bounds.packing is None and (bounds.sizes is None or bounds.sizes.limits is None):
            n_rows = min(stop - start, bounds.rows)  # the common case, without a call
        else:
            most, is_packed = bounds.most_rows(start)
            n_rows = min(stop - start, most)
            if is_packed:
                packed = bounds.pack(start, self._rows, start, n_rows)
                n_rows = packed.n_rows
        stop = start + n_rows
        # As `take_rows` has it, without a call for every chunk.
        rows = self._rows[start:stop] if self._sliceable else take_rows(self._rows, slice(start, stop))  # type: ignore[index]
        return self._task(start, stop, rows, packed)


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
        where = self.where
        return self.chunk.start + int(where.start if isinstance(where, slice) else where[0])

    def part(self, index: slice | Array) -> ChunkTask:
        """Return some of the rows as a task of their own, which knows its place in the chunk."""
        where = self.where
        # From now on the rows come back in parts, to one and the same partial chunk.
        if self.place is None:
            self.place = Place(where, PartialChunk(self.chunk))
        part = ChunkTask(self.chunk, take_rows(self.rows, index))
        if isinstance(where, slice) and isinstance(index, slice):
            where = slice(where.start + index.start, where.start + index.stop)
        else:
            where = self.positions()[index]
        part.place = Place(where, self.place.partial, self.attempts)
        # Without an index array of a slice, which takes 100 MB for a chunk of 13 million rows.
        part.n = where.stop - where.start if isinstance(where, slice) else len(where)
        if self._history is not None:
            # A success of others after the failure of the whole says as much about its parts.
            part.history.successes_seen = self._history.successes_seen
        return part

    def keep(self, index: Array) -> None:
        """Go on with some of the rows alone."""
        rest = self.part(index)
        # Its attempts and its bisection stay, as it is still the same task.
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
        where = self.where
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
            for start, stop in ([(where.start, where.stop)] if isinstance(where, slice) else ranges(where))
        )


class Place(NamedTuple):
    """The place of a task's rows in a chunk that comes back in parts."""

    where: slice | Array
    """Positions of the rows in the chunk."""
    partial: PartialChunk
    attempts: int = 0
    """Attempts of the larger tasks that these rows were part of."""
