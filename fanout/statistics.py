"""Counters of one run, as plain integers on the hot path, and the frozen snapshot made of them."""

from __future__ import annotations

from math import nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.results import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.prices import Prices
    from fanout.results import EndpointStatistics
    from fanout.types import Array

_BUCKETS_PER_DOUBLING = 16
_SMALLEST_EXPONENT = -20  # 2**-20 s is about a microsecond; shorter ones share the first bucket
_SHORTEST = 2.0**_SMALLEST_EXPONENT
_DOUBLINGS = 35  # up to 2**14 s, over four hours

# Names in ``usage``. They are the server's: new ones in each answer would grow for as long as a client lives.
_MOST_USAGE_NAMES = 256
# Requests from which the spread of their cost is known.
_FEWEST_SAMPLES = 3

# Latencies that are sorted in together: one by one it costs ten times as much.
LATENCIES_AT_ONCE = 4096


# As many take little longer than a few.
_WORTH_SORTING = 100


class Latencies:
    """A histogram with buckets of constant relative width (3 %): fixed memory, any number of values.

    The linear subdivision of each power of two is that of HdrHistogram (http://hdrhistogram.org).

    Args:
        counts: number of values in each bucket, to begin with.
    """

    def __init__(self, counts: Array | None = None) -> None:
        self._counts = counts
        self.recent: list[float] = []
        """Latencies in seconds, to be sorted in once there are `LATENCIES_AT_ONCE`."""

    @property
    def counts(self) -> Array:
        """Return the number of values in each bucket."""
        return self.sort_in()

    def reset(self) -> None:
        """Forget all values."""
        self._counts = None
        self.recent.clear()

    def add(self, other: Latencies) -> None:
        """Take another's counts into these."""
        if len(other.recent) >= _WORTH_SORTING:  # else each copy of them would be sorted again
            other.sort_in()
        if other._counts is not None:
            self._counts = self.counts + other._counts
        self.recent += other.recent
        if len(self.recent) >= LATENCIES_AT_ONCE:
            self.sort_in()

    @staticmethod
    def edges() -> Array:
        """Return the bounds of the buckets in seconds, in ascending order: one more than there are buckets."""
        exponents, parts = np.divmod(np.arange(_BUCKETS_PER_DOUBLING * _DOUBLINGS + 1), _BUCKETS_PER_DOUBLING)
        edges: Array = np.ldexp(0.5 + parts / (2 * _BUCKETS_PER_DOUBLING), exponents + _SMALLEST_EXPONENT)
        return edges

    def since(self, earlier: Latencies) -> Latencies:
        """Return the values that were counted after ``earlier``, a copy of this histogram, was made."""
        return Latencies(self.counts - earlier.counts)

    def quantiles(self, *qs: float) -> tuple[float, ...]:
        """Return the middles of the buckets that hold these quantiles, in seconds; NaN when nothing was counted."""
        seen = self.counts.cumsum()
        if not seen[-1]:
            return (nan,) * len(qs)
        return tuple(_middle(int(seen.searchsorted(max(1, q * seen[-1])))) for q in qs)

    def sort_in(self) -> Array:
        """Count the recent latencies in their buckets, and return the counts."""
        if self._counts is None:
            self._counts = np.zeros(_BUCKETS_PER_DOUBLING * _DOUBLINGS, np.int64)
        if not self.recent:
            return self._counts
        mantissas, exponents = np.frexp(np.maximum(self.recent, _SHORTEST))
        places = (exponents - _SMALLEST_EXPONENT) * _BUCKETS_PER_DOUBLING
        places += ((mantissas - 0.5) * 2 * _BUCKETS_PER_DOUBLING).astype(int)
        np.add.at(self._counts, places.clip(0, len(self._counts) - 1), 1)
        self.recent.clear()
        return self._counts


def _middle(bucket: int) -> float:
    exponent, part = divmod(bucket, _BUCKETS_PER_DOUBLING)
    low = 0.5 + part / (2 * _BUCKETS_PER_DOUBLING)
    middle: float = (low + 1 / (4 * _BUCKETS_PER_DOUBLING)) * 2.0 ** (exponent + _SMALLEST_EXPONENT)
    return middle


class Traffic:
    """The requests of a run."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.requests = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.hedges = 0
        self.hedges_won = 0
        self.bytes_sent = 0
        """Bytes of bodies, as those received."""

        self.bytes_received = 0
        self.latencies.reset()

    def add(self, other: Traffic) -> None:
        """Take another run's requests into these."""
        self.requests += other.requests
        self.in_flight += other.in_flight
        self.max_in_flight = max(self.max_in_flight, other.max_in_flight)
        self.hedges += other.hedges
        self.hedges_won += other.hedges_won
        self.bytes_sent += other.bytes_sent
        self.bytes_received += other.bytes_received
        self.latencies.add(other.latencies)


class Spending:
    """The money that a run has spent, and the rows and costs of its requests, of which only sums are kept."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with nothing spent."""
        self.cost = 0.0
        self.estimated = 0.0
        """Part of the cost that was estimated, because its usage is unknown."""

        self.is_priced = True
        """False once a response counted tokens that have no price."""

        self.has_unmeasured = False
        """A valid answer had no usage that its cost depends on."""

        self._measured = 0
        self._rows = self._cost = 0.0
        self._rows_rows = self._rows_cost = self._cost_cost = 0.0

    def measure(self, cost: float, rows: int, *, priced: bool = True) -> None:
        """Count the cost of a request with ``rows`` rows."""
        self.cost += cost
        self.is_priced = self.is_priced and priced
        self._measured += 1
        self._rows += rows
        self._cost += cost
        self._rows_rows += rows * rows
        self._rows_cost += rows * cost
        self._cost_cost += cost * cost

    def guess(self, cost: float, *, answered: bool) -> None:
        """Count the estimated cost of a request."""
        self.has_unmeasured = self.has_unmeasured or answered
        self.cost += cost
        self.estimated += cost

    def add(self, other: Spending) -> None:
        """Take another run's spending into this."""
        is_priced = self.is_priced and other.is_priced
        has_unmeasured = self.has_unmeasured or other.has_unmeasured
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.is_priced, self.has_unmeasured = is_priced, has_unmeasured

    def snapshot(self, currency: str) -> dict[str, Any]:
        """Return the fields of `Statistics` about money."""
        each, error = self._per_row() if self.is_priced else (None, None)
        return {
            "cost": self.known_cost,
            "cost_estimated": self.estimated,
            "cost_per_row": each,
            "cost_per_row_error": error,
            "currency": currency,
        }

    @property
    def is_spent(self) -> bool:
        """True once anything has been counted here."""
        return self.cost != 0 or self._measured > 0 or self.has_unmeasured or not self.is_priced

    @property
    def known_cost(self) -> float | None:
        """The cost; None if no usage is known, or one without a price."""
        is_measured = self._measured > 0 or not self.has_unmeasured
        return self.cost if self.is_priced and is_measured else None

    def _per_row(self) -> tuple[float | None, float | None]:
        """Return the mean cost of a row and twice its standard error, each None if it is unknown.

        The ratio estimator of W. G. Cochran, "Sampling Techniques" (1977), chapter 6: requests with more rows count for
        more. Twice the standard error is the 95 % interval of many requests.
        """
        if not self._rows:
            return None, None
        each, n = self._cost / self._rows, self._measured
        if n < _FEWEST_SAMPLES:
            return each, None
        squares = self._cost_cost - 2 * each * self._rows_cost + each * each * self._rows_rows
        deviation = sqrt(max(0.0, squares) / (n - 1) / n)
        return each, 2 * deviation * n / self._rows


class Counters:
    """The counters of a run. `add` sums finished runs up into a client's totals."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.usage: dict[str, int] = {}
        self.spending = Spending()
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.rows = 0
        self.ok = 0
        self.failed = 0
        self.retries = 0
        self.splits = 0
        self.cached = 0
        self.shared = 0
        self.backing_off = 0
        self.traffic.reset()
        self.usage.clear()
        if self.spending.is_spent:
            self.spending.reset()

    def charge(self, usage: Mapping[str, int]) -> None:
        """Sum up what an API has counted for an answer. Names beyond the first 256 are left out."""
        for name, count in usage.items():
            if name in self.usage or len(self.usage) < _MOST_USAGE_NAMES:
                self.usage[name] = self.usage.get(name, 0) + count

    def add(self, other: Counters) -> None:
        """Take another run's counts into these."""
        self.rows += other.rows
        self.ok += other.ok
        self.failed += other.failed
        self.retries += other.retries
        self.splits += other.splits
        self.cached += other.cached
        self.shared += other.shared
        self.backing_off += other.backing_off
        self.traffic.add(other.traffic)
        self.charge(other.usage)
        if other.spending.is_spent:
            self.spending.add(other.spending)

    def snapshot(
        self,
        *,
        seconds: float,
        concurrency: int | None = None,
        endpoints: tuple[EndpointStatistics, ...] = (),
        prices: Prices | None = None,
        **shared: int,
    ) -> Statistics:
        """A frozen `Statistics`. ``shared`` are counts of all runs together, which stand in the place of these."""
        counts: dict[str, Any] = _numbers(self) | _numbers(self.traffic) | shared
        if prices is not None and prices.is_set:
            counts |= self.spending.snapshot(prices.currency)
        p50, p95, p99 = self.traffic.latencies.quantiles(0.50, 0.95, 0.99)
        return Statistics(
            seconds=seconds,
            concurrency=concurrency,
            latency_p50=p50,
            latency_p95=p95,
            latency_p99=p99,
            usage=dict(self.usage),
            endpoints=endpoints,
            **counts,
        )


def _numbers(counts: Counters | Traffic) -> dict[str, int]:
    return {name: value for name, value in vars(counts).items() if isinstance(value, int)}
