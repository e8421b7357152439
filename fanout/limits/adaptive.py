"""Adaptive concurrency: the number of requests in flight that an endpoint can take, derived from its answers.

The limit climbs while more requests in flight bring more answers a second, and retreats where they only wait, or are
refused. Its parts, and their sources:

- *Additive increase, multiplicative decrease* on refusals and timeouts, once for each round trip (Chiu and Jain, 1989;
  Netflix's ``AIMDLimit``, https://github.com/Netflix/concurrency-limits). After a decrease the limit follows the curve
  of CUBIC (RFC 9438): soon back near the place of the trouble, long just below it, then ever faster past it. So a limit
  that stays is met by one request now and then, and a capacity that has grown is found within seconds.
- *A latency gradient* (Netflix's ``Gradient2Limit``; Envoy's gradient controller, https://www.envoyproxy.io/docs/envoy/
  latest/configuration/http/http_filters/adaptive_concurrency_filter). Both compare latency now with latency at its best
  and take every growth for a queue, which stops them at once at a server that works in batches. By Little's law
  throughput is concurrency / latency, so the growth of both between two rounds of the climb is compared here: a limit
  is too high where throughput grew by less than a tenth of the growth of the concurrency (the optimum of
  throughput / concurrency ** 0.1, a form of Kleinrock's power, 1979).
- *Slow start* (RFC 9438, 4.10): at first the limit doubles.
- *Background*: refusals and timeouts that do not become rarer when the limit falls are noise. Their share is measured
  below the last trouble, and only the excess counts. A retreat that it explains is undone. A 429 always counts.
- *Stragglers*: slow answers, and requests that are lost, hold slots at any load. Their mean slot time is learnt over
  many rounds, so that one more of them in a round does not look like a queue.
- *Undo* (TCP's is RFC 4015): where a retreat from a queue brought latency down by less than a third of its cost in
  concurrency, as logarithms, there was no queue, and the limit goes back. Else noise would bring it down to 1. Slow
  start goes on where the retreat that ended it cost throughput: a server's first moments can be its best ones.
- *Rounds*: latency is judged over at least as many answers as there are requests in flight, as a mean of logarithms,
  which a slow tail hardly moves, and a growth counts only where it is twice its standard error; how far rounds that
  should be alike differ is part of that.
"""

from __future__ import annotations

from math import exp, inf, log

from fanout.limits.measurements import LEVER, SHORTEST, Background, Descent, Drift, LastRetreat, Round, Stragglers

_START = 8
# Fraction of a limit that remains after a refusal (``AIMDLimit``): others follow within milliseconds if that is too
# much.
_REFUSED = 0.9

# Fraction of the knee that remains after a queue was found: below it, latency is measured without the queue.
_QUEUED = 0.8

# Factor, and least number of requests, by which the limit stays above the knee to keep the server busy.
_HEADROOM, _LEAST_HEADROOM = 1.05, 0.5

# Growth of throughput that justifies a growth of concurrency by one, both as logarithms.
_LEAST_GAIN = 0.1

# Fall of latency that justifies a retreat, as a share of the fall of concurrency, both as logarithms. The first
# retreat has to do better: it is based on the first moments of a server, which can be its best ones.
_LEAST_SPARED = 1 / 3

# Sufficient relative error of a round's latency; a noisier round gets more answers, up to a bound.
_PRECISION = 0.03

# Seconds of the shortest round that makes the limit retreat: a busy machine disturbs in bursts (Netflix: 1).
_DOUBTED = 0.5

# Least share of the limit in flight. In a round with less, something else held the requests back.
_FULL = 0.8

# Seconds in which the curve returns to the place of the last trouble (CUBIC's K), where requests are short.
_PERIOD = 1.0

# Least length of a period in each: else a slow server would refuse too much, or hardly be measured.
_PERIOD_LATENCIES, _PERIOD_REQUESTS, _PERIOD_ROUNDS = 4, 40, 4

# Largest growth from one round to the next past the last trouble (RFC 9438, 4.2, has 1.5); up to it, twice.
_FASTEST = 1.25

# Share of failures that slow start tolerates. It doubles the limit, so a real limit of the endpoint shows as far more,
# and one accident is no reason to end it.
_PRESUMED = 0.1

# A request that times out after this multiple of the mean latency was lost. Before, it may have waited its turn.
_HUNG = 3


class Curve:
    """The curve of CUBIC (RFC 9438, 4.2): the limit returns to the place of the last trouble along it, and past it."""

    def __init__(self) -> None:
        self.trouble: float | None = None
        """The limit at the last trouble; None in slow start."""

        self.bottom = 0.0
        """The limit after the last retreat."""

        self.age = 0.0
        """Seconds since then in which the limit held the run back."""

        self.period = _PERIOD
        """Seconds from the bottom to the trouble."""

        self.starting = True
        """In slow start, or just retreated from it for the first time: no round may be fit to be compared with."""

    def next(self, width: float) -> float:
        """The limit that follows ``width``."""
        if self.trouble is None:
            return 2 * width
        x = self.age / self.period - 1
        height = self.trouble - self.bottom if x < 0 else max((1 - _QUEUED) * self.trouble, 1.0)
        fastest = 2.0 if x < 0 else _FASTEST
        return min(self.trouble + height * x**3, fastest * max(width, 1.6))

    def stretch(self, seconds: float, limit: int, lasted: float) -> None:
        """Adapt the period to the latency, and to the length of a round."""
        requests = _PERIOD_REQUESTS * seconds / limit
        self.period = max(_PERIOD, _PERIOD_LATENCIES * seconds, requests, _PERIOD_ROUNDS * lasted)


class Adaptive:
    """A limit on the requests in flight that finds the endpoint's knee, and follows it when it moves.

    It knows no clock and never waits: it takes in each request that has ended, and sets `limit`. Requests that failed
    for another reason than overload are left out: they say nothing about it.

    Requests of very different sizes make latency noisy, and the limit slower to move; sizes that drift look like a
    server that does.

    Args:
        now: the time.
        largest: no limit above this is tried.
    """

    def __init__(self, now: float, *, largest: int) -> None:
        self._largest = largest
        # The limit before it is rounded.
        self._width = float(min(_START, largest))
        self._round = Round(now, self.limit)
        # The rounds since the last retreat, the widest last.
        self._climb: list[Round] = []
        # The round from which the last retreat was, if that was one from a queue.
        self._top: Round | None = None
        self._curve = Curve()
        self._drift = Drift()
        self._stragglers = Stragglers()
        self._last_retreat = LastRetreat(-inf, served=True)
        # Mean latency in the latest round, stragglers included.
        self._seconds = 0.0
        self._background = Background()
        # The retreats from refusals that the limit has not made up for yet.
        self._descent: Descent | None = None

    @property
    def limit(self) -> int:
        """The present limit."""
        return int(self._width)

    def sent(self) -> None:
        """Count a request that is sent."""
        self._round.requests += 1

    def succeeded(self, now: float, *, sent: float, in_flight: float) -> None:
        """Take in an answer. ``in_flight`` is the mean number of requests in flight while this one was."""
        retreat = self._last_retreat
        retreat.widest = max(retreat.widest, in_flight)
        retreat.served |= sent > retreat.at
        self._stragglers.on_answer(now - sent)
        latest = self._round
        # An answer to a request sent under another limit says nothing of this one.
        if sent < latest.since:
            return
        latest.settling -= 1
        if latest.settling >= 0:
            return
        latest.add(min(now - sent, self._stragglers.ceiling), in_flight)
        if latest.opened is None:
            latest.opened, latest.closes = now, now + SHORTEST
        if latest.n < max(self.limit, 4) or now < latest.closes:
            return
        if latest.variance <= _PRECISION**2 or latest.n >= max(4 * self.limit, 16):
            self._conclude(latest, now)

    def overloaded(self, now: float, *, sent: float, in_flight: float, certain: bool, timed_out: bool) -> None:
        """Take in a refusal, or a request without an answer in time.

        Only failures in excess of the background count, unless the endpoint said for ``certain`` that it received too
        many requests. A request that ``timed_out`` while others take nearly as long counts for certain too; one that
        took many times as long was lost, which a few are at any load.
        """
        hung = timed_out and self._seconds > 0 and now - sent >= _HUNG * self._seconds
        if hung and self._stragglers.on_loss(now - sent):
            return
        retreat = self._last_retreat
        if sent <= retreat.at:
            return  # it is of the trouble that the last retreat accounted for
        if not certain and (hung or not timed_out or self._seconds == 0):
            latest = self._round
            latest.failures += 1
            if self._is_noise(latest) or (retreat.served and self._undone(latest, now)):
                return
        width = self._width
        if retreat.served:
            # While no request is answered it is the same trouble still, and its place is where it began: an endpoint
            # that refuses everything for a second has not shrunk to nothing.
            width = self._curve.trouble = min(width, max(retreat.widest, in_flight))
        self._retreat(now, _REFUSED * width, None)

    def _is_noise(self, latest: Round) -> bool:
        presumed = _PRESUMED if self._curve.trouble is None else 0.0
        return self._background.explains(max(latest.requests, self.limit), latest.failures, presumed=presumed)

    @property
    def _harmless(self) -> bool:
        """No request fails because of the load at this limit, as far as is known."""
        trouble = self._curve.trouble
        return trouble is None or self.limit < int(trouble) or self.limit == 1

    def _learn_background(self, latest: Round) -> None:
        """Take in a round that ended without a retreat from refusals."""
        if self._descent is not None and self.limit >= int(self._descent.width):
            self._descent = None
        if not self._harmless:
            return
        self._background.learn(latest.requests, latest.failures)
        if self._descent is not None:
            self._background = self._background.merged(self._descent.below)
            self._descent.below = Background()

    def _undone(self, latest: Round, now: float) -> bool:
        """A round has had too many failures. True if retreats did not make them rarer, and have been undone."""
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

    def _begin_descent(self, latest: Round) -> None:
        requests = max(latest.requests, self.limit)
        self._descent = Descent(self._width, self._curve.trouble, requests, latest.failures)

    def _undo_descent(self, now: float) -> bool:
        """Return to where the retreats began if the background explains the failures there, else to the first step."""
        descent, curve = self._descent, self._curve
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
        curve.trouble = None if all_noise and descent.trouble is None else descent.width
        curve.age = curve.period
        self._climb, self._top = [], None
        self._set(now, width)
        return True

    def _conclude(self, latest: Round, now: float) -> None:
        """Judge a finished round, and set the next limit."""
        curve = self._curve
        self._learn_background(latest)
        if self._undo_descent(now):
            return
        # A round that was not full would make a too high limit look good.
        if latest.width < _FULL * self.limit:
            self._round = Round(now, self.limit)
            return
        self._seconds = seconds = latest.seconds + self._stragglers.seconds
        # By Little's law and not by the clock: there may have been no request to send for a while.
        lasted = seconds * (1 + (latest.limit + latest.n) / latest.width)
        curve.stretch(seconds, self.limit, lasted)
        if self._in_vain(latest):
            self._resume(latest, now)
            return
        curve.starting = curve.starting and curve.trouble is None
        knee, leapt = self._knee(latest)
        if knee is not None and latest.opened is not None and now < latest.opened + _DOUBTED:
            latest.closes = latest.opened + _DOUBTED
            return
        self._drift.learn(latest, seconds)
        if knee is not None:
            knee = max(_HEADROOM * knee, knee + _LEAST_HEADROOM)
            # The cause of a leap of latency may have passed by the time that the retreat is seen to have helped.
            curve.trouble = latest.width if leapt else knee
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

    def _in_vain(self, latest: Round) -> bool:
        """True if the last retreat has brought latency down by too little for its cost in concurrency."""
        top = self._top
        if self._climb or top is None:
            return False
        least = 1 - _LEAST_GAIN if self._curve.starting else _LEAST_SPARED
        return self._growth(latest, top) < least * log(top.width / latest.width)

    def _resume(self, latest: Round, now: float) -> None:
        """Return to the limit before a retreat in vain, and measure anew: requests take longer, but do not queue."""
        assert self._top is not None
        width = self._top.width
        self._curve.trouble = None if self._curve.starting else width
        self._curve.age = self._curve.period
        self._curve.starting = False
        self._climb, self._top = [latest], None
        self._set(now, width)

    def _knee(self, latest: Round) -> tuple[float | None, bool]:
        """The number of requests above which they only wait; None if they do not, as far as can be seen.

        The second value is True if latency has grown by more than the added requests can explain: then the server has
        changed since.
        """
        top = self._top
        if not self._climb and top is not None and latest.width < top.width and self._queued(latest, top):
            return latest.width, False
        reference = self._reference(latest)
        if reference is None or not self._queued(reference, latest):
            return None, False
        gap = max(LEVER, log(latest.width / reference.width))
        uncertain, growth = self._drift.noise(reference, latest), self._growth(reference, latest)
        leapt = growth > gap + uncertain
        if not leapt:
            growth = min(growth, gap)
        return latest.width * exp(min(0.0, uncertain - growth)), leapt  # in doubt a queue, which costs no throughput

    def _queued(self, low: Round, high: Round) -> bool:
        """True if latency has grown nearly as much as the requests in flight, and throughput hardly at all."""
        gap = max(LEVER, log(high.width / low.width))
        proven = high.level - low.level > self._drift.noise(low, high)
        return proven and self._growth(low, high) > (1 - _LEAST_GAIN) * gap

    def _growth(self, low: Round, high: Round) -> float:
        """Growth of latency from one round to another, as a logarithm.

        The smaller of two: the level grows too much where most requests are short, and the mean is noisier.
        """
        excess = self._stragglers.seconds
        return min(high.level - low.level, log((high.seconds + excess) / (low.seconds + excess)))

    def _reference(self, latest: Round) -> Round | None:
        """The newest round with so much less in flight that the two can be distinguished; else the first."""
        for earlier in reversed(self._climb):
            needed = max(LEVER, self._drift.noise(earlier, latest) / (1 - _LEAST_GAIN))
            if log(latest.width / earlier.width) >= needed:
                return earlier
        return self._climb[0] if self._climb else self._top

    def _rise(self, now: float, lasted: float) -> None:
        self._curve.age += lasted
        width = self._curve.next(self._width)
        if width >= self._largest:
            self._curve.trouble = float(self._largest)
            # Without a retreat from the largest limit, no lower one would ever be measured again.
            self._retreat(now, _QUEUED * self._curve.trouble, self._round)
        else:
            self._set(now, max(width, self._width))

    def _retreat(self, now: float, width: float, top: Round | None) -> None:
        self._top = top
        self._climb = []
        self._last_retreat = LastRetreat(now)
        self._curve.age = 0.0
        self._curve.bottom = max(1, min(width, self._width))
        self._set(now, self._curve.bottom)

    def _set(self, now: float, width: float) -> None:
        self._width = max(1, width)
        self._round = Round(now, self.limit)
