"""The effects of a response on its endpoint: circuit breaker, health, adaptive limit, cooldown, exclusion.

`Reporter` applies the outcome of each attempt, `RateLimitHeaders` the quotas that responses announce.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from fanout.classify import Quota, readers
from fanout.results import Event
from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.chunker import ChunkTask
    from fanout.limits import ConcurrencyLimiter, RateLimiter, TokenMeter
    from fanout.transport import Cooldown
    from fanout.types import Response
    from fanout.upstream.admission import Ticket
    from fanout.upstream.group import EndpointGroup, EndpointState

# Kinds of errors of responses that are well formed, but unlike those of the other endpoints.
_MISFITS = frozenset({"shape", "dtype", "model"})

_TOO_MANY_REQUESTS = 429
# Units whose use by the next requests is known. A quota in any other unit is only noticed once it is exceeded.
_UNITS = ("requests", "tokens")

# Longest interval, in responses, between two looks at the headers of an endpoint that sends no quota.
_MOST_SKIPPED = 127


class Reporter:
    """Applies outcomes for one run. `Ticket.report` is its only caller, but for `on_misfit` and `exclude`.

    Args:
        own_credentials: the run has credentials of its own, which are to blame if an endpoint refuses some.
    """

    def __init__(self, group: EndpointGroup, emit: Callable[[Event], None], *, own_credentials: bool = False) -> None:
        self._group = group
        self._own_credentials = own_credentials
        self._balancer = group.balancer
        self._controller = group.capacity.controller
        self._emit = emit
        self._now = asyncio.get_running_loop().time

    def on_success(self, ticket: Ticket, endpoint: EndpointState, *, first: bool, metadata: bool) -> Verdict | None:
        """Report a valid answer, to the ``first`` attempt or to a retry. Returns None if it counts."""
        if endpoint.excluded is not None:
            # It was in flight when the endpoint was excluded, perhaps for answers that are those of other requests.
            self.on_abandoned(ticket)
            ticket.refund = True
            reason = f"{endpoint.transport.shown_url} is excluded: {endpoint.excluded}"
            return Verdict(action=Action.RETRY, reason=reason)
        if not metadata:
            endpoint.served = True
            if endpoint.health.forbidden:
                endpoint.health.forbidden.clear()
        if ticket.flight is not None:
            self._report_flight(ticket, None)
        if self._balancer.several:
            now = self._now()
            if endpoint.breaker.is_open:
                endpoint.health.on_return(now)
                self._emit(Event(kind="restored", reason=f"{endpoint.transport.shown_url} answers again"))
            assert ticket.latency is not None
            endpoint.health.latency.record(now, ticket.latency)  # of successes only: errors come fast
            endpoint.health.on_success(now)
        endpoint.breaker.on_success(first_attempt=first)
        return None

    def on_failure(self, ticket: Ticket, verdict: Verdict, task: ChunkTask | None) -> Verdict:
        """Report a failure. Returns the verdict for the run, given the other endpoints."""
        endpoint = ticket.endpoint
        if endpoint is None:  # nothing was sent
            self._balancer.forget(ticket)
            return verdict
        verdict = self._consequence(endpoint, verdict)
        others_succeed = False
        if task is not None:
            others_succeed = task.history.others_succeeded(self._group.answered.chunks)
            verdict = task.in_context(verdict)
        # A failure of the rows' own, which others do not share, costs the endpoint nothing.
        rows_fail_alone = others_succeed and verdict.rows_suspect
        if ticket.flight is not None:
            self._report_flight(ticket, verdict, rows_fail_alone=rows_fail_alone)
        # Metadata have no rows to blame, so a trial for them is never charged.
        is_trial_of_metadata = task is None and endpoint.breaker.is_trial(ticket)
        ticket.refund = (
            self._report_to_breaker(ticket, endpoint, verdict, alone=rows_fail_alone) or is_trial_of_metadata
        )
        return verdict

    def on_abandoned(self, ticket: Ticket) -> None:
        """Report an attempt that ended without an outcome: another ticket may be the half-open trial."""
        self._balancer.forget(ticket)

    def on_misfit(self, endpoint: EndpointState, verdict: Verdict) -> None:
        """Report a response unlike those of the other endpoints; several in a row exclude the endpoint."""
        several = endpoint.health.on_misfit()
        if verdict.error_kind == "model":
            several = self._balancer.model_names.is_another(endpoint)
        if several and self._balancer.has_alternative(endpoint):
            self.exclude(endpoint, verdict.reason, verdict.status)

    def on_headers(self, endpoint: EndpointState, response: Response, task: ChunkTask | None, now: float) -> None:
        """Apply the quotas that the headers of ``response`` announce."""
        try:
            cooldown = endpoint.rate_limit_headers.apply(response, task, now)
        except Exception:  # noqa: BLE001 - a header that makes a parser fail says nothing, and costs no answer
            return
        if cooldown:
            reason = "the endpoint says that its rate limit is exhausted until the window resets"
            self._emit(Event(kind="pause", seconds=cooldown, status=response.status, reason=reason))

    def exclude(self, endpoint: EndpointState, reason: str, status: int | None = None) -> None:
        """Never send a request to ``endpoint`` again."""
        if endpoint.excluded is None:
            endpoint.excluded = self._balancer.conceal(reason)
            endpoint.breaker.open(self._now())  # tickets that wait for this endpoint have to choose another one
            self._balancer.wait_queue.notify_all()
            shown = f"{endpoint.transport.shown_url} is excluded: {reason}"
            self._emit(Event(kind="excluded", status=status, reason=shown))

    def _report_to_breaker(self, ticket: Ticket, endpoint: EndpointState, verdict: Verdict, *, alone: bool) -> bool:
        """Report a failure to circuit breaker and health. True if it should not count against its rows."""
        breaker, now = endpoint.breaker, self._now()
        was_open = breaker.is_open
        if verdict.action is not Action.RETRY:
            breaker.on_refusal(ticket)
        elif breaker.is_trial(ticket) or (endpoint.answered and not alone):
            # An endpoint that never answered at all is left to `max_attempts`, after which the run stops.
            breaker.on_failure(now, ticket, rows_suspect=verdict.rows_suspect)
        if self._balancer.several:
            self._report_to_health(endpoint, verdict, now)
        # Many failures at once may spend the tokens before the record of the endpoint is bad enough.
        if breaker.is_open and not was_open and endpoint.is_candidate:
            self._announce_open_circuit(endpoint, verdict, now)
        if verdict.action is not Action.RETRY or verdict.rows_suspect:
            return False
        return self._balancer.several and self._balancer.has_available((endpoint,), now)

    def _announce_open_circuit(self, endpoint: EndpointState, verdict: Verdict, now: float) -> None:
        url = endpoint.transport.shown_url
        if self._balancer.several and self._balancer.has_available((endpoint,), now):
            reason = f"{url} is left alone for a while: {verdict.reason}"
            self._emit(Event(kind="ejected", status=verdict.status, reason=reason))
        else:
            reason = f"the circuit to {url} opened: {verdict.reason}"
            self._emit(Event(kind="opened", status=verdict.status, reason=reason))

    def _report_to_health(self, endpoint: EndpointState, verdict: Verdict, now: float) -> None:
        if verdict.error_kind in _MISFITS:
            self.on_misfit(endpoint, verdict)
        elif verdict.action is Action.RETRY:
            endpoint.health.on_failure(now)
            self._balancer.eject(endpoint, now)

    def _report_flight(self, ticket: Ticket, verdict: Verdict | None, *, rows_fail_alone: bool = False) -> None:
        """Report to the controller of the concurrency limit."""
        assert self._controller is not None
        assert ticket.flight is not None
        overload = verdict is not None and verdict.overload and not rows_fail_alone
        if overload and ticket.endpoint is not None:
            now = self._now()
            ticket.endpoint.health.on_overload(now)
            # A failed trial shows an endpoint that is down, not one that receives too much.
            overload = self._balancer.mostly_overloaded(now) and not self._balancer.is_trial(ticket)
        self._controller.on_result(
            ticket.flight,
            success=verdict is None,
            overload=overload,
            # The key may be shared with other clients: a 429 is no accident, however few of them there are.
            certain=verdict is not None and verdict.status == _TOO_MANY_REQUESTS,
            timed_out=verdict is not None and verdict.unreachable,
        )

    def pause(self, endpoint: EndpointState, verdict: Verdict) -> Verdict:
        """Start the cooldown that a refusal asks for. Returns the run's stop instead if it is too long to wait for."""
        wait, longest = verdict.pushback, self._group.retry.max_pushback
        if wait is None:
            return verdict
        if wait > longest and not self._balancer.has_alternative(endpoint):
            reason = f"the endpoint wants no request for {wait:g} s (max_pushback is {longest:g} s): {verdict.reason}"
            return Verdict(action=Action.STOP, reason=reason, status=verdict.status, stop="pushback")
        endpoint.cooldown.extend(self._now() + wait)
        self._emit(Event(kind="pause", seconds=wait, status=verdict.status, reason=verdict.reason))
        return verdict

    def _consequence(self, endpoint: EndpointState, verdict: Verdict) -> Verdict:
        """Apply ``verdict`` to the endpoint, and return the verdict for the run.

        Where other endpoints can do the work, one that refuses all requests stops no run.
        """
        if verdict.action is not Action.STOP:
            return self.pause(endpoint, verdict)
        if verdict.error_kind is not None:
            return verdict  # no run can use such answers, whichever endpoint sends them
        if self._own_credentials and verdict.stop in ("refused", "quota"):
            return verdict  # other calls may have other permissions
        if verdict.stop == "quota":
            return self._exclude_account(endpoint, verdict)
        if not self._balancer.has_alternative(endpoint):
            return verdict
        self.exclude(endpoint, verdict.reason, verdict.status)
        return replace(verdict, action=Action.RETRY)

    def _exclude_account(self, endpoint: EndpointState, verdict: Verdict) -> Verdict:
        """Exclude all endpoints of an exhausted account; without any other, the run stops."""
        candidates = [one for one in self._balancer.endpoints if one is endpoint or one.is_candidate]
        of_account = [
            one for one in candidates if one is endpoint or one.transport.shares_account_with(endpoint.transport)
        ]
        if len(of_account) == len(candidates):
            return verdict
        for one in of_account:
            self.exclude(one, verdict.reason, verdict.status)
        return replace(verdict, action=Action.RETRY)


class RateLimitHeaders:
    """Throttles the requests to one endpoint when its headers announce less than the requests in flight will use.

    The remaining quota is spread over the time until it resets (RateLimit headers,
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
