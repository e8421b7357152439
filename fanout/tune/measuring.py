"""One trial: a client of its own, a warm-up, then rows until enough of them are answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from fanout.job.run import client_of
from fanout.tune.counting import Count, Signs

if TYPE_CHECKING:
    from fanout.client import Client
    from fanout.errors import RunStopped
    from fanout.io.readers import Source
    from fanout.job.model import Job
    from fanout.transport import Transport
    from fanout.tune.budget import Quota
    from fanout.tune.control import SearchControl
    from fanout.tune.part import Part
    from fanout.tune.trial import Measurement, Point


class Outcome(NamedTuple):
    """What came of a trial."""

    measurement: Measurement | None
    """None where it was ended before enough was answered."""

    requests: int
    """All that were sent, those of the warm-up included."""

    failed: int
    """Rows, those of the warm-up included."""

    stop: RunStopped | None = None
    """Why it was ended, where there is no measurement."""


class Trials:
    """Measures points of one job.

    Args:
        job: with a URL at which requests can be sent: no server is started for a trial.
        part: what is sent.
        seconds: how long a trial counts, if enough chunks are answered in it.
        control: ends what is under way from outside.
        transport: what answers in the endpoint's place.
    """

    def __init__(
        self, job: Job, part: Part, *, seconds: float, control: SearchControl, transport: Transport | None
    ) -> None:
        self._job = job
        self._part = part
        self._seconds = seconds
        self._control = control
        self._transport = transport
        self.client: Client | None = None
        """The client of the trial under way."""

        self.quiet_until = 0.0
        """The endpoint wants no request before that time; whoever asks for a trial waits until then."""

    async def measure(self, point: Point, quota: Quota, *, guard: int, ends: float) -> Outcome:
        """Send chunks at ``point`` until ``quota`` is answered: at most ``guard`` requests, none after ``ends``."""
        signs = Signs(point.chunk_rows)
        async with client_of(at_point(self._job, point, guard), self._transport, signs.note) as client:
            self.client = client
            try:
                measurement, stop = await self._measured(client, point, quota, signs, ends)
            finally:
                self.client = None
                self.quiet_until = max(self.quiet_until, signs.quiet_until)
            stats = client.statistics()
            return Outcome(measurement, stats.requests, stats.failed, stop)

    async def _measured(
        self, client: Client, point: Point, quota: Quota, signs: Signs, ends: float
    ) -> tuple[Measurement | None, RunStopped | None]:
        first = self._part.sliced(slice(0, point.concurrency * point.chunk_rows))
        warm = await self._counted(client, first, signs, None, ends)
        if warm.stop is not None:
            return None, warm.stop
        refused = warm.too_large and not warm.failed
        if refused or warm.closed:  # closed for want of answers: more of this would tell nothing new
            return warm.measurement(), None
        count = await self._counted(client, self._part, signs, quota, ends)
        if not count.closed and count.chunks < quota.least:
            return None, count.stop
        return count.measurement(), None

    async def _counted(self, client: Client, rows: Source, signs: Signs, quota: Quota | None, ends: float) -> Count:
        control = self._control.fresh()
        count = Count(client.stream(rows, control=control), control, signs, quota, seconds=self._seconds)
        await count.run(ends)
        return count


def at_point(job: Job, point: Point, guard: int) -> Job:
    """The job with the two values of a point, and no more than ``guard`` requests; its deadline is for all its rows."""
    tables = job.tables
    values = {
        "chunks": replace(tables.chunks, rows=point.chunk_rows),
        "limits": replace(tables.limits, concurrency=point.concurrency, max_requests=guard),
        "timeouts": replace(tables.timeouts, run=None),
    }
    return replace(job, tables=tables.model_copy(update=values))
