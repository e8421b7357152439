"""Counters of one run, as plain integers on the hot path, and the frozen snapshot made of them."""

from __future__ import annotations

from math import frexp, nan
from typing import TYPE_CHECKING

from fanout.types import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

_BUCKETS_PER_DOUBLING = 16
_SMALLEST_EXPONENT = -20  # 2**-20 s is about a microsecond; shorter ones share the first bucket
_SHORTEST = 2.0**_SMALLEST_EXPONENT
_DOUBLINGS = 35  # up to 2**14 s, over four hours


class Latencies:
    """A histogram with buckets of constant relative width (3 %): fixed memory, any number of values.

    The linear subdivision of each power of two is that of HdrHistogram (http://hdrhistogram.org).
    """

    def __init__(self) -> None:
        self.counts = [0] * (_BUCKETS_PER_DOUBLING * _DOUBLINGS)

    def record(self, seconds: float) -> None:
        """Count one latency."""
        mantissa, exponent = frexp(seconds or _SHORTEST)
        index = (exponent - _SMALLEST_EXPONENT) * _BUCKETS_PER_DOUBLING + int(
            (mantissa - 0.5) * 2 * _BUCKETS_PER_DOUBLING
        )
        self.counts[min(max(index, 0), len(self.counts) - 1)] += 1

    def quantile(self, q: float) -> float:
        """The middle of the bucket that holds the ``q`` quantile, in seconds; NaN when nothing was counted."""
        rank, seen = q * sum(self.counts), 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                exponent, part = divmod(index, _BUCKETS_PER_DOUBLING)
                low = 0.5 + part / (2 * _BUCKETS_PER_DOUBLING)
                middle: float = (low + 1 / (4 * _BUCKETS_PER_DOUBLING)) * 2.0 ** (exponent + _SMALLEST_EXPONENT)
                return middle
        return nan


class Counters:
    """What is counted of a run. `add` sums finished runs up into a client's totals."""

    def __init__(self) -> None:
        self.rows = 0
        self.ok = 0
        self.failed = 0
        self.requests = 0
        self.retries = 0
        self.splits = 0
        self.backing_off = 0
        self.latencies = Latencies()
        self.usage: dict[str, int] = {}

    def charge(self, usage: Mapping[str, int]) -> None:
        """Sum up what an API has counted for an answer."""
        for name, count in usage.items():
            self.usage[name] = self.usage.get(name, 0) + count

    def add(self, other: Counters) -> None:
        """Take another run's counts into these."""
        for name in ("rows", "ok", "failed", "requests", "retries", "splits", "backing_off"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.charge(other.usage)
        pairs = zip(self.latencies.counts, other.latencies.counts, strict=True)
        self.latencies.counts = [mine + theirs for mine, theirs in pairs]

    def snapshot(self, *, seconds: float, **transport: int) -> Statistics:
        """A frozen `Statistics`. ``transport`` adds what the transport and the permits count."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        p50, p95, p99 = (self.latencies.quantile(q) for q in (0.50, 0.95, 0.99))
        usage = dict(self.usage)
        return Statistics(
            seconds=seconds, latency_p50=p50, latency_p95=p95, latency_p99=p99, usage=usage, **counts, **transport
        )
