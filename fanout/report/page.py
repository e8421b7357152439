"""The page of a report: one HTML file without a script, that loads nothing."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from math import isnan
from operator import attrgetter
from typing import TYPE_CHECKING

from fanout.report.answers import answer_charts
from fanout.report.charts import Histogram, Series, TimeChart, bar_table, figure, table, text
from fanout.report.failures import group_failures
from fanout.report.scales import duration, number, size
from fanout.report.timeline import Timeline
from fanout.statistics import Latencies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fanout.report.recording import RecordedSession, Totals
    from fanout.types import Failure

_EVENTS_SHOWN = 40
_EVENT_NAMES = {
    "opened": "circuit opened", "ejected": "left alone for a while", "restored": "answers again",
    "excluded": "excluded", "pause": "pause", "stop": "stop",
}  # fmt: skip

_PER_BIN = 4
"""Buckets of `Latencies` in a bin of the histogram: 4 bins for each doubling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The state of the run's rows. ``rows`` and ``pending`` are None if the length of the input is unknown."""

    rows: int | None
    ok: int
    pending: int | None
    complete: bool
    failures: Sequence[Failure] = ()

    @property
    def failed(self) -> int:
        """Rows that failed."""
        return sum(failure.n_rows for failure in self.failures)


def report_page(name: str, sessions: Sequence[RecordedSession], account: Account) -> str:
    """Return the report of a run.

    Args:
        name: of the job.
        sessions: at least one.
        account: of all sessions.
    """
    timeline = Timeline(sessions)
    status, css = _status(sessions, account)
    style = _style()
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    began = datetime.fromtimestamp(sessions[0].session.began, UTC)
    brevity = "Too short for charts over time." if timeline.is_short else ""
    sections = [
        _section("Progress", _progress(timeline)),
        _section("Requests", _requests(timeline)),
        _section("Failures", _failures(account)),
        _section("Events", _events(timeline)),
        _section("Endpoints", _endpoints(timeline, account)),
        _section("Usage", _usage(timeline)),
        _section("Answers", answer_charts(sessions)),
        _section("Rows", _examples(sessions)),
        _facts(sessions),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>fanout: {text(name)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{text(name)}</h1>
<p><span class="status {css}">{text(status)}</span></p>
<p class="soft">Begun {began:%Y-%m-%d %H:%M:%S} UTC{_sessions_text(sessions)}. {brevity}</p>
<dl class="tiles">{"".join(_tile(*tile) for tile in _tiles(timeline, account))}</dl>
</header>
<main>
{"".join(sections)}
</main>
<footer><p>Made by fanout from its recording beside the output. It has no input rows{_and_rows(sessions)}.</p></footer>
</body>
</html>
"""


@cache
def _style() -> str:
    return files("fanout.report").joinpath("style.css").read_text("utf-8")


def _status(sessions: Sequence[RecordedSession], account: Account) -> tuple[str, str]:
    """Return the state of the run in words, and its class."""
    totals = sessions[-1].totals
    if totals is not None and totals.stop_kind:
        return f"stopped early: {totals.stop_reason}", "bad"
    if not account.complete:
        if totals is None or totals.pending is None:
            return "not finished: the run is under way, or was killed", "warn"
        return "ended with an error; run the job again to resume", "bad"
    if account.failed:
        return f"complete, but {_rows(account.failed)} failed", "warn"
    return "complete: every row has an answer", "good"


def _rows(n: int) -> str:
    return f"{n:,} row{'s' * (n != 1)}"


def _sessions_text(sessions: Sequence[RecordedSession]) -> str:
    return f", in {len(sessions)} sessions" if len(sessions) > 1 else ""


def _and_rows(sessions: Sequence[RecordedSession]) -> str:
    return " but those in the section Rows" if any(one.examples for one in sessions) else ""


def _tiles(timeline: Timeline, account: Account) -> Iterator[tuple[str, str]]:
    """Give the name and value of each figure at the head of the page."""
    sessions, latencies = timeline.sessions, timeline.latencies()
    ended = [one.samples[-1] for one in sessions if one.samples]
    estimate = sessions[-1].session.rows
    about = "unknown" if estimate is None else f"about {estimate:,}"
    yield "rows", about if account.rows is None else f"{account.rows:,}"
    yield "answered", f"{account.ok:,}"
    yield "failed", f"{account.failed:,}"
    if account.pending:
        yield "pending", f"{account.pending:,}"
    yield "time", duration(timeline.end)
    done = sum(sample.ok for sample in ended)
    yield "rows/s", number(done / timeline.end) if timeline.end else "0"
    p50, p95 = latencies.quantiles(0.5, 0.95)
    if not isnan(p50):
        yield "latency, median", duration(p50)
        yield "latency, 95 %", duration(p95)
    yield "requests", f"{sum(sum(sample.requests) for sample in ended):,}"
    yield "retries", f"{sum(sample.retries for sample in ended):,}"
    if currencies := [sample.currency for sample in ended if sample.currency]:
        yield "cost", f"{number(sum(sample.cost for sample in ended))} {currencies[-1]}"
    totals = [one.totals for one in sessions if one.totals]
    yield "sent", size(sum(one.bytes_sent for one in totals))
    yield "received", size(sum(one.bytes_received for one in totals))


def _tile(name: str, value: str) -> str:
    return f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"


def _section(heading: str, figures: Sequence[str]) -> str:
    if not figures:
        return ""
    return f'<section><h2>{heading}</h2><div class="charts">{"".join(figures)}</div></section>'


def _progress(timeline: Timeline) -> list[str]:
    if timeline.is_short:
        return []
    rates = [value for _, value in timeline.rates(lambda sample: sample.ok) if value is not None]
    last = next((value for _, value in reversed(timeline.rows_done()) if value is not None), 0.0)
    peak = f"{number(max(rates, default=0.0))} rows/s at most between two samples."
    return [
        TimeChart(
            "How many rows were done?",
            f"{_rows(round(last))} at the end of the recording.",
            "rows",
            [
                Series("done", timeline.rows_done()),
                Series("failed among them", timeline.totals_of(lambda sample: sample.failed)),
            ],
            timeline.end,
            timeline.resumed,
        ).html(),
        TimeChart(
            "How many rows were answered in a second?",
            peak,
            "rows/s",
            [Series("answered", timeline.rates(lambda sample: sample.ok), steps=True)],
            timeline.end,
            timeline.resumed,
        ).html(),
    ]


def _requests(timeline: Timeline) -> list[str]:
    latencies = timeline.latencies()
    if not latencies.counts.any():
        return []
    p50, p95, p99 = latencies.quantiles(0.5, 0.95, 0.99)
    over_time = TimeChart(
        "How long did requests take?",
        f"Median {duration(p50)}, 95 % within {duration(p95)}, 99 % within {duration(p99)}.",
        "latency, log scale",
        timeline.latency_series(),
        timeline.end,
        timeline.resumed,
        log=True,
        show=duration,
    )
    histogram = _latency_histogram(latencies, (p50, p95, p99))
    if timeline.is_short:
        return [histogram]
    return [over_time.html(), histogram, _in_flight(timeline), _trouble(timeline)]


def _latency_histogram(latencies: Latencies, percentiles: tuple[float, float, float]) -> str:
    edges, counts = Latencies.edges(), latencies.counts
    filled = counts.nonzero()[0]
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
    return TimeChart(
        "How many requests were in flight, against the limit?",
        f"At most {most:,}." + (f" The limit was adapted to the endpoint: {reasons}." if changes else ""),
        "requests",
        [
            Series("in flight", timeline.gauge(lambda sample: sample.in_flight)),
            Series("limit", timeline.gauge(lambda sample: sample.limit), steps=True),
        ],
        timeline.end,
        timeline.resumed,
    ).html()


def _trouble(timeline: Timeline) -> str:
    series = []
    for name in ("retries", "splits", "hedges"):
        points = timeline.rates(attrgetter(name))
        if name == "retries" or any(value for _, value in points):
            series.append(Series(name, points, steps=True))
    pauses, opened = timeline.pauses(), timeline.notes("opened", "ejected")
    counts = [f"{len(pauses):,} pauses"] * bool(pauses) + [f"{len(opened):,} circuit openings"] * bool(opened)
    left_out = sum(one.totals.left_out for one in timeline.sessions if one.totals)
    omitted = f" {left_out:,} further events are not shown." if left_out else ""
    return TimeChart(
        "When were requests repeated, and when did the run wait?",
        (f"{' and '.join(counts)}." if counts else "No pause, and no circuit opened.") + omitted,
        "requests/s",
        series,
        timeline.end,
        timeline.resumed,
        spans=pauses,
        marks=[(when, note.reason) for when, note in opened],
    ).html()


def _events(timeline: Timeline) -> list[str]:
    events = timeline.notes("pause", "stop", "opened", "ejected", "restored", "excluded")
    if not events:
        return []
    shown = events if len(events) <= _EVENTS_SHOWN else [*events[: _EVENTS_SHOWN // 2], *events[-_EVENTS_SHOWN // 2 :]]
    rows = [[duration(when), _EVENT_NAMES.get(note.kind, note.kind), note.reason] for when, note in shown]
    summary = f"{len(events):,} events" + (f", {len(shown)} of them shown." if len(shown) < len(events) else ".")
    return [figure("What happened to the endpoints?", summary, table(["after", "event", "reason"], rows), wide=True)]


def _failures(account: Account) -> list[str]:
    groups = group_failures(account.failures)
    if not groups:
        return []
    whole = sum(group.n_rows for group in groups)
    rows = [([group.reason, f"{group.n_rows:,}", ", ".join(group.examples)], group.n_rows / whole) for group in groups]
    summary = f"{_rows(whole)} failed, for {len(groups)} reason{'s' * (len(groups) != 1)}."
    return [bar_table("Why did rows fail?", summary, ["reason", "rows", "first rows", "share of failed rows"], rows)]


def _endpoints(timeline: Timeline, account: Account) -> list[str]:
    endpoints = timeline.endpoints()
    if not endpoints:
        return []
    failed: Counter[str] = Counter()
    for failure in account.failures:
        failed[failure.endpoint] += failure.n_rows
    requests = [timeline.requests_of(one.url) for one in endpoints]
    whole = sum(requests) or 1
    rows = [
        (
            [
                one.url,
                one.state + (f": {one.reason}" if one.reason else ""),
                "" if one.latency is None else duration(one.latency),
                f"{failed[one.url]:,}",
                f"{n:,}",
            ],
            n / whole,
        )
        for one, n in zip(endpoints, requests, strict=True)
    ]
    headers = ["endpoint", "state at the end", "latency", "failed rows", "requests", "share of requests"]
    figures = [bar_table("How do the endpoints compare?", "", headers, rows)]
    if len(endpoints) > 1 and not timeline.is_short:
        figures.append(
            TimeChart(
                "Which endpoint received the requests?",
                "Requests sent in a second.",
                "requests/s",
                timeline.endpoint_series(),
                timeline.end,
                timeline.resumed,
                marks=[(when, note.reason) for when, note in timeline.notes("ejected", "excluded")],
            ).html()
        )
    return figures


def _usage(timeline: Timeline) -> list[str]:
    series = timeline.usage_series()
    if not series or timeline.is_short:
        return []
    return [_usage_chart(timeline, series), *_cost(timeline)]


def _cost(timeline: Timeline) -> list[str]:
    currencies = [sample.currency for one in timeline.sessions for sample in one.samples if sample.currency]
    if not currencies:
        return []
    points = timeline.accumulated(lambda sample: sample.cost)
    summary = f"{number(points[-1][1] or 0)} {currencies[-1]} at the prices of the job."
    series = [Series("cost", points)]
    return [TimeChart("What did the run cost?", summary, currencies[-1], series, timeline.end, timeline.resumed).html()]


def _usage_chart(timeline: Timeline, series: Sequence[Series]) -> str:
    last = [(one.name, one.points[-1][1] or 0) for one in series]
    summary = ", ".join(f"{n:,.0f} {name}" for name, n in last)
    question = "How many tokens did the API count?" if "token" in summary else "What did the API count?"
    unit = "tokens" if "token" in summary else "units"
    return TimeChart(question, f"{summary}.", unit, series, timeline.end, timeline.resumed).html()


def _examples(sessions: Sequence[RecordedSession]) -> list[str]:
    examples = sorted({one.row: one for session in sessions for one in session.examples}.items())
    if not examples:
        return []
    rows = [[f"{row}", one.input, one.outcome] for row, one in examples]
    content = table(["row", "input", "answer, or reason of the failure"], rows)
    summary = "Some rows, because the job says report.rows = true."
    return [figure("What was sent, and what came back?", summary, content, wide=True)]


def _facts(sessions: Sequence[RecordedSession]) -> str:
    cards = [_card(heading, facts) for heading, facts in sessions[-1].session.facts.items()]
    if len(sessions) > 1:
        cards.append(_card("Sessions", dict(_session_lines(sessions))))
    return f'<section><h2>Job, versions and machine</h2><div class="facts">{"".join(cards)}</div></section>'


def _session_lines(sessions: Sequence[RecordedSession]) -> Iterator[tuple[str, str]]:
    for one in sessions:
        began = datetime.fromtimestamp(one.session.began, UTC)
        yield f"{began:%Y-%m-%d %H:%M:%S}", _session_text(one.totals)


def _session_text(totals: Totals | None) -> str:
    if totals is None:
        return "no end was recorded"
    end = totals.stop_reason or ("no end was recorded" if totals.pending is None else "came to its end")
    return f"{totals.ok:,} rows answered, {totals.failed:,} failed in {duration(totals.seconds)}; {end}"


def _card(heading: str, facts: Mapping[str, str]) -> str:
    rows = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in facts.items())
    content = f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    return f'<div class="card"><h3>{text(heading)}</h3>{content}</div>'
