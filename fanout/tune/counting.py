"""Counting what one stream of rows brings, until enough of it is answered to tell how fast it goes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fanout.errors import RunStopped
from fanout.tune.trial import Measurement
from fanout.types import Statistics

if TYPE_CHECKING:
    from fanout.client import Stream
    from fanout.engine import RunControl
    from fanout.tune.budget import Quota
    from fanout.types import ChunkResult, Event

_PATIENCE = 5
"""Times the seconds that it should take, after which it ends where hardly anything is answered."""


_OF_SIZE = {400, 413, 422}
"""What servers say of chunks that are too large for them."""


@dataclass(slots=True)
class Signs:
    """What a client's events tell of its endpoint."""

    chunk_rows: int
    retried: int = 0
    """Requests that failed in a way that is worth another attempt."""

    split: set[int] = field(default_factory=set)
    """First rows of the chunks that were split for their status. Their parts that are split again have the same."""

    said: str = ""
    """Why the last of them was."""

    quiet_until: float = 0.0
    """The endpoint wants no request before that time."""

    def note(self, event: Event) -> None:
        """Listen."""
        if event.kind == "retry":
            self.retried += 1
        elif event.kind == "split" and event.status in _OF_SIZE and event.stop - event.start == self.chunk_rows:
            self.split.add(event.start)
            self.said = event.reason
        elif event.kind == "pause":
            self.quiet_until = max(self.quiet_until, asyncio.get_running_loop().time() + event.seconds)


class Count:
    """Counts the chunks of a stream from the first request on, with nothing in flight before it.

    What comes once enough is counted is waited for, but does not count: ever fewer are in flight then.

    Args:
        stream: not entered yet.
        control: the stream's.
        signs: what is seen at the stream's client.
        quota: how many chunks are enough; None: all that there are.
        seconds: how long it should take.
    """

    def __init__(
        self, stream: Stream, control: RunControl, signs: Signs, quota: Quota | None, *, seconds: float
    ) -> None:
        self._stream = stream
        self._control = control
        self._signs = signs
        self._quota = quota
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._times: list[float] = []
        self._rows: list[int] = []
        self._stats = Statistics()
        self._retried_before, self._retried, self._split = signs.retried, 0, 0
        signs.split.clear()
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
            self._look()

    @property
    def chunks(self) -> int:
        """Those that are answered or have failed."""
        return len(self._rows)

    @property
    def too_large(self) -> bool:
        """Most of the chunks had to be split: bad rows alone are not in so many of them."""
        return 2 * self._split > self.chunks

    def measurement(self) -> Measurement:
        """What was counted."""
        rows, controller = sum(self._rows), self._controller()
        return Measurement(
            rows=rows,
            failed=self.failed,
            seconds=rows / controller if controller else self._loop.time() - self._began,
            requests=self._stats.requests,
            retried=self._retried,
            latency_p50=self._stats.latency_p50,
            latency_p95=self._stats.latency_p95,
            refused=self._signs.said if self.too_large else "",
        )

    def _controller(self) -> float:
        """Rows answered in a second: the slope of a line through all answers.

        Answers come in bursts, of as many as are in flight or as the server has workers. The quotient of rows and time
        would depend on which part of a burst came last.
        """
        times, rows = np.array(self._times), np.cumsum(self._rows)
        apart = times - times.mean() if len(times) else times
        if (spread := float(apart @ apart)) > 0:
            return float(apart @ rows) / spread
        took = self._times[0] - self._began if self._times else 0.0
        return sum(self._rows) / took if took > 0 else 0.0

    def _add(self, done: ChunkResult) -> None:
        failed = sum(failure.stop - failure.start for failure in done.failures)
        self.failed += failed
        self._rows.append(done.stop - done.start - failed - sum(map(len, done.pending)))
        self._times.append(self._loop.time())
        if self._enough():
            self._loop.call_soon(self._close)  # what has come together counts together

    def _enough(self) -> bool:
        if self._quota is None:
            return False
        elapsed = self._times[-1] - self._began
        long = elapsed >= self._seconds and self.chunks >= self._quota.least
        return self.chunks >= self._quota.most or long or elapsed >= _PATIENCE * self._seconds

    def _despair(self) -> None:
        """It takes far too long. A slow endpoint gets the time for a first answer, one that refuses does not."""
        if self._signs.retried > self._retried_before or (self._quota and self.chunks):
            self._close()

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._look()
            self._control.drain("enough is answered", "deadline")

    def _look(self) -> None:
        self._stats = self._stream.statistics()
        self._retried = self._signs.retried - self._retried_before
        self._split = len(self._signs.split)
