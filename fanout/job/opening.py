"""The parts of a job's run, opened by its tables: input, output, transport, client and telemetry.

A job also runs offline: recorded, replayed, or with a mock of the model.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout._variables import literal
from fanout.cassettes import Recorder, Replayer
from fanout.client import Client, codec_name, offline_url, require_repeatable
from fanout.codecs._options import spec_from_options
from fanout.errors import ConfigError, InputError
from fanout.io.readers.finding import would_find
from fanout.io.readers.opening import open_source
from fanout.io.remote.file import url_of
from fanout.io.writers.opening import open_sink, require_apart_from_input
from fanout.mock import MockModel, MockTransport, outputs_of
from fanout.paths import KEY, require_apart, written_paths
from fanout.rows import count_rows
from fanout.telemetry import OpenTelemetry, serve_metrics
from fanout.transport.base import replaces_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink
    from fanout.job.model import Job
    from fanout.job.report import AnsweredBy
    from fanout.results import Event
    from fanout.telemetry import Telemetry
    from fanout.transport import Transport, TransportWrapper


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
        # Answers of another recording must not complete this one's output.
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


def _require_unlisted(job: Job, sink: FileSink) -> None:
    """Raise `ConfigError` if a folder or a pattern of inputs will list a file that the run writes.

    An interrupted run could not be resumed: its input would be another one.
    """
    if not isinstance(job.input_path, Path):
        return
    listed = next((path for path in written_paths(sink.path) if would_find(job.input_path, path)), None)
    if listed is not None:
        raise ConfigError(
            f"the next run would take {listed.name} for an input, because {job.tables.input.path} lists it: write to "
            "another folder, or name the inputs with a narrower pattern",
            key=KEY,
        )


def open_output(job: Job, source: Source) -> FileSink:
    """Return the sink of the job's output. Raises `ConfigError` if the output cannot be written, or not with `keep`."""
    table = job.tables.output
    path = table.path if url_of(table.path) is not None else job.output_path
    sink = open_sink(
        path, rename=table.rename, csv_safe=table.csv_safe, storage=job.tables.storage, folder=job.file.parent
    )
    # The output replaces a file at its path, which must not be the input.
    require_apart_from_input(sink, source)
    _require_unlisted(job, sink)
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


def open_telemetry_of(job: Job) -> list[Telemetry]:
    """Return the OpenTelemetry of a job, if it wants that. Raises `ConfigError` without its API."""
    table = job.tables.telemetry
    if not table.opentelemetry:
        return []
    try:
        return [
            OpenTelemetry(
                propagate=table.propagate, baggage=table.baggage, chunk_traces=table.chunk_traces, gen_ai=table.gen_ai
            )
        ]
    except ConfigError as error:
        # The error of a missing package names the table; the key that asks for the package says more.
        key = error.key if error.key != "telemetry" else "opentelemetry"
        raise ConfigError(str(error), key=f"telemetry.{key}") from None


@contextmanager
def serving_metrics(job: Job) -> Iterator[list[Telemetry]]:
    """Serve the metrics of a job while entered, if it has a port for them. Yields their collector.

    Raises `ConfigError` if the port is taken, or prometheus_client is missing.
    """
    port = job.tables.telemetry.metrics_port
    with ExitStack() as stack:
        try:
            collectors: list[Telemetry] = [] if port is None else [stack.enter_context(serve_metrics(port))[0]]
        except ConfigError as error:
            raise ConfigError(str(error), key="telemetry.metrics_port") from None
        yield collectors
