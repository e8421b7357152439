"""Learns how large a request may be, from those that an endpoint answers and those that it does not.

Whatever the endpoint says (413, 400, 500, nothing at all), a request was too large if its rows are answered in smaller
ones. Whether it was its rows, its bytes or its tokens, the other requests show: in the right unit no request that
failed is smaller than one that succeeded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanout.types import Chunk

# Sizes that are remembered. The older ones are of an endpoint that may have changed.
_FAILURES, _SUCCESSES = 16, 64

# Part of a limit within which the smallest failure is close enough: to find out more costs more than it saves.
_CLOSE = 0.05

# Successes after a failure before the next trial between the two, so that a short run is not made of trials.
_PAUSE = 6

# Part by which a limit is exceeded at first, after a while without failures. It doubles with each success.
_FIRST_STEP = 0.03

# Successes after which a size is tried again that has failed; twice as many each time that it fails again.
_PATIENCE = 96

# Part of a size that failed although larger ones succeeded: below it few will fail.
_RARELY = 0.95

# Part by which a first failure must exceed all successes to be taken for one of size. A request that is a little larger
# than the others may have failed twice by chance.
_CLEARLY = 1.1

# Part of the limit that is planned for: the bytes of a body are known beforehand to about a part in hundred.
_MARGIN = 0.99

_HOPED_FOR = 1.15

# Successes of others after which a trial that did not come back is given up.
_LOST = 64


class Size(NamedTuple):
    """The size of a request in each unit; 0 if it is not known."""

    rows: float
    n_bytes: float = 0.0
    """Of its body."""

    tokens: float = 0.0


ANY_SIZE = Size(inf, inf, inf)


class _Unit:
    """The limit in one unit, with the sizes around it that succeeded and failed."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.limit = inf
        """The largest size that is safe."""
        self.failed = inf
        """The smallest that is not, as far as is known."""
        self._failed_before = inf
        self._step = _FIRST_STEP
        self._patience = _PATIENCE

    @property
    def safe(self) -> float:
        """The limit for requests that are no trial."""
        return self.limit * _MARGIN if self.index == 1 else self.limit

    def succeeded(self, size: float) -> None:
        if self.limit < size < self.failed:
            self.limit = size
            # No failure bounds the way up, so that larger and larger steps find the limit soon.
            if self.failed == inf:
                self._step *= 2

    def too_large(self, size: float, successes: list[float]) -> None:
        """A size that failed. ``successes``: sizes that succeeded, in ascending order."""
        if size <= self.limit:
            # The limit was too high: the largest success below the failure is the new one.
            below = bisect_left(successes, size)
            self.limit = successes[below - 1] if below else size / 2
            if below < len(successes):
                self.limit = min(self.limit, _RARELY * size)
            self._patience = _PATIENCE
        # A trial beyond the known failure has failed again: the next one has to wait longer.
        elif self._failed_before < inf:
            self._patience *= 2
        self.limit = max(1.0, self.limit)
        self.failed = min(self.failed, self._failed_before, size)
        self._failed_before, self._step = inf, _FIRST_STEP

    def next(self, quiet: int) -> float | None:
        """A larger size to be tried, after ``quiet`` successes in a row."""
        if self.failed < inf:
            gap = self.failed - self.limit
            if gap > max(1.0, _CLOSE * self.limit):
                return self.limit + gap / 2 if quiet >= _PAUSE else None
            if quiet < self._patience:
                return None
            # The endpoint may take more by now, which only a trial beyond the known failure can show.
            self._failed_before, self.failed = self.failed, inf
        return max(self.limit + 1, (1 + self._step) * max(self.limit, min(self._failed_before, 2 * self.limit)))


class SizeLimits:
    """The limits on the size of the requests to an endpoint. Until a failure is suspected to be one of size, nothing
    has to be reported, and nothing is limited.

    It learns a limit in each unit that explains the failures best, most often one. Of the chunks that are cut
    to it one at a time is larger, as a trial: between the largest success and the smallest failure, and now and then
    beyond.
    """

    def __init__(self) -> None:
        self.watching = False
        """Successes have to be reported."""

        self.limits: Size | None = None
        """Requests that are no trial stay within them; None: no limit is known."""

        self._units = [_Unit(index) for index in range(len(ANY_SIZE))]
        self._active: list[_Unit] = []
        self._failures: deque[Size] = deque(maxlen=_FAILURES)
        self._successes: deque[Size] = deque(maxlen=_SUCCESSES)
        self._suspects: dict[Chunk, Size] = {}
        self._quiet = 0
        """Successes since something was too large."""
        self._turn = 0
        self._trial: Chunk | None = None
        self._trial_since = 0

    def suspected(self, size: Size, chunk: Chunk) -> None:
        """A request failed that may have been too large. `ended` has to be called once it is clear."""
        self.watching = True
        self._suspects[chunk] = size

    def succeeded(self, size: Size, chunk: Chunk) -> None:
        """Count the size of an answered request."""
        self._successes.append(size)
        if self.limits is None:
            return
        self._quiet += 1
        # A part of the trial that is answered is no success of the trial: its outcome is still open.
        if chunk is self._trial and chunk not in self._suspects:
            self._trial = None
        refuted = any(size[unit.index] >= unit.failed for unit in self._active)
        for unit in self._units:
            unit.succeeded(size[unit.index])
        if refuted:
            self._choose()
        self._set()

    def too_large(self, size: Size, chunk: Chunk) -> None:
        """Count a request that failed, although all of its rows are answered in smaller ones."""
        self._failures.append(size)
        self._quiet = 0
        self.ended(chunk)
        if self.limits is None and len(self._failures) == 1 and not self._exceeds_all(size, _CLEARLY):
            return  # a limit that is just there is met again, and costs less until then than a false one
        for unit in self._units:
            # 0 means that the size in this unit is not known.
            if size[unit.index]:
                unit.too_large(size[unit.index], sorted(success[unit.index] for success in self._successes))
        self._choose()
        self._set()

    def exceeded_by(self, size: Size) -> bool:
        """True if a request of this size exceeds a limit."""
        return self.limits is not None and any(map(float.__gt__, map(float, size), map(float, self.limits)))

    def near(self, size: Size) -> bool:
        """True if it may have failed for its size: it is larger than all that succeeded, or close to a limit."""
        if self.limits is not None:
            return any(value > 0.75 * limit for value, limit in zip(size, self.limits, strict=True))
        return self._exceeds_all(size)

    def _exceeds_all(self, size: Size, by: float = 1.0) -> bool:
        """True if in some unit it is more than ``by`` times as large as each request that succeeded."""
        return any(
            value and all(by * success[unit] < value for success in self._successes) for unit, value in enumerate(size)
        )

    def carried(self, size: Size) -> bool:
        """True if a request that is at least as large has succeeded."""
        return any(all(map(float.__ge__, map(float, success), map(float, size))) for success in self._successes)

    @property
    def largest_seen(self) -> int | None:
        """Most rows in a request that was answered of late."""
        return int(max(success.rows for success in self._successes)) if self._successes else None

    @property
    def rows_hoped_for(self) -> float:
        """Rows that will succeed most often, though not so many have been seen to."""
        unit = self._units[0]
        return max(unit.limit, min(_HOPED_FOR * unit.limit, (unit.limit + unit.failed) / 2))

    def next(self) -> Size | None:
        """The limits of the next chunk, or more if a trial is due."""
        if self.limits is None:
            return None
        unit = self._unit()
        larger = None if self._trial is not None else unit.next(self._quiet)
        return _in_unit(unit.index, larger or unit.safe)

    def safe(self) -> Size | None:
        """The limits of the parts of a chunk that was too large."""
        return None if self.limits is None else _in_unit((unit := self._unit()).index, unit.safe)

    def _unit(self) -> _Unit:
        """The unit in which the next chunk is bounded: of several in turn, but of one rather whose limit is kept."""
        if len(self._active) == 1:
            return self._active[0]
        doubts = [sum(size[unit.index] <= unit.limit for size in self._suspects.values()) for unit in self._active]
        trusted = [unit for unit, n in zip(self._active, doubts, strict=True) if n == min(doubts)]
        return trusted[self._turn % len(trusted)]

    def cut(self, chunk: Chunk, bounds: Size) -> None:
        """Count a chunk that was cut to the limits of `next`."""
        unit = self._unit()
        self._turn += 1
        if self._trial is None and bounds[unit.index] > unit.limit:
            self._trial, self._trial_since = chunk, 0
        elif self._trial is not None:
            self._trial_since += 1
            # Its chunk may belong to a run that has been stopped.
            if self._trial_since > _LOST:
                self._trial = None

    def ended(self, chunk: Chunk) -> None:
        """Forget a chunk whose failure is explained. If it was the trial, another one may follow."""
        self._suspects.pop(chunk, None)
        if chunk is self._trial:
            self._trial = None

    def _choose(self) -> None:
        """Find the units in which the fewest failures are contradicted by a success of the same size or larger."""
        wrong = [
            sum(success[unit.index] >= failure[unit.index] for failure in self._failures for success in self._successes)
            if all(failure[unit.index] for failure in self._failures)
            else inf
            for unit in self._units
        ]
        self._active = [unit for unit in self._units if wrong[unit.index] == min(wrong)]

    def _set(self) -> None:
        limits = [inf] * len(self._units)
        for unit in self._active:
            limits[unit.index] = unit.limit
        self.limits = Size(*limits)


def _in_unit(index: int, size: float) -> Size:
    sizes = [inf] * len(ANY_SIZE)
    sizes[index] = size
    return Size(*sizes)
