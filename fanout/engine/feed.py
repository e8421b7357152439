"""The feed: cuts input of any kind into chunks, as the workers ask for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.engine.source_thread import SourceThread
from fanout.engine.work import Work
from fanout.errors import InputError
from fanout.types import Chunk, Rows, count_rows, take_rows

if TYPE_CHECKING:
    from fanout.limits import Permits

_PULL_SECONDS = 0.005  # one trip to the helper thread brings the chunks of this time: a trip costs 0.1 ms


class Feed(ABC):
    """Where the workers get their chunks from.

    Args:
        chunk_rows: rows of a chunk; `limit` lowers it while the run goes on.
        window: bounds the chunks that are taken but not yet consumed, where results are consumed as they come.
    """

    total: int | None = None
    uniform = False
    """All rows are known to be of one dtype and shape, for they are those of arrays."""

    def __init__(self, chunk_rows: int, window: Permits | None = None) -> None:
        self.chunk_rows = chunk_rows
        self.rows_taken = 0
        self.chunks_taken = 0
        self._window = window

    def limit(self, rows: int) -> None:
        """Chunks taken from now on have at most ``rows`` rows."""
        self.chunk_rows = min(self.chunk_rows, rows)

    async def take(self) -> Work | None:
        """The next chunk, or None at the end of the input."""
        if self._window is not None:
            await self._window.acquire()
        work = await self._next()
        if work is None and self._window is not None:
            self._window.release()
        return work

    @abstractmethod
    async def _next(self) -> Work | None: ...

    def _chunk(self, n_rows: int) -> Chunk:
        """The next ``n_rows`` rows of the input. Nothing is awaited between this and the rows, so none can shift."""
        start = self.rows_taken
        self.rows_taken += n_rows
        self.chunks_taken += 1
        return Chunk(start, self.rows_taken)

    async def close(self) -> None:
        """Let go of the source."""
        return


class _SizedFeed(Feed):
    """Slices of something that has a length; views where it gives them."""

    def __init__(self, rows: Rows, chunk_rows: int, window: Permits | None = None) -> None:
        super().__init__(chunk_rows, window)
        self._rows = rows
        self.total = self._length = count_rows(rows)
        self.uniform = isinstance(rows, np.ndarray | Mapping)

    async def _next(self) -> Work | None:
        left = self._length - self.rows_taken
        if left <= 0:
            return None
        chunk = self._chunk(min(self.chunk_rows, left))
        return Work(chunk, take_rows(self._rows, slice(chunk.start, chunk.stop)))


class _AsyncFeed(Feed):
    """Rows of an async iterable, pulled by one worker at a time."""

    def __init__(self, rows: AsyncIterable[Any], chunk_rows: int, window: Permits | None = None) -> None:
        super().__init__(chunk_rows, window)
        self._iterator: AsyncIterator[Any] = aiter(rows)
        self._turn = asyncio.Lock()
        self._ended = False
        self._error: Exception | None = None

    async def close(self) -> None:
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()

    async def _next(self) -> Work | None:
        async with self._turn:
            rows = [] if self._ended else await self._pull()
            # Counted while it is still this worker's turn: the next one starts behind these rows.
            if rows:
                return Work(self._chunk(len(rows)), stacked(rows))
        if self._error is not None:
            raise self._error
        return None

    async def _pull(self) -> list[Any]:
        rows: list[Any] = []
        try:
            while len(rows) < self.chunk_rows:
                rows.append(await anext(self._iterator))
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised once the rows that came before it are sent
            self._ended, self._error = True, error
        return rows


class _ThreadFeed(Feed):
    """Rows of a blocking iterable, pulled on one helper thread of its own, some chunks ahead."""

    def __init__(self, rows: Iterable[Any], chunk_rows: int, window: Permits | None = None) -> None:
        super().__init__(chunk_rows, window)
        self._iterator: Iterator[Any] = iter(rows)
        self._thread = SourceThread()
        self._turn = asyncio.Lock()
        self._pulled: deque[list[Any]] = deque()
        self._ended = False
        self._error: Exception | None = None

    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _next(self) -> Work | None:
        if not self._pulled:
            async with self._turn:
                if not self._pulled and not self._ended:
                    loop = asyncio.get_running_loop()
                    self._pulled = await loop.run_in_executor(self._thread, self._pull_some)
        if self._pulled:
            rows = self._pulled.popleft()
            if len(rows) > self.chunk_rows:  # a smaller size was learnt after they had been pulled
                self._pulled.appendleft(rows[self.chunk_rows :])
                rows = rows[: self.chunk_rows]
            return Work(self._chunk(len(rows)), stacked(rows))
        if self._error is not None:
            raise self._error
        return None

    def _pull_some(self) -> deque[list[Any]]:
        chunks: deque[list[Any]] = deque()
        until = monotonic() + _PULL_SECONDS
        while not self._ended and (not chunks or monotonic() < until):
            if rows := self._pull_chunk():
                chunks.append(rows)
        return chunks

    def _pull_chunk(self) -> list[Any]:
        rows: list[Any] = []
        wanted = self.chunk_rows  # once: `limit` may change it meanwhile, on the loop's thread
        try:
            for row in islice(self._iterator, wanted):
                rows.append(row)  # noqa: PERF402 - a list made at once would be lost with an error
        except Exception as error:  # noqa: BLE001 - raised once the rows that came before it are sent
            self._error = error
        self._ended = self._error is not None or len(rows) < wanted
        return rows


def feed_of(rows: object, chunk_rows: int, window: Permits | None = None) -> Feed:
    """The feed for what a user gave as rows. Raises `InputError` for what nothing could send."""
    sized = as_rows(rows)
    if sized is not None:
        return _SizedFeed(sized, chunk_rows, window)
    if isinstance(rows, AsyncIterable):
        return _AsyncFeed(rows, chunk_rows, window)
    if isinstance(rows, Iterable):
        return _ThreadFeed(rows, chunk_rows, window)
    raise InputError(f"rows must be an array, a list, a mapping of arrays or an iterable, not {type(rows).__name__}")


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
    if isinstance(first, np.ndarray | np.generic) and all(
        isinstance(row, np.ndarray | np.generic) and row.shape == first.shape and row.dtype == first.dtype
        for row in rows
    ):
        return np.stack(rows)
    return rows


def _plain_array(array: np.ndarray[Any, Any]) -> Rows:
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


def _columns(columns: Mapping[Any, Any]) -> Rows:
    arrays = {str(name): np.asarray(column) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind not in "biufUST":
            raise InputError(f"column {name!r} is no array of numbers or texts with rows (dtype {array.dtype})")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length: {lengths}")
    return arrays
