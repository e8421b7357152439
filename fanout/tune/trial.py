"""A trial: two values, what was measured with them, and whether that keeps the bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Verdict: TypeAlias = Literal["ok", "refused", "errors", "p95"]
"""Whether a trial keeps the bounds, and if not which it breaks; ``"refused"``: chunks of this size are not taken."""

_NEARLY = 1.25
_FEW_ERRORS = 2


class Point(NamedTuple):
    """The two values that a trial tries."""

    chunk_rows: int
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a setting has to keep to be chosen."""

    p95: float
    """Seconds that the 95th percentile of latencies may take."""

    errors: float = 0.01
    """Share of requests that failed and were worth another attempt, or of rows that failed; the larger counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was counted in one trial, in the time that counts: neither its warm-up nor the requests that end it."""

    rows: int = 0
    """Rows answered."""

    failed: int = 0
    seconds: float = 0.0
    """What it takes to answer them at the pace that was seen."""

    requests: int = 0
    retried: int = 0
    """Requests that failed in a way that is worth another attempt."""

    latency_p50: float = math.nan
    """Seconds of one HTTP exchange."""

    latency_p95: float = math.nan
    refused: str = ""
    """What the endpoint said of chunks of this size, where it takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is known of one point, from all measurements of it."""

    chunk_rows: int
    concurrency: int
    rows_per_second: float
    latency_p50: float | None
    """Seconds; None where no exchange was made. Of several measurements the mean, weighted by requests."""

    latency_p95: float | None
    errors: float
    """As `Bounds.errors` has it."""

    requests: int
    rows: int
    """Rows answered."""

    failed: int
    seconds: float
    measured: int
    """How often."""

    refused: str
    verdict: Verdict

    @property
    def point(self) -> Point:
        """The two values."""
        return Point(self.chunk_rows, self.concurrency)


def trial_of(point: Point, measured: Sequence[Measurement], bounds: Bounds) -> Trial:
    """All measurements of a point as one."""
    rows, failed = sum(one.rows for one in measured), sum(one.failed for one in measured)
    seconds, requests = sum(one.seconds for one in measured), sum(one.requests for one in measured)
    retried = sum(one.retried for one in measured)
    p50, p95 = (_mean(measured, lambda one: one.latency_p50), _mean(measured, lambda one: one.latency_p95))
    errors = max(retried / requests if requests else 0.0, failed / (rows + failed) if failed else 0.0)
    refused = next((one.refused for one in measured if one.refused), "")
    verdict: Verdict = "ok"
    if refused:
        verdict = "refused"
    elif errors > bounds.errors or not rows:
        verdict = "errors"
    elif p95 is not None and p95 > bounds.p95:
        verdict = "p95"
    return Trial(
        chunk_rows=point.chunk_rows,
        concurrency=point.concurrency,
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


def by_accident(trial: Trial, bounds: Bounds) -> bool:
    """True where a bound is broken by so little that another measurement might keep it."""
    if trial.verdict == "p95":
        return trial.latency_p95 is not None and trial.latency_p95 <= _NEARLY * bounds.p95
    return trial.verdict == "errors" and trial.rows > 0 and trial.errors * trial.requests <= _FEW_ERRORS


def _mean(measured: Sequence[Measurement], value: Callable[[Measurement], float]) -> float | None:
    known = [(value(one), one.requests) for one in measured if not math.isnan(value(one))]
    weight = sum(requests for _, requests in known)
    return sum(seconds * requests for seconds, requests in known) / weight if weight else None
