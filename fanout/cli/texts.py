"""Reports on jobs as text for people: the summary of a run, a check, an estimate and a status."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from fanout._escape import escaped
from fanout.cli.output import joined
from fanout.report.scales import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.client import Preview
    from fanout.job import ArraySchema, CheckReport, Estimate, Status, Summary
    from fanout.job.report import CostEstimate
    from fanout.results import Failure
    from fanout.types import Tensor

_FAILURES_SHOWN = 3

# Share of reading and writing in the time from which the summary lists the phases.
_OTHER_PHASES = 0.1

OFFLINE_NOTES = {
    "mock": "MOCK:     these answers are made up; nothing was sent",
    "replay": "REPLAY:   these answers are from a recording; nothing was sent",
}
"""Origin of the answers -> note, for answers that are not the endpoint's."""


def summary_text(summary: Summary, *, fresh: bool = False) -> str:
    """Return the summary of a run, which ``fanout run --fresh`` began if it is ``fresh``."""
    return joined(_summary_lines(summary, fresh=fresh))


def check_text(report: CheckReport) -> str:
    """Return the report of a check."""
    return joined(_check_lines(report))


def estimate_text(estimate: Estimate) -> str:
    """Return the estimate of a dry run."""
    return joined(_estimate_lines(estimate))


def status_text(status: Status) -> str:
    """Return the progress of a run."""
    if not status.begun:
        return "no row is done yet: fanout run sends all rows"
    rows = "an unknown number of" if status.rows is None else status.rows
    pending = "" if status.pending is None else f", {status.pending} pending"
    state = "complete" if status.complete else "not complete: fanout run resumes it"
    if status.current is None:
        state += f"; {status.not_compared}, so its input, codec and URL were not compared"
    elif not status.current:
        state += "; the job's input, codec or path of the URL have changed since"
    # An output at a URL is complete in two steps: its files are whole, and then they are uploaded.
    counts = f"{rows} rows: {status.ok} ok, {status.failed} failed{pending}; {state}"
    if status.complete and status.uploaded is False:
        counts += "; not uploaded yet: fanout run uploads it, and sends nothing"
    if status.cost is not None:
        counts += f"; cost {money(status.cost)}"
    return f"{counts}\njournal:  {escaped(status.journal)}"


def _summary_lines(summary: Summary, *, fresh: bool) -> Iterator[str]:
    if note := OFFLINE_NOTES.get(summary.answers):
        yield note
    # All counts are 0 then, and rates and latencies have no meaning.
    if summary.rows == 0:
        yield "no rows: the input is empty"
    else:
        yield from _count_lines(summary)
    yield from _endpoint_lines(summary)
    if usage := [f"{count:,} {name}" for name, count in summary.stats.usage.items() if count]:
        yield f"usage:    {', '.join(usage)}"
    yield from _cost_lines(summary)
    files = summary.files
    for path in files.outputs:
        yield f"output:   {path}"
    if note := _output_note(summary, fresh=fresh):
        yield note
    if files.mask:
        yield f"mask:     {files.mask} (True where a row has an answer; the others hold a fill value)"
    yield from _failed_lines(summary)
    if files.report:
        yield f"report:   {files.report}"


def _failed_lines(summary: Summary) -> Iterator[str]:
    if summary.files.failures:
        yield f"failures: {summary.files.failures}"
    # A stopped run has no such file yet, and the reason of its stop may be another than that of its first rows.
    if summary.first_failures:
        yield from _failure_lines(summary.first_failures, summary.failed)
    # The rows of a stopped run are not all sent, and a rehearsal is not corrected.
    if summary.files.failures and summary.answers == "endpoint" and not summary.resumable:
        yield "next:     fanout failures lists them by reason; fanout run --only-failed sends them again"


def _output_note(summary: Summary, *, fresh: bool) -> str:
    # The same command would discard the rows that are done, and pay for them again.
    again = "run the job again without --fresh" if fresh else "run the job again"
    if summary.not_uploaded:
        return f"upload:   {summary.not_uploaded} is not in place; {again} to upload these files"
    # The journal of an earlier run stays until a row of this one is done, so the job without --fresh is that run.
    if summary.resumable and summary.pending == summary.rows:
        return "output:   not in place, since no row of this run is done; give the same command again"
    # The answers are in a temporary file, which would be misleading to name.
    if summary.resumable:
        return f"output:   not in place until the run is complete; {again} to resume"
    return "" if summary.files.outputs else "output:   none was written, since no row succeeded"


def _count_lines(summary: Summary) -> Iterator[str]:
    pending = f", {summary.pending} pending" if summary.pending else ""
    counts = f"{summary.rows} rows: {summary.ok} ok, {summary.failed} failed{pending}"
    # Nothing was sent in this process, so that it has no rates and no latencies.
    if summary.earlier == summary.rows:
        written = "its output was written again with other columns, " if summary.rewritten else ""
        yield f"{counts}; complete since an earlier run, {written}nothing was sent (--fresh sends all rows again)"
        return
    # Rates and latencies are those of this process, so the rows of earlier ones are named apart.
    earlier = f", {summary.earlier} of them done before" if summary.earlier else ""
    stats, seconds = summary.stats, duration(summary.seconds)
    yield f"{counts}{earlier}; {seconds}{_phases(summary)}, {stats.rows_per_second:,.0f} rows/s"
    if stats.cached or stats.shared:
        yield f"{stats.cached} rows from the cache, {stats.shared} shared the request of an equal row"
    splits = f", {stats.splits} splits" if stats.splits else ""
    limit = "" if stats.concurrency is None else f"; concurrency {stats.concurrency} at the end"
    hedges = f", {stats.hedges} hedges ({stats.hedges_won} answered first)" if stats.hedges else ""
    yield f"{stats.requests} requests, {stats.retries} retries{splits}{hedges}{_latency(summary)}{limit}"


def _phases(summary: Summary) -> str:
    """Return the time of each phase, unless sending took nearly all of it."""
    phases = {
        "reading": summary.reading_seconds,
        "sending": summary.stats.seconds,
        "writing": summary.stats.writing_seconds,
    }
    # The phases are noise if sending took nearly all of the time.
    if summary.seconds - summary.stats.seconds < _OTHER_PHASES * summary.seconds:
        return ""
    return f" ({', '.join(f'{name} {duration(seconds)}' for name, seconds in phases.items())})"


def _endpoint_lines(summary: Summary) -> Iterator[str]:
    """Yield the share of each endpoint, if there are several."""
    endpoints = summary.stats.endpoints
    # The only endpoint would repeat the counts of the line above.
    for one in endpoints if len(endpoints) > 1 else ():
        state = "" if one.state == "in use" else f", {one.state}{': ' if one.reason else ''}{one.reason}"
        yield f"endpoint: {one.url}: {one.requests} requests{state}"


def _cost_lines(summary: Summary) -> Iterator[str]:
    stats, earlier = summary.stats, summary.earlier_cost
    if stats.currency is None:
        return
    if stats.cost is None:
        yield "cost:     unknown: the responses report no usage, or output tokens have no price"
        return
    estimated = f", {money(stats.cost_estimated)} of it estimated" if stats.cost_estimated else ""
    before = f"; {money(earlier)} before, {money(stats.cost + earlier)} in all" if earlier else ""
    yield f"cost:     {money(stats.cost)} {stats.currency}{estimated}{before}"


def _check_lines(report: CheckReport) -> Iterator[str]:
    about = "an unknown number of" if report.estimated_rows is None else f"about {report.estimated_rows}"
    yield f"input:    {about if report.rows is None else report.rows} rows{_array_text(report.input)}"
    yield f"endpoint: {report.endpoint}, codec {report.codec}"
    yield from _model_lines(report.preview)
    # Bounds in bytes or tokens make the number of requests depend on the rows.
    chunks = "" if report.chunks is None else f"{report.chunks} of "
    yield f"chunks:   {chunks}up to {report.chunk_rows} rows, a request each"
    if report.preview is not None and report.preview.body_bytes is not None:
        # The datatype of the model may differ from the dtype of the rows, which explains the size.
        tensors = _sent_tensors(report.preview.tensors, report.input)
        yield f"sends:    {tensors}{report.preview.body_bytes:,} bytes in the first request"
    yield f"output:   {report.output}"
    result = report.probe.result
    if not len(result.ok):
        yield f"probe:    none, {'it was stopped' if report.stop else 'there are no rows'}"
        return
    stats = result.stats
    latency = "" if isnan(stats.latency_p50) else f", median latency {duration(stats.latency_p50)}"
    yield f"probe:    {result.ok.sum()} of {len(result.ok)} rows answered, {stats.requests} requests{latency}"
    if stats.cost and stats.cost_per_row is not None:
        whole = "" if report.rows is None else f"; {money(stats.cost_per_row * report.rows)} for rows like these"
        yield f"cost:     {money(stats.cost)} {stats.currency}{whole}"
    yield f"answer:  {_array_text(report.probe.answer) or ' none'}"
    failed = sum(failure.n_rows for failure in result.failures)
    yield from _failure_lines(result.failures[:_FAILURES_SHOWN], failed)


def _estimate_lines(estimate: Estimate) -> Iterator[str]:
    survey, limits = estimate.survey, estimate.limits
    unsendable = f", {survey.unsendable} of them cannot be sent" if survey.unsendable else ""
    yield f"input:    {survey.rows} rows{unsendable}"
    if survey.cached or survey.shared:
        parts = {"in the cache": survey.cached, "duplicates of rows before them": survey.shared}
        yield f"not sent: {', '.join(f'{n} {words}' for words, n in parts.items() if n)}"
    yield f"endpoint: {estimate.endpoint}, codec {estimate.codec}; nothing was sent"
    metadata = f", {survey.metadata_requests} more about the model" if survey.metadata_requests else ""
    yield f"requests: {estimate.requests}: {survey.chunks} of up to {survey.chunk_rows} rows{metadata}"
    # The user should know before paying for a part of the output.
    if limits.max_requests is not None and limits.max_requests < estimate.requests:
        yield f"          limits.max_requests = {limits.max_requests} stops the run before its end"
    yield f"sends:    {survey.body_bytes:,} bytes, headers not counted"
    # The limit that "auto" will find is not known before the run: the default of a fixed one stands for it.
    in_flight = '"auto", reckoned as 16,' if limits.concurrency == "auto" else limits.concurrency
    rates = "".join(f", at most {rate:g} {name.replace('_per_', ' a ')}" for name, rate in limits.rates.items())
    yield (
        f"time:     {duration(estimate.seconds)} if an answer takes {duration(estimate.latency)} and nothing fails; "
        f"{in_flight} in flight{rates}"
    )
    if estimate.cost is not None:
        yield f"cost:     {_estimated_cost(estimate.cost, limits.max_cost)}"
    yield f"output:   {estimate.output}"


def _estimated_cost(estimate: CostEstimate, limit: float | None) -> str:
    if estimate.cost is None:
        return "unknown: no request bounds the tokens of its answer; fanout check and fanout tune measure them"
    error = f", give or take {money(estimate.error)}" if estimate.error else ""
    stops = limit is not None and estimate.cost + (estimate.error or 0.0) > limit
    may = "may stop" if limit is not None and estimate.cost - (estimate.error or 0.0) <= limit else "stops"
    note = f"; limits.max_cost = {money(limit or 0.0)} {may} the run before its end" if stops else ""
    return f"{money(estimate.cost)} {estimate.currency}{error}{note}"


def _model_lines(preview: Preview | None) -> Iterator[str]:
    if preview is None:
        return
    model, max_rows = preview.model, preview.max_rows
    if model is not None:
        versions = f"version{'s' * (len(model.versions) > 1)} {', '.join(model.versions)}" if model.versions else ""
        yield f"model:    {', '.join(part for part in (model.name, model.platform, versions) if part) or '(no name)'}"
        yield f"  takes:  {_tensors(model.inputs) or 'not reported'}"
        yield f"  gives:  {_tensors(model.outputs) or 'not reported'}"
    if max_rows is not None:
        yield f"  limit:  {max_rows} row{'s' * (max_rows != 1)} in a request"


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return "; ".join(
        f"{t.name} {t.datatype or '(datatype not reported)'} {list(t.shape) if t.shape else '(shape not reported)'}"
        for t in tensors
    )


def _sent_tensors(tensors: tuple[Tensor, ...], rows: tuple[ArraySchema, ...]) -> str:
    """Return each tensor of the first request, with the dtype of its rows; empty if there is none."""
    dtypes = {array.name: array.dtype for array in rows}
    return "".join(f"{dtypes.get(tensor.name, rows[0].dtype)} as {_tensors((tensor,))}; " for tensor in tensors)


def _array_text(arrays: tuple[ArraySchema, ...]) -> str:
    return ";".join(f" {array.name} {array.dtype} {array.shape}".replace("  ", " ") for array in arrays)


def _failure_lines(first: tuple[Failure, ...], failed: int) -> Iterator[str]:
    for failure in first:
        yield f"  {failure}"
    # A failure may stand for a range of rows.
    more = failed - sum(failure.n_rows for failure in first)
    if more:
        yield f"  and {more} row{'s' * (more != 1)} more"


def _latency(summary: Summary) -> str:
    stats = summary.stats
    if isnan(stats.latency_p50):
        return ""
    p50, p95, p99 = map(duration, (stats.latency_p50, stats.latency_p95, stats.latency_p99))
    return f"; latency p50 {p50}, p95 {p95}, p99 {p99}"


def money(amount: float | None) -> str:
    """Return an amount of money, however small; currencies differ in their number of decimals."""
    amount = amount or 0.0
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.3g}"
