"""The search: decides which point is tried next, from what was measured so far. It does no I/O and knows no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from fanout.tune.trial import Point, by_accident, trial_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from fanout.tune.trial import Bounds, Measurement, Trial

    _Answer = TypeVar("_Answer")
    _Asking: TypeAlias = Generator[Point, None, _Answer]
    """Yields the points that it needs measured."""

GROWTH = 0.05
"""Share by which rows/s have to grow for a step to be worth taking; those within it of the most are as fast."""

_TWICE = 2


class Search:
    """Looks for the most rows/s along one value at a time, which costs far fewer trials than all pairs would.

    From the fewest requests in flight upwards, for as long as rows/s grow and the bounds are kept; from there to larger
    chunks, or to smaller ones; then the requests in flight once more. What is chosen in the end is measured twice.

    Args:
        sizes: rows of a chunk that may be tried.
        steps: requests in flight that may be tried.
        start: the one of ``sizes`` to begin with.
        bounds: what a setting has to keep.
        n_rows: rows of the whole input, where that is known: no more are in flight in any trial.
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
        self._plan = self._search()

    def next(self) -> Point | None:
        """The point to try; None when nothing is left to be found out. To be followed by `record` or `skip`."""
        return next(self._plan, None)

    def record(self, point: Point, measurement: Measurement) -> None:
        """Take in what was measured at a point."""
        self._measured.setdefault(point, []).append(measurement)

    def skip(self, point: Point) -> None:
        """Go on without this measurement; the point is not asked for again."""
        self._skipped.add(point)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All that is known, in the order of first measurements."""
        return tuple(map(self.trial, self._measured))

    def trial(self, point: Point) -> Trial:
        """What is known of a point that was measured."""
        return trial_of(point, self._measured[point], self._bounds)

    @property
    def best(self) -> Trial | None:
        """Of those that are as fast as the fastest, the cheapest: fewest in flight, then the smallest p95."""
        fastest = self.fastest
        if fastest is None:
            return None
        enough = (1 - GROWTH) * fastest.rows_per_second
        return min(
            (trial for trial in self._good() if trial.rows_per_second >= enough),
            key=lambda trial: (trial.concurrency, trial.latency_p95 or 0.0, trial.chunk_rows),
        )

    @property
    def fastest(self) -> Trial | None:
        """The one with the most rows/s among those that keep the bounds."""
        return max(self._good(), key=lambda trial: trial.rows_per_second, default=None)

    @property
    def still_growing(self) -> bool:
        """True where the best is at the upper end of the requests in flight that may be tried."""
        best = self.best
        return best is not None and len(self._steps) > 1 and best.concurrency == self._steps[-1]

    def _search(self) -> _Asking[None]:
        size = yield from self._size_that_fits()
        if size is None:
            return
        top = yield from self._climb([Point(size, step) for step in self._steps])
        for way in self._other_sizes(top):
            found = yield from self._climb([top, *way])
            if found != top:
                top = found
                break
        top = yield from self._climb([Point(top.chunk_rows, step) for step in self._steps if step >= top.concurrency])
        yield from self._descend(top)
        yield from self._confirm()

    def _size_that_fits(self) -> _Asking[int | None]:
        """The size to begin with, or the next smaller one that keeps the bounds with the fewest in flight."""
        for size in (self._start, *_below(self._sizes, self._start)):
            if (yield from self._keeps(Point(size, self._steps[0]))):
                return size
        return None

    def _other_sizes(self, top: Point) -> Iterable[list[Point]]:
        """The ways from ``top`` to other sizes of a chunk, each to be asked for once those before it led nowhere."""
        above = [size for size in self._sizes if size > top.chunk_rows]
        yield [Point(size, top.concurrency) for size in above]
        if above and self._is(Point(above[0], top.concurrency), "p95"):
            # What is in flight is all that the bound lets be: so the same rows in fewer, larger chunks.
            yield [Point(*pair) for pair in zip(above, _below(self._steps, top.concurrency), strict=False)]
        yield [Point(size, top.concurrency) for size in _below(self._sizes, top.chunk_rows)]

    def _climb(self, way: Sequence[Point]) -> _Asking[Point]:
        """Go on while rows/s grow and the bounds are kept, past one point where they do not: it may be noise.

        Returns the last point of ``way`` to which they grew.
        """
        top, paused = way[0], False
        yield from self._keeps(top)
        for point in way[1:]:
            if not (yield from self._keeps(point)):
                break
            if self._growth(top, point) > GROWTH:
                top, paused = point, False
            elif paused:
                break
            else:
                paused = True
        return top

    def _descend(self, top: Point) -> _Asking[None]:
        """See if fewer in flight are as fast."""
        for step in _below(self._steps, top.concurrency):
            point, fastest = Point(top.chunk_rows, step), self.fastest
            if not (yield from self._keeps(point)) or fastest is None:
                return
            if self.trial(point).rows_per_second < (1 - GROWTH) * fastest.rows_per_second:
                return

    def _confirm(self) -> _Asking[None]:
        """Measure what would be chosen once more: of many noisy figures the highest is too high."""
        while (
            once := next((t.point for t in (self.best, self.fastest) if t and self._repeatable(t)), None)
        ) is not None:
            yield once

    def _keeps(self, point: Point) -> _Asking[bool]:
        """Whether a point keeps the bounds, measured as often as it takes to tell."""
        too_many = self._n_rows is not None and point.chunk_rows * point.concurrency > self._n_rows
        if point not in self._measured and point not in self._skipped and not too_many:
            yield point
        if point not in self._measured:
            return False
        trial = self.trial(point)
        if self._repeatable(trial) and by_accident(trial, self._bounds):
            yield point
        return self._is(point, "ok")

    def _growth(self, low: Point, high: Point) -> float:
        """By which share rows/s grow from one point to the other."""
        before, after = self.trial(low).rows_per_second, self.trial(high).rows_per_second
        return after / before - 1 if before else float(after > 0)

    def _repeatable(self, trial: Trial) -> bool:
        return trial.measured < _TWICE and trial.point not in self._skipped

    def _is(self, point: Point, verdict: str) -> bool:
        return point in self._measured and self.trial(point).verdict == verdict

    def _good(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.verdict == "ok"]


def _below(values: Sequence[int], top: int) -> list[int]:
    """Those below ``top``, the largest first."""
    return [value for value in reversed(values) if value < top]
