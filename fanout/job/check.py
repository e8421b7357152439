"""Look at a job before it runs: its input, and what comes back for the first chunk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import RunStopped
from fanout.job.blame import blaming
from fanout.job.run import client_of, read_input, require_apart
from fanout.job.summary import SCHEMA_VERSION, exit_code
from fanout.settings import masked
from fanout.sinks import check_output
from fanout.types import count_rows, take_rows

if TYPE_CHECKING:
    from fanout.engine import RunControl
    from fanout.job.model import Job
    from fanout.types import Failure, Result, Rows, StopKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an array looks like."""

    name: str
    """Empty where there is but one."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `check_job` has found."""

    schema_version: int = SCHEMA_VERSION
    rows: int
    input: tuple[Form, ...]
    endpoint: str
    """Without credentials."""

    codec: str
    chunk_rows: int
    chunks: int
    output: str
    probed: int
    """Rows that were sent to find out."""

    ok: int
    failed: int
    answer: tuple[Form, ...]
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
    """Read the input, send the first chunk and tell what came back. Writes nothing.

    Raises:
        ConfigError: the job, its input or its output cannot be used.
    """
    with blaming(job.file):
        require_apart(job)
        check_output(job.output_path)
        rows = await asyncio.to_thread(read_input, job)
        probe = take_rows(rows, slice(0, job.tables.chunks.rows))
        async with client_of(job) as client:
            stop: RunStopped | None = None
            try:
                result = await client.map(probe, on_error="keep", control=control)
            except RunStopped as stopped:
                result, stop = stopped.result, stopped
    return _findings(job, rows, result, stop)


def _findings(job: Job, rows: Rows, result: Result, stop: RunStopped | None) -> Findings:
    chunk_rows, stats = job.tables.chunks.rows, result.stats
    failed = sum(failure.stop - failure.start for failure in result.failures)
    return Findings(
        rows=count_rows(rows),
        input=_forms(rows),
        endpoint=masked(job.tables.endpoint.url),
        codec=job.codec.name,
        chunk_rows=chunk_rows,
        chunks=-(-count_rows(rows) // chunk_rows),
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


def _forms(rows: Rows) -> tuple[Form, ...]:
    columns = rows if isinstance(rows, Mapping) else {"": np.asanyarray(rows)}
    return tuple(Form(name=name, dtype=str(array.dtype), shape=array.shape) for name, array in columns.items())
