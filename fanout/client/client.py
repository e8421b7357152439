"""The client: one long-lived connection to a model, and the calls that send rows through it."""

from __future__ import annotations

import asyncio
from functools import partial
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, overload

from fanout import frames
from fanout._variables import resolved
from fanout.client.endpoints import each_endpoint
from fanout.client.options import (
    ClientSettings,
    V,
    chunks_of,
    codec_of,
    name_of,
    preset_of,
    redactor_of,
    require_repeatable,
    telemetry_of,
)
from fanout.client.outcome import pending_row, raise_if_stopped, require_on_error, values_or_result
from fanout.client.session import Session
from fanout.client.stream import Stream
from fanout.engine import Until
from fanout.errors import ClientStateError
from fanout.options import checks_options
from fanout.settings import Cache, Limits
from fanout.transport.base import is_offline

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
    from typing import Unpack

    from fanout._redact import Redactor
    from fanout.addresses import Endpoints
    from fanout.auth import Auth
    from fanout.client.file_run import Sink
    from fanout.client.inspect import Preview, Survey
    from fanout.client.options import ClientOptions
    from fanout.codecs.base import Codec
    from fanout.engine import RunControl
    from fanout.frames import Frame
    from fanout.io.journal.journal import Journal
    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink
    from fanout.limits import Cost, RateLimiter
    from fanout.presets import Preset
    from fanout.prices import Prices
    from fanout.results import Event, Result, Statistics
    from fanout.settings import Hedge, RetryPolicy, Timeouts
    from fanout.statistics import Latencies
    from fanout.telemetry.clients import Telemetry
    from fanout.transport import HeaderSource, Transport, TransportWrapper
    from fanout.types import Array, Priority, Rows


class Client(Generic[V]):
    """Sends rows to one remote model and returns numpy arrays whose row i belongs to input row i.

    Keep one client for the life of the process: it keeps its connections open, and its limits hold for all calls
    together, from any number of tasks of one event loop.

    Type checkers infer the return type of `map` from the codec's name. For other codecs, annotate a
    ``Client[fanout.Array]`` (one output) or a ``Client[dict[str, fanout.Array]]`` (several outputs); without either it
    is `fanout.Answers`.

    Args:
        endpoint: URL of the model, ``local://NAME``, or an `Endpoint`; or a list of them that serve the same model and
            are used as one. A URL without a path gets the codec's path.
        codec: name of a wire format, a codec from `fanout.codec`, or a `Codec` class or instance of your own; or a
            preset from `fanout.preset`, which also has the path, header fields and settings of its API.
        chunk_rows: maximum rows in one request; 64 if not given, or the preset's number.
        chunk_max_bytes: maximum bytes in the body of one request. The first bound that is reached closes a chunk; a
            single row that is larger is sent alone.
        chunk_max_tokens: maximum tokens in one request.
        count_tokens: returns the number of tokens of one row, for ``chunk_max_tokens`` and the token rates.
            ``Limits(tokenizer=...)`` counts with tiktoken instead. Without both, the number is estimated: at first one
            token for four bytes of the body, then from the usage in responses.
        max_pending: maximum calls of `predict` that wait for an answer; a further call raises `QueueFull`.
        limits: concurrency, rates and maximum requests; or a `RateLimiter`, whose rates hold for all clients that share
            it.
        retry: attempts and backoff.
        timeouts: deadlines of connecting, of an attempt and of a run.
        hedge: second requests for rows whose response takes long; none if not given.
        cost: prices of the API, for the cost in `Statistics` and ``Limits(max_cost=...)``.
        cache: path of an SQLite file, or a `Cache`: `map`, `stream` and `run` take the answers to rows that were sent
            before from it, and keep new ones there.
        dedupe: rows of one call with byte-identical requests share one.
        headers: header fields of every request, in addition to the endpoint's; or a function, async or not, that
            returns them. It is called before the first request, and again after a 401.
        auth: credentials of every request, such as `BearerAuth`; renewed before they expire and when a server refuses
            them. They are not part of the identity of a run. ``${NAME}`` in their texts, and in those of the endpoint
            and of ``headers``, is the value of an environment variable, so that pickled settings hold no secret.
        on_event: called with an `Event` for each change in the state of a chunk or endpoint; it must not block.
        telemetry: an `OpenTelemetry`, a `Prometheus` collector, or a list of both.
        name: of this client in telemetry; the host of its first endpoint if not given.
        transport: sends the requests in place of the network, as a `fanout.testing.Replayer` does, or through it, as a
            `fanout.testing.Recorder` does; or an object of your own with ``async def send(request)`` -> `Response`.
        secrets: further texts to redact from messages, logs, failures and recordings, such as an API key that is an
            option of the codec. Header values, userinfo and query values of URLs are always redacted.

    Raises:
        ConfigError: an option cannot be used; `UnknownOptionError` if it does not exist.
    """

    @overload
    def __init__(
        self: Client[Array],
        endpoint: Endpoints,
        *,
        codec: Literal["openai-embeddings"],
        **options: Unpack[ClientOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Client[dict[str, Array]],
        endpoint: Endpoints,
        *,
        codec: Literal["openai-chat"],
        **options: Unpack[ClientOptions],
    ) -> None: ...
    @overload
    def __init__(
        self, endpoint: Endpoints, *, codec: str | Codec | type[Codec] | Preset, **options: Unpack[ClientOptions]
    ) -> None: ...
    @checks_options
    def __init__(
        self,
        endpoint: Endpoints,
        *,
        codec: str | Codec | type[Codec] | Preset,
        chunk_rows: int | None = None,
        chunk_max_bytes: int | None = None,
        chunk_max_tokens: int | None = None,
        count_tokens: Callable[[Any], float] | None = None,
        max_pending: int = 10_000,
        limits: Limits | RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        cost: Prices | None = None,
        cache: Cache | str | PathLike[str] | None = None,
        dedupe: bool = False,
        headers: HeaderSource | None = None,
        auth: Auth | None = None,
        on_event: Callable[[Event], None] | None = None,
        telemetry: Telemetry | Sequence[Telemetry] | None = None,
        name: str | None = None,
        transport: Transport | TransportWrapper | None = None,
        secrets: Iterable[str] | Redactor = (),
    ) -> None:
        # Options are checked here, so that an error names the line that passed them and not that of `open`.
        preset = preset_of(codec)
        followers, tracing = telemetry_of(telemetry)
        chunks = chunks_of(preset, chunk_rows, chunk_max_bytes, chunk_max_tokens)
        self._endpoints = [(resolved(one, "endpoint"), weight) for one, weight in each_endpoint(endpoint, preset)]
        headers = resolved(headers, "headers")
        if not is_offline(transport):
            auth, limits = resolved(auth, "auth"), resolved(limits, "limits")
        self._codec = codec_of(codec)
        # The redactor must know the credentials before the first message is made, even that of a failing option.
        self._redactor = redactor_of(secrets, [one for one, _ in self._endpoints], auth, limits)
        self._settings = ClientSettings(
            chunks=chunks,
            limits=preset.limits if preset and limits is None else limits,
            retry=retry,
            timeouts=preset.timeouts if preset and timeouts is None else timeouts,
            hedge=hedge,
            cache=cache if cache is None or isinstance(cache, Cache) else Cache(path=fspath(cache)),
            dedupe=dedupe,
            cost=cost,
            count_tokens=count_tokens,
            max_pending=max_pending,
            headers=headers,
            auth=auth,
            on_event=on_event,
            telemetry=followers,
            name=name_of(name, self._endpoints[0][0].url),
            tracing=tracing,
            transport=transport,
            redactor=self._redactor,
        )
        require_repeatable(self._codec, self._settings.cache)
        # Connections belong to a running event loop, which there may not be yet.
        self._session: Session | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the client in the running event loop, and start the servers of ``local://`` endpoints.

        ``async with client`` calls this and `close`.
        """
        if self._closed:
            raise ClientStateError("the client is closed; make a new one")
        if self._session is not None:
            raise ClientStateError("the client is already open")
        self._session = await Session.open(self._endpoints, self._codec, self._settings)

    async def close(self) -> None:
        """Close every connection.

        Runs under way raise `RunStopped`, and calls of `predict` that still wait raise `ClientStateError`.

        Raises:
            ClientStateError: another event loop or process has opened the client, and has to close it.
        """
        # The client counts as closed before the first await, so that no call can start on a session that closes.
        if self._session is not None:
            self._session.check("close it there")
        # A closed client stays closed: its local servers and cache are gone, and settings may have changed.
        session, self._session, self._closed = self._session, None, True
        if session is not None:
            await session.close()

    @overload
    async def map(
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
    async def map(
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
    async def map(
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
        """Send all rows and merge the answers.

        Args:
            rows: an array (row i is ``rows[i]``), a list of texts, dicts or lists, or a mapping of arrays.
            on_error: ``"raise"`` returns the bare array, and raises if any row failed; ``"keep"`` returns a `Result`.
            progress: show a bar on stderr, or in the notebook's cell.
            control: ends the run from outside.
            timeout: seconds until the run stops, with the answers so far.
            headers: header fields of this call, in addition to the client's, which they replace where the names are
                equal. A refusal of credentials among them stops this call alone, and renews nothing.
            priority: ``"interactive"``, its requests go before those of ``"bulk"`` calls of this client.

        Returns:
            An array whose axis 0 is the rows, or a dict of them for a codec with several outputs; shape (0,) for no
            rows. With ``on_error="keep"`` a `Result`.

        Raises:
            RowsFailed: the run finished, but rows failed; ``.result`` holds the others.
            RunStopped: the run stopped early, whatever ``on_error`` is; ``.result`` holds the answers so far.
            TypeError: ``rows`` has no length; `stream` takes such input.
            InputError: no codec can send these rows.

        Exceptions of the input, the codec and ``headers`` are raised unchanged, with a ``.result`` added.
        """
        require_on_error(on_error)
        # The deadline counts from the call, and an invalid timeout is an error also for a closed client.
        until = Until.after(timeout)
        session = self._open_session()
        call = session.call(headers, priority)
        chunker = session.sharing_chunker(rows, call)
        if chunker.total is None:
            # The chunker may have started to read the iterable on a helper thread.
            await chunker.close()
            raise TypeError(f"map needs rows with a length, not {type(rows).__name__}; stream takes any iterable")
        outcome: V | Result = values_or_result(
            await session.merge(chunker, call, control, until, progress=progress), on_error
        )
        return outcome

    @checks_options
    async def map_frame(
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
        """Send the rows of a table, and return a table of the same library with the answers beside its columns.

        Args:
            frame: a frame of pandas or polars, or an Arrow table (or an object with Arrow's C stream interface).
            columns: the column whose values are the rows, or several, whose values by name are a row; all if not given.
            keep: columns of the result besides the answers; ``"*"`` for all.
            progress: show a bar, as `map` does.
            control: ends the run from outside.
            timeout: seconds until the run stops.
            headers: header fields of this call, as for `map`.
            priority: of its requests, as for `map`.

        Returns:
            The kept columns; a column for each output (``value`` without a name), null where a row has no answer; and
            ``error``, the reason for that. pandas keeps its index. Failed rows raise nothing.

        Raises:
            RunStopped: the run stopped early; ``.result`` holds the answers so far, and ``.result.to_pandas()`` or
                its siblings make a table of them.
            ConfigError: a column does not exist.
            InputError: no codec can send these rows.
        """
        rows = frames.rows_of(frame, columns, keep)
        result = await self.map(
            rows, on_error="keep", progress=progress, control=control, timeout=timeout, headers=headers,
            priority=priority,
        )  # fmt: skip
        return frames.with_answers(frame, keep, result)

    @checks_options
    def stream(
        self,
        rows: Rows | Source | Iterable[Any] | AsyncIterable[Any],
        *,
        control: RunControl | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> Stream:
        """Send the rows of any iterable and yield chunks as they finish.

        Use it as ``async with client.stream(rows) as results: async for done in results``.

        Memory stays bounded: the input is read no faster than the consumer takes results. A blocking iterable is read
        on one helper thread. Each `ChunkResult` has its position, values and failures; chunks come in order of
        completion. ``timeout`` seconds after the context was entered the run stops: the iteration yields all answers so
        far, then raises `RunStopped`. ``headers`` and ``priority`` are those of `map`.
        """
        return Stream(self._open_session, rows, control, timeout, headers=headers, priority=priority)

    @checks_options
    async def run(
        self,
        rows: Rows | Source | Iterable[Any] | AsyncIterable[Any] | str | PathLike[str],
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
        """Send rows, and write every finished chunk to ``sink`` on a helper thread.

        Args:
            rows: as for `stream`, or a source from `fanout.open_source`; or the path or URL of a file that needs no
                option of that function (``"s3://bucket/x.npy"``).
            sink: a sink from `fanout.open_sink`, which this call opens, finishes and publishes; or any `Sink`; or the
                path or URL of a file. An output at a URL is uploaded once all rows are done.
            journal: records the finished rows, so that the same call resumes after a stop, a kill or a crash, and sends
                no finished row again. Needs a file sink. Give the path of a journal, whose identity is then `identity`
                of the rows; or a `Journal` with an identity of your own.
            carry: if the journal belongs to another input, keep its answers to rows with the same id and content, and
                send the other rows. Needs the path of a journal.
            keep_usage: write the tokens of each row beside its answer, as outputs of their own
                (``usage.input_tokens``, ``usage.cached_tokens``, ``usage.output_tokens``, ``usage.reasoning_tokens``):
                its share of those of its request; NaN where they are unknown.
            control: ends the run from outside.
            timeout: seconds until the run stops. Answers so far are still written.
            headers: header fields of this call, as for `map`. Like those of the client, they are no part of the
                journal's identity.
            priority: of its requests, as for `map`.

        Returns:
            A `Result` without values for all rows, including those of earlier runs. Failed rows are in its
            ``failures``; they raise nothing.

        Raises:
            RunStopped: the run stopped early (kind ``"output"``: the sink could not write, or its files could not be
                uploaded, which the next call then does). Without a journal, the answers so far are published, except
                after a stop of kind ``"error"``, ``"internal"`` or ``"duplicate"``; with a journal they wait in a
                ``.partial`` file for the next call.
            ConfigError: the output or the journal cannot be used.
            InputError: the input cannot be read, or changed while it was read.

        Exceptions of the input, the codec and ``headers`` are raised unchanged, with a ``.result`` added.
        """
        session, until = self._open_session(), Until.after(timeout)
        call = session.call(headers, priority)
        from fanout.client.file_run import run_rows  # few processes write files, and its imports take long

        running = partial(run_rows, session, rows, sink, journal, call, control, until)
        return await running(keep_usage=keep_usage, carry=carry, identity=self.identity)

    @checks_options
    async def predict(
        self,
        row: Any,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "interactive",
    ) -> Any:
        """Return the answer to one row. Calls within 2 ms share a request if their rows have the same form.

        The form is the type, dtype and shape, or the keys of a dict. Callers share nothing else: if a request fails and
        a single row may be at fault, its rows are sent again at once in halves, until all others have their answers.
        After ``timeout`` seconds `RunStopped` is raised; the other callers still get their answers. ``headers`` and
        ``priority`` are those of `map`; only calls with equal ones share requests.

        Returns the value that `map` would hold for that row: an array, a scalar, or a dict of them.

        Raises:
            RowsFailed: the row failed.
            RunStopped: the row has no answer because the run stopped, or because of ``timeout``.
            Interrupted: the codec or another function of the user raised a `KeyboardInterrupt`.
            InputError: an array of another form than the model wants.
            QueueFull: ``max_pending`` calls already wait.
        """
        until, session = Until.after(timeout), self._open_session()
        call = session.call(headers, priority)
        if until is None:
            return await session.batcher.predict(row, call)
        try:
            async with asyncio.timeout_at(until.when) as deadline:
                return await session.batcher.predict(row, call)
        except TimeoutError:
            # The codec may raise a TimeoutError of its own, which is no deadline of this call.
            if not deadline.expired():
                raise
            raise_if_stopped(until.passed(), pending_row())
            raise

    @checks_options
    async def preview(self, rows: Rows, *, control: RunControl | None = None) -> Preview:
        """Request the model's metadata and encode the first chunk of ``rows``, without sending it.

        Raises:
            RunStopped: the endpoint does not return its metadata.
            InputError: the rows have another form than the model wants; the message names both, and the remedy.
            ConfigError: the model contradicts the codec's options.
        """
        return await self._open_session().preview(rows, control)

    @checks_options
    async def survey(
        self, rows: Any, *, control: RunControl | None = None, on_request: Callable[[Cost], None] | None = None
    ) -> Survey:
        """Encode all of ``rows``, as `run` would, and count the requests. Only the model's metadata is requested.

        ``on_request`` is called with the cost of each request in the rates, in the order of sending.

        Raises the exceptions of `preview`, and errors of the input.
        """
        return await self._open_session().survey(rows, control, on_request)

    @checks_options
    def identity(self, rows: Any) -> dict[str, Any]:
        """Return the identity of a run of these rows for a `Journal`: rows, codec, and path and query of the URL.

        Files are sampled; of rows in memory every byte counts.

        Raises `ConfigError` for iterators, whose rows cannot be compared with those of an earlier run.
        """
        from fanout.client.identity import identity_of  # as in `run`

        # The host is not part of the identity: a moved endpoint with the same path serves the same model.
        urls = [endpoint.url for endpoint, _ in self._endpoints]
        return identity_of(rows, self._codec, urls, self._redactor)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters since the client was opened, including runs under way."""
        if self._session is None:
            raise ClientStateError("the client is not open")
        return self._session.statistics()

    def latencies(self) -> Latencies:
        """Return the histogram of the durations of all HTTP exchanges since the client was opened."""
        if self._session is None:
            raise ClientStateError("the client is not open")
        return self._session.latencies()

    def __reduce__(self) -> tuple[Any, ...]:
        problem = "a client belongs to one process: pickle its options, and make one of them in each process"
        raise ClientStateError(problem)

    def __repr__(self) -> str:
        state = "open" if self._session else "closed" if self._closed else "not open yet"
        urls = ", ".join(self._redactor.url(endpoint.url) for endpoint, _ in self._endpoints)
        return f"<Client {urls} codec={self._codec.name!r} {state}>"

    def _open_session(self) -> Session:
        if self._session is None:
            raise ClientStateError(
                "the client is closed; make a new one"
                if self._closed
                else "the client is not open yet: use `async with client:`"
            )
        self._session.check()
        return self._session
