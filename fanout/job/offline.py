"""A job whose answers are recorded, replayed or made up: what its exchanges go through, and where its output goes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fanout.cassettes import Recorder, Replayer
from fanout.client import offline_url
from fanout.codecs._options import spec_from_options
from fanout.errors import ConfigError
from fanout.mock import MockModel, MockTransport, outputs_of
from fanout.paths import require_apart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fanout.job.model import Job
    from fanout.transport import Transport, TransportWrapper

Answers: TypeAlias = Literal["endpoint", "mock", "replay"]
"""Who gives them: the endpoint, a rehearsal's model, or a recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a job is played."""

    job: Job
    """With the output that belongs to this stage."""

    answers: Answers = "endpoint"
    transport: Transport | TransportWrapper | None = None
    told: dict[str, Any] = field(default_factory=dict)
    """What its journal is of, beside the rows: made-up answers must not be gone on with by real ones."""


@contextmanager
def staged(job: Job, *, record: Path | None = None, replay: Path | None = None, mock: bool = False) -> Iterator[Stage]:
    """The stage for a run of ``job``. Raises `ConfigError` for what cannot be played.

    A rehearsal's output is called ``y.mock.npy``, that of a replay ``y.replay.npy``, with journals of their own.
    """
    if sum((record is not None, replay is not None, mock)) > 1:
        raise ConfigError("a run is either recorded, or replayed, or a rehearsal: give one of record, replay and mock")
    if record is not None:
        require_apart(job.output_path, [record], "recording")
        with Recorder(record) as recorder:
            yield Stage(job=job, transport=recorder)
    elif replay is not None:
        told = {"recording": str(replay.absolute())}
        beside = job.writing_beside("replay")
        require_apart(beside.output_path, [replay], "recording")
        yield Stage(job=beside, answers="replay", transport=Replayer(replay), told=told)
    elif mock:
        transport = mock_transport(job, answering=True)
        yield Stage(
            job=job.writing_beside("mock"),
            answers="mock",
            transport=transport,
            told={"mock": job.tables.mock.model_dump()},
        )
    else:
        yield Stage(job=job)


def mock_transport(job: Job, *, answering: bool) -> MockTransport:
    """Who plays the job's endpoint; without ``answering`` only for the model's metadata, so that no shape is needed.

    Raises `ConfigError` for what the table ``mock`` cannot mean, and where nothing tells the shape of an answer.
    """
    mock = job.tables.mock
    try:
        told = spec_from_options(mock.dtype, mock.shape)
        url = offline_url(job.tables.endpoint.each()[0][0].url, job.codec.path)
        model = MockModel(outputs_of(job.codec, told) if answering else {}, mock.seed)
        return MockTransport(
            job.codec, url, model, latency=mock.latency, faults=mock.faults, seed=mock.seed, record=False
        )
    except ConfigError as error:
        if error.key in type(mock).model_fields:
            raise ConfigError(str(error), key=f"mock.{error.key}") from None
        raise
