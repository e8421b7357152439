"""Counters of one run, as plain integers on the hot path, and the frozen snapshot made of them."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

import numpy as np

from fanout.types import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.types import Array, EndpointStatistics

_BUCKETS_PER_DOUBLING = 16
_SMALLEST_EXPONENT = -20  # 2**-20 s is about a microsecond; shorter ones share the first bucket
_SHORTEST = 2.0**_SMALLEST_EXPONENT
_DOUBLINGS = 35  # up to 2**14 s, over four hours

# Names in ``usage``. They are the server's: new ones in each answer would grow for as long as a client lives.
_MOST_USAGE_NAMES = 256
_AT_ONCE = 4096  # latencies that are sorted in together: one by one it costs ten times as much


class Latencies:
    """A histogram with buckets of constant relative width (3 %): fixed memory, any number of values.

    The linear subdivision of each power of two is that of HdrHistogram (http://hdrhistogram.org).
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS_PER_DOUBLING * _DOUBLINGS, np.int64)
        self._new: list[float] = []

    def record(self, seconds: float) -> None:
        """Count one latency."""
        self._new.append(seconds)
        if len(self._new) >= _AT_ONCE:
            self._sort_in()

    @property
    def counts(self) -> Array:
        """Return the number of values in each bucket."""
        self._sort_in()
        return self._counts

    def add(self, other: Latencies) -> None:
        """Take another's counts into these."""
        self._counts = self.counts + other.counts

    def quantile(self, q: float) -> float:
        """The middle of the bucket that holds the ``q`` quantile, in seconds; NaN when nothing was counted."""
        seen = self.counts.cumsum()
        if not seen[-1]:
            return nan
        index = int(np.searchsorted(seen, max(1, q * seen[-1])))
        exponent, part = divmod(index, _BUCKETS_PER_DOUBLING)
        low = 0.5 + part / (2 * _BUCKETS_PER_DOUBLING)
        middle: float = (low + 1 / (4 * _BUCKETS_PER_DOUBLING)) * 2.0 ** (exponent + _SMALLEST_EXPONENT)
        return middle

    def _sort_in(self) -> None:
        mantissas, exponents = np.frexp(np.maximum(self._new, _SHORTEST))
        places = (exponents - _SMALLEST_EXPONENT) * _BUCKETS_PER_DOUBLING
        places += ((mantissas - 0.5) * 2 * _BUCKETS_PER_DOUBLING).astype(int)
        np.add.at(self._counts, places.clip(0, len(self._counts) - 1), 1)
        self._new.clear()


_SUMS = (
    "rows", "ok", "failed", "requests", "retries", "splits", "hedges", "hedges_won", "backing_off", "in_flight",
    "bytes_sent", "bytes_received",
)  # fmt: skip


class Counters:
    """The counters of a run. `add` sums finished runs up into a client's totals."""

    def __init__(self) -> None:
        self.rows = 0
        self.ok = 0
        self.failed = 0
        self.requests = 0
        self.retries = 0
        self.splits = 0
        self.hedges = 0
        self.hedges_won = 0
        self.backing_off = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.latencies = Latencies()
        self.usage: dict[str, int] = {}

    def charge(self, usage: Mapping[str, int]) -> None:
        """Sum up what an API has counted for an answer. Names beyond the first 256 are left out."""
        for name, count in usage.items():
            if name in self.usage or len(self.usage) < _MOST_USAGE_NAMES:
                self.usage[name] = self.usage.get(name, 0) + count

    def add(self, other: Counters) -> None:
        """Take another run's counts into these."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_in_flight = max(self.max_in_flight, other.max_in_flight)
        self.charge(other.usage)
        self.latencies.add(other.latencies)

    def snapshot(
        self,
        *,
        seconds: float,
        concurrency: int | None = None,
        endpoints: tuple[EndpointStatistics, ...] = (),
        **shared: int,
    ) -> Statistics:
        """A frozen `Statistics`. ``shared`` are counts of all runs together, which stand in the place of these."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)} | shared
        p50, p95, p99 = (self.latencies.quantile(q) for q in (0.50, 0.95, 0.99))
        usage = dict(self.usage)
        return Statistics(
            seconds=seconds,
            concurrency=concurrency,
            latency_p50=p50,
            latency_p95=p95,
            latency_p99=p99,
            usage=usage,
            endpoints=endpoints,
            **counts,
        )
