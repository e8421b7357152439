"""How quick an endpoint is at the moment: an average that believes bad news at once and good news by and by."""

from __future__ import annotations

from math import exp

_MEMORY = 10.0
"""Seconds after which a latency has lost two thirds of its weight."""


class PeakEwma:
    """An exponentially weighted moving average of latencies, which a latency above it replaces at once.

    The load metric of Finagle (https://twitter.github.io/finagle/guide/Clients.html, "Peak EWMA"): an endpoint that
    turns slow is left alone after one slow answer, and has to prove over some time that it is quick again.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        """The average; None before the first latency."""

        self._at = 0.0

    def record(self, now: float, seconds: float) -> None:
        """Take in a latency that was measured at ``now``."""
        if self.seconds is None or seconds > self.seconds:
            self.seconds = seconds
        else:
            kept = exp(-max(0.0, now - self._at) / _MEMORY)
            self.seconds = kept * self.seconds + (1 - kept) * seconds
        self._at = now
