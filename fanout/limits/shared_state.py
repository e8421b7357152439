"""The state of shared limits, and the decisions on it: for backends in Python, such as an actor.

`shared_redis.lua` decides in the same way inside Redis; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from fanout.limits.shared import HORIZON, LIFETIME, Answer, Decided, Reply, Report

if TYPE_CHECKING:
    from fanout.limits.shared import Bounds, Call, Want

ASK_AGAIN = 0.25
"""Seconds after which a client asks again for a permit, unless a notice comes first."""

# Sums of many small floats are off by this fraction at most.
_ROUNDING = 1e-9


@dataclass(slots=True)
class ClientRecord:
    """One client, as its last call described it.

    Attributes:
        waits: it waits for permits.
        expires: time at which its permits become free, unless it calls before.
    """

    report: Report
    waits: bool
    expires: float


class SharedState:
    """Keeps the limits of ``bounds`` for all clients. It knows no clock: callers pass in the time in seconds."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.name = ""
        self.clients: dict[str, ClientRecord] = {}
        self._paid: dict[str, float] = {}
        """Rate -> theoretical arrival time: when all that may start is paid for."""

        self._cooldowns: dict[str, float] = {}

    def reserve(self, call: Call, now: float) -> tuple[Reply, bool]:
        """Decide about all requests of ``call``. Also returns whether other clients should have a notice of permits."""
        self._begin(call, now)
        self._expire(now)
        before = self.clients.get(call.client)
        own = self.clients[call.client] = ClientRecord(call.report, False, now + LIFETIME)
        for rate in self.bounds.rates:
            if rate.unit == "tokens" and rate.name in self._paid:
                self._paid[rate.name] += call.charge * rate.interval
        answers = tuple(self._decide(own, want, now) for want in call.wants)
        others_wait = any(one.waits for one in self.clients.values() if one is not own)
        # A client that begins to wait notifies the others, whose permits may be idle; freed ones go to those that wait.
        begins = own.waits and not (before and before.waits)
        frees = others_wait and before is not None and own.report.held < before.report.held
        return Reply(self.name, others_wait, answers), begins or frees

    def cool_down(self, endpoint: str, seconds: float, now: float) -> None:
        """Let nothing start at ``endpoint`` for ``seconds``."""
        self._cooldowns[endpoint] = max(now + seconds, self._cooldowns.get(endpoint, 0.0))

    def _begin(self, call: Call, now: float) -> None:
        if self.name:
            return
        self.name = call.new_state
        if call.state:  # the old state is lost, and what it let through is unknown
            self._paid = {rate.name: now + rate.capacity * rate.interval for rate in self.bounds.rates}

    def _expire(self, now: float) -> None:
        for name, record in list(self.clients.items()):
            if record.expires > now:
                continue
            if not self.bounds.counts:
                del self.clients[name]
            else:  # what it has sent and spent counts for ever, and what it was granted may have been sent
                report = record.report
                record.report = report._replace(held=0, unsent=0, sent=report.sent + report.unsent)
                record.waits = False

    def _decide(self, own: ClientRecord, want: Want, now: float) -> Answer:
        if (cooldown := self._cooldowns.get(want.endpoint, 0.0) - now) > 0:
            return Answer(Decided.LATER, cooldown)
        if (refused := self._counted(want)) is not None:
            return refused
        if not self._has_permit(own):
            own.waits = True
            return Answer(Decided.LATER, ASK_AGAIN)
        start = now
        # All rates decide on the start before any is charged: a rate must not count the wait for another one.
        for rate in self.bounds.rates:
            if (units := getattr(want.cost, rate.unit)) and rate.name in self._paid:
                start = max(start, self._paid[rate.name] - max(0.0, rate.capacity - units) * rate.interval)
        if start > now + HORIZON:
            return Answer(Decided.LATER, start - now - HORIZON)
        for rate in self.bounds.rates:
            if units := getattr(want.cost, rate.unit):
                self._paid[rate.name] = max(start, self._paid.get(rate.name, start)) + units * rate.interval
        report = own.report
        own.report = report._replace(
            held=report.held + 1,
            unsent=report.unsent + 1,
            cost_held=report.cost_held + want.price,
            tokens_held=report.tokens_held + want.tokens,
        )
        return Answer(Decided.GRANTED, start - now)

    def _counted(self, want: Want) -> Answer | None:
        """Refuse or delay a request beyond ``max_requests``, ``max_cost`` or ``max_tokens``; None if there is room."""
        reports, bounds = [one.report for one in self.clients.values()], self.bounds
        if bounds.max_requests is not None:
            sent, unsent = sum(one.sent for one in reports), sum(one.unsent for one in reports)
            if sent >= bounds.max_requests:
                return Answer(Decided.MAX_REQUESTS)
            if sent + unsent >= bounds.max_requests:  # those may still be given back
                return Answer(Decided.LATER, ASK_AGAIN)
        cost = sum(one.cost + one.cost_held for one in reports) + want.price
        tokens = sum(one.tokens + one.tokens_held for one in reports) + want.tokens
        if _exceeds(cost, bounds.max_cost) or _exceeds(tokens, bounds.max_tokens):
            in_flight = any(one.held for one in reports)
            return Answer(Decided.LATER, ASK_AGAIN) if in_flight else Answer(Decided.BUDGET)
        return None

    def _has_permit(self, own: ClientRecord) -> bool:
        """True if a permit is free, and no other client that waits has fewer than its share."""
        limit = self.bounds.concurrency
        if limit is None:
            return True
        records = self.clients.values()
        if sum(one.report.held for one in records) >= limit:
            return False
        active = sum(1 for one in records if one is own or one.waits or one.report.held)
        share = ceil(limit / active)
        return own.report.held < share or not any(
            one.waits and one.report.held < share for one in records if one is not own
        )


def _exceeds(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit * (1 + _ROUNDING)
