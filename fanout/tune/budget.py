"""The budget: how much a search may send, and what one trial may take of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanout.tune.trial import Point

_TRIALS = 20
"""A trial takes this part of the budget, or what it needs at least."""

_ROUNDS = 2
"""Rounds of as many chunks as are in flight that a trial counts at least; before them one warms up, and one follows."""

_FEWEST = 4
_DEAREST = 6
"""The most in flight that is tried needs no more than this part of the requests."""

_METADATA = 2
"""Requests about the model that a trial may have to make before the others."""


class Quota(NamedTuple):
    """How many chunks a trial counts: at least, and at most."""

    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a search sends at most, in all; the first bound reached ends it."""

    requests: int = 2000
    rows: int = 500_000
    """Rows sent, those that are sent again included."""

    seconds: float = 60.0

    @property
    def most_in_flight(self) -> int:
        """The most in flight that such a budget can try."""
        return max(1, self.requests // _DEAREST // (_ROUNDS + 2))


class Account:
    """What is left of a budget from ``now`` on."""

    def __init__(self, budget: Budget, now: float) -> None:
        self._budget = budget
        self.ends = now + budget.seconds
        """When the time is over."""

        self.requests = 0
        """Sent so far."""

        self._rows = 0

    def spend(self, requests: int, chunk_rows: int) -> None:
        """Note requests of up to ``chunk_rows`` rows each."""
        self.requests += requests
        self._rows += requests * chunk_rows

    def guard(self, chunk_rows: int) -> int:
        """How many requests of ``chunk_rows`` rows may still be sent."""
        return min(self._budget.requests - self.requests, (self._budget.rows - self._rows) // chunk_rows)

    def quota(self, point: Point) -> Quota | None:
        """How many chunks a trial at ``point`` counts; None where what is left is not enough for one."""
        left = self.guard(point.chunk_rows) - _METADATA - 2 * point.concurrency
        least = max(_FEWEST, _ROUNDS * point.concurrency)
        share = min(self._budget.requests // _TRIALS, self._budget.rows // _TRIALS // point.chunk_rows)
        return Quota(least, max(least, min(share, left))) if left >= least else None

    def spent(self, now: float) -> str:
        """What is used up; empty while there is something of everything."""
        if now >= self.ends:
            return f"the {self._budget.seconds:,.10g} s for it are over"
        return "" if self.guard(1) > 0 else "its requests or rows are spent"
