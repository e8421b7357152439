"""A dry run: what a job would send, and how long that would take. Nothing is sent, to nobody."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fanout.job.blame import blaming
from fanout.job.offline import rehearsal
from fanout.job.run import client_of, input_name, read_input
from fanout.job.summary import SCHEMA_VERSION
from fanout.settings import masked
from fanout.sinks import open_sink

if TYPE_CHECKING:
    from fanout.client import Survey
    from fanout.engine import RunControl
    from fanout.job.model import Job
    from fanout.settings import Limits

_AUTO_RECKONED = 16
"""What "auto" comes to is found out by sending alone: the default of a fixed one stands for it."""


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
    requests_per_second: float | None
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
    with blaming(job.file, input_name(job)):
        source = await asyncio.to_thread(read_input, job)
        open_sink(job.output_path)
        async with client_of(job, rehearsal(job, answering=False)) as client:
            survey = await client.survey(source, control=control)
    return _estimate(job, survey, job.tables.mock.latency if latency is None else latency)


def _estimate(job: Job, survey: Survey, latency: float) -> Estimate:
    limits = job.tables.limits
    return Estimate(
        rows=survey.rows,
        unsendable=survey.unsendable,
        endpoint=masked(job.tables.endpoint.url),
        codec=job.codec.name,
        chunk_rows=survey.chunk_rows,
        chunks=survey.chunks,
        metadata_requests=survey.metadata_requests,
        requests=survey.chunks + survey.metadata_requests,
        max_requests=limits.max_requests,
        body_bytes=survey.body_bytes,
        concurrency=limits.concurrency,
        requests_per_second=limits.requests_per_second,
        latency=latency,
        seconds=_seconds(survey, limits, latency),
        output=str(job.output_path),
    )


def _seconds(survey: Survey, limits: Limits, latency: float) -> float:
    """When the last answer comes. Metadata is asked for first, one request after the other.

    A chunk starts one interval of the rate after the one before it, and when the one `concurrency` places before it has
    its answer. The longest way to the last chunk through such steps is all of the first kind, or as many as there can
    be of the second.
    """
    space = 0.0 if limits.requests_per_second is None else 1 / limits.requests_per_second
    before = survey.metadata_requests * max(latency, space)
    if not survey.chunks:
        return survey.metadata_requests * latency
    concurrency = _AUTO_RECKONED if limits.concurrency == "auto" else limits.concurrency
    rounds, place = divmod(survey.chunks - 1, concurrency)
    return before + max((survey.chunks - 1) * space, rounds * latency + place * space) + latency
