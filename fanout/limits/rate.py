"""A rate: how many requests start in a second."""

from __future__ import annotations


class Rate:
    """At most ``per_second`` starts in a second, evenly spaced.

    The generic cell rate algorithm (ITU-T I.371) without burst: every start reserves the next free slot.
    """

    def __init__(self, per_second: float | None) -> None:
        self._interval = 0.0 if per_second is None else 1.0 / per_second
        self._next_slot = 0.0

    def reserve(self, now: float) -> float:
        """The time at which the caller may start, now or later. The slot is then his, used or not."""
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._interval
        return slot
