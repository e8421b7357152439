"""What answers say is left is heeded: a client slows down before the endpoint has to refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.classify import Quota, readers

if TYPE_CHECKING:
    from fanout.engine.task import ChunkTask
    from fanout.limits import ConcurrencyLimiter, Cooldown, RateLimiter, TokenMeter
    from fanout.types import Response

_UNITS = ("requests", "tokens")
"""What is known here of the requests that are to come; of anything else that is counted, only a refusal tells."""

_UNREAD = 127
"""Answers that go by, at most, before one is looked at again where none has told anything."""


class RateLimitHeaders:
    """Slows the requests to one endpoint down where less is left than those in hand will take.

    What is left is spread over the time until there is more; where nothing is, the gate is shut for that time.

    Args:
        rates: what is slowed down; None leaves that be, and only shuts the gate.
        longest: seconds for which the gate is shut at most.
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
        self._unread = self._pause = 0

    def __call__(self, response: Response, work: ChunkTask | None, now: float) -> float:
        """Take note of an answer that is no refusal. Returns the seconds for which it has shut the gate, most often 0.

        Each answer is read where the endpoint is known to tell; else ever fewer, so that the others cost nothing.
        """
        if not self._readers:
            self._unread -= 1
            if self._unread >= 0:
                return 0.0
            self._unread = self._pause = min(2 * self._pause + 1, _UNREAD)
            self._readers = readers(response.headers)
        shut = 0.0
        for read in self._readers:
            for allowance in read(response.headers):
                if allowance.unit in _UNITS:
                    shut = max(shut, self._heeded(allowance, work, now))
        return shut

    def _heeded(self, allowance: Quota, work: ChunkTask | None, now: float) -> float:
        _, unit, left, seconds = allowance
        seconds, name = min(seconds, self._longest), (self, allowance.name)  # others tell of endpoints of their own
        each = 1.0 if unit == "requests" else self._tokens(work)
        if left >= each * self._limiter.in_use:
            if self._rates is not None:
                self._rates.ease(name)
        elif left > 0:
            if self._rates is not None:
                self._rates.slow(name, unit, left, seconds, now, each=each)
        elif self._cooldown.wait(now) < seconds:
            was_open = self._cooldown.wait(now) == 0
            self._cooldown.shut_until(now + seconds)
            return seconds if was_open else 0.0
        return 0.0

    def _tokens(self, work: ChunkTask | None) -> float:
        if work is None or work.payload is None:
            return 0.0
        return self._meter.per_byte * work.payload.nbytes if work.tokens is None else work.tokens
