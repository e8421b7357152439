"""Measurements from which `Adaptive` derives the limit: rounds of latencies, slot time of stragglers, failures.

Each of them separates the influence of the load from noise: slow answers, lost requests and failures that come at any
load.
"""

from __future__ import annotations

from collections import deque
from math import inf, log, sqrt

# Multiple of the median latency above which an answer is a straggler.
_SLOW = 2.5

# Latencies of which the median is taken, answers after which it is taken again, and answers that it needs.
_RECENT, _MEDIAN_EVERY, _FEW_ANSWERS = 33, 8, 4

# Answers after which older ones begin to count less.
_STRAGGLERS_REMEMBERED = 500

# Largest share of lost requests that is noise.
_MOST_LOST = 0.2

# Variance of the level between rounds that should be alike, of the shortest length, before any is known.
_FIRST_DRIFT = 0.02

# Largest difference between rounds that should be alike, and rounds over which their difference is learnt.
_LARGEST_STEP, _STEPS = 0.3, 10

# Distance between the concurrencies of two rounds, as logarithms, from which on they are compared.
LEVER = log(1.15)

# Seconds of the shortest round (Envoy: 0.1).
SHORTEST = 0.25

# Standard deviations by which failures exceed the background before they count.
_DEVIATIONS = 3

# Smallest size with which a sample is judged: the first failure of a smaller one proves nothing.
_SMALL_SAMPLE = 20

# Failures that make a background. Fewer are no share to speak of.
_ACCIDENTS = 3

# Requests without a failure that are presumed beside those counted.
_PRIOR = 30

# Requests after which older ones begin to count less: the share may change, and 1 % is known to a third by then.
_REQUESTS_REMEMBERED = 1000

# Largest background: an endpoint that refuses more than this is overloaded.
_LARGEST_SHARE = 0.2


class Round:
    """The latencies of the requests sent under one limit.

    Args:
        since: when the limit was set.
        limit: the limit.
    """

    def __init__(self, since: float, limit: int) -> None:
        self.since = since
        self.limit = limit
        self.settling = limit
        """Answers still to be ignored: the first to come are those of the shortest requests."""

        self.opened: float | None = None
        self.closes = inf
        self.requests = 0
        """Requests sent since the round began."""

        self.failures = 0
        """Failures since then that may be due to the load. They come sooner than answers, or later, so they are
        compared with the requests sent."""

        self.n = 0
        self._in_flight = 0.0
        self._seconds = 0.0
        self._logs = 0.0
        self._squares = 0.0

    def add(self, seconds: float, in_flight: float) -> None:
        """Take in an answer, and the requests that were in flight beside it."""
        in_log = log(max(seconds, 1e-6))
        self.n += 1
        self._in_flight += in_flight
        self._seconds += seconds
        self._logs += in_log
        self._squares += in_log * in_log

    def merge(self, other: Round) -> None:
        """Take in all answers of another round."""
        self.n += other.n
        self._in_flight += other._in_flight
        self._seconds += other._seconds
        self._logs += other._logs
        self._squares += other._squares

    @property
    def width(self) -> float:
        """Mean number of requests in flight."""
        return self._in_flight / self.n

    @property
    def seconds(self) -> float:
        """Mean latency, in which a straggler counts as `Stragglers.ceiling`."""
        return self._seconds / self.n

    @property
    def level(self) -> float:
        """Mean logarithm of the latency."""
        return self._logs / self.n

    @property
    def variance(self) -> float:
        """Square of the standard error of `level`."""
        if self.n < 2:
            return inf
        return max(0.0, self._squares - self._logs * self._logs / self.n) / (self.n - 1) / self.n


class Stragglers:
    """The slot time that slow answers and lost requests take beyond that of the others, as a mean for each answer.

    They come at any load, but rarely, so a round holds too few of them for a mean: one more would look like a queue. By
    Little's law they only take part of the slots, so their mean over many rounds is added to the latency of each.
    """

    def __init__(self) -> None:
        self.ceiling = inf
        """Seconds above which an answer is a straggler."""

        self._answers = 0.0
        self._lost = 0.0
        self._excess = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._until_median = 0

    def on_answer(self, seconds: float) -> None:
        """Take in the latency of an answer."""
        self._recent.append(seconds)
        self._until_median -= 1
        if self._until_median < 0 and len(self._recent) >= _FEW_ANSWERS:
            # Both middle ones, which are the same of an odd number: `statistics` takes long to import.
            ordered, middle = sorted(self._recent), len(self._recent) // 2
            self.ceiling = _SLOW * (ordered[middle] + ordered[~middle]) / 2
            self._until_median = _MEDIAN_EVERY
        self._answers += 1
        self._excess += max(0.0, seconds - self.ceiling)
        if self._answers > _STRAGGLERS_REMEMBERED:
            self._answers /= 2
            self._excess /= 2
            self._lost /= 2

    def on_loss(self, seconds: float) -> bool:
        """Take in a request that was given up after ``seconds``. True if so few are lost that the load is no cause."""
        self._lost += 1
        self._excess += seconds
        return self._lost <= _MOST_LOST * max(self._answers, _SMALL_SAMPLE)

    @property
    def seconds(self) -> float:
        """Mean seconds for each answer."""
        return self._excess / max(self._answers, _SMALL_SAMPLE)


class Background:
    """The share of requests that fail at any load, because of a sick replica or a bad network.

    A controller that took each such failure for an overload would end at one request in flight. So their share is
    measured where the load does no harm, as far as is known, and only an excess counts. Congestion control has the same
    problem with losses on radio links: BBR (https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/) tolerates 2 % of
    them on every path. Here the share is learnt.
    """

    def __init__(self, requests: float = 0.0, failures: float = 0.0) -> None:
        self._requests = requests
        self._failures = failures

    def learn(self, requests: int, failures: int) -> None:
        """Count requests, and the failures among them."""
        self._requests += requests
        self._failures += failures
        if self._requests > _REQUESTS_REMEMBERED:
            self._requests /= 2
            self._failures /= 2

    def explains(self, requests: int, failures: int, *, presumed: float = 0.0) -> bool:
        """True if so many failures are within chance.

        Args:
            requests: the size of the sample.
            failures: the failures in it.
            presumed: a share that stands for the background while less is known.
        """
        share = max(presumed, self._share())
        if share == 0:
            return failures == 0
        expected = share * max(requests, _SMALL_SAMPLE)
        return failures <= expected + _DEVIATIONS * sqrt(expected) + 1

    @property
    def known(self) -> bool:
        """True once enough requests have failed to speak of a share."""
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


class Drift:
    """The variance of the level from round to round, beyond that of the answers in it.

    Answers of one round are not independent of each other: a disturbance of one slows down its neighbours.
    """

    def __init__(self) -> None:
        self._variance = 0.0
        self._latest: Round | None = None

    def learn(self, latest: Round, seconds: float) -> None:
        """Take in the next round, whose mean latency is ``seconds``."""
        earlier, self._latest = self._latest, latest
        if earlier is None:
            measured = latest.n * seconds / latest.width
            self._variance = _FIRST_DRIFT * SHORTEST / max(measured, SHORTEST)
        elif (gap := abs(log(latest.width / earlier.width))) < LEVER:
            step = min(_LARGEST_STEP, max(0.0, abs(latest.level - earlier.level) - gap))
            explained = earlier.variance + latest.variance
            self._variance += (max(0.0, step * step - explained) / 2 - self._variance) / _STEPS

    def noise(self, first: Round, second: Round) -> float:
        """The difference between the levels of two rounds that chance explains: two standard errors."""
        return 2 * sqrt(first.variance + second.variance + 2 * self._variance)


class Descent:
    """Retreats from refusals, from the limit before the first of them on."""

    def __init__(self, width: float, trouble: float | None, requests: int, failures: int) -> None:
        self.width = width
        self.trouble = trouble
        self.requests = requests
        """Requests of the round that caused the first retreat."""

        self.failures = failures
        self.below = Background()
        """The rounds at lower limits that ended in a retreat too."""


class LastRetreat:
    """The last retreat, and the requests since."""

    def __init__(self, at: float, *, served: bool = False) -> None:
        self.at = at
        self.served = served
        """A request that was sent after it has been answered."""

        self.widest = 0.0
        """Most requests in flight since."""
