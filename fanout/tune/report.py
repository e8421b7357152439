"""What a search has found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fanout.job.summary import SCHEMA_VERSION

if TYPE_CHECKING:
    from fanout.job.offline import Answers
    from fanout.tune.trial import Trial
    from fanout.types import StopKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is going to do, told before the first row is sent."""

    endpoint: str
    """Without credentials."""

    codec: str
    answers: Answers
    rows: int
    """Rows of the input that are sent, again and again."""

    chunk_rows: tuple[int, ...]
    """Sizes of a chunk that may be tried."""

    concurrency: tuple[int, ...]
    """Requests in flight that may be tried."""

    automatic: bool
    """The job leaves the requests in flight to the client, so that nothing is to be found out about them."""

    requests: int
    """Most requests that are sent, in all."""

    most_rows: int
    """Most rows that are sent, in all."""

    seconds: float
    """The longest that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What `tune_job` has found."""

    schema_version: int = SCHEMA_VERSION
    answers: Answers = "endpoint"
    """Who gave them: the endpoint, or a model that stood in for it (mock)."""

    endpoint: str
    """Without credentials."""

    codec: str
    rows: int
    """Rows of the input that were sent, again and again."""

    max_p95: float
    """Seconds that the 95th percentile of latencies might take."""

    max_errors: float
    trials: tuple[Trial, ...]
    """In the order in which they were made."""

    best: Trial | None
    """The trial whose values were found; None where none keeps the bounds, or nothing was measured."""

    settings: dict[str, int]
    """What to set in the job file, by key; empty where nothing was found."""

    failed: int
    """Rows that failed with these values, as they would in the job."""

    still_growing: bool
    """More in flight than were tried may be faster still."""

    finished: bool
    """The search came to its end; else `why_not` tells what ended it."""

    why_not: str = ""
    requests: int
    """Sent in all."""

    seconds: float
    written: str | None = None
    """The job file, once the values are in it."""

    stop_kind: StopKind | None = None
    """Why the search was stopped, for machines; None where it had an end of its own."""

    stop_reason: str | None = None
    """The same for people."""

    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)
