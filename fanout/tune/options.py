"""Options of a search, and its budget: the requests, rows and time that it may use, and the share of one trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.tune.trial import Point

# A trial may use this fraction of the budget, or its minimum if that is more.
_TRIALS = 20

# Minimum length of a trial, in rounds of as many chunks as are in flight.
_ROUNDS = 2

# One round of warm-up before the counted ones, and one that is still in flight at their end.
_EXTRA_ROUNDS = 2

_MIN_CHUNKS = 4

# The trial with the highest concurrency may use this fraction of the requests.
_MAX_SHARE = 6

# Requests for the model's metadata that a trial may have to send first.
_METADATA_REQUESTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Maximum use of the endpoint by a whole search. The first bound that is reached ends the search."""

    requests: int = 2000
    rows: int = 500_000
    """Rows sent; every attempt counts."""

    seconds: float = 60.0

    @property
    def max_concurrency(self) -> int:
        """The highest concurrency that this budget can try."""
        return max(1, self.requests // _MAX_SHARE // (_ROUNDS + _EXTRA_ROUNDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """Bounds, budget and candidates of a search."""

    rows: slice = field(default_factory=lambda: slice(0, 2000))
    """Part of the input to send, as a slice without a step."""

    max_p95: float | None = None
    """Maximum 95th percentile of latencies in seconds; half of the job's ``timeouts.attempt`` if not given."""

    max_errors: float = 0.01
    """See `Bounds.errors`."""

    seconds: float = 2.0
    """Counted duration of a trial; longer if too little is answered in it, shorter if that is plenty."""

    budget: Budget = field(default_factory=Budget)
    chunk_rows: Sequence[int] = ()
    """Chunk sizes to try; the job's own, doubled and halved, if not given."""

    concurrency: Sequence[int] = ()
    """Concurrencies to try; 1, 2, 4, ... if not given."""


class Quota(NamedTuple):
    """Minimum and maximum number of chunks that a trial counts."""

    least: int
    most: int


class BudgetAccount:
    """The remaining budget of a search that starts at ``now``, in seconds of the event loop's clock."""

    def __init__(self, budget: Budget, now: float) -> None:
        self.budget = budget
        self.ends = now + budget.seconds
        """Time at which the search ends."""

        self.requests = 0
        """Requests sent so far."""

        self._rows = 0

    def spend(self, requests: int, chunk_rows: int) -> None:
        """Subtract requests of up to ``chunk_rows`` rows each."""
        self.requests += requests
        self._rows += requests * chunk_rows

    def remaining(self, chunk_rows: int) -> int:
        """Return the number of requests of ``chunk_rows`` rows that may still be sent."""
        return min(self.budget.requests - self.requests, (self.budget.rows - self._rows) // chunk_rows)

    def quota(self, point: Point) -> Quota | None:
        """Return the number of chunks for a trial at ``point``; None if the remaining budget does not allow one."""
        # A trial may overshoot by what is in flight, so that is reserved beforehand.
        left = self.remaining(point.chunk_rows) - _METADATA_REQUESTS - _EXTRA_ROUNDS * point.concurrency
        least = max(_MIN_CHUNKS, _ROUNDS * point.concurrency)
        share = min(self.budget.requests // _TRIALS, self.budget.rows // _TRIALS // point.chunk_rows)
        return Quota(least, max(least, min(share, left))) if left >= least else None

    def exhausted(self, now: float) -> str:
        """Return the bound that is reached, in words; empty if none is."""
        if now >= self.ends:
            return f"the {self.budget.seconds:,.10g} s for it are over"
        return "" if self.remaining(1) > 0 else "its requests or rows are spent"
