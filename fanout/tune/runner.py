"""Trials in practice: a sample of the input, a client for each trial, and a control that ends the search."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.engine import RunControl
from fanout.errors import InputError
from fanout.io.readers.base import BLOCK_BYTES, Source
from fanout.job.opening import client_of
from fanout.rows import count_rows, join_rows
from fanout.tune.counter import EventCounter, StreamCounter
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.client import Client
    from fanout.errors import RunStopped
    from fanout.job import Job
    from fanout.results import Statistics
    from fanout.settings import Limits
    from fanout.transport import Transport
    from fanout.tune.search import Quota
    from fanout.tune.trial import Measurement, Point
    from fanout.types import Rows, StopKind

# Approximate size of a sample in memory.
_SAMPLE_BYTES = 64 * 2**20


# A limit has to be above 0. One as small as this allows no request.
_NOTHING_LEFT = 1e-12


class Sample(Source):
    """Rows in memory that repeat without end: trials need as many as fit into their time."""

    def __init__(self, rows: Rows, *, uniform: bool) -> None:
        self.rows = rows
        self.length = count_rows(rows)
        self.uniform = uniform

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        while True:
            yield Block(self.rows)

    def fingerprint(self) -> dict[str, Any] | None:
        """See `Source.fingerprint`."""
        # A trial has no journal, so its rows need no identity.
        return None


def read_sample(source: Source) -> Sample:
    """Read the first 64 MiB of ``source``. Raises `InputError` if there are no rows."""
    parts, held = [], 0
    for block in source.blocks():
        parts.append(block.rows)
        held += _nbytes(block.rows)
        # The whole input may be larger than the memory, and no trial has time for more.
        if held >= _SAMPLE_BYTES:
            break
    if not parts:
        raise InputError("there are no rows to send: the input is empty, or --rows selects none of it")
    return Sample(join_rows(parts), uniform=source.uniform)


class SearchControl(RunControl):
    """Ends a search from outside, and the run under way with it. Each run of the search has a control of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._current = RunControl()
        self._reason: tuple[str, StopKind] = ("interrupted", "interrupted")
        self._end_requested = asyncio.Event()

    @property
    def ended(self) -> bool:
        """True once the end was requested."""
        return self._end_requested.is_set()

    @property
    def reason(self) -> str:
        """The reason given for the end."""
        return self._reason[0]

    def next_run(self) -> RunControl:
        """Return the control of the next run, and forget that of the run before."""
        self._current = RunControl()
        # The end may be requested between two runs, when no run is attached.
        if self.ended:
            self._current.drain(*self._reason)
        return self._current

    def drain(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """See `RunControl.drain`."""
        self._request_end(reason, kind)
        self._current.drain(reason, kind)

    def cut(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """See `RunControl.cut`."""
        self._request_end(reason, kind)
        self._current.cut(reason, kind)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but wake up when the end is requested."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end_requested.wait()

    def _request_end(self, reason: str, kind: StopKind) -> None:
        self._reason = reason, kind
        self._end_requested.set()


class TrialOutcome(NamedTuple):
    """The outcome of a trial."""

    measurement: Measurement | None
    """None if the trial ended before enough was answered."""

    stats: Statistics
    """All counters of the trial, its warm-up included."""

    stop: RunStopped | None = None
    """Reason of the end, if there is no measurement."""


class TrialRunner:
    """Measures points of one job.

    Args:
        job: its URL must accept requests: no server is started for a trial.
        seconds: counted duration of a trial, if enough chunks are answered in it.
        control: ends the run under way from outside.
        transport: answers in place of the endpoint; None: the network.
    """

    def __init__(
        self, job: Job, sample: Sample, *, seconds: float, control: SearchControl, transport: Transport | None
    ) -> None:
        self.job = job
        self.sample = sample
        self.control = control
        self.transport = transport
        self._seconds = seconds
        # The progress display reads the requests in flight from it.
        self.client: Client | None = None
        """The client of the trial under way."""

        self.cost = 0.0
        """Cost of all trials so far."""

        self._tokens = 0
        self.quiet_until = 0.0
        """Time until which the endpoint accepts no request. The next trial must wait, as its client is a new one."""

    def client_at(self, point: Point, max_requests: int, events: EventCounter | None = None) -> Client:
        """Return a client with the two values of ``point``, which sends at most ``max_requests`` requests."""
        tables = self.job.tables
        values = {
            "chunks": replace(tables.chunks, rows=point.chunk_rows),
            "limits": self._limits(point, max_requests),
            # The deadline of a run is meant for all rows of the job, not for a trial.
            "timeouts": replace(tables.timeouts, run=None),
        }
        job = replace(self.job, tables=tables.model_copy(update=values))
        return client_of(job, self.transport, events.add if events is not None else None)

    def _limits(self, point: Point, max_requests: int) -> Limits:
        """The job's limits at a point. Those on cost and tokens hold for all trials together."""
        limits = replace(self.job.tables.limits, concurrency=point.concurrency, max_requests=max_requests)
        if limits.max_cost is not None:
            limits = replace(limits, max_cost=max(limits.max_cost - self.cost, _NOTHING_LEFT))
        if limits.max_tokens_total is not None:
            limits = replace(limits, max_tokens_total=max(limits.max_tokens_total - self._tokens, 1))
        return limits

    async def measure(self, point: Point, quota: Quota, *, max_requests: int, ends: float) -> TrialOutcome:
        """Send chunks at ``point`` until ``quota`` is answered, but no more requests and no longer than allowed."""
        events = EventCounter(point.chunk_rows)
        # A new client for each trial: its limiters and latencies start without a history.
        async with self.client_at(point, max_requests, events) as client:
            self.client = client
            try:
                measurement, stop = await self._measure(client, point, quota, events, ends)
            finally:
                self.client = None
                self.quiet_until = max(self.quiet_until, events.quiet_until)
            stats = client.statistics()
            self.cost += stats.cost or 0.0
            self._tokens += stats.tokens.total
            return TrialOutcome(measurement, stats, stop)

    async def _measure(
        self, client: Client, point: Point, quota: Quota, events: EventCounter, ends: float
    ) -> tuple[Measurement | None, RunStopped | None]:
        # One round of warm-up opens the connections and fills the server's caches.
        first_round = self.sample.sliced(slice(0, point.concurrency * point.chunk_rows))
        warm_up = await self._count(client, first_round, events, None, ends)
        if warm_up.stop is not None:
            return None, warm_up.stop
        refused = bool(warm_up.measurement.refused) and not warm_up.failed
        if refused or warm_up.closed:  # closed for lack of answers: more requests would show nothing new
            return warm_up.measurement, None
        counted = await self._count(client, self.sample, events, quota, ends)
        if not counted.closed and counted.chunks < quota.least:
            return None, counted.stop
        return counted.measurement, None

    async def _count(
        self, client: Client, rows: Source, events: EventCounter, quota: Quota | None, ends: float
    ) -> StreamCounter:
        # A control that has ended one stream would end every later one at once.
        control = self.control.next_run()
        stream = client.stream(rows, control=control)
        counter = StreamCounter(stream, control, events, quota, seconds=self._seconds)
        await counter.run(ends)
        return counter


def _nbytes(rows: Rows) -> int:
    if isinstance(rows, Mapping):
        return sum(column.nbytes for column in rows.values())
    return rows.nbytes if isinstance(rows, np.ndarray) else BLOCK_BYTES
