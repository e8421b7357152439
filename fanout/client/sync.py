"""The blocking face: the async client on a loop thread of its own, for scripts and for notebooks whose loop is busy."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, Self, TypeVar, cast, overload

from fanout.client import Client, pending_row, raise_if_failed
from fanout.client.options import ClientOptions, V
from fanout.engine import RunControl
from fanout.errors import ClientStateError, ConfigError, Interrupted, RowsFailed, RunStopped
from fanout.options import checks_options, require_known

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from os import PathLike
    from types import TracebackType
    from typing import Unpack

    from fanout.client import Preview, Sink, Stream
    from fanout.codecs.base import Codec
    from fanout.io.journal import Journal
    from fanout.io.readers import Source
    from fanout.io.writers import FileSink
    from fanout.settings import Endpoints
    from fanout.types import Answers, Array, ChunkResult, Result, Rows, Statistics

T = TypeVar("T")

_MAP_OPTIONS = ("codec", "on_error", "control", "timeout")
_LOOK = 0.2
"""Seconds between two looks for an interrupt: where another thread gets the signal, or on Windows, it wakes no lock."""


class SyncClient(Generic[V]):
    """`fanout.Client` for code that is not async; the same arguments, the same methods, blocking.

    It may be used from any thread, and inside a running event loop; only ``on_event``, which is called on the client's
    own thread, may not wait for it. Use it in a ``with`` block, or call `close`.

    Ctrl-C, or a notebook's interrupt, ends the call that waits and raises `Interrupted`, whose ``result`` holds what
    was answered until then. A second one does not wait for that.
    """

    @overload
    def __init__(
        self: SyncClient[Array],
        endpoint: Endpoints,
        *,
        codec: Literal["openai-embeddings"],
        **options: Unpack[ClientOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: SyncClient[dict[str, Array]],
        endpoint: Endpoints,
        *,
        codec: Literal["openai-chat"],
        **options: Unpack[ClientOptions],
    ) -> None: ...
    @overload
    def __init__(
        self, endpoint: Endpoints, *, codec: str | Codec | type[Codec], **options: Unpack[ClientOptions]
    ) -> None: ...
    def __init__(
        self, endpoint: Endpoints, *, codec: str | Codec | type[Codec], **options: Unpack[ClientOptions]
    ) -> None:
        self._client: Client[V] = Client(endpoint, codec=codec, **options)
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
    def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["raise"] = "raise",
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> V: ...
    @overload
    def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["keep"],
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> Result: ...
    @checks_options
    def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["raise", "keep"] = "raise",
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> V | Result:
        """`Client.map`, blocking."""
        _check(on_error)
        control = control or RunControl()
        job = self._client.map(rows, on_error="keep", control=control, timeout=timeout)
        answers: V | Result = _given(self._run(job, control), on_error)
        return answers

    @checks_options
    def stream(
        self, rows: Rows | Iterable[Any], *, control: RunControl | None = None, timeout: float | None = None
    ) -> Iterator[ChunkResult]:
        """`Client.stream`, as a plain iterator. Rows that it has not yielded when it is interrupted are pending."""
        control = control or RunControl()
        stream = self._client.stream(rows, control=control, timeout=timeout)
        self._loop.run(stream.__aenter__())
        try:
            while (done := self._taken(stream, control)) is not None:
                yield done
        finally:
            if not self._loop.closed:  # else its tasks have ended with the loop
                self._loop.run(stream.__aexit__(None, None, None))

    @checks_options
    def run(
        self,
        rows: Rows | Source | Iterable[Any],
        sink: Sink | FileSink,
        *,
        journal: Journal | str | PathLike[str] | None = None,
        carry: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> Result:
        """`Client.run`, blocking."""
        control = control or RunControl()
        run = self._client.run(rows, sink, journal=journal, carry=carry, control=control, timeout=timeout)
        return self._run(run, control)

    @checks_options
    def preview(self, rows: Rows) -> Preview:
        """`Client.preview`, blocking."""
        return self._loop.run(self._client.preview(rows))

    def predict(self, row: Any, *, timeout: float | None = None) -> Any:
        """`Client.predict`, blocking; callers on several threads share requests."""
        try:
            return self._loop.run(self._client.predict(row, timeout=timeout))
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            raise Interrupted("interrupted", kind="interrupted", result=pending_row()) from interrupt

    def statistics(self) -> Statistics:
        """`Client.statistics`."""
        return self._loop.call(self._client.statistics)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._client)[1:]}"

    def _run(self, job: Coroutine[Any, Any, Result], control: RunControl) -> Result:
        """The result of ``job``, which is a run that ``control`` can end."""
        future: _Future[Result] = _Future(job)
        try:
            self._loop.submit(future)
            return self._loop.wait(future)
        except Interrupted:  # of the run's own
            raise
        except KeyboardInterrupt as interrupt:
            self._loop.cancel_unless_started(future)
            self._interrupt(future, control, interrupt)

    def _taken(self, stream: Stream, control: RunControl) -> ChunkResult | None:
        future: _Future[ChunkResult | None] = _Future(stream.take())
        try:
            self._loop.submit(future)
            if (done := self._loop.wait(future)) is not None:
                stream.note(done)
            return done
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            control.cut()
            future.cancel()
            result = self._loop.call(stream.result)
            raise Interrupted("interrupted", kind="interrupted", result=result) from interrupt

    def _interrupt(self, future: _Future[Result], control: RunControl, interrupt: KeyboardInterrupt) -> NoReturn:
        """End the run and raise `Interrupted` with its result; if that is interrupted too, do not wait for it."""
        control.cut()
        try:
            result = self._loop.wait(future)
        except (RunStopped, RowsFailed, Interrupted) as ended:
            result = ended.result
        except KeyboardInterrupt:
            future.cancel()
            raise
        except Exception as error:
            if getattr(error, "result", None) is None:
                raise interrupt from error
            result = error.result  # type: ignore[attr-defined]
        raise Interrupted("interrupted", kind="interrupted", result=result) from interrupt


@overload
def map(  # noqa: A001 - the verb of the field; it is not meant for star imports
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: Literal["openai-embeddings"],
    on_error: Literal["raise"] = "raise",
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Array: ...
@overload
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: Literal["openai-chat"],
    on_error: Literal["raise"] = "raise",
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> dict[str, Array]: ...
@overload
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec],
    on_error: Literal["raise"] = "raise",
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Answers: ...
@overload
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec],
    on_error: Literal["keep"],
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Result: ...
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec],
    on_error: Literal["raise", "keep"] = "raise",
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Answers | Result:
    """Send all rows to ``endpoint`` and merge the answers: `Client.map`, blocking, with a client for this one call.

    ``options`` are `Client`'s. Works in scripts and in notebooks. Returns and raises what `SyncClient.map` does.
    """
    _check(on_error)
    require_known("map", options, [*_MAP_OPTIONS, *ClientOptions.__annotations__])
    client: SyncClient[Answers] = SyncClient(endpoint, codec=codec, **options)
    result: Result | None = None
    try:
        with client:
            result = client.map(rows, on_error="keep", control=control, timeout=timeout)
    except KeyboardInterrupt as interrupt:
        if result is None or isinstance(interrupt, Interrupted):
            raise
        raise Interrupted("interrupted", kind="interrupted", result=result) from interrupt  # as the client was closed
    answers: Answers | Result = _given(result, on_error)
    return answers


def _check(on_error: str) -> None:
    if on_error not in ("raise", "keep"):
        raise ConfigError(f'on_error must be "raise" or "keep", not {on_error!r}', key="on_error")


def _given(result: Result, on_error: str) -> Any:
    if on_error == "keep":
        return result
    raise_if_failed(result)
    return result.values


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
        future = _Future(job)
        try:
            self.submit(future)
            return self.wait(future)
        except BaseException:
            future.cancel()
            raise

    def submit(self, future: _Future[Any]) -> None:
        """Start the job of ``future`` on the loop's thread.

        The caller makes the future, so that an interrupt in the middle of this call does not lose it.
        """
        try:
            self._submit(partial(future.start, self._loop))
        except ClientStateError:
            future.job.close()
            raise

    def cancel_unless_started(self, future: _Future[Any]) -> None:
        """Cancel ``future`` if an interrupt came before its job was submitted: else nothing would ever resolve it."""
        with suppress(ClientStateError):
            self._submit(future.cancel_unless_started)

    def wait(self, future: _Future[T]) -> T:
        """What the job behind ``future`` returns or raises."""
        while not future.done():
            with suppress(TimeoutError, concurrent.futures.CancelledError):
                future.result(_LOOK)
        try:
            outcome = future.result()
        except concurrent.futures.CancelledError:
            raise ClientStateError("the client was closed before the answer came") from None
        if outcome.interrupt is not None:
            raise outcome.interrupt
        return cast("T", outcome.value)

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

    def _submit(self, call: Callable[[], object]) -> None:
        if os.getpid() != self._pid:  # threads do not live on in a forked child
            raise ClientStateError("the client was opened before a fork; open one in each process")
        if threading.current_thread() is self._thread:
            raise ClientStateError("on_event cannot wait for the client that calls it: it would wait for itself")
        with self._submitting:
            if self.closed:
                raise ClientStateError("the client is closed; make a new one")
            self._loop.call_soon_threadsafe(call)

    async def _live(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._end.wait()


class _Outcome(NamedTuple, Generic[T]):
    value: T | None = None
    interrupt: BaseException | None = None


class _Future(concurrent.futures.Future[_Outcome[T]]):
    """The outcome of a job on the loop's thread. `cancel` cancels the job."""

    def __init__(self, job: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self.job = job
        self._task: asyncio.Task[_Outcome[T]] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the job. Call it on the loop's thread."""
        if self.cancelled():
            self.job.close()
            return
        self._task = loop.create_task(_outcome(self.job))
        self._task.add_done_callback(self._take_over)
        self.add_done_callback(partial(self._cancel_task, loop))

    def cancel_unless_started(self) -> None:
        """Cancel this future if `start` was never called. Call it on the loop's thread, after `start` if at all."""
        if self._task is None and self.cancel():
            self.job.close()

    def _take_over(self, task: asyncio.Task[_Outcome[T]]) -> None:
        if self.cancelled():
            return
        if task.cancelled():
            self.cancel()
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())

    def _cancel_task(self, loop: asyncio.AbstractEventLoop, _: object) -> None:
        if self.cancelled() and self._task is not None and not self._task.done():
            with suppress(RuntimeError):  # the loop is closed, so its tasks have ended
                loop.call_soon_threadsafe(self._task.cancel)


async def _outcome(job: Coroutine[Any, Any, T]) -> _Outcome[T]:
    """Await ``job``. Two exceptions would end its event loop, not only its task: they are returned as values."""
    try:
        return _Outcome(value=await job)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        return _Outcome(interrupt=interrupt)
