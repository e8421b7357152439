"""The chunker cuts input of any kind into chunks, as the workers ask for them."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.arrays import any_is_masked_array, without_mask
from fanout.callbacks import abnormal, calling, is_its_own
from fanout.codecs._rows import stacked as stack_rows
from fanout.engine.fixed_cuts import FixedCuts
from fanout.engine.task import ChunkTask
from fanout.errors import EncodeError, InputError
from fanout.io.fingerprint import stamp
from fanout.io.readers import Source, as_source
from fanout.rowset import RowSet
from fanout.threads import DaemonThread
from fanout.types import Block, Chunk, Rows, count_rows, join_rows, take_rows

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.engine.packing import Packed, Packing
    from fanout.engine.results import ResultCollector
    from fanout.io.remote import InputPath
    from fanout.limits import ConcurrencyLimiter
    from fanout.limits.size_limits import Size, SizeLimits

INPUT = "the input"
_PULL_SECONDS = 0.005  # one trip to the helper thread brings the rows of this time: a trip costs 0.1 ms


def room_for(concurrency: int) -> int:
    """Return the number of chunks that may be taken from the input before the consumer has finished the first."""
    return 2 * concurrency + 2


class Chunker(ABC):
    """Gives the workers their chunks.

    Args:
        chunk_rows: rows of a chunk; `limit` lowers it while the run goes on.
        window: bounds the chunks that are taken but not yet consumed, where results are consumed as they come.
        skip: rows that are done already, and passed over.
    """

    total: int | None = None
    """Rows of the whole input, if they are known before its end."""

    uniform = False
    """All rows have one dtype and shape, because they are rows of arrays."""

    packing: Packing | None = None
    """Bounds chunks by more than their number of rows."""

    spare_packing: Packing | None = None
    """The packing that takes effect once the endpoint turns out to bound bytes or tokens."""

    sizes: SizeLimits | None = None
    """Limits on the size of a request, as far as they are learnt."""

    _fixed: FixedCuts | None = None
    """Rows that have to go together, whatever bounds the other chunks."""

    def __init__(self, chunk_rows: int, window: ConcurrencyLimiter | None = None, skip: RowSet | None = None) -> None:
        self.chunk_rows = chunk_rows
        self.position = 0
        """Number of the next row; at the end of the input, the number of its rows."""
        self.rows_taken = 0
        self.chunks_taken = 0
        self._ungotten: list[ChunkTask] = []
        self._window = window
        self.waits = window is not None
        """True if `get` may have to wait."""
        self._skip = skip or RowSet()
        self._skipping = bool(self._skip)
        self._bounds: Size | None = None
        """Limits of the chunk that is being cut."""

    @property
    def remaining(self) -> int | None:
        """Rows yet to be taken, if that is known."""
        return None if self.total is None else self.total - len(self._skip) - self.rows_taken

    def limit(self, rows: int) -> None:
        """Chunks taken from now on have at most ``rows`` rows."""
        self.chunk_rows = min(self.chunk_rows, rows)

    def fix(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Cut the rows of each range, from start to stop, as one chunk."""
        self._fixed = FixedCuts(ranges)

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

    def _most_rows(self) -> int:
        """Most rows of the next chunk."""
        if self.sizes is None or self.sizes.limits is None:
            return self.chunk_rows
        self._bounds = bounds = self.sizes.next()
        if self.packing is None and bounds is not None and min(bounds.n_bytes, bounds.tokens) < inf:
            self.packing = self.spare_packing
        return self.chunk_rows if bounds is None else max(1, int(min(self.chunk_rows, bounds.rows)))

    def _next_cut(self, position: int) -> tuple[int, bool]:
        """Return the most rows of the chunk at ``position``, and whether the bounds of the packing apply to it."""
        if self._fixed is None:
            return self._most_rows(), True
        if (fixed := self._fixed.at(position)) is not None:
            return fixed, False
        return self._fixed.most_before_next(position, self._most_rows()), True

    def _task(
        self, start: int, stop: int, rows: Rows, packed: Packed | None, ids: Sequence[Any] | None = None
    ) -> ChunkTask:
        """Make the task of the rows just chosen. No await lies in between, so no row can shift."""
        self.position = stop
        self.rows_taken += stop - start
        self.chunks_taken += 1
        task = ChunkTask(Chunk(start, stop, ids), rows)
        if self._bounds is not None and self.sizes is not None:
            self.sizes.cut(task.chunk, self._bounds)
            self._bounds = None
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


class _SizedChunker(Chunker):
    """Slices of something that has a length; views where it gives them."""

    def __init__(self, rows: Rows, chunk_rows: int, window: ConcurrencyLimiter | None, skip: RowSet | None) -> None:
        super().__init__(chunk_rows, window, skip)
        self._rows = rows
        self.total = self._length = count_rows(rows)
        self.uniform = isinstance(rows, np.ndarray | Mapping)

    def _cut(self) -> ChunkTask | None:
        start, stop = self.position, self._length
        if self._skipping:
            start, stop = self._skip.gap(start, stop) or (stop, stop)
        if start >= stop:
            self.position = self._length
            return None
        most, is_packed = self.chunk_rows, True
        if self._fixed is not None or (self.sizes is not None and self.sizes.limits is not None):
            most, is_packed = self._next_cut(start)
        n_rows, packed = min(stop - start, most), None
        if self.packing is not None and is_packed:
            packed = self.packing.fit(start, self._rows, start, n_rows, self._bounds)
            n_rows = packed.n_rows
        return self._task(start, start + n_rows, take_rows(self._rows, slice(start, start + n_rows)), packed)


class _BlockChunker(Chunker):
    """Rows that come in blocks of any size. The rest of a block goes with the next one."""

    def __init__(self, chunk_rows: int, window: ConcurrencyLimiter | None, skip: RowSet | None) -> None:
        super().__init__(chunk_rows, window, skip)
        self.waits = True
        self._blocks: deque[Block] = deque()
        self._turn = asyncio.Lock()
        self._pulls = 0
        self._ended = False
        self._error: Exception | None = None

    async def _next(self) -> ChunkTask | None:
        while (task := self._cut()) is None and not self._ended:
            pulls = self._pulls
            async with self._turn:
                if pulls == self._pulls and not self._ended:  # no other worker has pulled while this one waited
                    await self._extend()
        if task is None and self._error is not None:
            raise self._error
        return task

    async def _extend(self) -> None:
        try:
            block = await self._pull()
        except Exception as error:  # noqa: BLE001 - raised once the rows that came before it are sent
            block, self._error = None, error
        self._pulls += 1
        if block is None:
            self._ended = True
        else:
            self._blocks.append(block)

    @abstractmethod
    async def _pull(self) -> Block | None:
        """The next rows, None at the end of the input."""

    def _cut(self) -> ChunkTask | None:
        while self._blocks:
            end = self.position + count_rows(self._blocks[0].rows)
            wanted = self._skip.gap(self.position, end)
            self._drop((wanted[0] if wanted else end) - self.position)
            if wanted is None:
                continue
            most, is_packed = self._next_cut(self.position)
            n_rows, packed = min(most, wanted[1] - wanted[0]), None
            closed = n_rows == most or wanted[1] < end
            if self.packing is not None and is_packed:
                packed = self.packing.fit(self.position, self._blocks[0].rows, 0, n_rows, self._bounds)
                n_rows, closed = packed.n_rows, closed or packed.n_rows < n_rows
            if closed:
                return self._taken(n_rows, packed)
            if len(self._blocks) > 1 and (joined := _joined(self._blocks[0], self._blocks[1])) is not None:
                self._blocks.popleft()
                self._blocks[0] = joined
            elif len(self._blocks) > 1 or self._ended:
                return self._taken(n_rows, packed)
            else:
                return None
        return None

    def _taken(self, n_rows: int, packed: Packed | None) -> ChunkTask:
        block, start = self._blocks[0], self.position
        rows = take_rows(block.rows, slice(0, n_rows))
        ids = None if block.ids is None else block.ids[:n_rows]
        self._drop(n_rows)
        return self._task(start, start + n_rows, stacked(rows) if isinstance(rows, list) else rows, packed, ids)

    def _drop(self, n_rows: int) -> None:
        """Let go of the first rows of the first block."""
        block = self._blocks[0]
        self.position += n_rows
        if n_rows == count_rows(block.rows):
            self._blocks.popleft()
        elif n_rows:
            rest = slice(n_rows, None)
            self._blocks[0] = Block(take_rows(block.rows, rest), None if block.ids is None else block.ids[rest])


class _ThreadChunker(_BlockChunker):
    """Blocks of a blocking source, pulled on one helper thread of its own."""

    def __init__(
        self,
        blocks: Iterator[Block],
        chunk_rows: int,
        window: ConcurrencyLimiter | None,
        skip: RowSet | None,
        files: Sequence[InputPath] = (),
    ) -> None:
        super().__init__(chunk_rows, window, skip)
        self._source = blocks
        self._thread = DaemonThread()
        self._stamps = {path: stamp(path) for path in files}

    def changed_file(self, *, strict: bool = False) -> InputPath | None:
        n_parts = None if strict else -1  # renaming a file, or changing its mode, changes its inode
        for path, before in self._stamps.items():
            now = stamp(path)
            if before is None or now is None or before[:n_parts] != now[:n_parts]:
                return path
        return None

    async def close(self) -> None:
        if isinstance(self._source, Generator):
            self._thread.submit(self._source.close)
        self._thread.shutdown(wait=False)

    async def _pull(self) -> Block | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._next_block)

    def _next_block(self) -> Block | None:
        with calling(INPUT):
            return next(self._source, None)


class _AsyncChunker(_BlockChunker):
    """Rows of an async iterable."""

    def __init__(
        self, rows: AsyncIterable[Any], chunk_rows: int, window: ConcurrencyLimiter | None, skip: RowSet | None
    ) -> None:
        super().__init__(chunk_rows, window, skip)
        self._iterator: AsyncIterator[Any] = aiter(rows)
        self._exhausted = False
        self._raised: Exception | None = None

    async def close(self) -> None:
        if isinstance(self._iterator, AsyncGenerator):
            try:
                await self._iterator.aclose()
            except BaseException as error:
                if not isinstance(error, Exception) and is_its_own(error):
                    raise abnormal(INPUT, error) from error
                raise

    async def _pull(self) -> Block | None:
        rows: list[Any] = []
        try:
            while len(rows) < self.chunk_rows and not self._exhausted:
                rows.append(await anext(self._iterator))
        except StopAsyncIteration:
            self._exhausted = True
        except Exception as error:  # noqa: BLE001 - raised once the rows that came before it are sent
            self._exhausted, self._raised = True, error
        except BaseException as error:
            if not is_its_own(error):
                raise
            self._exhausted, self._raised = True, abnormal(INPUT, error)
        if not rows and self._raised is not None:
            raise self._raised
        return Block(rows) if rows else None


def _blocks_of(rows: Iterator[Any], chunk_rows: int) -> Iterator[Block]:
    """Single rows in blocks: those that come in a few milliseconds, at least a chunk."""
    raised: BaseException | None = None
    block: list[Any] = [...]
    while block and raised is None:
        block, until = [], monotonic() + _PULL_SECONDS
        try:
            for row in rows:
                block.append(row)
                if len(block) % chunk_rows == 0 and monotonic() > until:
                    break
        except BaseException as error:  # noqa: BLE001 - raised once the rows that came before it are taken
            raised = error
        if block:
            yield Block(block)
    if raised is not None:
        raise raised


def _joined(first: Block, second: Block) -> Block | None:
    """Two blocks as one; None where they are not of a kind."""
    rows = joined_rows(first.rows, second.rows)
    if rows is None or (first.ids is None) != (second.ids is None):
        return None
    return Block(rows, None if first.ids is None else [*first.ids, *(second.ids or ())])


def joined_rows(first: Rows, second: Rows) -> Rows | None:
    """Two containers as one; None where they are not of a kind."""
    rows = join_rows([first, second])
    return rows if _kind(first) is _kind(second) is _kind(rows) else None


def _kind(rows: Rows) -> type:
    return next((kind for kind in (np.ndarray, Mapping) if isinstance(rows, kind)), list)


def chunker_of(
    rows: object,
    chunk_rows: int,
    window: ConcurrencyLimiter | None = None,
    skip: RowSet | None = None,
    packing: Packing | None = None,
) -> Chunker:
    """Return the chunker for the rows that a user gave. Raises `InputError` for rows that cannot be sent."""
    chunker = _chunker_of(rows, chunk_rows, window, skip)
    chunker.spare_packing = packing
    if packing is not None and packing.bounded:
        chunker.packing = packing
    return chunker


def _chunker_of(rows: object, chunk_rows: int, window: ConcurrencyLimiter | None, skip: RowSet | None) -> Chunker:
    source = rows if isinstance(rows, Source) else as_source(rows)
    if source is not None:
        return _source_chunker(source, chunk_rows, window, skip or RowSet())
    sized = as_rows(rows)
    if sized is not None:
        return _SizedChunker(sized, chunk_rows, window, skip)
    if isinstance(rows, AsyncIterable):
        return _AsyncChunker(rows, chunk_rows, window, skip)
    if isinstance(rows, Iterable):
        return _ThreadChunker(_blocks_of(iter(rows), chunk_rows), chunk_rows, window, skip)
    raise InputError(f"rows must be an array, a list, a mapping of arrays or an iterable, not {type(rows).__name__}")


def _source_chunker(source: Source, chunk_rows: int, window: ConcurrencyLimiter | None, skip: RowSet) -> Chunker:
    wanted = skip.gap(0, sys.maxsize if source.n_rows is None else source.n_rows)
    start = wanted[0] if wanted else source.n_rows or 0
    chunker = _ThreadChunker(source.blocks_from(start), chunk_rows, window, skip, source.files)
    chunker.position, chunker.total, chunker.uniform = start, source.n_rows, source.uniform
    return chunker


def as_rows(rows: object) -> Rows | None:
    """``rows`` in one of the forms that can be sliced, or None if it has no length."""
    if isinstance(rows, str | bytes):
        raise InputError("a text is one row; to send it, put it into a list")
    if isinstance(rows, np.ndarray):
        return _plain_array(rows)
    if isinstance(rows, Mapping):
        return _columns(rows)
    if not isinstance(rows, Sequence):
        return None
    return rows if isinstance(rows, list | tuple) else list(rows)  # a deque, for instance, cannot be sliced


def stacked(rows: list[Any]) -> Rows:
    """Single rows as one container: an array where all are numpy values of one shape and dtype, else the list."""
    first = rows[0]
    if len(rows) == 1 and type(first) is np.ndarray:  # most often, in a service
        return first[np.newaxis].copy()
    if isinstance(first, np.ndarray | np.generic) and all(
        isinstance(row, np.ndarray | np.generic) and row.shape == first.shape and row.dtype == first.dtype
        for row in rows
    ):
        return rows if any_is_masked_array(rows) else np.stack(rows)  # which would forget the masks
    return rows


def _plain_array(array: np.ndarray[Any, Any]) -> Rows:
    array = without_mask(array)
    if array.ndim == 0:
        raise InputError("the input is a single number without rows; wrap it: array[None]")
    if array.dtype.kind in "biufUST":
        return array
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.ravel()):
        texts: list[Any] = array.tolist()
        return texts
    raise InputError(
        f"the input has dtype {array.dtype}, which cannot be sent; convert it to numbers with .astype(), "
        "or pass a list of texts or dicts"
    )


def _column(column: Any, name: str) -> np.ndarray[Any, Any]:
    """A column as an array. numpy alone would round integers among floats, and make texts of numbers among texts."""
    if not (isinstance(column, list | tuple) and column):
        return np.asarray(without_mask(column, f"column {name!r}"))
    try:
        return stack_rows(column)
    except EncodeError as error:
        rows = f"row {error.rows[0]}: " if len(error.rows) < len(column) else ""
        raise InputError(f"column {name!r}: {rows}{error.reason}") from None


def _holds_bytes(array: np.ndarray[Any, Any]) -> bool:
    """True for objects that are all bytes: numpy's own kind of them forgets zeros at their end."""
    return array.dtype.kind == "O" and set(map(type, array.ravel().tolist())) == {bytes}


def _columns(columns: Mapping[Any, Any]) -> Rows:
    arrays = {str(name): _column(column, str(name)) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.ndim == 0 or not (array.dtype.kind in "biufUST" or _holds_bytes(array)):
            raise InputError(f"column {name!r} is no array of numbers or texts with rows (dtype {array.dtype})")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length: {lengths}")
    return arrays
