"""When an endpoint of a pool is to be left alone, for how long, and how it comes back.

After the outlier detection of Envoy
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier): failures in a row, or a share of
successes far below that of the others. Each time it is for longer, unless it has done well in between.
"""

from __future__ import annotations

_IN_A_ROW = 5
"""Failures without a success between them."""

_WINDOW = 10.0
"""Seconds over which the shares of successes are compared."""

_ENOUGH = 20
"""Requests in a window, before its share of successes says anything."""

_FAR_BELOW = 0.5
"""Part of the others' share of successes below which an endpoint is failing."""

_FIRST, _LONGEST = 1.0, 30.0
"""Seconds for which an endpoint is left alone: at first, and at most."""

_FORGIVEN_AFTER = 60.0
"""Seconds of good health after which earlier troubles count no more."""

_RAMP = 10.0
"""Seconds in which an endpoint that comes back gets its whole share again."""

_SMALLEST_SHARE = 0.1


class Health:
    """The recent successes and failures of one endpoint."""

    def __init__(self) -> None:
        self.ejections = 0
        """How often it has been left alone lately."""

        self._in_a_row = 0
        self._good, self._bad, self._window_ends = 0, 0, 0.0
        self._share: float | None = None
        self._back_since: float | None = None

    def succeeded(self, now: float) -> None:
        """It has answered a request."""
        self._in_a_row = 0
        self._turn(now)
        self._good += 1

    def failed(self, now: float) -> None:
        """It has not, for a reason that another endpoint need not share."""
        self._in_a_row += 1
        self._turn(now)
        self._bad += 1

    def share(self, now: float) -> float | None:
        """Share of successes in this window or the one before; None while too few requests tell."""
        self._turn(now)
        asked = self._good + self._bad
        return self._good / asked if asked >= _ENOUGH else self._share

    def failing(self, now: float, others: float | None) -> bool:
        """Whether it is to be left alone. ``others``: the best share of successes among the other endpoints."""
        if self._in_a_row >= _IN_A_ROW:
            return True
        share = self.share(now)
        return share is not None and others is not None and share < _FAR_BELOW * others

    def eject(self, now: float) -> float:
        """It is left alone from now on. Returns for how many seconds, until a first request may try it again."""
        if self._back_since is not None and now - self._back_since > _FORGIVEN_AFTER:
            self.ejections = 0
        longest = min(_LONGEST, _FIRST * 2.0**self.ejections)
        self.ejections += 1
        self._good = self._bad = self._in_a_row = 0
        self._share = None
        return longest

    def came_back(self, now: float) -> None:
        """The request that tried it has succeeded."""
        self._back_since = now

    def ramp(self, now: float) -> float:
        """Part of its share that it is to get: little when it has just come back, soon all of it."""
        if self._back_since is None:
            return 1.0
        return min(1.0, max(_SMALLEST_SHARE, (now - self._back_since) / _RAMP))

    def _turn(self, now: float) -> None:
        if now < self._window_ends:
            return
        asked = self._good + self._bad
        self._share = self._good / asked if asked >= _ENOUGH else None
        self._good = self._bad = 0
        self._window_ends = now + _WINDOW
