"""What a client has while it is open: the link to its endpoints, its runs, their counts."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from fanout._url import LOCAL
from fanout.client.content import require_unchanged
from fanout.client.predicting import answer_each, answer_rest
from fanout.client.preview import Preview, Survey, previewed, surveyed
from fanout.client.target import replaced_target, target, without_files
from fanout.client.verdicts import ending, raise_if_stopped
from fanout.engine import (
    Batcher,
    EndpointGroup,
    MergedRows,
    Packing,
    RowStatus,
    Run,
    RunControl,
    Scale,
    Stop,
    Until,
    chunker_of,
)
from fanout.errors import ClientStateError
from fanout.limits import RateLimiter, TokenMeter, tiktoken_counter
from fanout.process import import_all, retain_heap
from fanout.statistics import Counters
from fanout.transport import EndpointClient, HeaderSource
from fanout.transport.base import replaces_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout._redact import Redactor
    from fanout.codecs.base import Codec
    from fanout.engine import Batch, Chunker
    from fanout.limits import ConcurrencyLimiter, Cost
    from fanout.rowset import RowSet
    from fanout.serving.local import LocalServer
    from fanout.settings import Endpoint, Hedge, Limits, RetryPolicy, Timeouts
    from fanout.transport import Transport, TransportWrapper
    from fanout.types import ChunkResult, Event, Result, Rows, Statistics

_LINGER = 0.002


class Session:
    """The open half of a client. Made in one event loop, and good only there."""

    def __init__(
        self,
        endpoints: Sequence[tuple[Endpoint, str, float]],
        codec: Codec,
        *,
        chunk_rows: int,
        chunk_max_bytes: int | None,
        chunk_max_tokens: int | None,
        count_tokens: Callable[[Any], float] | None,
        max_pending: int,
        limits: Limits | RateLimiter,
        retry: RetryPolicy,
        timeouts: Timeouts,
        hedge: Hedge | None = None,
        headers: HeaderSource | None,
        on_event: Callable[[Event], None] | None,
        servers: Sequence[LocalServer] = (),
        transport: Transport | TransportWrapper | None = None,
        redactor: Redactor,
    ) -> None:
        rates = limits if isinstance(limits, RateLimiter) else RateLimiter(limits)
        limits = rates.limits
        self.chunk_rows = chunk_rows
        self._bounds = {"max_bytes": chunk_max_bytes, "max_tokens": chunk_max_tokens}
        self._scale = Scale()
        self._codec = codec
        self._on_event = on_event
        self._servers = servers
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._opened = self._loop.time()
        self._runs: set[Run] = set()
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._totals = Counters()
        # Without buffers where a transport is given: it may keep the responses that it sees.
        buffers = codec.takes_buffers and transport is None
        clients = [
            EndpointClient(
                endpoint,
                url,
                timeouts=timeouts,
                connections=limits.most_in_flight,
                transport=transport,
                headers=headers,
                buffers=buffers,
                redactor=redactor,
            )
            for endpoint, url, _ in endpoints
        ]
        weights = [weight for _, _, weight in endpoints]
        self._group = EndpointGroup(
            clients, limits=limits, retry=retry, timeouts=timeouts, rates=rates, meter=TokenMeter(count_tokens),
            hedge=hedge, weights=weights,
        )  # fmt: skip
        self.batcher = Batcher(self._send_batch, max_rows=self._batch_rows, linger=_LINGER, max_pending=max_pending)

    @property
    def concurrency(self) -> int:
        """Most requests in flight, as things are."""
        return self._group.limiter.total

    @classmethod
    async def open(cls, endpoints: Sequence[tuple[Endpoint, float]], codec: Codec, **options: Any) -> Session:
        """Make a session; for every ``local://`` endpoint, start the server that ends with it."""
        retain_heap()
        import_all()
        limits = options["limits"]
        if (encoding := (limits.limits if isinstance(limits, RateLimiter) else limits).tokenizer) is not None:
            options["count_tokens"] = await asyncio.to_thread(tiktoken_counter, encoding)
        if replaces_network(options.get("transport")):
            replaced = [(without_files(one), replaced_target(one.url, codec.path), weight) for one, weight in endpoints]
            return cls(replaced, codec, **options)
        servers: list[LocalServer] = []
        try:
            found = [(one, await _found(one.url, codec, servers), weight) for one, weight in endpoints]
            return cls(found, codec, servers=servers, **options)
        except BaseException:
            await _stopped(servers)
            raise

    async def close(self) -> None:
        """End what is under way, close every connection, end the local server."""
        await self.batcher.close()
        for run in self._runs:
            run.stop(Stop("interrupted", "the client was closed"), cut=True)
        await self._all_ended.wait()
        self._group.decoding.close()
        for host in self._group.balancer.endpoints:
            await host.transport.close()
        await _stopped(self._servers)

    def check(self) -> None:
        """Raises `ClientStateError` if this is not the process or the event loop that the session was made in."""
        if os.getpid() != self._pid:
            raise ClientStateError("the client was opened before a fork; open one in each process")
        if asyncio.get_running_loop() is not self._loop:
            raise ClientStateError("the client belongs to another event loop; open one in each loop")

    def chunker(self, rows: Any, window: ConcurrencyLimiter | None = None, skip: RowSet | None = None) -> Chunker:
        """Chunks of ``rows`` within the client's bounds. Raises `InputError` for what nothing could send."""
        packing = Packing(self._scale, self._group.meter, **self._bounds)
        return chunker_of(rows, self.chunk_rows, window, skip, packing)

    def new_run(
        self,
        chunker: Chunker,
        deliver: Callable[[ChunkResult], None],
        control: RunControl | None = None,
        **options: Any,
    ) -> Run:
        """A run over the session's link; ``options`` are `Run`'s."""
        if not self._runs:
            self._group.restore()
        run = Run(chunker, self._codec, self._group, deliver, self._on_event, **options)
        if control is not None:
            control.attach(run)
        return run

    async def execute(self, run: Run) -> None:
        """Bring a run to its end, counting it in."""
        self._runs.add(run)
        self._all_ended.clear()
        try:
            await run.execute()
        finally:
            self._runs.discard(run)
            if not self._runs:
                self._all_ended.set()
            self._totals.add(run.up_to_date_counters())

    def withdraw(self, run: Run, account: RowStatus) -> None:
        """Count the rows of an ended run as pending whose answers may be those of other rows."""
        withdrawn = account.withdraw(run.collector.suspect)
        run.counters.ok -= withdrawn
        self._totals.ok -= withdrawn

    async def preview(self, rows: Rows, control: RunControl | None = None) -> Preview:
        """Let the codec learn what it can of the model, and show what it would send. Raises `RunStopped`."""
        await self._prepare(control)
        return await previewed(self.chunker(rows), self._prepared_codec)

    async def survey(
        self, rows: Any, control: RunControl | None = None, on_request: Callable[[Cost], None] | None = None
    ) -> Survey:
        """The same, and count what a run over all rows would send. Raises `RunStopped`."""
        metadata = await self._prepare(control)
        return await surveyed(self.chunker(rows), self._prepared_codec, self._group, metadata.requests, on_request)

    async def _prepare(self, control: RunControl | None) -> Statistics:
        # A run over nothing prepares as any other does; nothing that has a length, for that needs no preparation.
        run = self.new_run(self.chunker(iter(())), lambda _: None, control)
        await self.execute(run)
        nothing = RowStatus().result(0, run.statistics())
        raise_if_stopped(run.stopped, nothing)
        return nothing.stats

    async def merge(self, chunker: Chunker, control: RunControl | None = None, until: Until | None = None) -> Result:
        """Run over a feed of known length and merge the answers.

        Raises `RunStopped`, and what the run raises; the exception's ``result`` holds what was answered before it.
        """
        assert chunker.total is not None
        merger = MergedRows(chunker.total)
        run = self.new_run(chunker, merger.add, control, until=until)
        try:
            await self.execute(run)
            if run.stopped is None:
                require_unchanged(chunker)
        except Exception as error:
            self.withdraw(run, merger)
            vars(error).setdefault("result", merger.result(chunker.total, run.statistics()))
            raise
        self.withdraw(run, merger)
        result = merger.result(chunker.total, run.statistics())
        violation = merger.violation(result, stopped=run.stopped is not None)
        raise_if_stopped(ending(run.stopped, violation), result)
        return result

    def statistics(self) -> Statistics:
        """Counts of all runs, those under way included."""
        counters = Counters()
        counters.add(self._totals)
        for run in self._runs:
            counters.add(run.up_to_date_counters())
        limiter, transports = self._group.limiter, [host.transport for host in self._group.balancer.endpoints]
        return counters.snapshot(
            seconds=self._loop.time() - self._opened,
            endpoints=self._group.balancer.statistics(),
            concurrency=self._group.chosen,
            in_flight=limiter.in_use,
            max_in_flight=limiter.most_in_use,
            bytes_sent=sum(transport.bytes_sent for transport in transports),
            bytes_received=sum(transport.bytes_received for transport in transports),
        )

    def _batch_rows(self) -> int:
        return min(self.chunk_rows, self._prepared_codec.max_rows or self.chunk_rows)

    @property
    def _prepared_codec(self) -> Codec:
        """The codec, with the model's metadata once it is known."""
        return self._group.prepared or self._codec

    async def _send_batch(self, batch: Batch) -> None:
        """Give each row that was gathered from `predict`'s callers its outcome, as soon as it has one."""
        limit = self._group.timeouts.run
        until = None if limit is None else Until(batch.since + limit, limit, "timeouts.run")

        def deliver(done: ChunkResult) -> None:
            answer_each(batch, done, run.statistics)

        run = self.new_run(self.chunker(batch.rows), deliver, until=until, isolate=batch.split)
        await self.execute(run)
        if batch.open:
            answer_rest(batch, run.stopped, run.statistics)


async def _found(url: str, codec: Codec, servers: list[LocalServer]) -> str:
    """Where requests to ``url`` go; a server that is started for it joins ``servers``."""
    if not url.startswith(LOCAL):
        return target(url, codec.path)
    from fanout.serving.local import LocalServer

    server = LocalServer(url.removeprefix(LOCAL))
    servers.append(server)
    return target(await server.start(), codec.path, server.model)


async def _stopped(servers: Sequence[LocalServer]) -> None:
    for server in servers:
        await server.stop()
