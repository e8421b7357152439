"""The recent record of one endpoint among several: its latency, its successes and failures, and its exclusions.

After the outlier detection of Envoy
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier): consecutive failures, or a success
rate far below that of the others, eject an endpoint. Each ejection lasts longer, unless it did well in between.
"""

from __future__ import annotations

from math import exp, inf

_CONSECUTIVE_FAILURES = 5
# Seconds over which success rates are compared.
_WINDOW = 10.0

# Requests that a window needs for its success rate to count.
_ENOUGH = 20

# Fraction of the others' success rate below which an endpoint fails.
_FAR_BELOW = 0.5

# Seconds.
_FIRST_EJECTION, _LONGEST_EJECTION = 1.0, 30.0

# Seconds of good health after which earlier ejections no longer count.
_FORGIVEN_AFTER = 60.0

# Seconds in which an endpoint that returns gets its full share again.
_RAMP = 10.0

_SMALLEST_SHARE = 0.1
# Seconds after which a latency has lost two thirds of its weight.
_MEMORY = 10.0

# As many responses in a row unlike those of the other endpoints are no accident.
_CONSECUTIVE_MISFITS = 2

# Seconds for which an endpoint counts as overloaded after it said so.
_OVERLOAD_LASTS = 1.0

# As many chunks in a row answered with 403 are no accident of their rows.
_CONSECUTIVE_FORBIDDEN = 3


class PeakEwma:
    """An exponentially weighted moving average of latencies, which a latency above it replaces at once.

    The load metric of Finagle (https://twitter.github.io/finagle/guide/Clients.html, "Peak EWMA"): one slow response is
    enough to avoid an endpoint, and it takes some time of fast ones to trust it again.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        """The average; None before the first latency."""

        self._at = 0.0

    def record(self, now: float, seconds: float) -> None:
        """Take in a latency measured at ``now``."""
        if self.seconds is None or seconds > self.seconds:
            self.seconds = seconds
        else:
            kept = exp(-max(0.0, now - self._at) / _MEMORY)
            self.seconds = kept * self.seconds + (1 - kept) * seconds
        self._at = now


class Health:
    """The recent successes and failures of one endpoint. It knows no clock: callers pass in the time.

    Args:
        weight: the share of the endpoint beside others of the same load.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.latency = PeakEwma()
        self.misfits = 0
        """Responses in a row that look unlike those of the other endpoints."""

        self.forbidden: set[int] = set()
        """Chunks, by their first rows, that were answered with 403 since the last success."""

        self._weight = weight
        self._overloaded_at = -inf
        self._ejections = 0
        self._consecutive = 0
        self._good, self._bad, self._window_ends = 0, 0, 0.0
        self._last_rate: float | None = None
        self._back_since: float | None = None

    def on_success(self, now: float) -> None:
        """Count a success."""
        self._consecutive = self.misfits = 0
        self._turn_window(now)
        self._good += 1

    def on_failure(self, now: float) -> None:
        """Count a failure for a reason that another endpoint need not share."""
        self._consecutive += 1
        self._turn_window(now)
        self._bad += 1

    def on_misfit(self) -> bool:
        """Count a response unlike those of the other endpoints. True if several in a row rule out an accident."""
        self.misfits += 1
        return self.misfits >= _CONSECUTIVE_MISFITS

    def on_forbidden(self, chunk: int) -> bool:
        """Count a chunk answered with 403. True if several in a row rule out that their rows are to blame."""
        self.forbidden.add(chunk)
        return len(self.forbidden) >= _CONSECUTIVE_FORBIDDEN

    def on_overload(self, now: float) -> None:
        """Note that the endpoint is overloaded."""
        self._overloaded_at = now

    def overloaded(self, now: float) -> bool:
        """True if the endpoint was overloaded within the last second."""
        return now - self._overloaded_at < _OVERLOAD_LASTS

    def success_rate(self, now: float) -> float | None:
        """Success rate of this window or the last one; None after too few requests."""
        self._turn_window(now)
        requests = self._good + self._bad
        return self._good / requests if requests >= _ENOUGH else self._last_rate

    def failing(self, now: float, others: float | None) -> bool:
        """True if the endpoint should be ejected. ``others`` is the best success rate among the other endpoints."""
        if self._consecutive >= _CONSECUTIVE_FAILURES:
            return True
        rate = self.success_rate(now)
        return rate is not None and others is not None and rate < _FAR_BELOW * others

    def eject(self, now: float) -> float:
        """Start an ejection. Returns the seconds until a trial request may end it."""
        if self._back_since is not None and now - self._back_since > _FORGIVEN_AFTER:
            self._ejections = 0
        seconds = min(_LONGEST_EJECTION, _FIRST_EJECTION * 2.0**self._ejections)
        self._ejections += 1
        self._good = self._bad = self._consecutive = 0
        self._last_rate = None
        return seconds

    def on_return(self, now: float) -> None:
        """Note that the trial request has succeeded."""
        self._back_since = now

    def weight(self, now: float) -> float:
        """The present share of the endpoint: little just after its return from an ejection, soon all of it."""
        if self._back_since is None:
            return self._weight
        return self._weight * min(1.0, max(_SMALLEST_SHARE, (now - self._back_since) / _RAMP))

    def _turn_window(self, now: float) -> None:
        if now < self._window_ends:
            return
        requests = self._good + self._bad
        self._last_rate = self._good / requests if requests >= _ENOUGH else None
        self._good = self._bad = 0
        self._window_ends = now + _WINDOW
