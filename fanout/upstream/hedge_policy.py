"""When a second request is worth sending for rows whose answer takes long.

After J. Dean and L. A. Barroso, "The Tail at Scale" (2013): hedged requests, deferred until the first has taken longer
than most do, cost few extra requests and take the slowest answers away.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_REMEMBERED = 1000
_ENOUGH = 40
"""Latencies, before there is a 95th percentile to speak of."""

_RECKONED_EVERY = 20
"""New latencies after which it is reckoned again: sorting all for each would cost more than a request."""

_PERCENTILE = 0.95


class Hedger:
    """Decides, without waiting for anything, after how long and how often a second request is sent.

    Args:
        share: second requests, at most, as a part of all first ones.
        delay: seconds after which one is sent; None: the 95th percentile of the last latencies.
    """

    def __init__(self, *, share: float, delay: float | None) -> None:
        self._share = share
        self._delay = delay
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self._new = 0
        self._reckoned: float | None = None
        self._asked = 0
        self._hedged = 0

    @property
    def delay(self) -> float | None:
        """Seconds to wait for the first answer; None while too few latencies are known to tell."""
        if self._delay is not None:
            return self._delay
        if self._new >= _RECKONED_EVERY and len(self._latencies) >= _ENOUGH:
            self._new = 0
            self._reckoned = float(np.quantile(self._latencies, _PERCENTILE))
        return self._reckoned

    def asked(self) -> None:
        """A first request is sent."""
        self._asked += 1

    def answered(self, seconds: float) -> None:
        """A request has taken so long; or longer, if it was given up then."""
        self._latencies.append(seconds)
        self._new += 1

    def take(self) -> bool:
        """Take a second request, if there is one left."""
        if self._hedged + 1 > self._share * self._asked:
            return False
        self._hedged += 1
        return True

    def give_back(self) -> None:
        """It was not sent after all."""
        self._hedged -= 1
