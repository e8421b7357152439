"""The sessions of a run on one time axis: the time in which fanout worked, without the pauses between sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.report.charts import MOST_SERIES, Point, Series, Span, TimeChart
from fanout.statistics import Latencies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.report.recording import EndpointTotals, Note, RecordedSession, Sample
    from fanout.types import Array

# Fewer samples show no trend, and a line through them would suggest one.
_FEWEST = 3
_PERCENTILES = ("median", "95 %", "99 %")


@dataclass(frozen=True, slots=True)
class Interval:
    """The time between two samples of a session.

    Attributes:
        start, stop: times on the axis, in seconds.
        before, after: the samples; ``before`` is None at the beginning of a session.
        session: the session of both.
    """

    start: float
    stop: float
    before: Sample | None
    after: Sample
    session: RecordedSession

    def rate(self, counted: Callable[[Sample], int]) -> float:
        """Return the growth of a counter in a second."""
        grown = counted(self.after) - (0 if self.before is None else counted(self.before))
        # A session may end at the moment of its last sample.
        return grown / max(1e-9, self.stop - self.start)

    def requests(self, urls: Sequence[str]) -> float:
        """Return the requests in a second to some endpoints."""
        # A session numbers the endpoints in the order of its own job file, which may have changed since.
        known = self.session.totals.endpoints if self.session.totals else ()
        places = [n for n, one in enumerate(known) if one.url in urls]
        return self.rate(lambda sample: sum(sample.requests[n] for n in places if n < len(sample.requests)))


@dataclass(slots=True)
class Timeline:
    """The recorded sessions, one after the other.

    Attributes:
        end: length in seconds.
        starts: times at which sessions begin, in their order.
    """

    sessions: Sequence[RecordedSession]
    end: float = 0.0
    starts: list[float] = field(default_factory=list)
    intervals: list[list[Interval]] = field(default_factory=list)
    """The intervals of each session."""

    def __post_init__(self) -> None:
        for one in self.sessions:
            self.starts.append(self.end)
            self.intervals.append(list(self._intervals_of(one)))
            self.end += max([sample.seconds for sample in one.samples], default=0.0)

    def _intervals_of(self, one: RecordedSession) -> Iterator[Interval]:
        before: Sample | None = None
        for sample in one.samples:
            start = 0.0 if before is None else before.seconds
            # The last sample may come at the time of the one before it.
            if sample.seconds - start >= 0.05 or before is None:
                offset = self.end
                yield Interval(offset + start, offset + sample.seconds, before, sample, one)
                before = sample

    @property
    def is_short(self) -> bool:
        """True if there are too few samples for a chart over time."""
        return sum(map(len, self.intervals)) < _FEWEST

    @property
    def resumed(self) -> list[float]:
        """Times at which a later session began."""
        return self.starts[1:]

    def chart(self, question: str, summary: str, unit: str, series: Sequence[Series], **options: Any) -> str:
        """Return a chart over the time of the run as HTML; ``options`` are further ones of `TimeChart`."""
        return TimeChart(question, summary, unit, series, self.end, self.resumed, **options).html()

    def totals_of(self, counted: Callable[[Sample], int]) -> list[Point]:
        """Return a counter over time, which begins at 0 in each session."""
        return self._points(lambda one: float(counted(one.after)), lambda one: 0.0)

    def rows_done(self) -> list[Point]:
        """Return the rows that are done, those of earlier sessions included."""
        return self._points(
            lambda one: float(one.session.session.earlier + one.after.ok + one.after.failed),
            lambda one: float(one.session.session.earlier),
        )

    def rates(self, counted: Callable[[Sample], int]) -> list[Point]:
        """Return the growth of a counter in a second, over time."""
        return self._points(lambda one: one.rate(counted), lambda one: one.rate(counted))

    def gauge(self, value: Callable[[Sample], float | None]) -> list[Point]:
        """Return a value of each sample."""
        # Unlike a counter, which begins at 0, a gauge is not known before its first sample.
        return self._points(lambda one: value(one.after), None)

    def _points(
        self, value: Callable[[Interval], float | None], first: Callable[[Interval], float] | None
    ) -> list[Point]:
        points: list[Point] = []
        for intervals in self.intervals:
            # No line leads from one session to the next.
            if points and intervals:
                points.append((intervals[0].start, None))
            if first is not None and intervals:
                points.append((intervals[0].start, first(intervals[0])))
            points += [(one.stop, value(one)) for one in intervals]
        return points

    def latency_series(self) -> list[Series]:
        """Return the percentiles of latency over time, in seconds."""

        def percentile(n: int) -> Callable[[Sample], float | None]:
            return lambda sample: None if sample.latency is None else sample.latency[n]

        return [Series(name, self.gauge(percentile(n))) for n, name in enumerate(_PERCENTILES)]

    def latencies(self) -> Latencies:
        """Return the latencies of all sessions together."""
        counts: Array = np.zeros(len(Latencies.edges()) - 1, np.int64)
        for one in self.sessions:
            for index, n in one.totals.latencies if one.totals else ():
                # Another release may have recorded with other buckets; a report is no reason to fail then.
                if 0 <= index < len(counts):
                    counts[index] += n
        return Latencies(counts)

    def usage_series(self) -> list[Series]:
        """Return what the API has counted over time, the largest counts first."""
        totals: dict[str, int] = {}
        for one in self.sessions:
            for name, n in one.samples[-1].usage.items() if one.samples else ():
                totals[name] = totals.get(name, 0) + n
        names = sorted((name for name in totals if totals[name]), key=lambda name: -totals[name])[:MOST_SERIES]
        return [Series(name, self.accumulated(_counter(name))) for name in names]

    def accumulated(self, counted: Callable[[Sample], float]) -> list[Point]:
        """Return a counter over time, summed over the sessions."""
        points: list[Point] = []
        # The counters of a session begin at 0, whatever earlier ones have counted.
        base = 0.0
        for intervals in self.intervals:
            if intervals:
                points.append((intervals[0].start, base))
                points += [(one.stop, base + counted(one.after)) for one in intervals]
                base = points[-1][1] or 0.0
        return points

    def endpoint_series(self) -> list[Series]:
        """Return the requests in a second to each endpoint; those beyond the sixth are added up."""
        urls = [endpoint.url for endpoint in self.endpoints()]
        # The last series stands for all others, so that the sum of the lines is that of the run.
        alone = len(urls) if len(urls) <= MOST_SERIES else MOST_SERIES - 1
        groups = {url: [url] for url in urls[:alone]}
        if len(urls) > alone:
            groups[f"{len(urls) - alone} others"] = urls[alone:]
        return [Series(name, self._requests_to(group), steps=True) for name, group in groups.items()]

    def _requests_to(self, urls: Sequence[str]) -> list[Point]:
        return self._points(lambda one: one.requests(urls), lambda one: one.requests(urls))

    def endpoints(self) -> list[EndpointTotals]:
        """Return the endpoints of the last session."""
        return next((one.totals.endpoints for one in reversed(self.sessions) if one.totals), [])

    def requests_of(self, url: str) -> int:
        """Return the requests to an endpoint in all sessions."""
        totals = (one.totals for one in self.sessions if one.totals)
        return sum(endpoint.requests for one in totals for endpoint in one.endpoints if endpoint.url == url)

    def notes(self, *kinds: str) -> list[tuple[float, Note]]:
        """Return the events of some kinds with their times."""
        return [
            (start + note.seconds, note)
            for start, one in zip(self.starts, self.sessions, strict=True)
            for note in one.notes
            if note.kind in kinds
        ]

    def pauses(self) -> list[Span]:
        """Return the pauses that endpoints asked for."""
        return [
            Span(when, min(self.end, when + note.lasts), f"pause of {note.lasts:.3g} s: {note.reason}")
            for when, note in self.notes("pause")
        ]


def _counter(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.usage.get(name, 0)
