"""The sections of a report: charts and tables, each with a title that states its question."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fanout.report.charts import Histogram, Series, bar_table, figure, table
from fanout.report.scales import duration, number
from fanout.statistics import Latencies

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.report.recording import EndpointTotals, RecordedSession
    from fanout.report.timeline import Timeline
    from fanout.results import Failure

# An endpoint in trouble makes an event whenever its circuit opens, which may be hundreds in an hour.
_EVENTS_SHOWN = 40
_EVENT_NAMES = {
    "opened": "circuit opened", "ejected": "left alone for a while", "restored": "answers again",
    "excluded": "excluded", "pause": "pause", "stop": "stop",
}  # fmt: skip

_PER_BIN = 4
"""Buckets of `Latencies` in a bin of the histogram: 4 bins for each doubling."""

# Reasons with a line of their own; the file of failures beside the output has every row.
_MOST = 12
_EXAMPLES = 3
_COMPARED = 200
_DIGITS = re.compile(r"\d+")


def rows_text(n: int) -> str:
    """Return a number of rows in words."""
    return f"{n:,} row{'s' * (n != 1)}"


def progress(timeline: Timeline) -> list[str]:
    """Return charts of the rows that are done."""
    if timeline.is_short:
        return []
    rates = [value for _, value in timeline.rates(lambda sample: sample.ok) if value is not None]
    # The last point may be a gap between sessions, which has no value.
    last = next((value for _, value in reversed(timeline.rows_done()) if value is not None), 0.0)
    peak = f"{number(max(rates, default=0.0))} rows/s at most between two samples."
    done = [
        Series("done", timeline.rows_done()),
        Series("failed among them", timeline.totals_of(lambda sample: sample.failed)),
    ]
    answered = Series("answered", timeline.rates(lambda sample: sample.ok), steps=True)
    at_end = f"{rows_text(round(last))} at the end of the recording."
    return [
        timeline.chart("How many rows were done?", at_end, "rows", done),
        timeline.chart("How many rows were answered in a second?", peak, "rows/s", [answered]),
    ]


def requests(timeline: Timeline) -> list[str]:
    """Return charts of the requests, their latencies and their limit."""
    latencies = timeline.latencies()
    # A session that only wrote an output again, or took all answers from the cache, has sent nothing.
    if not latencies.counts.any():
        return []
    p50, p95, p99 = latencies.quantiles(0.5, 0.95, 0.99)
    histogram = _latency_histogram(latencies, (p50, p95, p99))
    if timeline.is_short:
        return [histogram]
    over_time = timeline.chart(
        "How long did requests take?",
        f"Median {duration(p50)}, 95 % within {duration(p95)}, 99 % within {duration(p99)}.",
        "latency, log scale",
        timeline.latency_series(),
        log=True,
        show=duration,
    )
    return [over_time, histogram, _in_flight(timeline), _trouble(timeline)]


def _latency_histogram(latencies: Latencies, percentiles: tuple[float, float, float]) -> str:
    edges, counts = Latencies.edges(), latencies.counts
    filled = counts.nonzero()[0]
    # The ends are multiples of the width of a bin, so that all bins have as many buckets.
    first, last = filled[0] // _PER_BIN * _PER_BIN, (filled[-1] // _PER_BIN + 1) * _PER_BIN
    heights = counts[first:last].reshape(-1, _PER_BIN).sum(axis=1)
    return Histogram(
        "How are latencies distributed?",
        f"{int(counts.sum()):,} requests, from {duration(edges[filled[0]])} to {duration(edges[filled[-1] + 1])}.",
        edges[first : last + 1 : _PER_BIN].tolist(),
        heights.tolist(),
        "latency, log scale",
        "requests",
        log=True,
        marks=list(zip(percentiles, ("median", "95 %", "99 %"), strict=True)),
        show=duration,
    ).html()


def _in_flight(timeline: Timeline) -> str:
    changes: Counter[str] = Counter()
    for one in timeline.sessions:
        changes.update(one.totals.limit_changes if one.totals else {})
    most = max((one.totals.max_in_flight for one in timeline.sessions if one.totals), default=0)
    reasons = ", ".join(f"{reason} ({n:,} times)" for reason, n in changes.most_common())
    summary = f"At most {most:,}." + (f" The limit was adapted to the endpoint: {reasons}." if changes else "")
    series = [
        Series("in flight", timeline.gauge(lambda sample: sample.in_flight)),
        Series("limit", timeline.gauge(lambda sample: sample.limit), steps=True),
    ]
    return timeline.chart("How many requests were in flight, against the limit?", summary, "requests", series)


def _trouble(timeline: Timeline) -> str:
    series = []
    for name in ("retries", "splits", "hedges"):
        points = timeline.rates(attrgetter(name))
        # Splits and hedges are rare: a line at 0 would only cover the others.
        if name == "retries" or any(value for _, value in points):
            series.append(Series(name, points, steps=True))
    pauses, opened = timeline.pauses(), timeline.notes("opened", "ejected")
    counts = [f"{len(pauses):,} pauses"] * bool(pauses) + [f"{len(opened):,} circuit openings"] * bool(opened)
    left_out = sum(one.totals.left_out for one in timeline.sessions if one.totals)
    omitted = f" {left_out:,} further events are not shown." if left_out else ""
    return timeline.chart(
        "When were requests repeated, and when did the run wait?",
        (f"{' and '.join(counts)}." if counts else "No pause, and no circuit opened.") + omitted,
        "requests/s",
        series,
        spans=pauses,
        marks=[(when, note.reason) for when, note in opened],
    )


def events(timeline: Timeline) -> list[str]:
    """Return a table of the events."""
    notes = timeline.notes("pause", "stop", "opened", "ejected", "restored", "excluded")
    if not notes:
        return []
    # The first events show how a trouble began, the last ones how the run ended.
    shown = notes if len(notes) <= _EVENTS_SHOWN else [*notes[: _EVENTS_SHOWN // 2], *notes[-_EVENTS_SHOWN // 2 :]]
    rows = [[duration(when), _EVENT_NAMES.get(note.kind, note.kind), note.reason] for when, note in shown]
    summary = f"{len(notes):,} events" + (f", {len(shown)} of them shown." if len(shown) < len(notes) else ".")
    return [figure("What happened to the endpoints?", summary, table(["after", "event", "reason"], rows), wide=True)]


def failures(failed: Sequence[Failure]) -> list[str]:
    """Return a table of the failed rows by reason."""
    groups = group_failures(failed)
    if not groups:
        return []
    whole = sum(group.n_rows for group in groups)
    rows = [([group.reason, f"{group.n_rows:,}", ", ".join(group.examples)], group.n_rows / whole) for group in groups]
    summary = f"{rows_text(whole)} failed, for {len(groups)} reason{'s' * (len(groups) != 1)}."
    return [bar_table("Why did rows fail?", summary, ["reason", "rows", "first rows", "share of failed rows"], rows)]


def endpoints(timeline: Timeline, failed: Sequence[Failure]) -> list[str]:
    """Return charts of the endpoints, if there are several."""
    totals = timeline.endpoints()
    if not totals:
        return []
    figures = [_endpoint_table(timeline, failed, totals)]
    if len(totals) > 1 and not timeline.is_short:
        marks = [(when, note.reason) for when, note in timeline.notes("ejected", "excluded")]
        question, summary = "Which endpoint received the requests?", "Requests sent in a second."
        figures.append(timeline.chart(question, summary, "requests/s", timeline.endpoint_series(), marks=marks))
    return figures


def _endpoint_table(timeline: Timeline, failed: Sequence[Failure], totals: Sequence[EndpointTotals]) -> str:
    failed_at: Counter[str] = Counter()
    for failure in failed:
        failed_at[failure.endpoint] += failure.n_rows
    counts = [timeline.requests_of(one.url) for one in totals]
    # A run that was killed at its start has endpoints, but no request yet.
    whole = sum(counts) or 1
    rows = [
        (
            [
                one.url,
                one.state + (f": {one.reason}" if one.reason else ""),
                "" if one.latency is None else duration(one.latency),
                f"{failed_at[one.url]:,}",
                f"{n:,}",
            ],
            n / whole,
        )
        for one, n in zip(totals, counts, strict=True)
    ]
    headers = ["endpoint", "state at the end", "latency", "failed rows", "requests", "share of requests"]
    return bar_table("How do the endpoints compare?", "", headers, rows)


def usage(timeline: Timeline) -> list[str]:
    """Return charts of what the API has counted, and of its cost."""
    series = timeline.usage_series()
    if not series or timeline.is_short:
        return []
    return [_usage_chart(timeline, series), *_cost(timeline)]


def _cost(timeline: Timeline) -> list[str]:
    currencies = [sample.currency for one in timeline.sessions for sample in one.samples if sample.currency]
    if not currencies:
        return []
    points = timeline.accumulated(lambda sample: sample.cost)
    # A session may have been run at other prices: the newest currency names the sum.
    summary = f"{number(points[-1][1] or 0)} {currencies[-1]} at the prices of the job."
    return [timeline.chart("What did the run cost?", summary, currencies[-1], [Series("cost", points)])]


def _usage_chart(timeline: Timeline, series: Sequence[Series]) -> str:
    last = [(one.name, one.points[-1][1] or 0) for one in series]
    summary = ", ".join(f"{n:,.0f} {name}" for name, n in last)
    # APIs name their units themselves, so that only the names show whether these are tokens.
    question = "How many tokens did the API count?" if "token" in summary else "What did the API count?"
    unit = "tokens" if "token" in summary else "units"
    return timeline.chart(question, f"{summary}.", unit, series)


def examples(sessions: Sequence[RecordedSession]) -> list[str]:
    """Return a table of input rows with their outcomes."""
    # A resumed run may have sent a row again: its newest outcome replaces the earlier one.
    by_row = sorted({one.row: one for session in sessions for one in session.examples}.items())
    if not by_row:
        return []
    rows = [[f"{row}", one.input, one.outcome] for row, one in by_row]
    content = table(["row", "input", "answer, or reason of the failure"], rows)
    summary = "Some rows, because the job says report.rows = true."
    return [figure("What was sent, and what came back?", summary, content, wide=True)]


@dataclass(slots=True)
class FailureGroup:
    """Failed rows with one reason.

    Attributes:
        reason: of the first of them.
        n_rows: number of rows.
        examples: the first of them, as row numbers or ranges.
        ids: of the first of them, if the input has ids.
    """

    reason: str
    n_rows: int = 0
    examples: list[str] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)


def group_failures(failures: Iterable[Failure], most: int | None = _MOST) -> list[FailureGroup]:
    """Return the reasons with the most rows first; those beyond the first ``most`` are added up."""
    groups: dict[str, FailureGroup] = {}
    for failure in failures:
        # Failures of one cause differ in sizes, times and positions, and the end of a long reason quotes the server.
        key = _DIGITS.sub("0", failure.reason[:_COMPARED])
        group = groups.setdefault(key, FailureGroup(failure.reason))
        group.n_rows += failure.n_rows
        # A failure may stand for a whole range of rows that failed alike.
        if len(group.examples) < _EXAMPLES:
            single = failure.stop == failure.start + 1
            group.examples.append(f"{failure.start}" if single else f"{failure.start}:{failure.stop}")
            group.ids.extend(failure.ids[: _EXAMPLES - len(group.ids)])
    ordered = sorted(groups.values(), key=lambda group: -group.n_rows)
    if most is not None and (rest := ordered[most:]):
        ordered[most:] = [FailureGroup(f"{len(rest)} other reasons", sum(group.n_rows for group in rest))]
    return ordered
