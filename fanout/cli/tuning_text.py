"""What ``fanout tune`` prints for people: the plan, a line for each trial, the table and the plot of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._escape import escaped
from fanout.cli.output import NOT_THE_ENDPOINT
from fanout.cli.plot import plot, rounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.tune import Plan, Trial, Tuning

_SAID = 70
_HEAD = ("chunk rows", "in flight", "rows/s", "p50 [ms]", "p95 [ms]", "errors")
_NOTES = {"p95": "p95 is over the bound", "errors": "too many errors", "refused": "refused"}


def plan_text(plan: Plan) -> str:
    """What is going to be sent, before it is."""
    in_flight = f"{_span(plan.concurrency)} in flight"
    if plan.automatic:
        in_flight += " (the job leaves that to the client: the size of a chunk alone is tuned)"
    sends = "sends" if plan.answers == "endpoint" else "rehearses, without sending them,"
    return (
        f"tuning {plan.endpoint}, codec {plan.codec}\n"
        f"{sends} at most {plan.requests:,} requests and {plan.most_rows:,} rows, for at most {plan.seconds:,.10g} s\n"
        f"tries {_span(plan.chunk_rows)} rows in a chunk, {in_flight}\n"
        f"the same {plan.rows:,} rows go again and again: a server that keeps its answers looks faster than it is"
    )


def trial_text(trial: Trial) -> str:
    """One trial, on one line."""
    note = f"; {_note(trial)}" if _note(trial) else ""
    again = ", both trials together" if trial.measured > 1 else ""
    return f"{_figures(trial)}{again}{note}"


def tuning_text(tuning: Tuning, job: str) -> str:
    """What was found."""
    return "\n".join(map(escaped, _lines(tuning, job)))


def _lines(tuning: Tuning, job: str) -> Iterator[str]:
    if told := NOT_THE_ENDPOINT.get(tuning.answers):
        yield told
    if tuning.trials:
        yield from _table(tuning)
        yield ""
        yield from _plot(tuning)
        yield ""
    yield f"{tuning.requests:,} requests, {tuning.seconds:.1f} s"
    if tuning.why_not and tuning.trials:
        yield f"the search is not finished: {tuning.why_not}"
    yield from _found(tuning, job)


def _found(tuning: Tuning, job: str) -> Iterator[str]:
    best = tuning.best
    if best is None:
        if tuning.trials:
            yield f"best:     none keeps the bounds: p95 {_ms(tuning.max_p95)} ms, errors {tuning.max_errors:.1%}"
        return
    yield f"best:     {_figures(best)}"
    if tuning.failed:
        yield "          rows of the input failed in it: fanout run tells which, and why"
    if tuning.still_growing:
        yield "          more in flight may be faster still: raise --max-requests, or give --concurrency"
    settings = " ".join(f"--set {key}={value}" for key, value in tuning.settings.items())
    if tuning.written:
        yield f"written:  {tuning.written}: {', '.join(f'{key} = {value}' for key, value in tuning.settings.items())}"
    elif tuning.answers == "endpoint":
        yield f"use it:   fanout run {job} {settings}"
        yield "          or let fanout tune --write put it into the job file"


def _table(tuning: Tuning) -> Iterator[str]:
    widths = [max(len(name), 11) for name in _HEAD]
    yield "".join(f"{name:>{width}}" for name, width in zip(_HEAD, widths, strict=True))
    for trial in sorted(tuning.trials, key=lambda trial: trial.point):
        cells = (
            f"{trial.chunk_rows:,}", f"{trial.concurrency:,}", rounded(trial.rows_per_second),
            _ms(trial.latency_p50), _ms(trial.latency_p95), f"{trial.errors:.1%}",
        )  # fmt: skip
        note = "best" if tuning.best is not None and trial.point == tuning.best.point else _note(trial)
        yield f"{''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))}  {note}".rstrip()


def _plot(tuning: Tuning) -> Iterator[str]:
    series: dict[str, dict[int, float]] = {}
    for trial in sorted(tuning.trials, key=lambda trial: trial.point):
        series.setdefault(f"{trial.chunk_rows:,}", {})[trial.concurrency] = trial.rows_per_second
    star = None if tuning.best is None else (f"{tuning.best.chunk_rows:,}", tuning.best.concurrency)
    yield "rows/s"
    yield from plot(series, best=star, below="in flight")


def _figures(trial: Trial) -> str:
    return (
        f"{trial.chunk_rows:,} rows in a chunk, {trial.concurrency} in flight: "
        f"{rounded(trial.rows_per_second)} rows/s, p95 {_ms(trial.latency_p95)} ms"
    )


def _note(trial: Trial) -> str:
    said = " ".join(trial.refused.split())
    return ": ".join(part for part in (_NOTES.get(trial.verdict, ""), said[:_SAID]) if part)


def _span(values: tuple[int, ...]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f}"
