"""The chunker of a run that knows some answers: it cuts chunks in which only the other rows are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fanout.engine.chunk_bounds import ChunkBounds
from fanout.engine.chunker import Chunker, ChunkTask, Place
from fanout.engine.inputs import joined_rows
from fanout.engine.packing import row_bytes
from fanout.engine.partial_chunk import as_slice
from fanout.rows import join_rows, take_rows
from fanout.types import Chunk

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from fanout.codecs.base import Codec
    from fanout.engine.answer_store import LookedUp
    from fanout.engine.packing import Packing
    from fanout.engine.results import ResultCollector
    from fanout.engine.sharing import PlannedRows, Shares
    from fanout.io.remote.file import InputPath
    from fanout.limits import ConcurrencyLimiter
    from fanout.rows import RowSet
    from fanout.types import Array, Rows

_CHUNKS_LOOKED_UP = 16
_FEWEST_LOOKED_UP, _MOST_LOOKED_UP = 256, 4096

# Rows that are looked up together: as many as some chunks have, within these bounds.
_BYTES_LOOKED_UP = 16 * 2**20


class _Ahead(NamedTuple):
    """Rows whose look-up is under way."""

    task: ChunkTask
    looked_up: asyncio.Future[LookedUp]


class SharingChunker(Chunker):
    """Chunks of the rows that have to be sent, with the known rows between them.

    Args:
        rows: cuts all rows, without a window and without packing.
        skip: the rows that ``rows`` leaves out.
    """

    def __init__(
        self,
        rows: Chunker,
        shares: Shares,
        *,
        window: ConcurrencyLimiter | None = None,
        skip: RowSet | None = None,
        packing: Packing | None = None,
    ) -> None:
        super().__init__(ChunkBounds(rows.bounds.rows, packing), window, skip)
        self._rows = rows
        self._shares = shares
        self._codec: Codec
        self._planned: PlannedRows | None = None
        self._ahead: _Ahead | None = None
        self._carried: ChunkTask | None = None
        """Rows that were taken, but do not continue those before them."""
        # Look-ups run on a thread, so that even rows in an array have to be waited for.
        self.waits = True
        self.total, self.uniform, self.position = rows.total, rows.uniform, rows.position

    def open(self, codec: Codec, collector: ResultCollector) -> None:
        """Begin: from now on, rows are looked up."""
        self._codec = codec
        self._collector = collector
        self._shares.open(collector)

    def fix(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Cut the rows of each range, from start to stop, as one chunk, and look them up together."""
        ranges = list(ranges)
        super().fix(ranges)
        self._rows.fix(ranges)

    def distrust(self) -> RowSet:
        """Return the rows that were answered without a request, which may have answers that are in doubt."""
        return self._shares.distrust()

    def get_nowait(self) -> ChunkTask | None:
        """Return the next chunk if no wait is needed. Chunks without a row to send are delivered on the way."""
        if self._ungotten:
            return self._ungotten.pop()
        while self._planned is not None and self._planned.left:
            if self._window is not None and not self._window.acquire_nowait():
                return None
            if (task := self._cut()) is not None:
                return task
        return None

    async def get(self) -> ChunkTask | None:
        """The next chunk, or None at the end of the input."""
        while (task := self.get_nowait()) is None:
            if self._planned is None or not self._planned.left:
                self._planned = await self._plan()
                if self._planned is None:
                    self.position = self._rows.position
                    return None
            elif self._window is not None:
                await self._window.acquire()
                if (task := self._cut()) is not None:
                    return task
        return task

    def changed_file(self, *, strict: bool = False) -> InputPath | None:
        """Return a file of the input that has changed since the chunker was made."""
        return self._rows.changed_file(strict=strict)

    async def close(self) -> None:
        """Let go of the source, once all answers are stored."""
        try:
            await self._rows.close()
        finally:
            await self._shares.close()

    async def _plan(self) -> PlannedRows | None:
        """The next rows with all that is known about them. None at the end of the input."""
        await self._shares.has_room()
        if (ahead := self._ahead) is None:
            first = self._carried or await self._rows.get()
            if first is None:
                return None
            ahead = self._look_up(first)
        looked_up = await ahead.looked_up
        planned = self._shares.plan(ahead.task, looked_up)
        # The rows after these are looked up while these are sent, if they can be had without a wait.
        following = self._carried or self._rows.get_nowait()
        self._ahead = None if following is None else self._look_up(following)
        return planned

    def _look_up(self, first: ChunkTask) -> _Ahead:
        task = self._gathered(first)
        return _Ahead(task, self._shares.look_up(task.rows, self._codec))

    def _gathered(self, first: ChunkTask) -> ChunkTask:
        """``first`` and the rows that follow it, as far as they are there."""
        self._carried = None
        most = min(max(_FEWEST_LOOKED_UP, _CHUNKS_LOOKED_UP * self.bounds.rows), _MOST_LOOKED_UP)
        # However large its rows are, the first chunk is looked up as it is.
        most = max(first.n, min(most, int(_BYTES_LOOKED_UP / max(1.0, row_bytes(first.rows, 0)))))
        parts, stop = [first], first.chunk.stop
        while stop - first.chunk.start < most and (part := self._rows.get_nowait()) is not None:
            if part.chunk.start != stop or not _are_of_a_kind(first, part):
                self._carried = part
                break
            parts.append(part)
            stop = part.chunk.stop
        if len(parts) == 1:
            return first
        rows = join_rows([part.rows for part in parts])
        ids = None if first.chunk.ids is None else [one for part in parts for one in part.chunk.ids or ()]
        return ChunkTask(Chunk(first.chunk.start, stop, ids), rows)

    def _cut(self) -> ChunkTask | None:
        """Cut the next chunk. None if no row of it is sent, so that it is delivered already."""
        planned = self._planned
        assert planned is not None
        sent, packed = planned.to_send[planned.n_cut :], None
        is_packed = False
        if len(sent):
            first = planned.chunk.start + int(sent[0])
            most, is_packed = self.bounds.most_rows(first)
            # A fixed range ends at its last row, whether all of its rows are sent or not.
            sent = sent[: most if self.bounds.fixed is None else int(np.searchsorted(sent, int(sent[0]) + most))]
        if is_packed:
            packed = self.bounds.pack(first, take_rows(planned.rows, sent), 0, len(sent))
            sent = sent[: packed.n_rows]
        end = planned.n_cut + len(sent)
        # Known rows go with the chunk before them.
        stop = int(planned.to_send[end]) if end < len(planned.to_send) else len(planned.known)
        start, first_row = planned.cut_at, planned.chunk.start
        ids = None if planned.chunk.ids is None else planned.chunk.ids[start:stop]
        task = self._task(first_row + start, first_row + stop, _taken(planned.rows, sent), packed, ids)
        shared = self._shares.cut(planned, task.chunk, sent)
        # The task has the rows that are sent; the chunk has the known ones as well, which are in their places already.
        task.n, task.place = len(sent), Place(as_slice(sent - start), shared)
        if not len(sent):
            self.chunks_taken -= 1  # no request
        return task if self._collector.begin(shared) else None


def _are_of_a_kind(first: ChunkTask, second: ChunkTask) -> bool:
    one = slice(0, 1)
    joined = joined_rows(take_rows(first.rows, one), take_rows(second.rows, one))
    return joined is not None and (first.chunk.ids is None) == (second.chunk.ids is None)


def _taken(rows: Rows, index: Array) -> Rows:
    return take_rows(rows, as_slice(index))
