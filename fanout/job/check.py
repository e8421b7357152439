"""Examinations of a job that write nothing: `check_job`, `dry_run` and `job_status`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from heapq import heapreplace
from typing import TYPE_CHECKING

import numpy as np

from fanout.engine import chunker_of
from fanout.errors import RunStopped
from fanout.io.journal.comparison import same_but_for_times
from fanout.io.remote.destination import Destination
from fanout.io.remote.file import url_of
from fanout.job.exchange import ExchangeCapture
from fanout.job.journal import known_cost, output_identity, read_journal
from fanout.job.model import Outline
from fanout.job.opening import client_of, input_name, mock_transport, open_output, read_input, shown_codec
from fanout.job.problems import locate_errors
from fanout.job.report import (
    ArraySchema,
    CheckReport,
    CostEstimate,
    Estimate,
    Probe,
    Status,
    StopCause,
    count_failed,
    exit_code,
)
from fanout.limits import RateLimiter
from fanout.paths import journal_path
from fanout.rows import count_rows, dtype_name, take_rows

if TYPE_CHECKING:
    from fanout.client import Preview, Survey
    from fanout.codecs.base import Codec
    from fanout.engine import RunControl
    from fanout.io.journal.state import JournalState
    from fanout.io.readers.base import Source
    from fanout.job.model import Job
    from fanout.limits import Cost
    from fanout.prices import Prices
    from fanout.results import Result
    from fanout.settings import Limits
    from fanout.types import Array, Rows

# Concurrency of a simulation under "auto", which only real requests can find out.
_ASSUMED_AUTO = 16

# Texts have 2.5 to 6 bytes to a token, depending on their language and the vocabulary; four are assumed.
_ERROR_OF_BYTES = 0.6


async def check_job(job: Job, *, show: bool = False, control: RunControl | None = None) -> CheckReport:
    """Read the input, request the model's metadata, and send the first chunk.

    Args:
        job: the job to check.
        show: keep the first request and its answer in the report.
        control: ends it from outside.

    Raises:
        ConfigError: the job, its input or its output cannot be used. Rows that contradict the model's metadata are
            reported before any row is sent.
    """
    with locate_errors(job.file, input_name(job), job.redactor):
        source = await asyncio.to_thread(read_input, job)
        # An output that cannot be written must show before the first request.
        sink = open_output(job, source)
        if sink.destination is not None:
            await asyncio.to_thread(sink.destination.require_writable)
        first = await _first_chunk(source, job.tables.chunks.rows)
        # Without a row nothing can be encoded, and a probe would test nothing.
        preview: Preview | None = None
        stop: RunStopped | None = None
        capture = ExchangeCapture(job.redactor.url) if show else None
        async with client_of(job, capture) as client:
            try:
                preview = await client.preview(first, control=control) if count_rows(first) else None
                rows = take_rows(first, slice(0, preview.chunk_rows if preview else 0))
                result: Result = await client.map(rows, on_error="keep", control=control)
            except RunStopped as stopped:
                result, stop = stopped.result, stopped
    chunks, n_rows = job.tables.chunks, source.n_rows
    chunk_rows = preview.chunk_rows if preview else chunks.rows
    # With the other bounds, the number of requests depends on the rows.
    only_rows_bound = chunks.max_bytes is None and chunks.max_tokens is None
    return CheckReport(
        rows=n_rows,
        estimated_rows=await asyncio.to_thread(source.estimate_rows) if n_rows is None else None,
        input=_array_schemas(first, n_rows),
        endpoint=job.shown_endpoint,
        codec=shown_codec(job),
        preview=preview,
        chunk_rows=chunk_rows,
        chunks=-(-n_rows // chunk_rows) if n_rows is not None and only_rows_bound else None,
        output=job.shown_output,
        probe=Probe(
            result, _array_schemas(result.outputs or {}), capture.exchange if capture else None, _paths(job.codec)
        ),
        stop=StopCause.of(stop),
        exit_code=exit_code(count_failed(result), stop),
    )


def _paths(codec: Codec) -> dict[str, str]:
    """Return the path of each output in an answer, as the options of the codec give it."""
    answers, outputs = codec.options.get("answers"), codec.options.get("outputs")
    behind = "" if answers is None else f", in each of {answers}"
    if not isinstance(outputs, Mapping):
        return {} if answers is None else {"": str(answers)}
    paths = {name: one.get("path", name) if isinstance(one, Mapping) else one for name, one in outputs.items()}
    return {name: f"{path}{behind}" for name, path in paths.items()}


async def dry_run(job: Job, *, latency: float | None = None, control: RunControl | None = None) -> Estimate:
    """Read and encode the whole input, count the requests, and simulate their duration. Nothing is sent.

    A mock returns the model's metadata. It does not know the dtypes of the inputs, so the number of bytes differs for
    an OIP model that wants other dtypes than the rows have.

    Args:
        job: the job to estimate.
        latency: assumed duration of one exchange in seconds; the job's ``mock.latency`` if not given.
        control: ends it from outside.

    Raises:
        ConfigError: the job, its input or its output cannot be used.
        RunStopped: ``control`` ended it.
    """
    with locate_errors(job.file, input_name(job), job.redactor):
        source = await asyncio.to_thread(read_input, job)
        # A dry run reports an unusable output as a run would.
        open_output(job, source)
        latency = job.tables.mock.latency if latency is None else latency
        simulation = Simulation(job.tables.limits, latency)
        async with client_of(job, mock_transport(job, answering=False), surveys=True) as client:
            survey = await client.survey(source, control=control, on_request=simulation.add)
    return Estimate(
        endpoint=job.shown_endpoint,
        codec=shown_codec(job),
        survey=survey,
        limits=job.tables.limits,
        latency=latency,
        seconds=simulation.seconds,
        output=job.shown_output,
        cost=estimated_cost(survey, job.tables.cost),
    )


def estimated_cost(survey: Survey, prices: Prices) -> CostEstimate | None:
    """Return the cost of a run; None without prices.

    Tokens that were not counted are estimated from bytes, and the length of the answers is unknown but for the
    request's own bound: the estimate is the middle of that range.
    """
    if not prices.is_set:
        return None
    fixed = prices.of_requests(survey.chunks, survey.rows - survey.unsendable - survey.cached - survey.shared)
    given = prices.of_tokens(survey.input_tokens or 0.0, 0.0, 0.0)
    error = 0.0 if survey.counts_tokens else _ERROR_OF_BYTES * given
    if not prices.output_per_million:
        return CostEstimate(fixed + given, error, prices.currency)
    if survey.most_output_tokens is None:
        return CostEstimate(None, None, prices.currency)
    # The middle of the possible range, with half of the range as the error on either side.
    half = prices.of_tokens(0.0, 0.0, survey.most_output_tokens) / 2
    return CostEstimate(fixed + given + half, error + half, prices.currency)


class Simulation:
    """Simulates the sending of requests at the limits of a job, on a clock of its own.

    Args:
        limits: concurrency and rates.
        latency: duration of one exchange in seconds.
    """

    def __init__(self, limits: Limits, latency: float) -> None:
        self._rates = RateLimiter(limits)
        self._latency = latency
        # A heap of the times at which each slot of the concurrency becomes free.
        self._free = [0.0] * (_ASSUMED_AUTO if limits.concurrency == "auto" else limits.concurrency)
        self.seconds = 0.0
        """Time of the last response."""

    def add(self, cost: Cost) -> None:
        """Send a request as soon as a slot of the concurrency is free and the rates allow it."""
        answered = self._rates.reserve(self._free[0], cost).start + self._latency
        self.seconds = max(self.seconds, answered)
        if cost.rows:
            heapreplace(self._free, answered)
        else:  # a request for metadata, which all others wait for
            self._free = [answered] * len(self._free)


def job_status(job: Job | Outline) -> Status:
    """Read the journal of a job, which may be running. Raises `ConfigError` if the journal is damaged."""
    path = journal_path(job.output_path)
    with locate_errors(job.file, redactor=job.redactor):
        state = read_journal(job)
        if state is None:
            return Status(
                journal=str(path), begun=False, complete=False, rows=None, ok=0, failed=0, pending=None, current=True
            )
        state = state.in_place
        done, failed = len(state.resolved), state.failed
        return Status(
            journal=str(path),
            begun=True,
            complete=state.complete,
            rows=state.n_rows,
            ok=done - failed,
            failed=failed,
            pending=None if state.n_rows is None else state.n_rows - done,
            cost=known_cost(state.charged, done) if state.charged is not None else None,
            uploaded=_is_uploaded(job, state) if state.complete else None,
            current=None if isinstance(job, Outline) else _is_current(job, state),
            not_compared=job.not_compared if isinstance(job, Outline) else "",
        )


def _is_uploaded(job: Job | Outline, state: JournalState) -> bool | None:
    """Return whether the files of a complete run were uploaded; None for a local output, and for an outline."""
    if isinstance(job, Outline) or state.publication is None or (url := url_of(job.tables.output.path)) is None:
        return None
    # The record of uploads beside the output is compared with them: nothing is requested of the store.
    files = [target for _, target in state.publication.moves]
    return Destination(url, job.tables.storage, job.file.parent).is_uploaded(files)


def _is_current(job: Job, state: JournalState) -> bool:
    # A file that was only touched is still the same input.
    return same_but_for_times(state.identity, client_of(job).identity(read_input(job)) | output_identity(job))


async def _first_chunk(source: Source, chunk_rows: int) -> Rows:
    chunker = chunker_of(source, chunk_rows)
    try:
        task = await chunker.get()
    # The reader thread of a blocking source must not outlive the check.
    finally:
        await chunker.close()
    return [] if task is None else task.rows


def _array_schemas(rows: Rows, n_rows: int | None = None) -> tuple[ArraySchema, ...]:
    """Return the schema of each array; with ``n_rows``, for the length of the whole input."""
    columns = rows if isinstance(rows, Mapping) else {"": _as_array(rows)}
    return tuple(
        ArraySchema(name=name, dtype=dtype_name(array.dtype), shape=(n_rows or len(array), *array.shape[1:]))
        for name, array in columns.items()
    )


def _as_array(rows: Rows) -> Array:
    try:
        return np.asanyarray(rows)
    except ValueError:  # rows of unequal length
        return np.empty(count_rows(rows), object)
