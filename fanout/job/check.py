"""Look at a job before it runs: its input, and what comes back for the first chunk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.engine import chunker_of
from fanout.errors import RunStopped
from fanout.io.writers import open_sink
from fanout.job.blame import blaming
from fanout.job.run import client_of, input_name, read_input
from fanout.job.summary import SCHEMA_VERSION, exit_code
from fanout.types import count_rows, take_rows

if TYPE_CHECKING:
    from fanout.client import Client, Preview
    from fanout.engine import RunControl
    from fanout.io.readers import Source
    from fanout.job.model import Job
    from fanout.types import Array, Failure, ModelInfo, Result, Rows, StopKind, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSchema:
    """What an array looks like."""

    name: str
    """Empty where there is but one."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `check_job` has found."""

    schema_version: int = SCHEMA_VERSION
    rows: int | None
    """None where only reading to the end tells."""

    input: tuple[OutputSchema, ...]
    endpoint: str
    """Without credentials."""

    codec: str
    model: ModelInfo | None = None
    """What the server says of it; None where the codec does not ask, or the server does not tell."""

    max_rows: int | None = None
    """Most rows that it takes in one request; None: no bound is known."""

    chunk_rows: int
    """Rows in one request, cut to that bound."""

    chunks: int | None
    """Requests that the whole input makes, if none is made again; None where its rows would have to be read to tell."""

    sends: tuple[Tensor, ...] = ()
    """What the first request carries, where its format has tensors."""

    body_bytes: int | None = None
    """Length of its body; None where it has not come to that."""

    output: str
    probed: int
    """Rows that were sent to find out."""

    ok: int
    failed: int
    answer: tuple[OutputSchema, ...]
    """The arrays that came back for them."""

    requests: int
    seconds: float
    """From the first request to the last answer."""

    latency: float | None
    """Seconds of one HTTP exchange, the median; None where none was made."""

    failures: tuple[Failure, ...] = ()
    stop_kind: StopKind | None = None
    stop_reason: str | None = None
    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON has them."""
        return asdict(self)


async def check_job(job: Job, *, control: RunControl | None = None) -> Findings:
    """Read the input, ask about the model, send the first chunk and tell what came back. Writes nothing.

    Raises:
        ConfigError: the job, its input or its output cannot be used; rows that the model does not take are found
            before any is sent, where its server tells what it takes.
    """
    with blaming(job.file, input_name(job), job.redactor):
        source = await asyncio.to_thread(read_input, job)
        open_sink(job.output_path)
        first = await _first_chunk(source, job.tables.chunks.rows)
        async with client_of(job) as client:
            preview: Preview | None = None
            stop: RunStopped | None = None
            try:
                preview = await client.preview(first, control=control) if count_rows(first) else None
                result = await _probed(client, first, preview, control)
            except RunStopped as stopped:
                result, stop = stopped.result, stopped
    return _findings(job, source.n_rows, first, preview, result, stop)


async def _first_chunk(source: Source, chunk_rows: int) -> Rows:
    chunker = chunker_of(source, chunk_rows)
    try:
        task = await chunker.take()
    finally:
        await chunker.close()
    return [] if task is None else task.rows


async def _probed(client: Client, first: Rows, preview: Preview | None, control: RunControl | None) -> Result:
    """What came back for the rows of the first request."""
    rows = take_rows(first, slice(0, preview.chunk_rows if preview else 0))
    result: Result = await client.map(rows, on_error="keep", control=control)
    return result


def _findings(
    job: Job, n_rows: int | None, first: Rows, preview: Preview | None, result: Result, stop: RunStopped | None
) -> Findings:
    chunk_rows = preview.chunk_rows if preview else job.tables.chunks.rows
    by_number = job.tables.chunks.max_bytes is None and job.tables.chunks.max_tokens is None
    stats = result.stats
    failed = sum(failure.stop - failure.start for failure in result.failures)
    return Findings(
        rows=n_rows,
        input=_forms(first, n_rows),
        endpoint=job.shown_endpoint,
        codec=job.codec.name,
        model=preview.model if preview else None,
        max_rows=preview.max_rows if preview else None,
        chunk_rows=chunk_rows,
        chunks=-(-n_rows // chunk_rows) if n_rows is not None and by_number else None,
        sends=preview.tensors if preview else (),
        body_bytes=preview.body_bytes if preview else None,
        output=str(job.output_path),
        probed=len(result.ok),
        ok=int(result.ok.sum()),
        failed=failed,
        answer=_forms(result.outputs or {}),
        requests=stats.requests,
        seconds=stats.seconds,
        latency=None if math.isnan(stats.latency_p50) else stats.latency_p50,
        failures=result.failures,
        stop_kind=stop.kind if stop else None,
        stop_reason=stop.reason if stop else None,
        exit_code=exit_code(failed, stop),
    )


def _forms(rows: Rows, n_rows: int | None = None) -> tuple[OutputSchema, ...]:
    """The form of each array, as long as the whole input if its length is known."""
    columns = rows if isinstance(rows, Mapping) else {"": _as_array(rows)}
    return tuple(
        OutputSchema(name=name, dtype=str(array.dtype), shape=(n_rows or len(array), *array.shape[1:]))
        for name, array in columns.items()
    )


def _as_array(rows: Rows) -> Array:
    try:
        return np.asanyarray(rows)
    except ValueError:  # rows of several lengths
        return np.empty(count_rows(rows), object)
