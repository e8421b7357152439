"""The client: one long-lived session to one endpoint, and the ways to send rows through it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, overload

from fanout._redact import Redactor, secrets_of
from fanout._url import redact_url
from fanout.client.content import content_of
from fanout.client.identity import identity_of
from fanout.client.options import V
from fanout.client.session import Session
from fanout.client.sinking import Sink, journal_at, require_own_files, run_into
from fanout.client.stream import Stream
from fanout.client.verdicts import pending_row, raise_if_failed, raise_if_stopped
from fanout.codecs.base import Codec
from fanout.engine import Until
from fanout.errors import ClientStateError, ConfigError
from fanout.io.journal import Journal
from fanout.io.writers import FileSink
from fanout.limits import RateLimiter
from fanout.options import checks_options
from fanout.settings import Endpoint, Endpoints, Hedge, Limits, RetryPolicy, Timeouts
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from os import PathLike
    from types import TracebackType
    from typing import Unpack

    from fanout.client.options import ClientOptions
    from fanout.client.preview import Preview, Survey
    from fanout.engine import RunControl
    from fanout.io.readers import Source
    from fanout.limits import Cost
    from fanout.transport import HeaderSource, Transport, TransportWrapper
    from fanout.types import Array, Event, Result, Rows, Statistics


class Client(Generic[V]):
    """Sends rows to one remote model and gives back numpy arrays whose row i belongs to input row i.

    Keep one client for as long as you talk to an endpoint: it keeps its connections, and its limits hold for all that
    goes through it, from any number of tasks of one event loop.

    To type checkers, the `map` of a ``Client[fanout.Array]`` gives an array, that of a
    ``Client[dict[str, fanout.Array]]`` several outputs, and `fanout.Answers`, either of them, where neither is written
    nor known from the codec's name.

    Args:
        endpoint: URL of the model, ``local://NAME``, or an `Endpoint`; or several of them that serve the same model and
            are used as one. Where a URL has no path, the codec's is used.
        codec: name of a wire format, a codec made by `fanout.codec`, or a class or instance of your own.
        chunk_rows: most rows in one request.
        chunk_max_bytes: most bytes in the body of one request; the first bound reached closes a chunk. A row that is
            larger goes alone.
        chunk_max_tokens: the same for tokens.
        count_tokens: gives the tokens of one row, for ``chunk_max_tokens`` and the limits on tokens. ``tokenizer`` of
            the limits counts with tiktoken instead. Without either they are estimated: a token for four bytes of the
            body at first, then what the answers' ``usage`` tells.
        max_pending: most calls of `predict` that may wait for an answer; one more raises `QueueFull`.
        limits: requests in flight and in all, and what goes in a second or a minute; or a `RateLimiter`, whose rates
            all clients that are given it keep together.
        retry: attempts and backoff.
        timeouts: deadlines of connecting, of an attempt and of a run.
        hedge: second requests for rows whose answer takes long; none if not given.
        headers: sent with every request, beside the endpoint's own; or a function, async or not, that gives them. It
            is called before the first request, and once more when the server refuses them (401).
        on_event: called with an `Event` for what happens to chunks; it must not wait.
        transport: sends the requests in place of the network, as a `fanout.testing.Replayer` does, or through it, as a
            `fanout.testing.Recorder` does; or an object of your own with ``async def send(request)`` -> `Response`.
        secrets: more texts that no message, log, failure or recording may hold, such as a key that is an option of the
            codec. Header values, userinfo and query values of URLs are secrets anyway.

    Raises:
        ConfigError: an argument cannot be used.
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
        self, endpoint: Endpoints, *, codec: str | Codec | type[Codec], **options: Unpack[ClientOptions]
    ) -> None: ...
    @checks_options
    def __init__(
        self,
        endpoint: Endpoints,
        *,
        codec: str | Codec | type[Codec],
        chunk_rows: int = 64,
        chunk_max_bytes: int | None = None,
        chunk_max_tokens: int | None = None,
        count_tokens: Callable[[Any], float] | None = None,
        max_pending: int = 10_000,
        limits: Limits | RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        hedge: Hedge | None = None,
        headers: HeaderSource | None = None,
        on_event: Callable[[Event], None] | None = None,
        transport: Transport | TransportWrapper | None = None,
        secrets: Iterable[str] | Redactor = (),
    ) -> None:
        bounds = {"chunk_rows": chunk_rows, "chunk_max_bytes": chunk_max_bytes, "chunk_max_tokens": chunk_max_tokens}
        for key, most in bounds.items():
            if most is not None and most < 1:
                raise ConfigError(f"{key} must be at least 1, not {most!r}", key=key)
        if isinstance(max_pending, bool) or not isinstance(max_pending, int) or max_pending < 1:
            raise ConfigError(f"max_pending must be a whole number, at least 1, not {max_pending!r}", key="max_pending")
        self._endpoints = _each(endpoint)
        self._codec = _own(codec)
        texts = [secrets] if isinstance(secrets, str) else secrets
        self._redactor = texts if isinstance(texts, Redactor) else Redactor(texts)
        for one, _ in self._endpoints:
            self._redactor.add(secrets_of(one.url, one.headers))
        if not isinstance(limits, RateLimiter):
            _require_type("limits", limits, Limits)
        _require_one_count(limits, count_tokens)
        _require_type("retry", retry, RetryPolicy)
        _require_type("timeouts", timeouts, Timeouts)
        _require_type("hedge", hedge, Hedge)
        self._options = {
            **bounds,
            "count_tokens": count_tokens,
            "max_pending": max_pending,
            "limits": limits or Limits(),
            "retry": retry or RetryPolicy(),
            "timeouts": timeouts or Timeouts(),
            "hedge": hedge,
            "headers": headers,
            "on_event": on_event,
            "transport": transport,
            "redactor": self._redactor,
        }
        self._session: Session | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Make the session in the running event loop; for ``local://`` endpoints, start the server first.

        ``async with client`` does this and `close`.
        """
        if self._closed:
            raise ClientStateError("the client is closed; make a new one")
        if self._session is not None:
            raise ClientStateError("the client is already open")
        self._session = await Session.open(self._endpoints, self._codec, **self._options)

    async def close(self) -> None:
        """Close every connection.

        Runs still under way raise `RunStopped`; rows still waiting in `predict` get a `ClientStateError`.
        """
        session, self._session, self._closed = self._session, None, True
        if session is not None:
            await session.close()

    @overload
    async def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["raise"] = "raise",
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> V: ...
    @overload
    async def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["keep"],
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> Result: ...
    @checks_options
    async def map(
        self,
        rows: Rows,
        *,
        on_error: Literal["raise", "keep"] = "raise",
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> V | Result:
        """Send all rows and merge the answers.

        Args:
            rows: an array (row i is ``rows[i]``), a list of texts, dicts or lists, or a mapping of arrays.
            on_error: ``"raise"`` gives the bare array and raises if any row failed; ``"keep"`` gives a `Result`.
            control: ends the run from outside.
            timeout: seconds after which the run stops with what is done.

        Returns:
            An array whose first axis is the rows, or a dict of them where the codec has several outputs; shape (0,)
            for no rows. With ``on_error="keep"`` a `Result`.

        Raises:
            RowsFailed: the run came to its end, but rows failed; ``.result`` holds the others.
            RunStopped: the run was stopped early, whatever ``on_error`` is; ``.result`` holds what was done.
            TypeError: ``rows`` has no length; `stream` takes such input.
            InputError: rows that no codec can send.

        An exception of the codec or of ``headers`` is raised as it is, with ``.result`` on it.
        """
        if on_error not in ("raise", "keep"):
            raise ConfigError(f'on_error must be "raise" or "keep", not {on_error!r}', key="on_error")
        until = Until.after(timeout)
        session = self._open_session()
        chunker = session.chunker(rows)
        if chunker.total is None:
            await chunker.close()
            raise TypeError(f"map needs rows with a length, not {type(rows).__name__}; stream takes any iterable")
        result = await session.merge(chunker, control, until)
        if on_error == "keep":
            return result
        raise_if_failed(result)
        values: V = result.values
        return values

    @checks_options
    def stream(
        self,
        rows: Rows | Source | Iterable[Any] | AsyncIterable[Any],
        *,
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Send rows of any iterable and yield chunks as they are done: ``async with client.stream(rows) as results``.

        Memory stays bounded: no more rows are taken from the input than the consumer keeps up with. A blocking
        iterable is read on one helper thread. Each `ChunkResult` has a place, values and failures; they come in order
        of completion. ``timeout`` seconds after it was entered the run stops: the iteration raises `RunStopped`
        once it has yielded all that was answered.
        """
        return Stream(self._open_session, rows, control, timeout)

    @checks_options
    async def run(
        self,
        rows: Rows | Source | Iterable[Any] | AsyncIterable[Any],
        sink: Sink | FileSink,
        *,
        journal: Journal | str | PathLike[str] | None = None,
        carry: bool = False,
        control: RunControl | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Send rows and write every chunk to ``sink`` as it is done, on a helper thread.

        Args:
            rows: as for `stream`, or what `fanout.open_source` gives.
            sink: what `fanout.open_sink` gives, which this opens, finishes and publishes; or any `Sink`.
            journal: where to note what is done, so that after a stop, a kill or a crash the same call goes on where it
                was, and sends nothing again that is done. Needs a file sink. The path of a journal, whose identity is
                then `identity` of the rows; or a `Journal` with another.
            carry: where the journal is of another input, keep its answers to rows that have the same id and content,
                and send the others. Needs the path of a journal.
            control: ends the run from outside.
            timeout: seconds after which the run stops. What is answered by then is still written.

        Returns:
            A `Result` without values, of all rows, those done before included; failed rows are told in it, not raised.

        Raises:
            RunStopped: the run was stopped early (of kind ``"output"`` when the sink could not write). What has
                succeeded is published then; with a journal it waits in a ``.partial`` file for the next call. A stop
                of kind ``"error"``, ``"internal"`` or ``"duplicate"`` publishes nothing.
            ConfigError: the output or the journal cannot be used.
            InputError: the input cannot be read, or has changed while it was read.
        """
        session, until = self._open_session(), Until.after(timeout)
        if not callable(getattr(sink, "write", None)):
            raise ConfigError(f"sink must be what fanout.open_sink(path) gives, or a Sink, not {type(sink).__name__}")
        if journal is not None and not isinstance(sink, FileSink):
            raise ConfigError("a journal needs a sink that fanout.open_sink made, or a FileSink", key="journal")
        if carry and (journal is None or isinstance(journal, Journal)):
            raise ConfigError("carry needs the path of a journal", key="carry")
        if isinstance(sink, FileSink):
            noted = journal.path if isinstance(journal, Journal) else None if journal is None else Path(journal)
            await asyncio.to_thread(require_own_files, rows, sink, noted)
        if journal is None or isinstance(journal, Journal):
            return await run_into(session, rows, sink, journal, control, until)
        assert isinstance(sink, FileSink)
        content = content_of(rows)
        known = rows if content is None else content
        identity = await on_thread(self.identity, known)
        async with journal_at(Path(journal), identity, content, sink, carry=carry) as opened:
            return await run_into(session, known, sink, opened, control, until)

    def identity(self, rows: Any) -> dict[str, Any]:
        """The identity of a run of these rows, for a `Journal`: the rows, the codec, the path and query of the URL.

        Files are sampled; of rows in memory every byte counts.

        Raises `ConfigError` for iterators: nothing tells their rows from others.
        """
        urls = [endpoint.url for endpoint, _ in self._endpoints]
        return identity_of(rows, self._codec, urls, self._redactor)

    @checks_options
    async def preview(self, rows: Rows, *, control: RunControl | None = None) -> Preview:
        """Ask the endpoint about its model, and encode the first chunk of ``rows``, but send none.

        Raises:
            RunStopped: the endpoint cannot be asked.
            InputError: rows of another form than the model wants; the message names both, and what to do.
            ConfigError: the model cannot be what the codec's options say.
        """
        return await self._open_session().preview(rows, control)

    async def survey(
        self, rows: Any, *, control: RunControl | None = None, on_request: Callable[[Cost], None] | None = None
    ) -> Survey:
        """Encode all of ``rows``, as `run` would, and count what would be sent; only the model is asked about.

        ``on_request`` is called with what each request would take from the rates, in the order of sending.

        Raises what `preview` does, and what reading the rows raises.
        """
        return await self._open_session().survey(rows, control, on_request)

    async def predict(self, row: Any, *, timeout: float | None = None) -> Any:
        """The answer to one row. Concurrent callers within 2 ms share a request, if their rows are of one form.

        That is: of one type, dtype and shape, dicts with the same keys. Nothing else is shared: where a request fails
        for what may be the fault of one row, its rows are sent again at once in halves, until the others have their
        answers. After ``timeout`` seconds `RunStopped` is raised; the other callers still get their answers.

        Returns what `map` would hold for that row: an array, a scalar, or a dict of them. Raises `RowsFailed` or
        `RunStopped` when there is none, `InputError` for an array of another form than the model wants, `QueueFull`
        when ``max_pending`` calls wait already.
        """
        until, batcher = Until.after(timeout), self._open_session().batcher
        try:
            async with asyncio.timeout_at(None if until is None else until.when) as patience:
                return await batcher.predict(row)
        except TimeoutError:
            if until is None or not patience.expired():
                raise
            raise_if_stopped(until.passed(), pending_row())
            raise

    def statistics(self) -> Statistics:
        """A snapshot of the counters since the client was opened, runs under way included."""
        if self._session is None:
            raise ClientStateError("the client is not open")
        return self._session.statistics()

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


def _each(given: Endpoints) -> list[tuple[Endpoint, float]]:
    """The endpoints one by one, with their weights."""
    several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
    each = [pair for one in several for pair in _endpoint(one).each()]
    urls = [endpoint.url for endpoint, _ in each]
    if not urls:
        raise ConfigError("endpoint must name at least one URL", key="url")
    if len(set(urls)) < len(urls):
        raise ConfigError(f"an endpoint is given twice: {', '.join(map(redact_url, urls))}", key="url")
    return each


def _endpoint(given: object) -> Endpoint:
    if isinstance(given, Endpoint):
        return given
    if isinstance(given, str):
        return Endpoint(url=given)
    kind = type(given).__name__
    raise ConfigError(
        f"endpoint must be a URL, a fanout.Endpoint or a list of those, not {kind} (in map, rows come first)",
        key="endpoint",
    )


def _require_type(name: str, value: object, wanted: type) -> None:
    if value is not None and not isinstance(value, wanted):
        kind = wanted.__name__
        raise ConfigError(f"{name} must be a fanout.{kind}(...), not {type(value).__name__}", key=name)


def _require_one_count(limits: Limits | RateLimiter | None, count_tokens: object) -> None:
    if count_tokens is None:
        return
    if not callable(count_tokens):
        told = f"a function, not {count_tokens!r}; limits.tokenizer takes the name of a tiktoken encoding"
        raise ConfigError(f"count_tokens must be {told}", key="count_tokens")
    limits = limits.limits if isinstance(limits, RateLimiter) else limits
    if limits is not None and limits.tokenizer is not None:
        raise ConfigError("count_tokens and limits.tokenizer both count tokens: leave one out", key="count_tokens")


def _own(codec: str | Codec | type[Codec]) -> Codec:
    """A codec for this client alone: it learns about this client's model."""
    if isinstance(codec, str):
        from fanout.codecs import codec as by_name

        return by_name(codec)
    if isinstance(codec, type) and issubclass(codec, Codec):
        return codec()
    if isinstance(codec, Codec):
        return copy.copy(codec)
    raise ConfigError(f"codec must be a name or a fanout.Codec, not {type(codec).__name__}", key="codec")
