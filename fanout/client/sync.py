"""The blocking client: `SyncClient` runs the async `Client` on an event loop of its own; `map` uses it for one call.

It works in scripts, and in notebooks whose own event loop is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Self, overload

from fanout import frames
from fanout.client.client import Client
from fanout.client.loop_thread import JobFuture, LoopThread
from fanout.client.options import ClientOptions, V
from fanout.client.outcome import pending_row, require_on_error, values_or_result
from fanout.engine import RunControl
from fanout.errors import Interrupted, RowsFailed, RunStopped
from fanout.options import checks_options, require_known

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import Unpack

    from fanout.addresses import Endpoints
    from fanout.client.file_run import Sink
    from fanout.client.inspect import Preview
    from fanout.client.stream import Stream
    from fanout.codecs.base import Codec
    from fanout.frames import Frame
    from fanout.io.journal.journal import Journal
    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink
    from fanout.presets import Preset
    from fanout.results import ChunkResult, Result, Statistics
    from fanout.types import Answers, Array, Priority, Rows

_MAP_OPTIONS = ("codec", "on_error", "progress", "control", "timeout")


class SyncClient(Generic[V]):
    """`fanout.Client` for code that is not async: the same options and methods, blocking.

    It may be used from any thread, and inside a running event loop. Only ``on_event``, which is called on the client's
    own thread, must not wait for it. Use it in a ``with`` block, or call `close`.

    Ctrl-C, or a notebook's interrupt, ends the call that waits, and raises `Interrupted`, whose ``result`` holds the
    answers so far. A second Ctrl-C does not wait for that result.
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
        self, endpoint: Endpoints, *, codec: str | Codec | type[Codec] | Preset, **options: Unpack[ClientOptions]
    ) -> None: ...
    def __init__(
        self, endpoint: Endpoints, *, codec: str | Codec | type[Codec] | Preset, **options: Unpack[ClientOptions]
    ) -> None:
        self._client: Client[V] = Client(endpoint, codec=codec, **options)
        self._loop = LoopThread()
        try:
            self._loop.run(self._client.open())
        # A daemon thread per failed attempt would pile up. After an interrupt the client may be open all the same.
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return self._client.__reduce__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection, and end the client's thread."""
        # A second call of `close`, for instance at the end of a with block, does nothing.
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
        progress: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> V: ...
    @overload
    def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["keep"],
        progress: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> Result: ...
    @checks_options
    def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["raise", "keep"] = "raise",
        progress: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> V | Result:
        """`Client.map`, blocking."""
        require_on_error(on_error)
        control = control or RunControl()
        # An interrupt needs the Result, so failed rows are raised here and not inside the run.
        run = self._client.map(
            rows, on_error="keep", progress=progress, control=control, timeout=timeout, headers=headers,
            priority=priority,
        )  # fmt: skip
        outcome: V | Result = values_or_result(self._run(run, control), on_error)
        return outcome

    @checks_options
    def map_frame(
        self,
        frame: Frame,
        *,
        columns: Sequence[str] | str | None = None,
        keep: Sequence[str] | str = "*",
        progress: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> Frame:
        """`Client.map_frame`, blocking. After an interrupt, the answers so far are in ``Interrupted.result``."""
        rows = frames.rows_of(frame, columns, keep)
        result = self.map(
            rows, on_error="keep", progress=progress, control=control, timeout=timeout, headers=headers,
            priority=priority,
        )  # fmt: skip
        return frames.with_answers(frame, keep, result)

    @checks_options
    def stream(
        self,
        rows: Rows | Iterable[Any],
        *,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> Iterator[ChunkResult]:
        """`Client.stream`, as a plain iterator. After an interrupt, rows that it has not yielded are pending."""
        control = control or RunControl()
        # A plain iterator has no context of its own, so the stream is entered and left by the iteration.
        stream = self._client.stream(rows, control=control, timeout=timeout, headers=headers, priority=priority)
        return self._iterate(stream, control)

    @checks_options
    def run(
        self,
        rows: Rows | Source | Iterable[Any] | str | PathLike[str],
        sink: Sink | FileSink | str | PathLike[str],
        *,
        journal: Journal | str | PathLike[str] | None = None,
        carry: bool = False,
        keep_usage: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> Result:
        """`Client.run`, blocking."""
        control = control or RunControl()
        run = self._client.run(
            rows, sink, journal=journal, carry=carry, keep_usage=keep_usage, control=control, timeout=timeout,
            headers=headers, priority=priority,
        )  # fmt: skip
        return self._run(run, control)

    @checks_options
    def preview(self, rows: Rows) -> Preview:
        """`Client.preview`, blocking."""
        return self._loop.run(self._client.preview(rows))

    @checks_options
    def predict(
        self,
        row: Any,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "interactive",
    ) -> Any:
        """`Client.predict`, blocking; callers on several threads share requests."""
        try:
            return self._loop.run(self._client.predict(row, timeout=timeout, headers=headers, priority=priority))
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            raise Interrupted("interrupted", kind="interrupted", result=pending_row()) from interrupt

    def statistics(self) -> Statistics:
        """`Client.statistics`."""
        return self._loop.call(self._client.statistics)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._client)[1:]}"

    def _run(self, run: Coroutine[Any, Any, Result], control: RunControl) -> Result:
        """Wait for ``run``. Ctrl-C stops it through ``control``, and raises `Interrupted` with its result."""
        future: JobFuture[Result] = JobFuture(run)
        try:
            self._loop.submit(future)
            return self._loop.wait(future)
        except Interrupted:  # raised by the run itself: it has its result already
            raise
        except KeyboardInterrupt as interrupt:
            # The signal may come between the creation of the future and the start of its job.
            self._loop.cancel_unless_started(future)
            self._interrupt(future, control, interrupt)

    def _interrupt(self, future: JobFuture[Result], control: RunControl, interrupt: KeyboardInterrupt) -> NoReturn:
        # The run itself builds the result, on the loop's thread.
        control.cut()
        try:
            result = self._loop.wait(future)
        except (RunStopped, RowsFailed, Interrupted) as ended:
            result = ended.result
        except KeyboardInterrupt:  # the second one: do not wait for the result
            future.cancel()
            raise
        except Exception as error:
            # An exception of the codec carries the result too; without one there is nothing to report.
            if getattr(error, "result", None) is None:
                raise interrupt from error
            result = error.result  # type: ignore[attr-defined]
        raise Interrupted("interrupted", kind="interrupted", result=result) from interrupt

    def _iterate(self, stream: Stream, control: RunControl) -> Iterator[ChunkResult]:
        self._loop.run(stream.__aenter__())
        try:
            while (done := self._next_chunk(stream, control)) is not None:
                yield done
        finally:
            if not self._loop.closed:  # the tasks of a closed loop have ended with it
                self._loop.run(stream.__aexit__(None, None, None))

    def _next_chunk(self, stream: Stream, control: RunControl) -> ChunkResult | None:
        # Rows count as done only after they were handed over, so an interrupt in between loses none.
        future: JobFuture[ChunkResult | None] = JobFuture(stream.next_chunk())
        try:
            self._loop.submit(future)
            if (done := self._loop.wait(future)) is not None:
                stream.mark_done(done)
            return done
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            control.cut()
            future.cancel()
            result = self._loop.call(stream.result)
            raise Interrupted("interrupted", kind="interrupted", result=result) from interrupt


@overload
def map(  # noqa: A001 - the verb of the field; it is not meant for star imports
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: Literal["openai-embeddings"],
    on_error: Literal["raise"] = "raise",
    progress: bool = False,
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
    progress: bool = False,
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> dict[str, Array]: ...
@overload
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec] | Preset,
    on_error: Literal["raise"] = "raise",
    progress: bool = False,
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Answers: ...
@overload
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec] | Preset,
    on_error: Literal["keep"],
    progress: bool = False,
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Result: ...
def map(  # noqa: A001
    rows: Rows,
    endpoint: Endpoints,
    *,
    codec: str | Codec | type[Codec] | Preset,
    on_error: Literal["raise", "keep"] = "raise",
    progress: bool = False,
    control: RunControl | None = None,
    timeout: float | None = None,
    **options: Unpack[ClientOptions],
) -> Answers | Result:
    """Send all rows to ``endpoint`` and merge the answers: `Client.map`, blocking, with a client for this call only.

    ``options`` are those of `Client`. Returns and raises the same as `SyncClient.map`.
    """
    require_on_error(on_error)
    # `Client` would name itself as the owner of a misspelt option.
    require_known("map", options, [*_MAP_OPTIONS, *ClientOptions.__annotations__])
    client: SyncClient[Answers] = SyncClient(endpoint, codec=codec, **options)
    # The result has to survive an interrupt that comes while the client is closed.
    result: Result | None = None
    try:
        with client:
            result = client.map(rows, on_error="keep", progress=progress, control=control, timeout=timeout)
    except KeyboardInterrupt as interrupt:
        if result is None or isinstance(interrupt, Interrupted):
            raise
        # The interrupt came while the client was closed: the answers are complete.
        raise Interrupted("interrupted", kind="interrupted", result=result) from interrupt
    outcome: Answers | Result = values_or_result(result, on_error)
    return outcome
