"""Makes the chunker of an input of any kind.

An input without a length comes in blocks of rows: a blocking one from a helper thread, an async one from the loop.
"""

from __future__ import annotations

import asyncio
import sys
from abc import abstractmethod
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
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.callbacks import abnormal, calling, is_its_own
from fanout.codecs._rows import stacked as stack_rows
from fanout.engine.chunk_bounds import ChunkBounds
from fanout.engine.chunker import Chunker, SizedChunker
from fanout.errors import EncodeError, InputError
from fanout.rows import RowSet, any_is_masked_array, count_rows, join_rows, take_rows, without_mask
from fanout.threads import DaemonThread
from fanout.types import Block, Rows

if TYPE_CHECKING:
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.packing import Packed, Packing
    from fanout.io.readers.base import Source
    from fanout.io.remote.file import InputPath
    from fanout.limits import ConcurrencyLimiter

_INPUT = "the input"
_PULL_SECONDS = 0.005  # one trip to the helper thread brings the rows of this time: a trip costs 0.1 ms


class _BlockChunker(Chunker):
    """Rows that come in blocks of any size. The rest of a block goes with the next one."""

    def __init__(self, bounds: ChunkBounds, window: ConcurrencyLimiter | None, skip: RowSet | None) -> None:
        super().__init__(bounds, window, skip)
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
            # Rows that are done lie before the wanted ones, or fill the rest of the block.
            self._drop((wanted[0] if wanted else end) - self.position)
            if wanted is None:
                continue
            most, is_packed = self.bounds.most_rows(self.position)
            n_rows, packed = min(most, wanted[1] - wanted[0]), None
            # Rows to be skipped come next, so the chunk cannot grow any more.
            closed = n_rows == most or wanted[1] < end
            if is_packed:
                packed = self.bounds.pack(self.position, self._blocks[0].rows, 0, n_rows)
                n_rows, closed = packed.n_rows, closed or packed.n_rows < n_rows
            if closed:
                return self._taken(n_rows, packed)
            if len(self._blocks) > 1 and (joined := _joined(self._blocks[0], self._blocks[1])) is not None:
                self._blocks.popleft()
                self._blocks[0] = joined
            # The next block is of another kind, or none will come: what is here is a chunk, however small.
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
        bounds: ChunkBounds,
        window: ConcurrencyLimiter | None,
        skip: RowSet | None,
        files: Sequence[InputPath] = (),
    ) -> None:
        super().__init__(bounds, window, skip)
        self._source = blocks
        self._thread = DaemonThread()
        self._stamps = _stamps(files)

    def changed_file(self, *, strict: bool = False) -> InputPath | None:
        n_parts = None if strict else -1  # renaming a file, or changing its mode, changes its inode
        for (path, before), now in zip(self._stamps.items(), _stamps(self._stamps).values(), strict=True):
            if before is None or now is None or before[:n_parts] != now[:n_parts]:
                return path
        return None

    async def close(self) -> None:
        if isinstance(self._source, Generator):
            self._thread.submit(self._source.close)
        # The source may block for ever, and nothing that it still gives is wanted.
        self._thread.shutdown(wait=False)

    async def _pull(self) -> Block | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._next_block)

    def _next_block(self) -> Block | None:
        with calling(_INPUT):
            return next(self._source, None)


def _stamps(files: Iterable[InputPath]) -> dict[InputPath, tuple[int, ...] | None]:
    """The stamps of ``files``, which change with their content."""
    from fanout.io.fingerprint import stamp  # most inputs are no files

    return {path: stamp(path) for path in files}


class _AsyncChunker(_BlockChunker):
    """Rows of an async iterable."""

    def __init__(
        self, rows: AsyncIterable[Any], bounds: ChunkBounds, window: ConcurrencyLimiter | None, skip: RowSet | None
    ) -> None:
        super().__init__(bounds, window, skip)
        self._iterator: AsyncIterator[Any] = aiter(rows)
        self._exhausted = False
        self._raised: Exception | None = None

    async def close(self) -> None:
        if isinstance(self._iterator, AsyncGenerator):
            try:
                await self._iterator.aclose()
            except BaseException as error:
                if not isinstance(error, Exception) and is_its_own(error):
                    raise abnormal(_INPUT, error) from error
                raise

    async def _pull(self) -> Block | None:
        rows: list[Any] = []
        try:
            while len(rows) < self.bounds.rows and not self._exhausted:
                # Row by row, as no iterable shows how many it can give without a wait.
                rows.append(await anext(self._iterator))
        except StopAsyncIteration:
            self._exhausted = True
        except Exception as error:  # noqa: BLE001 - raised once the rows that came before it are sent
            self._exhausted, self._raised = True, error
        except BaseException as error:
            if not is_its_own(error):
                raise
            self._exhausted, self._raised = True, abnormal(_INPUT, error)
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
    # Arrays of different dtypes would become a list of rows, which is encoded in another way.
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
    bounds = ChunkBounds(chunk_rows, packing)
    source = _source_of(rows)
    if source is not None:
        return _source_chunker(source, bounds, window, skip or RowSet())
    sized = as_rows(rows)
    if sized is not None:
        return SizedChunker(sized, bounds, window, skip)
    if isinstance(rows, AsyncIterable):
        return _AsyncChunker(rows, bounds, window, skip)
    if isinstance(rows, Iterable):
        return _ThreadChunker(_blocks_of(iter(rows), chunk_rows), bounds, window, skip)
    raise InputError(f"rows must be an array, a list, a mapping of arrays or an iterable, not {type(rows).__name__}")


def _source_of(rows: object) -> Source | None:
    # Most inputs are neither, and the modules of both take long to import.
    if type(rows) in (list, np.ndarray):
        return None
    from fanout.io.readers.base import Source
    from fanout.io.readers.tables import as_source

    return rows if isinstance(rows, Source) else as_source(rows)


def _source_chunker(source: Source, bounds: ChunkBounds, window: ConcurrencyLimiter | None, skip: RowSet) -> Chunker:
    wanted = skip.gap(0, sys.maxsize if source.n_rows is None else source.n_rows)
    start = wanted[0] if wanted else source.n_rows or 0
    chunker = _ThreadChunker(source.blocks_from(start), bounds, window, skip, source.files)
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
        # A copy, since the caller may change its array once `predict` has taken it.
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
        # pandas holds texts as objects, and a fixed-width dtype would need as much memory as the longest for each.
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
        # If all rows are at fault, none of them has to be named.
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
