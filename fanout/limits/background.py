"""Failures that come whatever the load: a sick replica behind a load balancer, a bad network.

A request fails because of the load only where the load is high. Failures that stay as frequent when the concurrency
falls are noise, and a controller that takes each of them for an overload ends at one request in flight. So the share of
them is measured where the load does no harm, as far as is known, and only an excess counts. Congestion control has the
same problem with losses on radio links: BBR (https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/) tolerates 2 % of
them, on every path. Here the share is learnt.
"""

from __future__ import annotations

from math import sqrt

_DEVIATIONS = 3
"""Standard deviations by which failures exceed the background before they count."""

_FEW = 20
"""A sample is judged as if it had at least so many requests: the first failure of a small one proves nothing."""

_ACCIDENTS = 3
"""Failures that make a background. Fewer are no share to speak of."""

_PRIOR = 30
"""Requests without a failure that are presumed beside the ones that were counted."""

_REMEMBERED = 1000
"""Requests after which older ones begin to count less: the share may change, and 1 % is known to a third by then."""

_LARGEST_SHARE = 0.2
"""An endpoint that refuses more than this has too much to do."""


class Background:
    """The share of requests that fail, counted where the load is not the cause."""

    def __init__(self, requests: float = 0.0, failures: float = 0.0) -> None:
        self._requests = requests
        self._failures = failures

    def learn(self, requests: int, failures: int) -> None:
        """Count requests, and how many of them failed."""
        self._requests += requests
        self._failures += failures
        if self._requests > _REMEMBERED:
            self._requests /= 2
            self._failures /= 2

    def explains(self, requests: int, failures: int, *, presumed: float = 0.0) -> bool:
        """True if so many failures are within chance.

        Args:
            requests: the size of the sample.
            failures: how many of them failed.
            presumed: a share that is taken for the background while less is known.
        """
        share = max(presumed, self._share())
        if share == 0:
            return failures == 0
        expected = share * max(requests, _FEW)
        return failures <= expected + _DEVIATIONS * sqrt(expected) + 1

    @property
    def known(self) -> bool:
        """True if enough requests have failed to speak of a share."""
        return self._failures >= _ACCIDENTS

    @property
    def too_large(self) -> bool:
        """True if so many failures cannot be independent of the load."""
        expected = _LARGEST_SHARE * self._requests
        return self._failures > expected + 2 * sqrt(expected)

    def merged(self, other: Background) -> Background:
        """Both counts together."""
        return Background(self._requests + other._requests, self._failures + other._failures)

    def _share(self) -> float:
        return min(self._failures / (self._requests + _PRIOR), _LARGEST_SHARE) if self.known else 0.0

    def __repr__(self) -> str:
        return f"<Background {self._share():.1%} of {self._requests:.0f} requests>"
