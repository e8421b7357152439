"""Time in which an endpoint gets no request, because it asked for that, and the headers that announce it in advance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.classify import Quota, readers

if TYPE_CHECKING:
    from fanout.engine.task import ChunkTask
    from fanout.limits import ConcurrencyLimiter, RateLimiter, TokenMeter
    from fanout.types import Response

_UNITS = ("requests", "tokens")
"""Units whose use by the next requests is known. A quota in any other unit is only noticed once it is exceeded."""

_MOST_SKIPPED = 127
"""Longest interval, in responses, between two looks at the headers of an endpoint that sends no quota."""


class Cooldown:
    """Bars all requests to an endpoint until a time: a ``Retry-After`` holds for every request, not for one."""

    def __init__(self) -> None:
        self.until = 0.0
        """Time of the event loop's clock, in seconds."""

    def extend(self, until: float) -> None:
        """Bar requests up to ``until``. An end that is already later stays."""
        self.until = max(self.until, until)

    def remaining(self, now: float) -> float:
        """Seconds left; 0 if requests are allowed."""
        return self.until - now if self.until > now else 0.0


class RateLimitHeaders:
    """Throttles the requests to one endpoint when its headers announce less than the requests in flight will use.

    What remains of a quota is spread over the time until it resets (RateLimit headers,
    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/). An exhausted quota starts a cooldown.

    Args:
        rates: the limiter to throttle; None only starts cooldowns.
        longest: longest cooldown in seconds.
    """

    def __init__(
        self,
        rates: RateLimiter | None,
        cooldown: Cooldown,
        limiter: ConcurrencyLimiter,
        meter: TokenMeter,
        *,
        longest: float,
    ) -> None:
        self._rates = rates
        self._cooldown = cooldown
        self._limiter = limiter
        self._meter = meter
        self._longest = longest
        self._readers = readers({})
        self._skips = 0
        self.skips_left = 0
        """Responses to skip: most endpoints announce no quota, and ever fewer of their responses are read."""

    def apply(self, response: Response, task: ChunkTask | None, now: float) -> float:
        """Take in the headers of a response that is no refusal. Returns the length of a new cooldown, mostly 0."""
        if self.skips_left:
            self.skips_left -= 1
            return 0.0
        if not self._readers:
            self._readers = readers(response.headers)
            if not self._readers:
                self.skips_left = self._skips = min(2 * self._skips + 1, _MOST_SKIPPED)
        cooldown = 0.0
        for read in self._readers:
            for quota in read(response.headers):
                if quota.unit in _UNITS:
                    cooldown = max(cooldown, self._apply_quota(quota, task, now))
        return cooldown

    def _apply_quota(self, quota: Quota, task: ChunkTask | None, now: float) -> float:
        _, unit, remaining, reset = quota
        # The object is part of the name: the same quota of another endpoint is another quota.
        reset, name = min(reset, self._longest), (self, quota.name)
        each = 1.0 if unit == "requests" else self._tokens(task)
        if remaining >= each * self._limiter.in_flight:
            if self._rates is not None:
                self._rates.unthrottle(name)
        elif remaining > 0:
            if self._rates is not None:
                self._rates.throttle(name, unit, remaining, reset, now, each=each)
        elif (left := self._cooldown.remaining(now)) < reset:
            self._cooldown.extend(now + reset)
            return 0.0 if left else reset
        return 0.0

    def _tokens(self, task: ChunkTask | None) -> float:
        if task is None or task.payload is None:
            return 0.0
        return self._meter.per_byte * task.payload.nbytes if task.tokens is None else task.tokens
