"""The page of a report: one HTML file without a script, that loads nothing.

Its last charts show the answers: a histogram of each numeric output, and the counts of labels, in which a broken model
shows at once.
"""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from math import ceil, isnan, log2
from typing import TYPE_CHECKING

import numpy as np

from fanout.report.charts import Histogram, bar_table, text
from fanout.report.row_sample import NOT_FINITE
from fanout.report.scales import duration, number, size
from fanout.report.sections import endpoints, events, examples, failures, progress, requests, rows_text, usage
from fanout.report.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fanout.io.journal.state import JournalState
    from fanout.report.recording import OutputSample, RecordedSession, Totals
    from fanout.results import Failure

_MOST_VALUES = 12
"""Different integers that are counted one by one."""

_UNITS = {"number": "value", "vector": "Euclidean norm", "text": "characters"}


def report_page(name: str, sessions: Sequence[RecordedSession], state: JournalState, failed: Sequence[Failure]) -> str:
    """Return the report of a run.

    Args:
        name: of the job.
        sessions: at least one.
        state: of the run, after all sessions.
        failed: its failures.
    """
    timeline = Timeline(sessions)
    status, css = _status(sessions, state, failed)
    style = _style()
    digest = b64encode(sha256(style.encode()).digest()).decode()
    # Reasons and answers are texts of servers: a browser runs and loads nothing, even if one of them were not escaped.
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    began = datetime.fromtimestamp(sessions[0].session.began, UTC)
    brevity = "Too short for charts over time." if timeline.is_short else ""
    sections = [
        _section("Progress", progress(timeline)),
        _section("Requests", requests(timeline)),
        _section("Failures", failures(failed)),
        _section("Events", events(timeline)),
        _section("Endpoints", endpoints(timeline, failed)),
        _section("Usage", usage(timeline)),
        _section("Answers", answer_charts(sessions)),
        _section("Rows", examples(sessions)),
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
<dl class="tiles">{"".join(_tile(*tile) for tile in _tiles(timeline, state, failed))}</dl>
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


def _status(sessions: Sequence[RecordedSession], state: JournalState, failed: Sequence[Failure]) -> tuple[str, str]:
    """Return the state of the run in words, and its class."""
    totals = sessions[-1].totals
    # A stop explains the rows that are missing, so it is named before their number.
    if totals is not None and totals.stop_kind:
        return f"stopped early: {totals.stop_reason}", "bad"
    if not state.complete:
        # Only the end of a session records how many rows are pending.
        if totals is None or totals.pending is None:
            return "not finished: the run is under way, or was killed", "warn"
        return "ended with an error; run the job again, without --fresh, to resume", "bad"
    if failed:
        return f"complete, but {rows_text(sum(one.n_rows for one in failed))} failed", "warn"
    return "complete: every row has an answer", "good"


def _sessions_text(sessions: Sequence[RecordedSession]) -> str:
    return f", in {len(sessions)} sessions" if len(sessions) > 1 else ""


def _and_rows(sessions: Sequence[RecordedSession]) -> str:
    return " but those in the section Rows" if any(one.examples for one in sessions) else ""


def _tiles(timeline: Timeline, state: JournalState, failed: Sequence[Failure]) -> Iterator[tuple[str, str]]:
    """Give the name and value of each figure at the head of the page."""
    sessions, latencies = timeline.sessions, timeline.latencies()
    ended = [one.samples[-1] for one in sessions if one.samples]
    # Before the end of a run, the length of an input of lines is an estimate.
    estimate = sessions[-1].session.rows
    about = "unknown" if estimate is None else f"about {estimate:,}"
    n_done, n_failed = len(state.resolved), sum(one.n_rows for one in failed)
    yield "rows", about if state.n_rows is None else f"{state.n_rows:,}"
    yield "answered", f"{n_done - n_failed:,}"
    yield "failed", f"{n_failed:,}"
    if state.n_rows is not None and state.n_rows > n_done:
        yield "pending", f"{state.n_rows - n_done:,}"
    yield "time", duration(timeline.end)
    # Each session counts from 0, and the time axis has no pauses between sessions: the rate is that of the work.
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


def _facts(sessions: Sequence[RecordedSession]) -> str:
    # The newest session has made the output. Earlier ones may have run elsewhere, or were dropped.
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


def answer_charts(sessions: Sequence[RecordedSession]) -> list[str]:
    """Return a figure for each output, of the samples of all sessions."""
    samples: dict[str, list[OutputSample]] = {}
    for one in sessions:
        for output in one.totals.outputs if one.totals else ():
            samples.setdefault(output.name, []).append(output)
    return [_chart(name, parts) for name, parts in samples.items() if any(part.seen for part in parts)]


def _chart(name: str, parts: Sequence[OutputSample]) -> str:
    form = parts[-1].form
    # The codec may have been edited between two sessions, and values of another form share no axis.
    parts = [part for part in parts if part.form == form]
    shown = f"output “{name.removesuffix('[]')}”" if name.removesuffix("[]") else "the output"
    n_sampled = sum(len(part.numbers) + sum(part.labels.values()) for part in parts)
    n_rows = sum(part.seen for part in parts)
    sampled = f"A random sample of {n_sampled:,} of {n_rows:,} rows." if n_sampled < n_rows else f"All {n_rows:,} rows."
    if form == "label":
        return _label_chart(f"How often does {shown} have each value?", sampled, _weighted_labels(parts))
    values, weights = _weighted_numbers(parts)
    if form == "top":
        question = f"At which position does {shown} have its largest element?"
        return _label_chart(question, sampled, _counted(values, weights))
    not_finite = sum(part.labels.get(NOT_FINITE, 0) for part in parts)
    warning = f" {not_finite:,} of them are NaN or infinite." if not_finite else ""
    if not len(values):
        return _label_chart(f"How are the values of {shown} distributed?", sampled + warning, {NOT_FINITE: 1.0})
    if form == "number" and np.all(values == np.round(values)) and len(np.unique(values)) <= _MOST_VALUES:
        return _label_chart(f"How often does {shown} have each value?", sampled + warning, _counted(values, weights))
    subject = {"vector": f"the lengths of the vectors of {shown}", "text": f"the lengths of the texts of {shown}"}
    question = f"How are {subject.get(form, f'the values of {shown}')} distributed?"
    return _histogram(question, sampled + warning, values, weights, _UNITS.get(form, "value"))


def _histogram(question: str, summary: str, values: np.ndarray, weights: np.ndarray, unit: str) -> str:
    low, high = float(values.min()), float(values.max())
    # numpy would put a range of width 1 around the only value, which looks like a spread.
    if low == high:
        return _label_chart(question, f"{summary} All values are {number(low)}.", {number(low): 1.0})
    # Sturges' rule, with more bins because a report is to show gaps and spikes.
    n_bins = min(40, 2 * ceil(log2(len(values)) + 1))
    heights, edges = np.histogram(values, bins=n_bins, weights=weights)
    shares = 100 * heights / weights.sum()
    middle = float(np.median(values))
    text = f"{summary} From {number(low)} to {number(high)}, median {number(middle)}."
    return Histogram(question, text, edges.tolist(), shares.tolist(), unit, "% of rows").html()


def _label_chart(question: str, summary: str, shares: dict[str, float]) -> str:
    whole = sum(shares.values()) or 1.0
    rows = [([label or "(empty)"], share / whole) for label, share in shares.items()]
    # Numbers have this sentence already, from `_histogram`.
    if len(rows) == 1 and "All values" not in summary:
        summary += " There is only one value."
    return bar_table(question, summary, ["value", "share of rows"], rows)


def _weighted_numbers(parts: Sequence[OutputSample]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all sessions, and the rows that each stands for."""
    values = np.array([value for part in parts for value in part.numbers])
    weights = [part.seen / max(1, len(part.numbers)) for part in parts for _ in part.numbers]
    return values, np.array(weights)


def _weighted_labels(parts: Sequence[OutputSample]) -> dict[str, float]:
    shares: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for label, n in part.labels.items():
            # Each session has a sample of its own, so that a label of a long session stands for more rows.
            shares[label] += n * part.seen / max(1, sum(part.labels.values()))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _counted(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    return {number(float(value)): float(weights[values == value].sum()) for value in np.unique(values)}
