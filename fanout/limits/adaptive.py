"""Adaptive concurrency: how many requests in flight an endpoint is worth, found out from how it answers.

The limit climbs while more requests in flight bring more answers a second, and retreats where they only wait, or are
refused. What it is made of, and where that is from:

- *Additive increase, multiplicative decrease* on refusals and timeouts, once for each round trip (Chiu and Jain, 1989;
  Netflix's ``AIMDLimit``, https://github.com/Netflix/concurrency-limits). After a decrease the limit follows the curve
  of CUBIC (RFC 9438): soon back near the place of the trouble, long just below it, then ever faster past it. So a limit
  that stays is met by one request now and then, and a capacity that has grown is found within seconds.
- *A latency gradient* (Netflix's ``Gradient2Limit``; Envoy's gradient controller, https://www.envoyproxy.io/docs/envoy/
  latest/configuration/http/http_filters/adaptive_concurrency_filter). Both compare latency now with latency at its best
  and take every growth for a queue, which stops them at once at a server that works in batches. By Little's law
  throughput is concurrency / latency, so what is compared here is the growth of both between two rounds of the climb: a
  limit is too high where throughput grew by less than a tenth of what the concurrency grew by (the optimum of
  throughput / concurrency ** 0.1, a form of Kleinrock's power, 1979).
- *Slow start* (RFC 9438, 4.10): at first the limit doubles.
- *Background*: refusals and timeouts that do not become rarer when the limit falls are noise. Their share is measured
  below the last trouble, and only the excess counts. A retreat that it explains is undone. A 429 always counts.
- *Undo* (TCP's is RFC 4015): where a retreat from a queue brought latency down by less than a third of what it cost in
  concurrency, as logarithms, there was no queue, and the limit goes back. Else noise would bring it down to 1. Slow
  start goes on where the retreat that ended it cost throughput: a server's first moments can be its best ones.
- *Rounds*: latency is judged over at least as many answers as there are requests in flight, as a mean of logarithms,
  which a slow tail hardly moves, and a growth counts only where it is twice its standard error; how far rounds that
  should be alike differ is part of that.
"""

from __future__ import annotations

from math import exp, inf, log, sqrt

from fanout.limits.background import Background

_START = 8
_REFUSED = 0.9
"""What is left of a limit after a refusal (``AIMDLimit``): others follow within milliseconds where that is too much."""

_QUEUED = 0.8
"""What is left of the knee after a queue was found: below it, so that latency is measured without that queue."""

_HEADROOM, _LEAST_HEADROOM = 1.05, 0.5
"""By how much, and by how many requests at least, the limit stays above the knee, to keep the server busy."""

_LEAST_GAIN = 0.1
"""Growth of throughput by which a growth of concurrency is worth its while, both as logarithms."""

_LEAST_SPARED = 1 / 3
"""What a retreat has to bring latency down by, as a share of what it cost in concurrency, both as logarithms. The first
retreat has to do better: what it was based on are the first moments of a server, which can be its best ones."""

_LEVER = log(1.15)
"""Two rounds are compared where their concurrencies, as logarithms, are at least this far apart."""

_PRECISION = 0.03
"""Relative error of a round's latency that is good enough; a noisier round gets more answers, up to a bound."""

_FIRST_DRIFT = 0.02
"""Variance of the level between rounds that should be alike, of the shortest length, before any is known."""

_LARGEST_STEP, _STEPS = 0.3, 10
"""How rounds that should be alike differ is learnt over so many of them; one that differs by more counts as so much."""

_SHORTEST = 0.25
"""Seconds over which a round is measured at least (Envoy: 0.1)."""

_DOUBTED = 0.5
"""Seconds over which one is that would have the limit retreat: what disturbs a machine comes in bursts (Netflix: 1)."""

_FULL = 0.8
"""A round with less than this share of the limit in flight was held back by something else."""

_PERIOD = 1.0
"""Seconds in which the curve comes back to the place of the last trouble (CUBIC's K), where requests are short."""

_PERIOD_LATENCIES, _PERIOD_REQUESTS, _PERIOD_ROUNDS = 4, 40, 4
"""A period is not shorter than so many of these: else a slow server would refuse too much, or hardly be measured."""

_FASTEST = 1.25
"""Largest growth from one round to the next past the last trouble (RFC 9438, 4.2, has 1.5); up to it, twice."""

_PRESUMED = 0.1
"""Share of failures that slow start tolerates. It doubles the limit, so a real limit of the endpoint shows as far more,
and one accident is no reason to end it."""

_HUNG = 3
"""A request that timed out after so many times as long as others take was lost; before, it may have waited its turn."""


class _Round:
    """Latencies under one limit."""

    def __init__(self, since: float, limit: int) -> None:
        self.since = since
        self.limit = limit
        self.settling = limit
        """Answers that are not looked at yet: the first to come are those of the shortest requests."""
        self.opened: float | None = None
        self.closes = inf
        self.requests = 0
        """Sent since the round began."""
        self.failures = 0
        """Failures since then that may be due to the load. They come sooner than answers, or later: so requests are
        counted as they are sent."""
        self.n = 0
        self._in_flight = 0.0
        self._seconds = 0.0
        self._logs = 0.0
        self._squares = 0.0

    def add(self, seconds: float, in_flight: float) -> None:
        in_log = log(max(seconds, 1e-6))
        self.n += 1
        self._in_flight += in_flight
        self._seconds += seconds
        self._logs += in_log
        self._squares += in_log * in_log

    def merge(self, other: _Round) -> None:
        self.n += other.n
        self._in_flight += other._in_flight
        self._seconds += other._seconds
        self._logs += other._logs
        self._squares += other._squares

    @property
    def width(self) -> float:
        """Requests in flight, on the average."""
        return self._in_flight / self.n

    @property
    def seconds(self) -> float:
        """Latency, on the average."""
        return self._seconds / self.n

    @property
    def level(self) -> float:
        """The average logarithm of the latency."""
        return self._logs / self.n

    @property
    def variance(self) -> float:
        """Square of the standard error of `level`."""
        if self.n < 2:
            return inf
        return max(0.0, self._squares - self._logs * self._logs / self.n) / (self.n - 1) / self.n


class _Descent:
    """Retreats from refusals, from the limit before the first of them on."""

    def __init__(self, width: float, trouble: float | None, requests: int, failures: int) -> None:
        self.width = width
        self.trouble = trouble
        self.requests = requests
        """Of the round that was the reason for the first retreat."""
        self.failures = failures
        self.below = Background()
        """Rounds at lower limits that ended in a retreat too."""


class Adaptive:
    """A limit on the requests in flight that finds the endpoint's knee, and follows it when it moves.

    Knows no clock and waits for nothing: it is told of every request that has ended, and `limit` is what it makes of
    that. Requests that failed for another reason than overload are not told: they say nothing of it.

    Requests of very different sizes make latency noisy, and the limit slower to move; sizes that drift look like a
    server that does.

    Args:
        now: the time.
        largest: no limit above this is tried.
    """

    def __init__(self, now: float, *, largest: int) -> None:
        self.limit = min(_START, largest)
        self._largest = largest
        self._width = float(self.limit)
        """The limit before it is rounded."""
        self._round = _Round(now, self.limit)
        self._climb: list[_Round] = []
        """The rounds since the last retreat, the widest last."""
        self._top: _Round | None = None
        """The round that the last retreat was a retreat from, where it was one from a queue."""
        self._latest: _Round | None = None
        self._drift = 0.0
        """Variance of the level from round to round, beyond that of the answers in it."""
        self._leapt = False
        """Latency had grown by more than those could do that came on top: the server is another since."""
        self._trouble: float | None = None
        """The limit to which the curve comes back; None in slow start."""
        self._starting = True
        """In slow start, or just retreated from it for the first time: nothing sound may be known to compare with."""
        self._bottom = 0.0
        self._age = 0.0
        """Seconds since the last retreat in which the limit was what held the run back."""
        self._period = _PERIOD
        self._decreased = -inf
        self._served = True
        """A request that was sent after the last retreat has been answered."""
        self._widest = 0.0
        """Most requests in flight since the last retreat."""
        self._seconds = 0.0
        """Latency in the latest round."""
        self._background = Background()
        self._descent: _Descent | None = None
        """The retreats from refusals that the limit has not come back from yet."""

    def sent(self) -> None:
        """A request goes out."""
        self._round.requests += 1

    def succeeded(self, now: float, *, sent: float, in_flight: float) -> None:
        """An answer. ``in_flight`` is how many requests were in flight while its own was, on the average."""
        self._widest = max(self._widest, in_flight)
        self._served |= sent > self._decreased
        latest = self._round
        if sent < latest.since:
            return
        latest.settling -= 1
        if latest.settling >= 0:
            return
        latest.add(now - sent, in_flight)
        if latest.opened is None:
            latest.opened, latest.closes = now, now + _SHORTEST
        if latest.n < max(self.limit, 4) or now < latest.closes:
            return
        if latest.variance <= _PRECISION**2 or latest.n >= max(4 * self.limit, 16):
            self._conclude(latest, now)

    def overloaded(
        self, now: float, *, sent: float, in_flight: float, certain: bool = False, timed_out: bool = False
    ) -> None:
        """A refusal, or no answer in time. One to a request sent before the last retreat is already accounted for.

        Only more failures than the background explains count, unless the endpoint said for ``certain`` that it was
        asked too much. A request that ``timed_out`` while others take nearly as long counts for certain too.
        """
        if sent <= self._decreased:
            return
        if not certain and not (timed_out and now - sent < _HUNG * self._seconds):
            latest = self._round
            latest.failures += 1
            if self._is_noise(latest) or (self._served and self._undone(latest, now)):
                return
        width = self._width
        if self._served:
            # While nothing is answered it is the same trouble still, and its place is where it began: an endpoint that
            # refuses everything for a second has not shrunk to nothing.
            width = self._trouble = min(width, max(self._widest, in_flight))
        self._retreat(now, _REFUSED * width, None)

    def _is_noise(self, latest: _Round) -> bool:
        presumed = _PRESUMED if self._trouble is None else 0.0
        return self._background.explains(max(latest.requests, self.limit), latest.failures, presumed=presumed)

    @property
    def _harmless(self) -> bool:
        """Nothing fails because of the load at this limit, as far as is known."""
        return self._trouble is None or self.limit < int(self._trouble) or self.limit == 1

    def _learn_background(self, latest: _Round) -> None:
        """A round has ended without a retreat from refusals."""
        if self._descent is not None and self.limit >= int(self._descent.width):
            self._descent = None
        if not self._harmless:
            return
        self._background.learn(latest.requests, latest.failures)
        if self._descent is not None:
            self._background = self._background.merged(self._descent.below)
            self._descent.below = Background()

    def _undone(self, latest: _Round, now: float) -> bool:
        """A round has had too many failures. True if they did not become rarer by retreats, which are undone then."""
        descent = self._descent
        if descent is None or self.limit >= int(descent.width):
            self._begin_descent(latest)
            return False
        if not self._harmless:
            return False
        descent.below.learn(latest.requests, latest.failures)
        if descent.below.too_large:
            self._begin_descent(latest)
            return False
        return self._undo_descent(now)

    def _begin_descent(self, latest: _Round) -> None:
        self._descent = _Descent(self._width, self._trouble, max(latest.requests, self.limit), latest.failures)

    def _undo_descent(self, now: float) -> bool:
        """Go back to where the retreats began if the background explains the failures there, else to the first step."""
        descent = self._descent
        if descent is None:
            return False
        background = self._background.merged(descent.below)
        if not background.known:
            return False
        all_noise = background.explains(descent.requests, descent.failures)
        width = descent.width if all_noise else _REFUSED * descent.width
        if self.limit >= int(width):
            return False
        self._background, self._descent = background, None
        self._trouble = None if all_noise and descent.trouble is None else descent.width
        self._age = self._period
        self._climb, self._top = [], None
        self._set(now, width)
        return True

    def _conclude(self, latest: _Round, now: float) -> None:
        self._learn_background(latest)
        if self._undo_descent(now):
            return
        if latest.width < _FULL * self.limit:
            self._round = _Round(now, self.limit)
            return
        self._seconds = seconds = latest.seconds
        requests = _PERIOD_REQUESTS * seconds / self.limit
        # By Little's law and not by the clock: there may have been nothing to send for a while.
        lasted = seconds * (1 + (latest.limit + latest.n) / latest.width)
        self._period = max(_PERIOD, _PERIOD_LATENCIES * seconds, requests, _PERIOD_ROUNDS * lasted)
        if self._in_vain(latest):
            self._resume(latest, now)
            return
        self._starting = self._starting and self._trouble is None
        knee = self._knee(latest)
        if knee is not None and latest.opened is not None and now < latest.opened + _DOUBTED:
            latest.closes = latest.opened + _DOUBTED
            return
        self._learn_drift(latest)
        if knee is not None:
            knee = max(_HEADROOM * knee, knee + _LEAST_HEADROOM)
            # What made latency leap may have passed by the time that the retreat is seen to have helped.
            self._trouble = latest.width if self._leapt else knee
            self._descent = None
            if self.limit > 1:
                self._retreat(now, _QUEUED * knee, latest)
                return
            self._climb = []
        if self._climb and self._climb[-1].limit == latest.limit:
            self._climb[-1].merge(latest)
        else:
            self._climb.append(latest)
        self._rise(now, lasted)

    def _in_vain(self, latest: _Round) -> bool:
        """The last retreat has brought latency down by too little for what it cost in concurrency."""
        top = self._top
        if self._climb or top is None:
            return False
        least = 1 - _LEAST_GAIN if self._starting else _LEAST_SPARED
        return top.level - latest.level < least * log(top.width / latest.width)

    def _resume(self, latest: _Round, now: float) -> None:
        """What grew was the time that requests take, not the number of those that wait: back, and measure anew."""
        assert self._top is not None
        width = self._top.width
        self._trouble = None if self._starting else width
        self._starting = False
        self._climb, self._top = [latest], None
        self._age = self._period
        self._set(now, width)

    def _knee(self, latest: _Round) -> float | None:
        """Where requests began to do nothing but wait; None if they do not, as far as can be seen."""
        top = self._top
        self._leapt = False
        if not self._climb and top is not None and latest.width < top.width and self._queued(latest, top):
            return latest.width
        reference = self._reference(latest)
        if reference is None or not self._queued(reference, latest):
            return None
        gap = max(_LEVER, log(latest.width / reference.width))
        uncertain, longer = self._noise(reference, latest), _longer(reference, latest)
        self._leapt = longer > gap + uncertain
        if not self._leapt:
            longer = min(longer, gap)
        return latest.width * exp(min(0.0, uncertain - longer))  # in doubt a queue, which costs no throughput

    def _queued(self, low: _Round, high: _Round) -> bool:
        """Latency has grown about as much as the requests in flight, so that throughput has hardly grown at all."""
        gap = max(_LEVER, log(high.width / low.width))
        return _longer(low, high) > (1 - _LEAST_GAIN) * gap and high.level - low.level > self._noise(low, high)

    def _noise(self, first: _Round, second: _Round) -> float:
        """How far the levels of two rounds may differ by chance: two standard errors."""
        return 2 * sqrt(first.variance + second.variance + 2 * self._drift)

    def _learn_drift(self, latest: _Round) -> None:
        """Answers of one round are not independent of each other: what slows one down does so to its neighbours."""
        earlier, self._latest = self._latest, latest
        if earlier is None:
            measured = latest.n * latest.seconds / latest.width
            self._drift = _FIRST_DRIFT * _SHORTEST / max(measured, _SHORTEST)
        elif (gap := abs(log(latest.width / earlier.width))) < _LEVER:
            step = min(_LARGEST_STEP, max(0.0, abs(latest.level - earlier.level) - gap))
            explained = earlier.variance + latest.variance
            self._drift += (max(0.0, step * step - explained) / 2 - self._drift) / _STEPS

    def _reference(self, latest: _Round) -> _Round | None:
        """The newest round with so much less in flight that the two can be told apart; else the first."""
        for earlier in reversed(self._climb):
            needed = max(_LEVER, self._noise(earlier, latest) / (1 - _LEAST_GAIN))
            if log(latest.width / earlier.width) >= needed:
                return earlier
        return self._climb[0] if self._climb else self._top

    def _rise(self, now: float, lasted: float) -> None:
        if self._trouble is None:
            width = 2 * self._width
        else:
            self._age += lasted
            fastest = 2.0 if self._age < self._period else _FASTEST
            width = min(self._curve(), fastest * max(self._width, 1.6))
        if width >= self._largest:
            self._trouble = float(self._largest)
            self._retreat(now, _QUEUED * self._trouble, self._round)  # or nothing would be measured ever again
        else:
            self._set(now, max(width, self._width))

    def _curve(self) -> float:
        assert self._trouble is not None
        x = self._age / self._period - 1
        height = self._trouble - self._bottom if x < 0 else max((1 - _QUEUED) * self._trouble, 1.0)
        return self._trouble + height * x**3

    def _retreat(self, now: float, width: float, top: _Round | None) -> None:
        self._top = top
        self._climb = []
        self._age = 0.0
        self._decreased = now
        self._served = False
        self._widest = 0.0
        self._bottom = max(1, min(width, self._width))
        self._set(now, self._bottom)

    def _set(self, now: float, width: float) -> None:
        self._width = max(1, width)
        self.limit = int(self._width)
        self._round = _Round(now, self.limit)


def _longer(low: _Round, high: _Round) -> float:
    """By how much latency has grown, as a logarithm. The mean has the tail in it, which is noise; the level none of it,
    and grows too much where most requests are short: what both say can be believed."""
    return min(high.level - low.level, log(high.seconds / low.seconds))
