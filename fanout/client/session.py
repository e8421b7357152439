"""A session: the open half of a client, with its connections, its runs and their counters."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from fanout.client.endpoints import endpoint_group, offline_targets, shares_limits, start_targets
from fanout.client.outcome import final_stop, raise_if_stopped, require_unchanged, with_result
from fanout.client.progress import progress_bar
from fanout.client.runs import Runs
from fanout.engine import (
    MergedRows,
    Packing,
    RowStatus,
    Run,
    RunControl,
    Scale,
    chunker_of,
)
from fanout.errors import ClientStateError
from fanout.limits import tiktoken_counter
from fanout.process import import_all, retain_heap
from fanout.transport.base import replaces_network
from fanout.upstream.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout._redact import Redactor
    from fanout.addresses import Endpoint
    from fanout.client.endpoints import Target
    from fanout.client.inspect import Preview, Survey
    from fanout.client.options import ClientSettings
    from fanout.codecs.base import Codec
    from fanout.engine import AnswerStore, Batcher, Chunker, Until
    from fanout.limits import Account, Amount, ConcurrencyLimiter, Cost
    from fanout.results import ChunkResult, Result, Statistics
    from fanout.rows import RowSet
    from fanout.serving.local import LocalServer
    from fanout.statistics import Latencies
    from fanout.types import Priority, Rows

# Rows that are looked up in the cache together while a survey counts the requests.
_ROWS_LOOKED_UP = 1024


class Session:
    """The open half of a client. It belongs to the event loop and the process in which it was opened.

    Args:
        targets: the endpoints, with the URLs that requests go to.
        codec: the client's codec, before it knows the model.
        settings: the client's options.
        count_tokens: number of tokens of a row; estimated if None.
        store: the cache, which the session closes.
        servers: local servers to stop at the end.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        codec: Codec,
        settings: ClientSettings,
        *,
        count_tokens: Callable[[Any], float] | None = None,
        store: AnswerStore | None = None,
        servers: Sequence[LocalServer] = (),
    ) -> None:
        self._codec = codec
        self._store = store
        self._settings = settings
        self._servers = servers
        # All runs share the measured size of rows in bytes and tokens, so that later ones pack well from the start.
        self._scale = Scale()
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._opened = self._loop.time()
        self.runs = Runs()
        self._group = endpoint_group(targets, codec, settings, count_tokens)
        for telemetry in settings.telemetry:
            telemetry.follow(self)

    @classmethod
    async def open(cls, endpoints: Sequence[tuple[Endpoint, float]], codec: Codec, settings: ClientSettings) -> Session:
        """Open a session, and start a server for each ``local://`` endpoint; `close` stops them.

        Raises `ConfigError` if the session cannot share its limits as the settings say.
        """
        session = await cls._open(endpoints, codec, settings)
        if shares_limits(settings):
            try:
                await session.share_limits()
            except BaseException:
                await session.close()
                raise
        return session

    @classmethod
    async def _open(
        cls, endpoints: Sequence[tuple[Endpoint, float]], codec: Codec, settings: ClientSettings
    ) -> Session:
        # Both prepare the process once; they are too slow for the import of the package.
        retain_heap()
        import_all()
        count_tokens = settings.count_tokens
        if (encoding := settings.load.tokenizer) is not None:
            # The first use of an encoding reads a file of some megabytes, so it is kept off the loop.
            count_tokens = await asyncio.to_thread(tiktoken_counter, encoding)
        store = None
        if settings.cache is not None and settings.cache.path is not None:
            from fanout.client.caching import open_store  # few clients have a cache

            store = await open_store(endpoints, codec, settings)
        open_at = partial(cls, codec=codec, settings=settings, count_tokens=count_tokens, store=store)
        servers: list[LocalServer] = []
        try:
            if replaces_network(settings.transport):
                return open_at(offline_targets(endpoints, codec))
            return open_at(await start_targets(endpoints, codec, servers), servers=servers)
        # Neither a server that has started nor the cache may outlive a failed or cancelled opening.
        except BaseException:
            await _stop_servers(servers)
            if store is not None:
                await store.close()
            raise

    async def share_limits(self) -> None:
        """Share the limits with other processes. Raises `ConfigError` if that is not possible."""
        from fanout.upstream.sharing import share_limits  # few clients share limits

        await share_limits(self._group, self._settings.load)

    async def close(self) -> None:
        """Stop all runs, close every connection, and stop the local servers."""
        # Callers of predict that still wait get their exception before their runs are cut.
        if "batcher" in vars(self):  # else it would be made to be closed
            await self.batcher.close()
        await self.runs.close()
        for telemetry in self._settings.telemetry:
            telemetry.unfollow(self)
        # After the runs, as it returns the permits of their requests.
        if self._group.shared is not None:
            await self._group.shared.close()
        self._group.decoder.close()
        for endpoint in self._group.balancer.endpoints:
            await endpoint.transport.close()
        if self._store is not None:
            await self._store.close()
        await _stop_servers(self._servers)

    def check(self, remedy: str = "open one in each loop") -> None:
        """Raise `ClientStateError` in any other process or event loop than the one that opened the session."""
        if os.getpid() != self._pid:
            raise ClientStateError("the client was opened before a fork; open one in each process")
        if self._loop.is_closed():
            raise ClientStateError(
                "the client belongs to an event loop that has ended; close it before that, with `async with client:`"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise ClientStateError(f"the client belongs to another event loop; {remedy}")

    @cached_property
    def batcher(self) -> Batcher:
        """Gathers the rows of `predict`."""
        from fanout.client.batches import Batches  # few processes send single rows

        return Batches(self, self._group, self._settings).batcher

    @property
    def redactor(self) -> Redactor:
        """Knows the secrets of the client."""
        return self._settings.redactor

    @property
    def name(self) -> str:
        """Name of the client in telemetry."""
        return self.redactor.text(self._settings.name)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which the session was opened."""
        return self._loop

    @property
    def concurrency(self) -> int:
        """Current limit of requests in flight."""
        return self._group.limiter.limit

    def chunker(self, rows: Any, window: ConcurrencyLimiter | None = None, skip: RowSet | None = None) -> Chunker:
        """Divide ``rows`` into chunks within the client's bounds. Raises `InputError` for rows that cannot be sent."""
        return chunker_of(rows, self._settings.chunks.rows, window, skip, self._packing())

    def call(self, headers: Mapping[str, str] | None, priority: Priority) -> Call:
        """Check the options of one call, before anything is done for it. Raises `ConfigError`."""
        call = Call.of(headers, priority)
        if call.headers is not None:
            for endpoint in self._group.balancer.endpoints:
                endpoint.transport.require_apart(call.headers)
        return call

    def sharing_chunker(
        self, rows: Any, call: Call, window: ConcurrencyLimiter | None = None, skip: RowSet | None = None
    ) -> Chunker:
        """Divide ``rows`` as `chunker` does, without those that the cache knows or that share a request."""
        if self._store is None and not self._settings.dedupe:
            return self.chunker(rows, window, skip)
        from fanout.client.caching import sharing_chunker  # few clients have a cache, or duplicates

        # Without a window and without packing: these bound the chunks that are cut of the rows which have to be sent.
        every = chunker_of(rows, self._settings.chunks.rows, skip=skip)
        sharing = partial(sharing_chunker, every, self._store, call, dedupe=self._settings.dedupe)
        return sharing(window=window, skip=skip, packing=self._packing())

    def _packing(self) -> Packing:
        # Each run packs for itself, with the scale that all of them have measured.
        chunks, meter = self._settings.chunks, self._group.costs.meter
        return Packing(self._scale, meter, max_bytes=chunks.max_bytes, max_tokens=chunks.max_tokens)

    def open_account(self, spent: Amount) -> Account | None:
        """Open the account of one run, of which earlier processes have spent ``spent``; None if nothing is counted."""
        return self._group.accounts.open(spent)

    def new_run(
        self,
        chunker: Chunker,
        deliver: Callable[[ChunkResult], None],
        control: RunControl | None = None,
        *,
        callers: Sequence[Any] | None = None,
        **options: Any,
    ) -> Run:
        """Make a run over the session's endpoints; ``options`` are `Run`'s.

        ``callers`` are the traced callers of a batch of `predict`; None for any other run.
        """
        # With other runs under way the limit follows their requests; a first run may find more descriptors free.
        if not self.runs.running:
            self._group.capacity.restore()
        tracing, trace = self._settings.tracing, None
        if tracing is not None:
            trace = tracing.run(self._codec, self.redactor.text, callers)
        run = Run(chunker, self._codec, self._group, deliver, self._settings.on_event, trace=trace, **options)
        if control is not None:
            control.attach(run)
        return run

    async def merge(
        self,
        chunker: Chunker,
        call: Call,
        control: RunControl | None = None,
        until: Until | None = None,
        *,
        progress: bool = False,
    ) -> Result:
        """Run over a chunker of known length and merge the answers.

        Raises `RunStopped`, and errors of the run; the exception's ``result`` holds all answers until then.
        """
        assert chunker.total is not None
        merged = MergedRows(chunker.total)
        run = self.new_run(chunker, merged.add, control, until=until, call=call)
        try:
            async with progress_bar(run.statistics, chunker.total) if progress else nullcontext():
                await self.runs.execute(run)
            if run.stopped is None:
                require_unchanged(chunker)
        except Exception as error:
            self.runs.withdraw(run, merged)
            with_result(error, merged.result(chunker.total, run.statistics()))
            raise
        self.runs.withdraw(run, merged)
        result = merged.result(chunker.total, run.statistics())
        violation = merged.violation(result, stopped=run.stopped is not None)
        raise_if_stopped(final_stop(run.stopped, violation), result)
        return result

    async def preview(self, rows: Rows, control: RunControl | None = None) -> Preview:
        """See `Client.preview`."""
        from fanout.client.inspect import preview_rows  # few processes look at rows without sending them

        await self._request_metadata(control)
        return await preview_rows(self.chunker(rows), self.prepared_codec)

    async def survey(
        self, rows: Any, control: RunControl | None = None, on_request: Callable[[Cost], None] | None = None
    ) -> Survey:
        """See `Client.survey`."""
        from fanout.client.inspect import survey_rows  # as in `preview`
        from fanout.client.rows_to_send import RowsToSend

        metadata = await self._request_metadata(control)
        codec, dedupe = self.prepared_codec, self._settings.dedupe
        if self._store is None and not dedupe:
            return await survey_rows(self.chunker(rows), codec, self._group, metadata.requests, on_request)
        to_send = RowsToSend(chunker_of(rows, _ROWS_LOOKED_UP), codec, self._store, dedupe=dedupe)
        chunker = self.chunker(to_send)
        return await survey_rows(chunker, codec, self._group, metadata.requests, on_request, to_send)

    def statistics(self) -> Statistics:
        """Return the counters of all runs, those under way included."""
        limiter = self._group.limiter
        return self.runs.counters().snapshot(
            seconds=self._loop.time() - self._opened,
            endpoints=self._group.balancer.statistics(),
            prices=self._group.accounts.prices,
            concurrency=self._group.capacity.chosen,
            in_flight=limiter.in_flight,
            max_in_flight=limiter.peak,
        )

    def latencies(self) -> Latencies:
        """Return the latencies of all runs, those under way included."""
        return self.runs.latencies()

    async def _request_metadata(self, control: RunControl | None) -> Statistics:
        # A run over an iterable of no rows requests metadata as every run does. A container of length 0 would not do:
        # its run ends before the first request.
        run = self.new_run(self.chunker(iter(())), lambda _: None, control)
        await self.runs.execute(run)
        nothing = RowStatus().result(0, run.statistics())
        raise_if_stopped(run.stopped, nothing)
        return nothing.stats

    @property
    def prepared_codec(self) -> Codec:
        """The codec, with the model's metadata once it is known."""
        return self._group.metadata.codec or self._codec


async def _stop_servers(servers: Sequence[LocalServer]) -> None:
    for server in servers:
        await server.stop()
