"""Counting what one stream of rows brings, until enough of it is answered to tell how fast it goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.errors import RunStopped
from fanout.job.tuning.trial import Measurement
from fanout.types import Statistics

if TYPE_CHECKING:
    from fanout.client import Stream
    from fanout.engine import RunControl
    from fanout.job.tuning.budget import Quota
    from fanout.types import Done

_PATIENCE = 5
"""Times the seconds that it should take, after which it ends where hardly anything is answered."""


class Count:
    """Counts the chunks of a stream from the first request on, with nothing in flight before it.

    What comes once enough is counted is waited for, but does not count: ever fewer are in flight then.

    Args:
        stream: not entered yet.
        control: the stream's.
        quota: how many chunks are enough; None: all that there are.
        seconds: how long it should take.
    """

    def __init__(self, stream: Stream, control: RunControl, quota: Quota | None, *, seconds: float) -> None:
        self._stream = stream
        self._control = control
        self._quota = quota
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began = self._last = self._loop.time()
        self._rows = 0
        self._stats = Statistics()
        self.chunks = 0
        self.failed = 0
        """Rows."""

        self.closed = False
        """It ended by itself: enough was answered, or the endpoint does not get on."""

        self.stop: RunStopped | None = None
        """What else has ended it."""

    async def run(self, ends: float) -> None:
        """Count, until ``ends`` at the latest: what is in flight then is abandoned."""
        timers = [
            self._loop.call_later(_PATIENCE * self._seconds, self._despair),
            self._loop.call_at(ends, self._control.cut, "the time of the search is over", "deadline"),
        ]
        try:
            async with self._stream as results:
                async for done in results:
                    if not self.closed:
                        self._add(done)
        except RunStopped as stop:
            self.stop = None if self.closed else stop
        finally:
            for timer in timers:
                timer.cancel()
        if not self.closed:
            self._stats = self._stream.statistics()

    def measurement(self, refused: str = "") -> Measurement:
        """What was counted; see `Measurement.refused`."""
        stats = self._stats
        return Measurement(
            rows=self._rows,
            failed=self.failed,
            seconds=self._last - self._began,
            requests=stats.requests,
            retries=stats.retries,
            latency_p50=stats.latency_p50,
            latency_p95=stats.latency_p95,
            refused=refused,
        )

    def _add(self, done: Done) -> None:
        failed = sum(failure.stop - failure.start for failure in done.failures)
        self.failed += failed
        self._rows += done.stop - done.start - failed - sum(map(len, done.pending))
        self.chunks += 1
        self._last = self._loop.time()
        if self._enough():
            self._close()

    def _enough(self) -> bool:
        if self._quota is None:
            return False
        elapsed = self._last - self._began
        long = elapsed >= self._seconds and self.chunks >= self._quota.least
        return self.chunks >= self._quota.most or long or elapsed >= _PATIENCE * self._seconds

    def _despair(self) -> None:
        """It takes far too long. A slow endpoint gets the time for a first answer, one that refuses does not."""
        if self._stream.statistics().retries or (self._quota and self.chunks):
            self._close()

    def _close(self) -> None:
        if not self.closed:
            self.closed, self._stats = True, self._stream.statistics()
            self._control.drain("enough is answered", "deadline")
