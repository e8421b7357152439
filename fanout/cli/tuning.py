"""``fanout tune``: runs a search, prints its progress and its report, and writes the result into the job file."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fanout.cli.output import joined, print_error, print_result, print_stop
from fanout.cli.progress import Silent
from fanout.cli.running import Interrupts, load
from fanout.cli.texts import OFFLINE_NOTES, money
from fanout.clock import VirtualClock
from fanout.errors import ConfigError
from fanout.job import require_not_overridden, require_writable, write_settings
from fanout.tune import SearchControl, tune_job

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from fanout.tune import Plan, Trial, TrialRunner, TuneOptions, TuneReport

_KEYS = ("chunks.rows", "limits.concurrency")

# Characters of the endpoint's message in the note of a trial.
_MAX_REFUSAL = 70

_HEAD = ("chunk rows", "in flight", "rows/s", "p50 [ms]", "p95 [ms]", "errors")
_NOTES = {"p95": "p95 is over the bound", "errors": "too many errors", "refused": "refused"}
_PLOT_HEIGHT = 10
_BEST = "*"


def tune_command(
    file: str, settings: Sequence[str], options: TuneOptions, *, mock: bool, write: bool, as_json: bool
) -> int:
    """Tune a job, and print the report."""
    with asyncio.Runner(loop_factory=VirtualClock if mock else None) as runner:
        report = runner.run(_tune(file, settings, options, mock=mock, write=write))
    failure = ""
    if write and report.settings and report.stop is None:
        # The search took time and money, so its report is printed even if the file cannot be written.
        try:
            write_settings(Path(file), report.settings)
            report = replace(report, written=file)
        except ConfigError as error:
            report, failure = replace(report, exit_code=2), str(error)
    print_result(report.as_dict(), report_text(report, file), as_json=as_json)
    if report.stop is not None:
        print_stop(report.stop, report.exit_code, "; the job file is as it was" if write else "")
    if failure:
        print_error(failure, report.exit_code)
    return report.exit_code


async def _tune(file: str, settings: Sequence[str], options: TuneOptions, *, mock: bool, write: bool) -> TuneReport:
    job = load(file, settings)
    if write:
        # Checked before the search: it would be a pity to find out after paying for it.
        require_not_overridden(settings, _KEYS)
        require_writable(job.file)
    if mock:
        random.seed(job.tables.mock.seed)  # for the jitter of all backoffs: equal searches have equal trials
    # A bar would be redrawn over the lines of the trials, so they are printed alone.
    control, listener = SearchControl(), _TrialPrinter()
    with Interrupts(control, listener) as interrupts:
        report = await tune_job(job, options, listener, mock=mock, control=control)
    return replace(report, exit_code=interrupts.exit_code(report.exit_code, report.stop and report.stop.kind))


class _TrialPrinter(Silent):
    """Prints the plan and each trial on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._runner: TrialRunner | None = None

    def on_plan(self, plan: Plan, runner: TrialRunner) -> None:
        self._runner = runner
        self.say(plan_text(plan))

    def on_trial(self, trial: Trial) -> None:
        self.say(trial_text(trial))

    def say(self, message: str) -> None:
        """Print a message, unless stderr is closed."""
        with suppress(OSError):
            super().say(message)

    def in_flight(self) -> int:
        client = self._runner.client if self._runner else None
        return client.statistics().in_flight if client else 0


def plan_text(plan: Plan) -> str:
    """Return the plan of a search, before its first request."""
    in_flight = f"{_span(plan.concurrency)} in flight"
    if plan.automatic:
        in_flight += " (the job leaves that to the client: the size of a chunk alone is tuned)"
    sends = "sends" if plan.answers == "endpoint" else "rehearses, without sending them,"
    return (
        f"tuning {plan.endpoint}, codec {plan.codec}\n"
        f"{sends} at most {plan.requests:,} requests and {plan.max_rows:,} rows, for at most {plan.seconds:,.10g} s\n"
        f"tries {_span(plan.chunk_rows)} rows in a chunk, {in_flight}\n"
        f"the same {plan.rows:,} rows go again and again: a server that keeps its answers looks faster than it is"
    )


def trial_text(trial: Trial) -> str:
    note = f"; {_note(trial)}" if _note(trial) else ""
    again = ", both trials together" if trial.measured > 1 else ""
    return f"{_figures(trial)}{again}{note}"


def report_text(report: TuneReport, job: str) -> str:
    return joined(_lines(report, job))


def _lines(report: TuneReport, job: str) -> Iterator[str]:
    if note := OFFLINE_NOTES.get(report.answers):
        yield note
    if report.trials:
        yield from _table(report)
        yield ""
        yield from _plot(report)
        yield ""
    cost = "" if report.cost.spent is None else f", {money(report.cost.spent)} {report.cost.currency}"
    yield f"{report.requests:,} requests, {report.seconds:.1f} s{cost}"
    if report.unfinished_reason and report.trials:
        yield f"the search is not finished: {report.unfinished_reason}"
    yield from _best_lines(report, job)


def _best_lines(report: TuneReport, job: str) -> Iterator[str]:
    best = report.best
    if best is None:
        if report.trials:
            yield f"best:     none keeps the bounds: p95 {_ms(report.max_p95)} ms, errors {report.max_errors:.1%}"
        return
    yield f"best:     {_figures(best)}"
    if report.failed:
        yield "          rows of the input failed in it: fanout run names them, with the reasons"
    if report.still_growing:
        yield "          more in flight may be faster still: raise --max-requests, or give --concurrency"
    cost = report.cost
    if cost.estimate is not None:
        error = f", give or take {money(cost.error)}" if cost.error else ""
        yield f"cost:     {money(cost.estimate)} {cost.currency} for the whole input{error}"
    settings = " ".join(f"--set {key}={value}" for key, value in report.settings.items())
    if report.written:
        yield f"written:  {report.written}: {', '.join(f'{key} = {value}' for key, value in report.settings.items())}"
    # The values of a mock say nothing about the endpoint, so they are not recommended.
    elif report.answers == "endpoint":
        yield f"use it:   fanout run {job} {settings}"
        yield "          or let fanout tune --write put it into the job file"


def _table(report: TuneReport) -> Iterator[str]:
    widths = [max(len(name), 11) for name in _HEAD]
    yield "".join(f"{name:>{width}}" for name, width in zip(_HEAD, widths, strict=True))
    for trial in sorted(report.trials, key=lambda trial: trial.point):
        cells = (
            f"{trial.point.chunk_rows:,}", f"{trial.point.concurrency:,}", rounded(trial.rows_per_second),
            _ms(trial.latency_p50), _ms(trial.latency_p95), f"{trial.errors:.1%}",
        )  # fmt: skip
        note = "best" if report.best is not None and trial.point == report.best.point else _note(trial)
        yield f"{''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))}  {note}".rstrip()


def _plot(report: TuneReport) -> Iterator[str]:
    series: dict[str, dict[int, float]] = {}
    for trial in sorted(report.trials, key=lambda trial: trial.point):
        series.setdefault(f"{trial.point.chunk_rows:,}", {})[trial.point.concurrency] = trial.rows_per_second
    star = None if report.best is None else (f"{report.best.point.chunk_rows:,}", report.best.point.concurrency)
    yield "rows/s"
    yield from plot(series, best=star, below="in flight")


def _figures(trial: Trial) -> str:
    return (
        f"{trial.point.chunk_rows:,} rows in a chunk, {trial.point.concurrency} in flight: "
        f"{rounded(trial.rows_per_second)} rows/s, p95 {_ms(trial.latency_p95)} ms"
    )


def _note(trial: Trial) -> str:
    # The note is the last cell of a line, so the server's line breaks become spaces.
    refusal = " ".join(trial.refused.split())
    return ": ".join(part for part in (_NOTES.get(trial.verdict, ""), refusal[:_MAX_REFUSAL]) if part)


def _span(values: tuple[int, ...]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f}"


def plot(series: Mapping[str, Mapping[int, float]], *, best: tuple[str, int] | None, below: str) -> Iterator[str]:
    """Yield the lines of a character plot of several series. Steps have equal distances, whatever their values.

    Args:
        series: name -> step -> height; heights are 0 or more. Each series has a letter, with a legend below the plot.
        best: name and step of the point that is drawn as a star.
        below: label of the steps.
    """
    letters = {name: chr(ord("a") + place % 26) for place, name in enumerate(series)}
    steps = sorted({step for points in series.values() for step in points})
    # All heights may be 0, and a division by it must not end a search that was paid for.
    highest = max((height for points in series.values() for height in points.values()), default=0.0) or 1.0
    width = max(len(f"{step}") for step in steps) + 3
    rows = [[" "] * len(steps) for _ in range(_PLOT_HEIGHT + 1)]
    for name, points in series.items():
        for step, height in points.items():
            _put(rows[round(_PLOT_HEIGHT * height / highest)], steps.index(step), letters[name])
    if best is not None:
        name, step = best
        rows[round(_PLOT_HEIGHT * series[name][step] / highest)][steps.index(step)] = _BEST
    yield from _draw(rows, highest, width)
    margin = " " * len(rounded(highest))
    yield f"{margin}  {''.join(f'{step:>{width}}' for step in steps)}  {below}"
    yield f"{margin}  {'  '.join([f'{letter} {name}' for name, letter in letters.items()])}"


def rounded(value: float) -> str:
    """Return a whole number, with two decimals below 10."""
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.2f}"


def _put(row: list[str], place: int, letter: str) -> None:
    # Up to three letters fit side by side into one place.
    row[place] = letter if row[place] == " " else (row[place] + letter)[:3]


def _draw(rows: Sequence[Collection[str]], highest: float, width: int) -> Iterator[str]:
    margin = len(rounded(highest))
    for level in range(len(rows) - 1, -1, -1):
        # A label at every line would hide the curve.
        label = rounded(highest * level / (len(rows) - 1)) if level % 5 == 0 else ""
        yield f"{label:>{margin}} |{''.join(f'{mark:>{width}}' for mark in rows[level])}".rstrip()
