"""The counter of a trial: it counts the chunks of one stream until they are enough for a rate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fanout.errors import RunStopped
from fanout.tune.trial import Measurement

if TYPE_CHECKING:
    from fanout.client import Stream
    from fanout.engine import RunControl
    from fanout.results import ChunkResult, Event
    from fanout.tune.search import Quota

# Multiple of the planned duration after which a trial with hardly any answers ends.
_PATIENCE = 5

# Statuses of servers for chunks that are too large.
_TOO_LARGE = {400, 413, 422}


@dataclass(slots=True)
class EventCounter:
    """Counts the events of a trial's client."""

    chunk_rows: int
    retried: int = 0
    """Requests that needed another attempt."""

    split: set[int] = field(default_factory=set)
    """First rows of the full chunks that were split for their status. Splits of their halves are not counted."""

    split_reason: str = ""
    quiet_until: float = 0.0
    """Time until which the endpoint accepts no request."""

    def reset(self) -> None:
        """Start to count for another stream. The endpoint's pause stays."""
        self.retried, self.split, self.split_reason = 0, set(), ""

    def add(self, event: Event) -> None:
        """Count an event."""
        if event.kind == "retry":
            self.retried += 1
        # Halves that are split again belong to a chunk that is counted already.
        elif event.kind == "split" and event.status in _TOO_LARGE and event.stop - event.start == self.chunk_rows:
            self.split.add(event.start)
            self.split_reason = event.reason
        elif event.kind == "pause":
            self.quiet_until = max(self.quiet_until, asyncio.get_running_loop().time() + event.seconds)


class AnswerLog:
    """The chunks of a stream that are answered or failed: their times and their answered rows."""

    def __init__(self) -> None:
        self._began = _now()
        self._times: list[float] = []
        self._rows: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: int) -> None:
        """Add a chunk that has just come, with the number of its answered rows."""
        self._times.append(_now())
        self._rows.append(rows)

    @property
    def rows(self) -> int:
        """Rows answered."""
        return sum(self._rows)

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning to the last chunk."""
        return self._times[-1] - self._began if self._times else 0.0

    def rows_per_second(self) -> float:
        """Return the slope of the least-squares line through all answers.

        Answers come in bursts of as many as are in flight, or as the server has workers. A quotient of rows and time
        would depend on the part of a burst that came last.
        """
        times, rows = np.array(self._times), np.cumsum(self._rows)
        centred = times - times.mean() if len(times) else times
        if (spread := float(centred @ centred)) > 0:
            return float(centred @ rows) / spread
        # All answers came at one moment, or there is only one.
        return self.rows / self.elapsed if self.elapsed > 0 else 0.0

    def seconds(self) -> float:
        """Return the time that the answered rows take at the measured rate; the time so far if none is answered."""
        rate = self.rows_per_second()
        return self.rows / rate if rate else _now() - self._began


class StreamCounter:
    """Counts the chunks of a stream from its first request, with nothing in flight before.

    Once enough chunks are counted, the stream drains: the remaining chunks are awaited and not counted, because fewer
    and fewer requests are in flight.

    Args:
        quota: number of chunks to count; None: all of them.
        seconds: planned duration.
    """

    def __init__(
        self, stream: Stream, control: RunControl, events: EventCounter, quota: Quota | None, *, seconds: float
    ) -> None:
        self._stream = stream
        self._control = control
        self._events = events
        self._quota = quota
        self._seconds = seconds
        self._log = AnswerLog()
        self._whole = 0
        """Full chunks that were not split."""

        self.failed = 0
        """Rows failed."""

        self.closed = False
        """The counter ended the stream: enough was counted, or the endpoint makes no progress."""

        self.stop: RunStopped | None = None
        """Any other reason for the end of the stream."""

        self.measurement = Measurement()
        """The counts, once `run` has returned."""

        events.reset()

    async def run(self, ends: float) -> None:
        """Count until the time ``ends`` at the latest. Requests still in flight then are abandoned."""
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(_PATIENCE * self._seconds, self._lose_patience),
            # The budget bounds time too, so requests in flight at its end are not awaited.
            loop.call_at(ends, self._control.cut, "the time of the search is over", "deadline"),
        ]
        try:
            async with self._stream as results:
                async for done in results:
                    if not self.closed:
                        self._add(done)
        except RunStopped as stop:
            # A drain that this counter requested is no failure.
            self.stop = None if self.closed else stop
        finally:
            for timer in timers:
                timer.cancel()
        if not self.closed:
            self.measurement = self._measure()

    @property
    def chunks(self) -> int:
        """Chunks that are answered or failed."""
        return len(self._log)

    def _add(self, done: ChunkResult) -> None:
        failed = sum(failure.n_rows for failure in done.failures)
        self.failed += failed
        if done.stop - done.start == self._events.chunk_rows and done.start not in self._events.split:
            self._whole += 1
        self._log.add(done.stop - done.start - failed - sum(map(len, done.pending)))
        if self._is_enough():
            # Answers of one burst belong together: close only after those that have arrived already.
            asyncio.get_running_loop().call_soon(self._close)

    def _is_enough(self) -> bool:
        if self._quota is None:
            return False
        elapsed = self._log.elapsed
        long_enough = elapsed >= self._seconds and self.chunks >= self._quota.least
        return self.chunks >= self._quota.most or long_enough or elapsed >= _PATIENCE * self._seconds

    def _lose_patience(self) -> None:
        # A slow endpoint gets the time for its first answer; one that refuses requests does not.
        if self._events.retried or (self._quota and self.chunks):
            self._close()

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self.measurement = self._measure()
            self._control.drain("enough is answered", "deadline")

    def _measure(self) -> Measurement:
        stats = self._stream.statistics()
        # Bad rows alone do not split most of the chunks. Chunks that are cut because of a split are not of this size.
        too_large = len(self._events.split) > self._whole
        return Measurement(
            rows=self._log.rows,
            failed=self.failed,
            seconds=self._log.seconds(),
            requests=stats.requests,
            retried=self._events.retried,
            latency_p50=stats.latency_p50,
            latency_p95=stats.latency_p95,
            refused=self._events.split_reason if too_large else "",
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
