"""How long requests take at the limits of a job, if each answer takes as long: played through, not waited for."""

from __future__ import annotations

from heapq import heapreplace
from typing import TYPE_CHECKING

from fanout.limits import RateLimiter

if TYPE_CHECKING:
    from fanout.limits import Cost
    from fanout.settings import Limits


_AUTO_RECKONED = 16
"""What "auto" comes to is found out by sending alone: the default of a fixed one stands for it."""


class Timetable:
    """Sends requests on a clock of its own, in the order in which they are told.

    Args:
        latency: seconds of one exchange.
    """

    def __init__(self, limits: Limits, latency: float) -> None:
        self._rates = RateLimiter(limits)
        self._latency = latency
        self._free = [0.0] * (_AUTO_RECKONED if limits.concurrency == "auto" else limits.concurrency)
        self.seconds = 0.0
        """When the last answer comes."""

    def add(self, cost: Cost) -> None:
        """One more request. It goes as soon as there is a permit for it, and then a slot of the rates.

        One without rows asks about the model, and all others wait for its answer.
        """
        answered = self._rates.reserve(self._free[0], cost).start + self._latency
        self.seconds = max(self.seconds, answered)
        if cost.rows:
            heapreplace(self._free, answered)
        else:
            self._free = [answered] * len(self._free)
