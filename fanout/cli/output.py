"""What the commands print: text for people, JSON for programs, errors on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
import orjson

from fanout._escape import escaped, safe_json
from fanout._redact import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.job import Estimate, Findings, OutputSchema, Status, Summary
    from fanout.types import Failure, Tensor

_FAILURES_SHOWN = 3
_OTHER_PHASES = 0.1
"""Part of the time from which on the summary says what it was spent on."""

NOT_THE_ENDPOINT = {
    "mock": "MOCK:     these answers are made up; nothing was sent",
    "replay": "REPLAY:   these answers are from a recording; nothing was sent",
}
"""Who gave the answers -> what to say of that."""


class Border:
    """All that the command prints passes here: without the job's secrets, control characters as visible escapes."""

    def __init__(self) -> None:
        self.redactor = Redactor()
        """That of the job, once its file has been read."""

    def lines(self, text: str) -> str:
        """A text whose line breaks are our own."""
        return self.redactor.lines(text)


BORDER = Border()


class Unprintable(click.ClickException):
    """Standard output takes nothing."""

    exit_code = 2


def print_text(text: str) -> None:
    """Print a result."""
    if text:
        _echo(BORDER.lines(text))


def print_json(value: dict[str, Any]) -> None:
    """Print a result as one JSON object."""
    _echo(safe_json(BORDER.redactor.value(value)))


def print_message(message: str) -> None:
    """Print something on stderr that is neither a result nor an error. Raises `OSError` if nobody reads it."""
    click.echo(BORDER.lines(message), err=True)


def print_error(message: str, exit_code: int, *, as_json: bool = False) -> int:
    """Print one line on stderr for each line of ``message``; returns the exit code."""
    for line in BORDER.lines(message).split("\n"):
        click.echo(f"error: {line}", err=True)
    if as_json:
        print_error_json(message, exit_code)
    return exit_code


def print_error_json(message: str, exit_code: int) -> None:
    """Print an error as a JSON object, in the place of the result that there is none of."""
    from fanout.job import SCHEMA_VERSION

    print_json({"schema_version": SCHEMA_VERSION, "exit_code": exit_code, "error": message})


def schema_text() -> str:
    """The job file's JSON OutputSchema, as it is committed."""
    from fanout.job import job_schema

    return orjson.dumps(job_schema(), option=orjson.OPT_INDENT_2).decode()


def summary_text(summary: Summary) -> str:
    """The account of a run, for people."""
    return _joined(_summary_lines(summary))


def findings_text(findings: Findings) -> str:
    """What a check has found, for people."""
    return _joined(_findings_lines(findings))


def estimate_text(estimate: Estimate) -> str:
    """What a dry run has counted, for people."""
    return _joined(_estimate_lines(estimate))


def status_text(status: Status) -> str:
    """How far a run has come, for people."""
    if not status.begun:
        return "no row is done yet: fanout run sends all"
    rows = "an unknown number of" if status.rows is None else status.rows
    pending = "" if status.pending is None else f", {status.pending} pending"
    state = "complete" if status.complete else "not complete: fanout run goes on from here"
    if status.current is None:
        state += "; variables of the job are not set, so that its input, codec and URL are not compared"
    elif not status.current:
        state += "; the job's input, codec or path of the URL are others now"
    counts = f"{rows} rows: {status.ok} ok, {status.failed} failed{pending}; {state}"
    return f"{counts}\njournal:  {escaped(status.journal)}"


def _joined(lines: Iterator[str]) -> str:
    return "\n".join(map(escaped, lines))  # line by line, since a name in one of them may hold a line break


def _echo(result: str | bytes) -> None:
    """Print on stdout. That nobody reads it any more changes nothing of what was done; raises `Unprintable`."""
    try:
        click.echo(result)
    except OSError as error:
        # What is left in the buffer would fail once more at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise Unprintable(f"the result cannot be printed on stdout: {error.strerror}") from None


def _summary_lines(summary: Summary) -> Iterator[str]:
    if told := NOT_THE_ENDPOINT.get(summary.answers):
        yield told
    if summary.rows == 0:
        yield "no rows: the input is empty"
    else:
        yield from _count_lines(summary)
    yield from _endpoint_lines(summary)
    if counted := [f"{count:,} {name}" for name, count in summary.usage.items() if count]:
        yield f"usage:    {', '.join(counted)}"
    for path in summary.outputs:
        yield f"output:   {path}"
    if summary.resumable:
        yield "output:   not in place before the run has come to its end; run the job again to go on"
    elif not summary.outputs:
        yield "output:   none was written, since no row succeeded"
    if summary.mask:
        yield f"mask:     {summary.mask} (True where a row has an answer; the others hold a fill value)"
    if summary.failures:
        yield f"failures: {summary.failures}"
        yield from _failure_lines(summary.first_failures, summary.failed)


def _count_lines(summary: Summary) -> Iterator[str]:
    pending = f", {summary.pending} pending" if summary.pending else ""
    counts = f"{summary.rows} rows: {summary.ok} ok, {summary.failed} failed{pending}"
    if summary.earlier == summary.rows:
        yield f"{counts}; complete since an earlier run, nothing was sent (--fresh sends all rows again)"
        return
    earlier = f", {summary.earlier} of them done before" if summary.earlier else ""
    yield f"{counts}{earlier}; {summary.seconds:.2f} s{_phases(summary)}, {summary.rows_per_second:,.0f} rows/s"
    splits = f", {summary.splits} splits" if summary.splits else ""
    limit = "" if summary.concurrency is None else f"; concurrency {summary.concurrency} at the end"
    hedges = f", {summary.hedges} hedges ({summary.hedges_won} came first)" if summary.hedges else ""
    yield f"{summary.requests} requests, {summary.retries} retries{splits}{hedges}{_latency(summary)}{limit}"


def _phases(summary: Summary) -> str:
    """Where the time went, unless nearly all of it went into sending."""
    phases = {
        "reading": summary.reading_seconds,
        "sending": summary.sending_seconds,
        "writing": summary.writing_seconds,
    }
    if summary.seconds - summary.sending_seconds < _OTHER_PHASES * summary.seconds:
        return ""
    return f" ({', '.join(f'{name} {_duration(seconds)}' for name, seconds in phases.items())})"


def _endpoint_lines(summary: Summary) -> Iterator[str]:
    """How several have shared the work; of one alone there is nothing to say."""
    for one in summary.endpoints if len(summary.endpoints) > 1 else ():
        state = "" if one.state == "in use" else f", {one.state}{': ' if one.reason else ''}{one.reason}"
        yield f"endpoint: {one.url}: {one.requests} requests{state}"


def _findings_lines(found: Findings) -> Iterator[str]:
    rows = "an unknown number of" if found.rows is None else found.rows
    yield f"input:    {rows} rows{_forms(found.input)}"
    yield f"endpoint: {found.endpoint}, codec {found.codec}"
    yield from _model_lines(found)
    chunks = "" if found.chunks is None else f"{found.chunks} of "
    yield f"chunks:   {chunks}up to {found.chunk_rows} rows, a request each"
    if found.body_bytes is not None:
        yield f"sends:    {_sent(found)}{found.body_bytes:,} bytes in the first request"
    yield f"output:   {found.output}"
    if not found.probed:
        yield f"probe:    none, {'it was stopped' if found.stop_reason else 'there are no rows'}"
        return
    latency = "" if found.latency is None else f", median latency {_duration(found.latency)}"
    yield f"probe:    {found.ok} of {found.probed} rows answered, {found.requests} requests{latency}"
    yield f"answer:  {_forms(found.answer) or ' none'}"
    yield from _failure_lines(found.failures[:_FAILURES_SHOWN], found.failed)


def _estimate_lines(estimate: Estimate) -> Iterator[str]:
    unsendable = f", {estimate.unsendable} of them cannot be sent" if estimate.unsendable else ""
    yield f"input:    {estimate.rows} rows{unsendable}"
    yield f"endpoint: {estimate.endpoint}, codec {estimate.codec}; nothing was sent"
    metadata = f", {estimate.metadata_requests} more about the model" if estimate.metadata_requests else ""
    yield f"requests: {estimate.requests}: {estimate.chunks} of up to {estimate.chunk_rows} rows{metadata}"
    if estimate.max_requests is not None and estimate.max_requests < estimate.requests:
        yield f"          limits.max_requests = {estimate.max_requests} stops the run before its end"
    yield f"sends:    {estimate.body_bytes:,} bytes, headers not counted"
    in_flight = '"auto", reckoned as 16,' if estimate.concurrency == "auto" else estimate.concurrency
    rates = "".join(f", at most {rate:g} {name.replace('_per_', ' a ')}" for name, rate in estimate.rates.items())
    yield (
        f"time:     {_duration(estimate.seconds)} if an answer takes {_duration(estimate.latency)} and nothing fails; "
        f"{in_flight} in flight{rates}"
    )
    yield f"output:   {estimate.output}"


def _model_lines(found: Findings) -> Iterator[str]:
    model = found.model
    if model is not None:
        versions = f"version{'s' * (len(model.versions) > 1)} {', '.join(model.versions)}" if model.versions else ""
        yield f"model:    {', '.join(part for part in (model.name, model.platform, versions) if part) or '(no name)'}"
        yield f"  takes:  {_tensors(model.inputs) or 'not told'}"
        yield f"  gives:  {_tensors(model.outputs) or 'not told'}"
    if found.max_rows is not None:
        yield f"  limit:  {found.max_rows} row{'s' * (found.max_rows != 1)} in a request"


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return "; ".join(
        f"{t.name} {t.datatype or '(datatype not told)'} {list(t.shape) if t.shape else '(shape not told)'}"
        for t in tensors
    )


def _sent(found: Findings) -> str:
    """Each tensor of the first request with the dtype that its rows have; empty where there is no tensor."""
    dtypes = {form.name: form.dtype for form in found.input}
    parts = [f"{dtypes.get(t.name, found.input[0].dtype)} as {_tensors((t,))}; " for t in found.sends]
    return "".join(parts)


def _forms(forms: tuple[OutputSchema, ...]) -> str:
    return ";".join(f" {form.name} {form.dtype} {form.shape}".replace("  ", " ") for form in forms)


def _failure_lines(first: tuple[Failure, ...], failed: int) -> Iterator[str]:
    for failure in first:
        yield f"  {failure}"
    more = failed - sum(failure.stop - failure.start for failure in first)
    if more:
        yield f"  and {more} row{'s' * (more != 1)} more"


def _latency(summary: Summary) -> str:
    times = (summary.latency_p50, summary.latency_p95, summary.latency_p99)
    known = [_duration(seconds) for seconds in times if seconds is not None]
    return "; latency p50 {}, p95 {}, p99 {}".format(*known) if len(known) == len(times) else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
