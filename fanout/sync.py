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
    from types import TracebackType

    from fanout.client import Sink, Stream
    from fanout.codecs.base import Codec
    from fanout.settings import Endpoint
    from fanout.types import Done, Result, Rows, Statistics

T = TypeVar("T")


class SyncClient:
    """`fanout.Client` for code that is not async; the same arguments, the same methods, blocking.

    It may be used from any thread, and inside a running event loop; only ``on_event``, which is called on the client's
    own thread, may not wait for it. Use it in a ``with`` block, or call `close`.
    """

    def __init__(self, endpoint: str | Endpoint, *, codec: str | Codec | type[Codec], **options: Any) -> None:
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

    def run(self, rows: Rows | Iterable[Any], sink: Sink) -> Result:
        """`Client.run`, blocking."""
        return self._loop.run(self._client.run(rows, sink))

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
    endpoint: str | Endpoint,
    *,
    codec: str | Codec | type[Codec],
    on_error: Literal["raise"] = "raise",
    **options: Any,
) -> Any: ...
@overload
def map(  # noqa: A001
    rows: Rows, endpoint: str | Endpoint, *, codec: str | Codec | type[Codec], on_error: Literal["keep"], **options: Any
) -> Result: ...
def map(  # noqa: A001
    rows: Rows,
    endpoint: str | Endpoint,
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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fanout-loop", daemon=True)
        self._pid = os.getpid()
        self._submitting = threading.Lock()
        self._thread.start()
        self.closed = False

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """The result of ``job``; it is cancelled if the waiting for it is interrupted."""
        try:
            self._check()
            with self._submitting:
                self._check_open()
                future = asyncio.run_coroutine_threadsafe(job, self._loop)
        except ClientStateError:
            job.close()
            raise
        return _result(future)

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, called on the loop's thread."""

        async def called() -> T:
            return function()

        return function() if threading.current_thread() is self._thread else self.run(called())

    def close(self) -> None:
        """End all tasks, the loop and its thread."""
        with self._submitting:  # what was submitted before is ended; nothing is submitted after
            if self.closed:
                return
            self.closed = True
            ending = asyncio.run_coroutine_threadsafe(_end_other_tasks(), self._loop)
        _result(ending)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:  # threads do not live on in a forked child
            raise ClientStateError("the client was opened before a fork; open one in each process")
        if threading.current_thread() is self._thread:
            raise ClientStateError("on_event cannot wait for the client that calls it: it would wait for itself")

    def _check_open(self) -> None:
        if self.closed:
            raise ClientStateError("the client is closed; make a new one")


def _result(future: concurrent.futures.Future[T]) -> T:
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise ClientStateError("the client was closed before the answer came") from None
    except BaseException:
        future.cancel()
        raise


async def _end_other_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _next(stream: Stream) -> Done | None:
    return await anext(stream, None)
