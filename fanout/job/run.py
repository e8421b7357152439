"""`run_job`: rows from the job's input, through a client, into its output. An interrupted run is resumed.

The same machinery runs jobs offline: recorded, replayed, or with a mock of the model.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from fanout._variables import literal
from fanout.cassettes import Recorder, Replayer
from fanout.client import (
    Client,
    codec_name,
    finished,
    offline_url,
    require_repeatable,
)
from fanout.codecs._options import spec_from_options
from fanout.errors import ConfigError, InputError, RunStopped
from fanout.io.readers import open_source
from fanout.io.remote import url_of
from fanout.io.writers import open_sink, require_apart_from_input
from fanout.job.journal import (
    known_cost,
    open_job_journal,
    output_identity,
    reopen_failed_rows,
    require_no_parts,
    require_no_whole_run,
    require_own_output,
)
from fanout.job.problems import locate_errors
from fanout.job.report import AnsweredBy, OutputFiles, StopCause, Summary, count_failed, exit_code
from fanout.job.run_report import examples_of, recorder_of, write_report
from fanout.job.telemetry import open_telemetry_of, serving_metrics
from fanout.mock import MockModel, MockTransport, outputs_of
from fanout.paths import require_apart
from fanout.report import Ending
from fanout.rows import count_rows
from fanout.statistics import Spending
from fanout.threads import on_thread, opened_on_thread
from fanout.transport.base import replaces_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.engine import RunControl
    from fanout.io.journal import Journal
    from fanout.io.readers import Source
    from fanout.io.writers import FileSink
    from fanout.job.model import Job
    from fanout.report import Measured, RunRecorder
    from fanout.statistics import Latencies
    from fanout.telemetry import Telemetry
    from fanout.transport import Transport, TransportWrapper
    from fanout.types import Event, Result, Statistics

    OnStart = Callable[[Measured, int | None, int, FileSink], None]

_FAILURES_IN_SUMMARY = 3


class RemoteRun(Protocol):
    """Sends the rows of a job from other processes, and looks like a client from here; see `fanout.cluster`."""

    def prepare(self, source: Source, sink: FileSink, journal: Journal) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def run(
        self,
        source: Source,
        sink: FileSink,
        *,
        journal: Journal,
        control: RunControl | None = None,
        keep_usage: bool = False,
    ) -> Result: ...
    def statistics(self) -> Statistics: ...
    def latencies(self) -> Latencies: ...


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
    remote: RemoteRun | None = None,
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
            number of rows that were finished before, and the sink.
        remote: sends the rows, in place of a client in this process.

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
            # The sink may hold files open even if opening the journal succeeded and the run did not start.
            with closing(sink):
                # A rehearsal is repeated on purpose; a paid run is not.
                if setup.identity and journal.state.complete and not only_failed:
                    journal.restart()
                if only_failed:
                    await on_thread(reopen_failed_rows, sink, journal)
                if remote is not None and journal.state.publication is None:
                    await on_thread(remote.prepare, source, sink, journal)
                reading_seconds, spent = now() - began, journal.state.charged
                result, stop = await _run(job, remote or client, source, sink, journal, control, on_start, recorder)
                if job.tables.cost.is_set and result.stats.currency is None:  # nothing was sent
                    nothing = Spending().snapshot(job.tables.cost.currency)
                    result = replace(result, stats=replace(result.stats, **nothing))
                earlier_cost = known_cost(spent, journal.resumed_rows) if job.tables.cost.is_set else None
                report = None
                if recorder is not None:
                    report = await on_thread(write_report, job, journal.state, result.failures)
                return _summarize(result, sink, journal, stop, setup.answers, reading_seconds, earlier_cost, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A job, and the transport of its requests."""

    job: Job
    """The job with the output of this setup."""

    answers: AnsweredBy = "endpoint"
    transport: Transport | TransportWrapper | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    """Additional identity of the journal: a real run must not continue from the answers of a mock or a replay."""


@contextmanager
def open_offline(
    job: Job, *, record: Path | None = None, replay: Path | None = None, mock: bool = False
) -> Iterator[Setup]:
    """Set up a run of ``job`` that is recorded, replayed or mocked; without an option, a normal run.

    The output of a mock is ``y.mock.npy``, that of a replay ``y.replay.npy``, with journals of their own.

    Raises `ConfigError` if the recording or the mock cannot be used.
    """
    # The command line checks this for itself; here are the callers from Python.
    if sum((record is not None, replay is not None, mock)) > 1:
        raise ConfigError("a run is either recorded, or replayed, or a rehearsal: give one of record, replay and mock")
    if record is not None:
        require_apart(job.output_path, [record], "recording")
        with Recorder(record) as recorder:
            yield Setup(job=job, transport=recorder)
    elif replay is not None:
        replayed = job.with_output_suffix("replay")
        require_apart(replayed.output_path, [replay], "recording")
        identity: dict[str, Any] = {"recording": str(replay.absolute())}
        yield Setup(job=replayed, answers="replay", transport=Replayer(replay), identity=identity)
    elif mock:
        transport = mock_transport(job, answering=True)
        identity = {"mock": job.tables.mock.model_dump()}
        yield Setup(job=job.with_output_suffix("mock"), answers="mock", transport=transport, identity=identity)
    else:
        yield Setup(job=job)


def mock_transport(job: Job, *, answering: bool) -> MockTransport:
    """Return a mock of the job's endpoint. Without ``answering`` it returns metadata only, and needs no shape.

    Raises `ConfigError` if the table ``mock`` is invalid, or if neither it nor the codec has the shape of an answer.
    """
    mock = job.tables.mock
    try:
        spec = spec_from_options(mock.dtype, mock.shape)
        url = offline_url(job.tables.endpoint.each()[0][0].url, job.codec.path)
        model = MockModel(outputs_of(job.codec, spec) if answering else {}, mock.seed)
        return MockTransport(
            job.codec, url, model, latency=mock.latency, faults=mock.faults, seed=mock.seed, record=False
        )
    except ConfigError as error:
        # Errors of the codec keep their key; those of the mock table get its name.
        if error.key in type(mock).model_fields:
            raise ConfigError(str(error), key=f"mock.{error.key}") from None
        raise


def read_input(job: Job, rows: slice = slice(None)) -> Source:
    """Open the rows of the job's input that ``rows`` selects.

    Raises:
        InputError: the input cannot be read.
        ConfigError: the run would replace or remove its own input.
    """
    table = job.tables.input
    # The tables of the job name the columns, the function checks them against the file.
    source = open_source(
        job.input_path,
        table.column,
        columns=table.columns,
        rename=table.rename,
        as_vector=table.as_ == "vector",
        id=table.id,
        format=table.format,
        needed=_needed_columns(job),
        files=table.files,
        files_root=job.files_root,
        fetch_hosts=table.fetch_hosts,
        fetch_timeout=table.fetch_timeout,
        file_max_bytes=table.file_max_bytes,
        keep=job.tables.output.keep,
        storage=job.tables.storage,
    )
    selected = source.sliced(rows)
    # Of a column of files, a look at the first row would read or fetch them.
    is_cheap = source.repeatable and (source.n_rows is not None or not table.files)
    if selected is not source and is_cheap and _is_empty(selected) and not _is_empty(source):
        of = "the" if source.n_rows is None else f"the {source.n_rows:,}"
        raise InputError(f"--rows selects none of {of} rows of {input_name(job)}")
    return selected


def _is_empty(source: Source) -> bool:
    # The number of rows in a file of lines shows only when they are read, here the first of them.
    return not (any(count_rows(block.rows) for block in source.blocks()) if source.n_rows is None else source.n_rows)


def open_output(job: Job, source: Source) -> FileSink:
    """Return the sink of the job's output. Raises `ConfigError` if the output cannot be written, or not with `keep`."""
    table = job.tables.output
    path = table.path if url_of(table.path) is not None else job.output_path
    sink = open_sink(
        path, rename=table.rename, csv_safe=table.csv_safe, storage=job.tables.storage, folder=job.file.parent
    )
    # The output replaces a file at its path, which must not be the input.
    require_apart_from_input(sink, source)
    if source.kept is not None:
        sink.keep(source.kept)
    return sink


def _needed_columns(job: Job) -> list[str]:
    """Return the columns of the input that the codec takes; it knows those that the job renames by their new names."""
    original = {new: name for name, new in job.tables.input.rename.items()}
    return [original.get(name, name) for name in job.codec.columns or ()]


def input_name(job: Job) -> str:
    """Return the name of the job's input in messages."""
    table = job.tables.input
    columns = table.columns or ([] if table.column is None else [table.column])
    named = ", ".join(map(repr, columns))
    return f"{table.shown_path}, column{'s' * (len(columns) > 1)} {named}" if columns else table.shown_path


def shown_codec(job: Job) -> str:
    """Return the name of the job's codec, and its preset if there is one."""
    preset = job.tables.codec.preset
    return codec_name(job.codec) + (f" (preset {preset})" if preset else "")


def client_of(
    job: Job,
    transport: Transport | TransportWrapper | None = None,
    on_event: Callable[[Event], None] | None = None,
    *,
    whole: bool = True,
    surveys: bool = False,
    telemetry: Sequence[Telemetry] = (),
) -> Client:
    """Return a client with the job's settings, not open yet.

    A transport that replaces the network answers for the first endpoint only. ``whole``: every row is sent, whatever
    the tables ``cache`` and ``dedupe`` say, and the job's OpenTelemetry has no part in it. ``surveys``: only what a run
    would send is counted, for which the cache is read, if there is one.
    """
    tables = job.tables
    cache = None if whole or transport is not None else job.cache
    if surveys and job.cache is not None and job.cache.path is not None and Path(job.cache.path).exists():
        # All endpoints take part in the key of an answer.
        cache = job.cache
    if job.cache is not None:
        require_repeatable(job.codec, job.cache)
    return Client(
        # The variables of a job file are resolved already, and their values may look like references.
        literal(job.endpoint.each()[0][0] if replaces_network(transport) and cache is None else job.endpoint),
        codec=job.codec,
        auth=literal(job.auth),
        chunk_rows=tables.chunks.rows,
        chunk_max_bytes=tables.chunks.max_bytes,
        chunk_max_tokens=tables.chunks.max_tokens,
        limits=literal(tables.limits),
        retry=tables.retry,
        timeouts=tables.timeouts,
        hedge=tables.hedge,
        cost=tables.cost,
        # The answers of a mock or a recording are not those of the endpoint, and a recording is to have every row.
        cache=cache,
        dedupe=tables.dedupe.enabled and (surveys or not whole),
        on_event=on_event,
        telemetry=[*telemetry, *([] if whole or replaces_network(transport) else open_telemetry_of(job))],
        transport=transport,
        secrets=job.redactor,
    )


async def _run(
    job: Job,
    client: Client | RemoteRun,
    source: Source,
    sink: FileSink,
    journal: Journal,
    control: RunControl | None,
    on_start: OnStart | None,
    recorder: RunRecorder | None,
) -> tuple[Result, RunStopped | None]:
    # A complete run needs no server, so the client is not opened.
    try:
        if (result := await finished(sink, journal, control)) is not None:
            return result, None
    except RunStopped as error:
        return error.result, error
    async with client, AsyncExitStack() as stack:
        n_rows = await asyncio.to_thread(source.estimate_rows)
        if recorder is not None:
            sink.observe = recorder.rows
            await stack.enter_async_context(recorder.session(client, rows=n_rows, earlier=journal.resumed_rows))
        if on_start is not None:
            on_start(client, n_rows, journal.resumed_rows, sink)
        stop, keep_usage = None, job.tables.output.keep_usage
        try:
            result = await client.run(source, sink, journal=journal, control=control, keep_usage=keep_usage)
        except RunStopped as error:
            result, stop = error.result, error
        if recorder is not None:
            if job.tables.report.rows:
                recorder.examples = await on_thread(examples_of, job, source, recorder.rows.first, result.failures)
            recorder.ending = Ending(sum(map(len, result.pending)), *(StopCause.of(stop) or ()))
        return result, stop


def _summarize(
    result: Result,
    sink: FileSink,
    journal: Journal,
    stop: RunStopped | None,
    answers: AnsweredBy,
    reading_seconds: float,
    earlier_cost: float | None,
    report: Path | None,
) -> Summary:
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
        not_uploaded=sink.destination.url if sink.destination and stop and journal.state.complete else None,
        rewritten=journal.resumed_rows == len(result.ok) and sink.finished_rows is not None,
        exit_code=exit_code(count_failed(result), stop),
    )


def _output_files(sink: FileSink, stop: RunStopped | None, report: Path | None) -> OutputFiles:
    """Return the names of the files that a run has written: URLs once they are uploaded."""
    name = str if sink.destination is None or stop is not None else sink.destination.url_of
    return OutputFiles(
        outputs=tuple(map(name, sink.outputs)),
        mask=name(sink.mask) if sink.mask else None,
        failures=name(sink.failures) if sink.failures else None,
        report=None if report is None else str(report),
    )
