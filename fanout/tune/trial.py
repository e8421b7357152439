"""Trials: the point that is tried, its measurements, the verdict on them, and the report of a whole search."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from fanout.job import SCHEMA_VERSION
from fanout.job.report import stop_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.job.report import AnsweredBy, StopCause

TrialVerdict: TypeAlias = Literal["ok", "refused", "errors", "p95"]
"""The bound that a trial violates, or ``"ok"``. ``"refused"``: the endpoint does not accept chunks of this size."""

# A p95 up to this multiple of its bound may have exceeded it by chance.
_NEAR_MISS = 1.25

# A rate of errors above its bound may be chance if there were only so many.
_FEW_ERRORS = 2


class Point(NamedTuple):
    """The two values that a trial tries."""

    chunk_rows: int
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Conditions that a setting must meet to be chosen."""

    p95: float
    """Maximum 95th percentile of latencies in seconds."""

    errors: float = 0.01
    """Maximum share of requests that needed another attempt, and of rows that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Counts of one trial, without its warm-up and without the requests that were still in flight at its end."""

    rows: int = 0
    """Rows answered."""

    failed: int = 0
    """Rows failed."""

    seconds: float = 0.0
    """Time that the answered rows take at the measured rate."""

    requests: int = 0
    retried: int = 0
    """Requests that needed another attempt."""

    latency_p50: float = math.nan
    """Duration of one HTTP exchange in seconds."""

    latency_p95: float = math.nan
    refused: str = ""
    """The endpoint's message, if it does not accept chunks of this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """All measurements of one point, combined."""

    point: Point
    rows_per_second: float
    latency_p50: float | None
    """Seconds; the mean over several measurements, weighted by requests. None if there was no exchange."""

    latency_p95: float | None
    errors: float
    """As in `Bounds.errors`."""

    requests: int
    rows: int
    """Rows answered."""

    failed: int
    """Rows failed."""

    seconds: float
    measured: int
    """Number of measurements."""

    refused: str
    verdict: TrialVerdict

    def as_dict(self) -> dict[str, Any]:
        """Return the trial in the form of the JSON output."""
        values = asdict(self)
        return {**values.pop("point")._asdict(), **values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The extent of a search, known before the first row is sent."""

    endpoint: str
    """URL without credentials."""

    codec: str
    answers: AnsweredBy
    rows: int
    """Rows of the sample, which are sent again and again."""

    chunk_rows: tuple[int, ...]
    """Candidates for the chunk size."""

    concurrency: tuple[int, ...]
    """Candidates for the concurrency."""

    automatic: bool
    """The job sets ``concurrency = "auto"``, so only the chunk size is tuned."""

    requests: int
    """Maximum requests in all."""

    max_rows: int
    """Maximum rows in all."""

    seconds: float
    """Maximum duration."""


class SearchCost(NamedTuple):
    """The cost of a search, and that of the whole input with the values that it chose."""

    spent: float | None = None
    """Cost of the search; None if it is unknown, and without prices."""

    estimate: float | None = None
    """Expected cost of the whole input with the best values; None if that is unknown."""

    error: float | None = None
    """The cost is within this distance of the estimate, in 95 % of all cases."""

    currency: str | None = None

    def as_keys(self) -> dict[str, Any]:
        """Return the keys of the JSON output."""
        return {
            "cost": self.spent,
            "cost_estimate": self.estimate,
            "cost_error": self.error,
            "currency": self.currency,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneReport:
    """The outcome of a search."""

    schema_version: int = SCHEMA_VERSION
    answers: AnsweredBy = "endpoint"
    endpoint: str
    """URL without credentials."""

    codec: str
    rows: int
    """Rows of the sample, which were sent again and again."""

    max_p95: float
    """Seconds."""

    max_errors: float
    trials: tuple[Trial, ...]
    """In order of their first measurement."""

    best: Trial | None
    """The trial that was chosen; None if none meets the bounds, or nothing was measured."""

    # The keys are those of --set, so that a script can pass them on.
    settings: dict[str, int]
    """Job file key -> value of the best trial."""

    failed: int
    """Rows that failed in the best trial. They would fail in the job, too."""

    still_growing: bool
    """A concurrency above all candidates may be faster still."""

    finished: bool
    """The search tried everything that it wanted to."""

    unfinished_reason: str = ""
    requests: int
    """Requests sent in all."""

    seconds: float
    cost: SearchCost = field(default_factory=SearchCost)
    written: str | None = None
    """Path of the job file, once the values are written into it."""

    stop: StopCause | None = None
    """Reason of a stop; None if the search ended by itself."""

    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """Return the report in the form of the JSON output."""
        report = asdict(self)
        report["trials"] = [trial.as_dict() for trial in self.trials]
        report["best"] = self.best and self.best.as_dict()
        # The JSON is flat, as that of a run.
        del report["stop"]
        return report | self.cost.as_keys() | stop_keys(self.stop)


def combine(point: Point, measured: Sequence[Measurement], bounds: Bounds) -> Trial:
    """Combine all measurements of a point, and judge them."""
    rows, failed = sum(one.rows for one in measured), sum(one.failed for one in measured)
    seconds, requests = sum(one.seconds for one in measured), sum(one.requests for one in measured)
    retried = sum(one.retried for one in measured)
    # Quantiles of several measurements cannot be merged exactly; the mean is close enough to compare trials.
    p50, p95 = (_mean(measured, lambda one: one.latency_p50), _mean(measured, lambda one: one.latency_p95))
    # Retries show an overloaded endpoint, failed rows a chunk that it does not accept: the worse one counts.
    errors = max(retried / requests if requests else 0.0, failed / (rows + failed) if failed else 0.0)
    refused = next((one.refused for one in measured if one.refused), "")
    verdict: TrialVerdict = "ok"
    if refused:
        verdict = "refused"
    # Without a single answer there is no rate to compare.
    elif errors > bounds.errors or not rows:
        verdict = "errors"
    elif p95 is not None and p95 > bounds.p95:
        verdict = "p95"
    return Trial(
        point=point,
        # The sum of rows over the sum of times weighs a long measurement more than a short one.
        rows_per_second=rows / seconds if seconds else 0.0,
        latency_p50=p50,
        latency_p95=p95,
        errors=errors,
        requests=requests,
        rows=rows,
        failed=failed,
        seconds=seconds,
        measured=len(measured),
        refused=refused,
        verdict=verdict,
    )


def is_near_miss(trial: Trial, bounds: Bounds) -> bool:
    """True if a bound is violated by so little that another measurement might meet it."""
    if trial.verdict == "p95":
        return trial.latency_p95 is not None and trial.latency_p95 <= _NEAR_MISS * bounds.p95
    return trial.verdict == "errors" and trial.rows > 0 and trial.errors * trial.requests <= _FEW_ERRORS


def _mean(measured: Sequence[Measurement], value: Callable[[Measurement], float]) -> float | None:
    # A measurement without an exchange has no latency.
    known = [(value(one), one.requests) for one in measured if not math.isnan(value(one))]
    weight = sum(requests for _, requests in known)
    return sum(seconds * requests for seconds, requests in known) / weight if weight else None
