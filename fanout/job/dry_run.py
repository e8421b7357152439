"""A dry run: what a job would send, and how long that would take. Nothing is sent, to nobody."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fanout.io.writers import open_sink
from fanout.job.blame import blaming
from fanout.job.offline import mock_transport
from fanout.job.run import client_of, input_name, read_input
from fanout.job.summary import SCHEMA_VERSION
from fanout.job.timetable import Timetable

if TYPE_CHECKING:
    from fanout.client import Survey
    from fanout.engine import RunControl
    from fanout.job.model import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What `dry_run` has counted. No failure is reckoned with: a rehearsal with faults shows what they add."""

    schema_version: int = SCHEMA_VERSION
    rows: int
    unsendable: int
    """Rows that the wire format cannot express: they fail without a request."""

    endpoint: str
    """Without credentials."""

    codec: str
    chunk_rows: int
    chunks: int
    """Requests with rows."""

    metadata_requests: int
    """Requests before them, by which the codec learns about the model."""

    requests: int
    """Both together."""

    max_requests: int | None
    """The job's guard; a run that needs more stops there."""

    body_bytes: int
    """Of all requests together, headers not counted."""

    concurrency: int | Literal["auto"]
    rates: dict[str, float]
    """The job's limits on what goes in a second or a minute, by key."""

    latency: float
    """Seconds of one exchange: an assumption."""

    seconds: float
    """Of the whole run with that latency, at the job's limits; encoding and decoding come on top."""

    output: str
    exit_code: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON has it."""
        return asdict(self)


async def dry_run(job: Job, *, latency: float | None = None, control: RunControl | None = None) -> Estimate:
    """Read and encode the whole input, and count.

    Where the codec asks about the model, the mock answers: its tables tell no dtype of the inputs, so an OIP model that
    wants another dtype than the rows have is sent other bytes than are counted here.

    Args:
        job: what would be run.
        latency: seconds of one exchange; the job's ``mock.latency`` if not given.
        control: ends it from outside.

    Raises:
        ConfigError: the job, its input or its output cannot be used.
        RunStopped: ``control`` has ended it.
    """
    with blaming(job.file, input_name(job), job.redactor):
        source = await asyncio.to_thread(read_input, job)
        open_sink(job.output_path)
        latency = job.tables.mock.latency if latency is None else latency
        timetable = Timetable(job.tables.limits, latency)
        async with client_of(job, mock_transport(job, answering=False)) as client:
            survey = await client.survey(source, control=control, on_request=timetable.add)
    return _estimate(job, survey, latency, timetable.seconds)


def _estimate(job: Job, survey: Survey, latency: float, seconds: float) -> Estimate:
    limits = job.tables.limits
    return Estimate(
        rows=survey.rows,
        unsendable=survey.unsendable,
        endpoint=job.shown_endpoint,
        codec=job.codec.name,
        chunk_rows=survey.chunk_rows,
        chunks=survey.chunks,
        metadata_requests=survey.metadata_requests,
        requests=survey.chunks + survey.metadata_requests,
        max_requests=limits.max_requests,
        body_bytes=survey.body_bytes,
        concurrency=limits.concurrency,
        rates=limits.rates,
        latency=latency,
        seconds=seconds,
        output=str(job.output_path),
    )
