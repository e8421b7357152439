"""The search: its options, its budget, and the next point to try by the measurements so far. No I/O, and no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from fanout.tune.trial import Point, combine, is_near_miss

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from fanout.tune.trial import Bounds, Measurement, Trial

    _T = TypeVar("_T")
    _Points: TypeAlias = Generator[Point, None, _T]
    """Yields the points to measure, and returns a result."""

GROWTH = 0.05
"""Minimum relative growth of rows/s for a step to be worth it. Trials this close to the maximum are equally fast."""

# A point is measured again to confirm it, or if it missed a bound narrowly.
_MAX_MEASUREMENTS = 2


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


class Search:
    """Searches for the most rows/s along one value at a time (coordinate ascent), with far fewer trials than a grid.

    It raises the concurrency while rows/s grow within the bounds, then tries larger or smaller chunks, then the
    concurrency again. The final choice is measured twice.

    Args:
        sizes: candidates for the chunk size, in rows.
        steps: candidates for the concurrency.
        start: the first chunk size to try; one of ``sizes``.
        bounds: conditions that a setting must meet.
        n_rows: rows of the whole input, if known. No trial has more rows in flight.
    """

    def __init__(
        self, sizes: Iterable[int], steps: Iterable[int], *, start: int, bounds: Bounds, n_rows: int | None = None
    ) -> None:
        self._sizes, self._steps = sorted(set(sizes)), sorted(set(steps))
        self._start = start
        self._bounds = bounds
        self._n_rows = n_rows
        self._measured: dict[Point, list[Measurement]] = {}
        self._skipped: set[Point] = set()
        # A generator keeps the place of the search between two measurements, so that its steps read in order.
        self._plan = self._search()

    def next(self) -> Point | None:
        """Return the next point to try; None at the end. `record` or `skip` must follow."""
        return next(self._plan, None)

    def record(self, point: Point, measurement: Measurement) -> None:
        """Add a measurement of a point."""
        self._measured.setdefault(point, []).append(measurement)

    def skip(self, point: Point) -> None:
        """Continue without this measurement; the point is not returned again."""
        self._skipped.add(point)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in order of their first measurement."""
        return tuple(map(self.trial, self._measured))

    def trial(self, point: Point) -> Trial:
        """Return all measurements of a point, combined."""
        return combine(point, self._measured[point], self._bounds)

    @property
    def best(self) -> Trial | None:
        """The cheapest of the fastest trials: lowest concurrency, then smallest p95."""
        fastest = self.fastest
        if fastest is None:
            return None
        # A higher concurrency for the same speed loads the server for nothing.
        enough = (1 - GROWTH) * fastest.rows_per_second
        return min(
            (trial for trial in self._good() if trial.rows_per_second >= enough),
            key=lambda trial: (trial.point.concurrency, trial.latency_p95 or 0.0, trial.point.chunk_rows),
        )

    @property
    def fastest(self) -> Trial | None:
        """The trial with the most rows/s within the bounds."""
        return max(self._good(), key=lambda trial: trial.rows_per_second, default=None)

    @property
    def still_growing(self) -> bool:
        """True if the best trial has the highest candidate for the concurrency."""
        best = self.best
        # A single candidate was the user's choice, and shows nothing about higher ones.
        return best is not None and len(self._steps) > 1 and best.point.concurrency == self._steps[-1]

    def _search(self) -> _Points[None]:
        size = yield from self._size_that_fits()
        if size is None:
            return
        top = yield from self._climb([Point(size, step) for step in self._steps])
        for path in self._other_sizes(top):
            reached = yield from self._climb([top, *path])
            if reached != top:
                top = reached
                break
        # Another chunk size may move the best concurrency.
        top = yield from self._climb([Point(top.chunk_rows, step) for step in self._steps if step >= top.concurrency])
        yield from self._descend(top)
        yield from self._confirm()

    def _size_that_fits(self) -> _Points[int | None]:
        """Return the start size, or the next smaller one within the bounds, at the lowest concurrency."""
        # A size that fails at the lowest concurrency fails at all, so the other steps need no trial.
        for size in (self._start, *_below(self._sizes, self._start)):
            if (yield from self._within_bounds(Point(size, self._steps[0]))):
                return size
        return None

    def _other_sizes(self, top: Point) -> Iterable[list[Point]]:
        """Yield paths from ``top`` to other chunk sizes. Each is taken only if those before it gained nothing."""
        # Larger chunks come first: they spread the cost of a request over more rows.
        above = [size for size in self._sizes if size > top.chunk_rows]
        yield [Point(size, top.concurrency) for size in above]
        if above and self._has_verdict(Point(above[0], top.concurrency), "p95"):
            # More rows in flight would violate the bound, so try as many rows in fewer and larger chunks.
            yield [Point(*pair) for pair in zip(above, _below(self._steps, top.concurrency), strict=False)]
        yield [Point(size, top.concurrency) for size in _below(self._sizes, top.chunk_rows)]

    def _climb(self, path: Sequence[Point]) -> _Points[Point]:
        """Follow ``path`` while rows/s grow within the bounds; one point without growth is passed, as it may be noise.

        Returns the last point of ``path`` with growth.
        """
        top, paused = path[0], False
        yield from self._within_bounds(top)
        for point in path[1:]:
            # Once a bound is violated, more load violates it too.
            if not (yield from self._within_bounds(point)):
                break
            if self._growth(top, point) > GROWTH:
                top, paused = point, False
            elif paused:
                break
            else:
                paused = True
        return top

    def _descend(self, top: Point) -> _Points[None]:
        """Try lower concurrencies while they are as fast."""
        # The climb may have passed a plateau whose beginning is as fast.
        for step in _below(self._steps, top.concurrency):
            point, fastest = Point(top.chunk_rows, step), self.fastest
            if not (yield from self._within_bounds(point)) or fastest is None:
                return
            if self.trial(point).rows_per_second < (1 - GROWTH) * fastest.rows_per_second:
                return

    def _confirm(self) -> _Points[None]:
        """Measure the choice once more, because the maximum of many noisy figures overestimates."""
        while (
            once := next((t.point for t in (self.best, self.fastest) if t and self._repeatable(t)), None)
        ) is not None:
            yield once

    def _within_bounds(self, point: Point) -> _Points[bool]:
        """Return True if a point is within the bounds, after as many measurements as that needs."""
        too_many = self._n_rows is not None and point.chunk_rows * point.concurrency > self._n_rows
        if point not in self._measured and point not in self._skipped and not too_many:
            yield point
        if point not in self._measured:
            return False
        trial = self.trial(point)
        if self._repeatable(trial) and is_near_miss(trial, self._bounds):
            yield point
        return self._has_verdict(point, "ok")

    def _growth(self, low: Point, high: Point) -> float:
        """Return the relative growth of rows/s from one point to the other."""
        before, after = self.trial(low).rows_per_second, self.trial(high).rows_per_second
        return after / before - 1 if before else float(after > 0)

    def _repeatable(self, trial: Trial) -> bool:
        return trial.measured < _MAX_MEASUREMENTS and trial.point not in self._skipped

    def _has_verdict(self, point: Point, verdict: str) -> bool:
        return point in self._measured and self.trial(point).verdict == verdict

    def _good(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.verdict == "ok"]


def _below(values: Sequence[int], top: int) -> list[int]:
    """Return the values below ``top``, largest first."""
    return [value for value in reversed(values) if value < top]
