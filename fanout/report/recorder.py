"""Records a run for its report: a listener of events, samples of the counters, and a sample of the answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Protocol

from fanout._escape import shortened
from fanout.errors import ClientStateError
from fanout.report.recording import EndpointTotals, Example, Note, RecordingFile, Sample, Session, Totals
from fanout.report.row_sample import RowSample
from fanout.statistics import Latencies
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fanout.report.recording import Line
    from fanout.results import Event, Statistics

_log = logging.getLogger("fanout")

# Seconds between two samples: at least the first number, and this share of the session's age. The beginning of a run is
# recorded finely, and an hour takes 300 samples.
_SHORTEST, _SHARE = 0.1, 1 / 40

# Age of the session in seconds at the first totals; the next come as the age has doubled, or after an hour.
_FIRST_TOTALS, _MOST_BETWEEN_TOTALS = 8.0, 3600.0

# Seconds between two writes of samples that come quickly.
_BETWEEN_WRITES = 1.0

# Notes between two samples. A flapping endpoint makes many events, of which the first ones explain the others.
_NOTES_PER_SAMPLE = 4
# Lines that wait in memory for the first row that is done, which an endpoint that is down may delay for hours.
_MOST_BUFFERED = 200
# Characters of a reason in the recording, whose size is bounded for each hour of the run.
_LONGEST_REASON = 200
# Each sample has a number for each endpoint, so that their count decides on the size of a recording.
_MOST_ENDPOINTS = 20


class Measured(Protocol):
    """The part of a client that is sampled."""

    def statistics(self) -> Statistics: ...
    def latencies(self) -> Latencies: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run."""

    pending: int
    """Rows without an answer."""

    stop_kind: str = ""
    stop_reason: str = ""


class EventLog:
    """The events between two samples: the first of them as notes, and counts. It is the ``on_event`` of a client."""

    # An event of every chunk would cost more than all other parts of the recording.
    kinds = frozenset({"pause", "stop", "limit", "opened", "ejected", "restored", "excluded"})

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.began = now()
        self._notes: list[Note] = []
        self._paused_until = 0.0
        self.limit_changes: Counter[str] = Counter()
        self.left_out = 0

    def __call__(self, event: Event) -> None:
        now = self._now() - self.began
        # The adaptive limit changes often: its changes are counted by reason, not listed.
        if event.kind == "limit":
            self.limit_changes[event.reason] += 1
            return
        if event.kind == "pause":
            # Each of the requests in flight may be asked to wait, for nearly the same time.
            until, earlier = now + event.seconds, self._paused_until
            self._paused_until = max(until, earlier)
            if until - earlier < event.seconds / 2:
                return
        if len(self._notes) < _NOTES_PER_SAMPLE:
            reason = shortened(event.reason, _LONGEST_REASON)
            self._notes.append(Note(round(now, 2), event.kind, event.seconds, reason))
        else:
            self.left_out += 1

    def take(self) -> list[Note]:
        """Return the notes since the last call."""
        notes, self._notes = self._notes, []
        return notes


class SessionFile:
    """The lines of one session, on their way to the recording's file.

    They are kept until the first row is done: until then an earlier run's recording stays, as its journal does. A
    failure to write ends the recording, never the run.

    Args:
        path: the recording's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: RecordingFile | None = None
        self._buffer: list[Line] = []
        self.broken = False

    def begin(self, head: Session) -> None:
        """Begin with the session's first line."""
        self._buffer = [head]

    def has_room(self, now: float) -> bool:
        """Return False while more samples would make the recording too large. ``now`` is in seconds since 1970."""
        return len(self._buffer) < _MOST_BUFFERED if self._file is None else self._file.has_room(now)

    async def add(self, lines: list[Line], *, interval: float, at_once: bool = False, is_last: bool = False) -> None:
        """Take lines, and write those that are due. ``interval``: seconds between two samples."""
        if self.broken:
            return
        self._buffer += lines
        # The way to the helper thread costs more than a sample.
        is_due = len(self._buffer) * interval >= _BETWEEN_WRITES
        if self._file is None:
            is_due = any(line.ok + line.failed for line in lines if isinstance(line, Sample))
        if is_due or is_last or (at_once and self._file is not None):
            await self._write(self._flush)

    async def close(self) -> None:
        await self._write(self._close)

    def _flush(self) -> None:
        lines, self._buffer = self._buffer, []
        if self._file is None:
            head = lines[0]
            assert isinstance(head, Session)
            self._file = RecordingFile(self._path, fresh=not head.earlier, now=head.began)
        self._file.append(*lines)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    async def _write(self, call: Callable[[], None]) -> None:
        """Call on a helper thread. An `OSError` ends the recording."""
        try:
            await on_thread(call)
        except OSError as error:
            _log.warning("the run is no longer recorded for its report: %s", error)
            self.broken = True


class RunRecorder:
    """Records one session of a run.

    Args:
        path: the recording's file.
        redact: removes secrets from a text of an answer.
        facts: heading to name to text, for the report.
        limit: maximum requests in flight, where "auto" does not set it.
    """

    def __init__(
        self, path: Path, redact: Callable[[str], str], *, facts: dict[str, dict[str, str]], limit: int
    ) -> None:
        self._file = SessionFile(path)
        self._facts = facts
        self._limit = limit
        self._now = asyncio.get_running_loop().time
        self._began_at = time.time()
        self.events = EventLog(self._now)
        self.rows = RowSample(redact)
        self.ending: Ending | None = None
        """To be set before `session` ends; None if an error ends it."""

        self.examples: list[Example] = []
        """Rows to record at the end of `session`."""

        # The latencies at the last sample, whose difference to the present ones is those in between.
        self._latencies = Latencies()

    @asynccontextmanager
    async def session(self, client: Measured, *, rows: int | None, earlier: int) -> AsyncIterator[None]:
        """Record while entered. The client has to be open.

        Args:
            rows: rows of the input; None if unknown.
            earlier: rows that were done before; without any, a new recording is begun.
        """
        # Reading the input may have taken a while.
        self.events.began, self._began_at = self._now(), time.time()
        self._file.begin(Session(self._began_at, rows, earlier, self._facts))
        sampling = asyncio.create_task(self._sample_regularly(client))
        try:
            yield
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            with suppress(ClientStateError):  # closed under the run
                sample, totals = self._sample(client), self._totals(client)
                lines: list[Line] = [*self.events.take(), sample, *self.examples, totals]
                await self._file.add(lines, interval=self._interval, at_once=True, is_last=self.ending is not None)
            await self._file.close()

    async def _sample_regularly(self, client: Measured) -> None:
        next_totals = _FIRST_TOTALS
        while not self._file.broken:
            await asyncio.sleep(self._interval)
            # The clock of the loop, because it is virtual in a rehearsal.
            if not self._file.has_room(self._began_at + self._age):
                continue
            lines: list[Line] = [*self.events.take(), self._sample(client)]
            if self._age >= next_totals:
                next_totals = self._age + min(self._age, _MOST_BETWEEN_TOTALS)
                lines.append(self._totals(client))
            await self._file.add(lines, interval=self._interval, is_last=self.ending is not None)

    @property
    def _interval(self) -> float:
        """Seconds between two samples."""
        return max(_SHORTEST, self._age * _SHARE)

    @property
    def _age(self) -> float:
        return self._now() - self.events.began

    def _sample(self, client: Measured) -> Sample:
        stats, latencies = client.statistics(), client.latencies()
        recent, self._latencies = latencies.since(self._latencies), latencies
        # Three digits are more than a chart shows, and keep the recording of a long run small.
        p50, p95, p99 = (float(f"{seconds:.3g}") for seconds in recent.quantiles(0.50, 0.95, 0.99))
        return Sample(
            seconds=round(self._age, 2),
            ok=stats.ok,
            failed=stats.failed,
            retries=stats.retries,
            splits=stats.splits,
            hedges=stats.hedges,
            in_flight=stats.in_flight,
            limit=stats.concurrency or self._limit,
            latency=None if isnan(p50) else (p50, p95, p99),
            requests=tuple(endpoint.requests for endpoint in stats.endpoints[:_MOST_ENDPOINTS]),
            usage=dict(stats.usage),
            cost=round(stats.cost or 0.0, 6),
            currency="" if stats.cost is None else stats.currency or "money",
        )

    def _totals(self, client: Measured) -> Totals:
        stats, counts, ending = client.statistics(), client.latencies().counts, self.ending
        return Totals(
            seconds=round(self._age, 2),
            ok=stats.ok,
            failed=stats.failed,
            pending=None if ending is None else ending.pending,
            latencies=[(int(i), int(counts[i])) for i in counts.nonzero()[0]],
            max_in_flight=stats.max_in_flight,
            bytes_sent=stats.bytes_sent,
            bytes_received=stats.bytes_received,
            endpoints=[
                EndpointTotals(one.url, one.requests, one.latency, one.state, shortened(one.reason, _LONGEST_REASON))
                for one in stats.endpoints[:_MOST_ENDPOINTS]
            ],
            outputs=self.rows.outputs(),
            limit_changes=dict(self.events.limit_changes),
            left_out=self.events.left_out,
            stop_kind=ending.stop_kind if ending else "",
            stop_reason=ending.stop_reason if ending else "",
        )
