"""A set of row numbers, kept as ranges: small if rows come roughly in order, for any number of rows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fanout.types import Array


class RowSet:
    """Row numbers as sorted ranges that neither overlap nor touch. Its memory is proportional to the ranges.

    Args:
        ranges: (start, stop) of each, in any order.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add the rows ``start <= row < stop``."""
        if start >= stop:
            return
        # Nearly always, rows come in order.
        if self._stops and start == self._stops[-1]:
            self._stops[-1] = stop
            self._count += stop - start
        else:
            # The ranges first <= i < last overlap or touch the new one, which swallows them.
            first = bisect_left(self._stops, start)
            last = bisect_right(self._starts, stop)
            if first < last:
                start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
            self._replace(first, last, [start], [stop])

    def remove(self, start: int, stop: int) -> None:
        """Remove the rows ``start <= row < stop`` that are in the set."""
        # Ranges that only touch the removed rows stay, so the sides of the bisections are the other ones than in `add`.
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        if start < stop and first < last:
            left, right = (self._starts[first], start), (stop, self._stops[last - 1])
            rest = [part for part in (left, right) if part[0] < part[1]]
            self._replace(first, last, [start for start, _ in rest], [stop for _, stop in rest])

    def gap(self, start: int, stop: int) -> tuple[int, int] | None:
        """Return the first range of rows in ``start <= row < stop`` that are not in the set; None if all are."""
        # The range before this place may contain ``start``.
        at = bisect_right(self._starts, start)
        if at and self._stops[at - 1] > start:
            start = self._stops[at - 1]
        end = min(stop, self._starts[at]) if at < len(self._starts) else stop
        return (start, end) if start < end else None

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield all ranges of rows in ``start <= row < stop`` that are not in the set."""
        while (gap := self.gap(start, stop)) is not None:
            yield gap
            start = gap[1]

    def overlaps(self, start: int, stop: int) -> bool:
        """Return True if any of the rows ``start <= row < stop`` is in the set."""
        return self.gap(start, stop) != (start, stop)

    def listed(self, most: int = 8) -> str:
        """Return the first ``most`` ranges as text, for a message."""
        ranges = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in self]
        more = f" and {len(ranges) - most:,} more ranges" if len(ranges) > most else ""
        return ", ".join(ranges[:most]) + more

    def mask(self, n_rows: int) -> Array:
        """Return a mask of the rows in the set; shape (n_rows,), bool."""
        mask = np.zeros(n_rows, bool)
        for start, stop in self:
            mask[start:stop] = True
        return mask

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the ranges (start, stop), sorted."""
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        """The number of rows."""
        return self._count

    def __repr__(self) -> str:
        return f"<RowSet {self._count:,} rows in {len(self._starts):,} ranges>"

    def _replace(self, first: int, last: int, starts: list[int], stops: list[int]) -> None:
        for at in range(first, last):
            self._count -= self._stops[at] - self._starts[at]
        self._count += sum(stops) - sum(starts)
        self._starts[first:last], self._stops[first:last] = starts, stops
