"""The blocking face: the async client on a loop thread of its own, for scripts and for notebooks whose loop is busy."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from fanout.client import Client
from fanout.errors import ClientStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from os import PathLike
    from types import TracebackType

    from fanout.client import Preview, Sink, Stream
    from fanout.codecs.base import Codec
    from fanout.journal import Journal
    from fanout.settings import Endpoints
    from fanout.sinks import FileSink
    from fanout.sources import Source
    from fanout.types import Done, Result, Rows, Statistics

T = TypeVar("T")


class SyncClient:
    """`fanout.Client` for code that is not async; the same arguments, the same methods, blocking.

    It may be used from any thread, and inside a running event loop; only ``on_event``, which is called on the client's
    own thread, may not wait for it. Use it in a ``with`` block, or call `close`.
    """

    def __init__(self, endpoint: Endpoints, *, codec: str | Codec | type[Codec], **options: Any) -> None:
        self._client = Client(endpoint, codec=codec, **options)
        self._loop = _LoopThread()
        try:
            self._loop.run(self._client.open())
        except BaseException:
            self._loop.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the loop thread."""
        if not self._loop.closed:
            try:
                self._loop.run(self._client.close())
            finally:
                self._loop.close()

    @overload
    def map(self, rows: Rows, *, on_error: Literal["raise"] = "raise") -> Any: ...
    @overload
    def map(self, rows: Rows, *, on_error: Literal["keep"]) -> Result: ...
    def map(self, rows: Rows, *, on_error: Literal["raise", "keep"] = "raise") -> Any:
        """`Client.map`, blocking. An interrupt (Ctrl-C) abandons the run and raises KeyboardInterrupt."""
        return self._loop.run(self._client.map(rows, on_error=on_error))

    def stream(self, rows: Rows | Iterable[Any]) -> Iterator[Done]:
        """`Client.stream`, as a plain iterator."""
        stream = self._client.stream(rows)
        self._loop.run(stream.__aenter__())
        try:
            while (done := self._loop.run(_next(stream))) is not None:
                yield done
        finally:
            if not self._loop.closed:  # else its tasks have ended with the loop
                self._loop.run(stream.__aexit__(None, None, None))

    def run(
        self,
        rows: Rows | Source | Iterable[Any],
        sink: Sink | FileSink,
        *,
        journal: Journal | str | PathLike[str] | None = None,
    ) -> Result:
        """`Client.run`, blocking."""
        return self._loop.run(self._client.run(rows, sink, journal=journal))

    def preview(self, rows: Rows) -> Preview:
        """`Client.preview`, blocking."""
        return self._loop.run(self._client.preview(rows))

    def predict(self, row: Any) -> Any:
        """`Client.predict`, blocking; callers on several threads share requests."""
        return self._loop.run(self._client.predict(row))

    def statistics(self) -> Statistics:
        """`Client.statistics`."""
        return self._loop.call(self._client.statistics)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._client)[1:]}"


@overload
def map(  # noqa: A001 - the verb of the field; nobody star-imports it
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec],
    on_error: Literal["raise"] = "raise",
    **options: Any,
) -> Any: ...
@overload
def map(  # noqa: A001
    rows: Rows, endpoint: Endpoints, *, codec: str | Codec | type[Codec], on_error: Literal["keep"], **options: Any
) -> Result: ...
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec],
    on_error: Literal["raise", "keep"] = "raise",
    **options: Any,
) -> Any:
    """Send all rows to ``endpoint`` and merge the answers: `Client.map`, blocking, with a client for this one call.

    ``options`` are `Client`'s. Works in scripts and in notebooks. Returns and raises what `Client.map` does.
    """
    with SyncClient(endpoint, codec=codec, **options) as client:
        return client.map(rows, on_error=on_error)


class _LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.closed = False
        self._pid = os.getpid()
        self._submitting = threading.Lock()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        # A daemon, so that a client that nobody closed does not keep the interpreter alive.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="fanout-loop", daemon=True)
        self._thread.start()
        self._started.wait()

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """The result of ``job``; it is cancelled if the waiting for it is interrupted."""
        try:
            future = self._submit(job)
        except ClientStateError:
            job.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientStateError("the client was closed before the answer came") from None
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, called on the loop's thread."""

        async def called() -> T:
            return function()

        return function() if threading.current_thread() is self._thread else self.run(called())

    def close(self) -> None:
        """End all tasks, the loop and its thread."""
        with self._submitting:  # what was submitted before ends with the loop; nothing is submitted after
            if not self.closed:
                self.closed = True
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _submit(self, job: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if os.getpid() != self._pid:  # threads do not live on in a forked child
            raise ClientStateError("the client was opened before a fork; open one in each process")
        if threading.current_thread() is self._thread:
            raise ClientStateError("on_event cannot wait for the client that calls it: it would wait for itself")
        with self._submitting:
            if self.closed:
                raise ClientStateError("the client is closed; make a new one")
            return asyncio.run_coroutine_threadsafe(job, self._loop)

    async def _live(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._end.wait()


async def _next(stream: Stream) -> Done | None:
    return await anext(stream, None)
