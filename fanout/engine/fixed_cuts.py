"""Ranges of rows that a run has to cut as an earlier process has cut them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class FixedCuts:
    """Ranges of rows, each of which becomes one chunk: an asynchronous API works at a job for exactly these rows.

    Args:
        ranges: start and stop of each; they do not overlap.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ranges = deque(sorted(ranges))

    def at(self, position: int) -> int | None:
        """Return the number of rows of the range that begins at ``position``; None if none does.

        Positions of successive calls do not decrease.
        """
        while self._ranges and self._ranges[0][0] < position:
            self._ranges.popleft()
        if not self._ranges or self._ranges[0][0] > position:
            return None
        return self._ranges[0][1] - position

    def most_before_next(self, position: int, most: int) -> int:
        """Return ``most``, or the smaller number of rows from ``position`` to the next range."""
        return min(most, self._ranges[0][0] - position) if self._ranges else most
