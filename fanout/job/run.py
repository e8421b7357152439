"""`run_job`: rows from the job's input, through a client, into its output. An interrupted run is resumed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fanout.client import Client, finished
from fanout.errors import ConfigError, RunStopped
from fanout.job.journal import (
    known_cost,
    open_job_journal,
    output_identity,
    reopen_failed_rows,
    require_no_parts,
    require_no_whole_run,
    require_own_output,
)
from fanout.job.opening import (
    client_of,
    input_name,
    open_offline,
    open_output,
    read_input,
    serving_metrics,
    shown_codec,
)
from fanout.job.problems import locate_errors
from fanout.job.report import OutputFiles, StopCause, Summary, count_failed, exit_code
from fanout.job.run_report import examples_of, recorder_of, write_report
from fanout.report import Ending
from fanout.statistics import Spending
from fanout.threads import on_thread, opened_on_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.cluster import Cluster
    from fanout.engine import RunControl
    from fanout.io.journal.journal import Journal
    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink
    from fanout.job.model import Job
    from fanout.job.opening import Setup
    from fanout.report import Measured, RunRecorder
    from fanout.results import Result

    OnStart = Callable[[Measured | None, int | None, int, FileSink], None]

# The first reasons explain most runs; `fanout failures` lists the others.
_FAILURES_IN_SUMMARY = 3


async def run_job(
    job: Job,
    *,
    rows: slice = slice(None),
    fresh: bool = False,
    only_failed: bool = False,
    carry: bool = False,
    record: Path | None = None,
    replay: Path | None = None,
    mock: bool = False,
    control: RunControl | None = None,
    on_start: OnStart | None = None,
    remote: Cluster | None = None,
) -> Summary:
    """Run ``job`` to its end or its stop, write the output, and summarize.

    A journal beside the output records the finished rows. A run that was stopped or killed is resumed; a complete run
    is not repeated for the same input, codec and path of the URL.

    Neither a replay nor a mock opens a connection. Their outputs are beside the job's (``y.replay.npy``,
    ``y.mock.npy``), with journals of their own; a complete one is repeated. On a `VirtualClock` they take no
    longer than their computation.

    Args:
        rows: rows of the input to send, as a slice without a step. The output has as many rows, and its report counts
            them from the first of them.
        fresh: discard the finished rows of an earlier run, and send all rows.
        only_failed: send the failed rows of a complete run; they may have been corrected in the input since.
        carry: if the journal belongs to another input, keep its answers to rows with the same id and content, and send
            the other rows.
        record: new file for a recording of all exchanges.
        replay: a recording that answers in place of the endpoint.
        mock: a mock of the model answers in place of the endpoint, as the table ``mock`` describes it.
        control: ends the run from outside; answers so far are written.
        on_start: called before the first row is sent, with the open client, the number of rows (None: unknown yet), the
            number of rows that were finished before, and the sink; without a client where only an upload is left.
        remote: sends the rows from other processes, in place of a client in this one.

    Raises:
        ConfigError: the job, its input or its output cannot be used. No row was sent, or no answer fits the format of
            the output.
    """
    now = asyncio.get_running_loop().time
    began = now()
    with (
        locate_errors(job.file, input_name(job), job.redactor),
        open_offline(job, record=record, replay=replay, mock=mock) as setup,
        serving_metrics(setup.job) as collectors,
    ):
        # A port can be bound once, and the requests are counted in the other processes.
        if remote is not None and collectors:
            raise ConfigError(
                "metrics are served by a run in one process: leave --on out", key="telemetry.metrics_port"
            )
        job = setup.job
        source = await asyncio.to_thread(read_input, job, rows)
        sink = open_output(job, source)
        recorder = recorder_of(job, input_name(job), shown_codec(job), setup.answers)
        on_event = None if recorder is None else recorder.events
        client = client_of(job, setup.transport, on_event, whole=False, telemetry=collectors)
        # Fingerprints read parts of the input files.
        identity = await on_thread(client.identity, source) | setup.identity | output_identity(job)
        if setup.identity:
            await on_thread(require_own_output, job, setup.identity)
        elif rows != slice(None) and not fresh:
            await on_thread(require_no_whole_run, job, identity)
        how = {"fresh": fresh, "carry": carry, "only_failed": only_failed}
        opening = partial(open_job_journal, job, identity, source, sink, **how)
        async with opened_on_thread(opening) as journal:
            if remote is None:
                await on_thread(require_no_parts, job, fresh)
            opened = _Opened(setup, source, sink, journal, recorder)
            # The sink may hold files open even if opening the journal succeeded and the run did not start.
            with closing(sink):
                await _prepare(opened, remote, only_failed=only_failed)
                reading_seconds, spent = now() - began, journal.state.charged
                result, stop = await _run(opened, remote or client, control, on_start)
                earlier_cost = known_cost(spent, journal.resumed_rows) if job.tables.cost.is_set else None
                return await _summarize(opened, result, stop, reading_seconds, earlier_cost)


class _Opened(NamedTuple):
    """A run whose input, output and journal are open."""

    setup: Setup
    source: Source
    sink: FileSink
    journal: Journal
    recorder: RunRecorder | None


async def _prepare(opened: _Opened, remote: Cluster | None, *, only_failed: bool) -> None:
    """Let the journal forget the rows that are to be sent again, and let other processes prepare to send."""
    source, sink, journal = opened.source, opened.sink, opened.journal
    # A rehearsal is repeated on purpose; a paid run is not.
    if opened.setup.identity and journal.state.complete and not only_failed:
        journal.restart()
    if only_failed:
        await on_thread(reopen_failed_rows, sink, journal)
    if remote is not None and journal.state.publication is None:
        await on_thread(remote.prepare, source, sink, journal)


async def _run(
    opened: _Opened, client: Client | Cluster, control: RunControl | None, on_start: OnStart | None
) -> tuple[Result, RunStopped | None]:
    setup, source, sink, journal, recorder = opened
    # A complete run needs no server, so the client is not opened. It may have to be uploaded.
    if on_start is not None and sink.destination is not None and journal.state.complete:
        on_start(None, None, 0, sink)
    try:
        if (result := await finished(sink, journal, control)) is not None:
            return result, None
    except RunStopped as error:
        return error.result, error
    # The recorder's session ends within that of the client, whose last counters it reads.
    async with client, AsyncExitStack() as stack:
        # Only now: counting the lines of a large input takes time, and a complete run needs no number.
        n_rows = await asyncio.to_thread(source.estimate_rows)
        if recorder is not None:
            sink.observe = recorder.rows
            await stack.enter_async_context(recorder.session(client, rows=n_rows, earlier=journal.resumed_rows))
        if on_start is not None:
            on_start(client, n_rows, journal.resumed_rows, sink)
        stop, tables = None, setup.job.tables
        try:
            result = await client.run(
                source, sink, journal=journal, control=control, keep_usage=tables.output.keep_usage
            )
        except RunStopped as error:
            result, stop = error.result, error
        if recorder is not None:
            if tables.report.rows:
                answers = recorder.rows.first
                recorder.examples = await on_thread(examples_of, setup.job, source, answers, result.failures)
            recorder.ending = Ending(sum(map(len, result.pending)), *(StopCause.of(stop) or ()))
        return result, stop


async def _summarize(
    opened: _Opened, result: Result, stop: RunStopped | None, reading_seconds: float, earlier_cost: float | None
) -> Summary:
    (job, answers), sink, journal = (opened.setup.job, opened.setup.answers), opened.sink, opened.journal
    # A run that sent nothing has spent nothing, which is another statement than an unknown cost.
    if job.tables.cost.is_set and result.stats.currency is None:
        nothing = Spending().snapshot(job.tables.cost.currency)
        result = replace(result, stats=replace(result.stats, **nothing))
    report = None
    if opened.recorder is not None:
        report = await on_thread(write_report, job, journal.state, result.failures)
    return Summary(
        answers=answers,
        rows=len(result.ok),
        ok=int(result.ok.sum()),
        pending=sum(len(chunk) for chunk in result.pending),
        earlier=journal.resumed_rows,
        earlier_cost=earlier_cost,
        reading_seconds=reading_seconds,
        stats=result.stats,
        files=_output_files(sink, stop, report),
        first_failures=result.failures[:_FAILURES_IN_SUMMARY],
        stop=StopCause.of(stop),
        resumable=not journal.state.complete,
        # A complete run that was stopped has all answers, so that only the upload can be missing.
        not_uploaded=sink.destination.url if sink.destination and stop and journal.state.complete else None,
        rewritten=journal.resumed_rows == len(result.ok) and sink.finished_rows is not None,
        exit_code=exit_code(count_failed(result), stop),
    )


def _output_files(sink: FileSink, stop: RunStopped | None, report: Path | None) -> OutputFiles:
    """Return the names of the files that a run has written: URLs once they are uploaded."""
    # A stop may have come before the upload, and only the local files are certain then.
    name = str if sink.destination is None or stop is not None else sink.destination.url_of
    return OutputFiles(
        outputs=tuple(map(name, sink.outputs)),
        mask=name(sink.mask) if sink.mask else None,
        failures=name(sink.failures) if sink.failures else None,
        report=None if report is None else str(report),
    )
