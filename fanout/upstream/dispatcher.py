"""One HTTP exchange with leave: a permit, an open gate, no brake, a slot of the rates; then a deadline of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from fanout.classify import classify_error
from fanout.errors import AttemptTimeout, TransportError
from fanout.transport import NoDescriptor, SendAborted, credentials_refused
from fanout.types import Action, Event, Response, Verdict
from fanout.upstream.endpoint import EndpointState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.deadline import Deadline
    from fanout.engine.task import ChunkTask
    from fanout.limits import Reservation
    from fanout.statistics import Counters
    from fanout.stop import StopEvent
    from fanout.upstream.group import EndpointGroup

Send: TypeAlias = "Callable[[EndpointState, bool], Awaitable[Response]]"
"""Sends one request to an endpoint, on a fresh connection if the second argument is true."""

_ANOTHER_MODEL = frozenset({"shape", "dtype", "model"})
"""Flaws of answers that are well formed, but not what the other endpoints answer."""

_REFUSED = frozenset({401, 403})
_TOO_MANY = 429
_NO_ACCIDENT = 2
_UNTIL_FREE = 0.1
"""Seconds after which a connection is tried again for which there was no file descriptor."""

_ROUNDING = 1e-9
"""Seconds that a sum of times may be off. A sleep as short as that would be due at once, and again, and again."""

Exchanged: TypeAlias = Response | TransportError | Verdict
"""A whole answer, why there is none, or the verdict by which no request was sent."""


class _LimitLowered(Exception):  # noqa: N818 - no fault of anybody's
    """The limit has fallen since the permit was taken: back to the end of the line."""


class Dispatcher:
    """Makes the exchanges of one run over the link that it shares with others."""

    def __init__(
        self, group: EndpointGroup, counters: Counters, stop_event: StopEvent, emit: Callable[[Event], None]
    ) -> None:
        self._group = group
        self._balancer = group.balancer
        self._counters = counters
        self._stop_event = stop_event
        self._emit = emit
        self.now = asyncio.get_running_loop().time

    async def make(
        self, send: Send, deadline: Deadline, work: ChunkTask | None = None, only: EndpointState | None = None
    ) -> tuple[Exchanged, EndpointState | None]:
        """Wait for leave, then send. The wait is charged to no attempt: the deadline starts with the request.

        ``work`` is what is sent, if it is rows: it tells what that takes from the rates, and where it has failed.
        It is sent once more where the server refuses the credentials (401, or 403 "expired") and new ones can be had,
        or where a kept-alive connection turned out to be closed. What comes of it has to be told to `succeeded`,
        `failed` or `abandon`, with the same ``deadline``: it may be the endpoint's probe.

        Returns what came, and from which endpoint (``only``, if that is given); from none where nothing was sent.
        """
        limiter = self._group.limiter
        while True:
            if not limiter.take():
                await limiter.acquire()
            # One permit for both: a probe that gave its own back would wait behind those who wait for the probe.
            try:
                exchanged, endpoint = await self._with_leave(send, deadline, work, only, fresh=False)
                if endpoint is None:
                    return exchanged, None
                if not isinstance(exchanged, Response):
                    stale = isinstance(exchanged, TransportError) and classify_error(exchanged).action is Action.RESEND
                    return (
                        await self._with_leave(send, deadline, work, endpoint, fresh=True)
                        if stale
                        else (exchanged, endpoint)
                    )
                if exchanged.status not in _REFUSED or not credentials_refused(
                    exchanged.status, exchanged.headers, exchanged.body
                ):
                    return exchanged, endpoint
                renewed = await self._renewed(endpoint, exchanged.status, deadline)
                if renewed is True:
                    return await self._with_leave(send, deadline, work, endpoint, fresh=False)
                return renewed or exchanged, endpoint
            except _LimitLowered:
                continue
            finally:
                limiter.release()

    async def renewed(self, endpoint: EndpointState, status: int, deadline: Deadline) -> bool | AttemptTimeout:
        """The same as for a 401, after an answer that says it with status 200: True if there are new headers."""
        if not endpoint.transport.can_renew_headers:
            return False
        if deadline.started <= endpoint.renewed_at:  # another request has been refused with the same ones
            return True
        endpoint.transport.refuse_headers()
        renewed = await self._renewed(endpoint, status, deadline)
        if renewed is True:
            endpoint.renewed_at = self.now()
        return renewed

    async def _renewed(self, endpoint: EndpointState, status: int, deadline: Deadline) -> bool | AttemptTimeout:
        """True if there are new headers; an error if they took longer than an attempt may."""
        sent, seconds = deadline.started, self._group.timeouts.attempt
        deadline.start(self.now(), seconds)
        try:
            renewed: bool | AttemptTimeout = await endpoint.transport.renew_headers()
        except asyncio.CancelledError:
            if not deadline.absorbed():
                raise
            renewed = self._no_headers(status)
        finally:
            deadline.stop()
            deadline.started = sent
        # A function below may have swallowed the cancellation.
        return self._no_headers(status) if deadline.expired and deadline.absorbed() else renewed

    def _no_headers(self, status: int) -> AttemptTimeout:
        seconds = self._group.timeouts.attempt
        why = f"headers= gave no new fields within the attempt timeout of {seconds:g} s"
        return AttemptTimeout(f"{why}, after HTTP {status}")

    def succeeded(self, endpoint: EndpointState | None, deadline: Deadline, *, first_try: bool) -> None:
        """Tell brake and pace of a success."""
        if self._group.controller is not None:
            self._note_pace(endpoint, None, deadline)
        if endpoint is None:  # nothing was sent
            return
        if self._balancer.only is None:
            self._note_health(endpoint, None)
        endpoint.breaker.succeeded(first_try=first_try)

    def failed(
        self,
        endpoint: EndpointState | None,
        verdict: Verdict,
        deadline: Deadline,
        *,
        alone: bool = False,
        last: bool = False,
    ) -> bool:
        """Tell brake and pace of a failure. True if it is not to be charged to its chunk.

        A failure of the rows' own, which others do not share (``alone``), costs nothing. Where a full endpoint refuses
        a chunk's ``last`` attempt, and serves no other, the brake is pulled: it is to fail no rows. A failed probe is
        the endpoint's, unless its kind may be the rows' own: those have to come to an end. An endpoint that never
        answered at all is none of the brake's business: the attempts are counted, and then the run stops. Where there
        are other endpoints, it is one of them that will have to do.
        """
        self._note_pace(endpoint, verdict, deadline, alone=alone)
        if endpoint is None:
            return False
        breaker = endpoint.breaker
        was_probe = breaker.is_probe(deadline)
        if verdict.action is not Action.RETRY:
            breaker.answered(deadline)
        elif was_probe or (endpoint.answered and not alone):
            breaker.failed(self.now(), deadline, rows_suspect=verdict.rows_suspect)
        if self._balancer.only is None:
            self._note_health(endpoint, verdict)
        if verdict.action is not Action.RETRY or verdict.rows_suspect:
            return False
        if self._balancer.only is None and self._balancer.elsewhere((endpoint,), self.now()):
            return True
        if last and verdict.no_room:  # few in flight may use their attempts up before the tokens are spent
            breaker.pull(self.now())
            return True
        return was_probe

    def abandon(self, deadline: Deadline) -> None:
        """Nothing will be reported: if this was a probe, somebody else may be it."""
        self._balancer.dismiss(deadline)
        if self._group.controller is not None:
            self._group.controller.told(deadline, success=False, overload=False)

    def pause(self, endpoint: EndpointState, verdict: Verdict) -> Verdict:
        """What ``verdict`` means for the endpoint, and what is left of it for the run.

        The gate is shut if the server wants no request for a while; the run has to stop where that is too long. But
        where other endpoints can do the work, one that asks too much, or refuses all requests, stops nobody.
        """
        wait, longest = verdict.pushback, self._group.retry.max_pushback
        dispensable = self._balancer.only is None and self._balancer.dispensable(endpoint)
        if verdict.action is Action.STOP and verdict.stop == "quota":
            return self._account_exhausted(endpoint, verdict)
        if verdict.action is Action.STOP:
            return self._put_out(endpoint, verdict) if dispensable else verdict
        if wait is None:
            return verdict
        if wait > longest and not dispensable:
            reason = f"the endpoint wants no request for {wait:g} s (max_pushback is {longest:g} s): {verdict.reason}"
            return Verdict(action=Action.STOP, reason=reason, status=verdict.status, stop="pushback")
        endpoint.cooldown.shut_until(self.now() + wait)
        self._emit(Event(kind="pause", seconds=wait, status=verdict.status, reason=verdict.reason))
        return verdict

    def misfit(self, endpoint: EndpointState, verdict: Verdict) -> None:
        """An answer of this endpoint looks unlike those of the others: several in a row are no accident."""
        endpoint.misfits += 1
        several = (
            self._balancer.model_names.is_another(endpoint)
            if verdict.error_kind == "model"
            else endpoint.misfits >= _NO_ACCIDENT
        )
        if several and self._balancer.only is None and self._balancer.dispensable(endpoint):
            self._put_out(endpoint, verdict)

    def _account_exhausted(self, endpoint: EndpointState, verdict: Verdict) -> Verdict:
        """Go on with endpoints of other accounts alone; without any, the run stops."""
        present = [one for one in self._balancer.endpoints if one is endpoint or one.present]
        of_account = [
            one for one in present if one is endpoint or one.transport.shares_account_with(endpoint.transport)
        ]
        if len(of_account) == len(present):
            return verdict
        for one in of_account:
            self._put_out(one, verdict)
        return replace(verdict, action=Action.RETRY)

    def _put_out(self, endpoint: EndpointState, verdict: Verdict) -> Verdict:
        """Never ask this endpoint again; its chunk goes to another."""
        if endpoint.out is None:
            endpoint.out = verdict
            endpoint.breaker.pull(self.now())  # who waits for it has to look for another
            reason = f"{endpoint.transport.shown_url} is asked no more: {verdict.reason}"
            self._emit(Event(kind="excluded", status=verdict.status, reason=reason))
        return replace(verdict, action=Action.RETRY)

    def _note_pace(
        self, endpoint: EndpointState | None, verdict: Verdict | None, deadline: Deadline, *, alone: bool = False
    ) -> None:
        if self._group.controller is None:
            return
        # A probe's failure tells of an endpoint that is down, and one that its rows may be to blame for, of them.
        overload = verdict is not None and verdict.overload and not (alone or self._balancer.probes(deadline))
        if overload and endpoint is not None:
            overload = self._balancer.overloaded(endpoint, self.now())
        self._group.controller.told(
            deadline,
            success=verdict is None,
            overload=overload,
            # The key may be shared with others: a 429 is no accident, however few of them there are.
            certain=verdict is not None and verdict.status == _TOO_MANY,
            timed_out=verdict is not None and verdict.unreachable,
        )

    def _note_health(self, endpoint: EndpointState, verdict: Verdict | None) -> None:
        now, health = self.now(), endpoint.health
        if verdict is None:
            if endpoint.breaker.braked:
                health.came_back(now)
                self._emit(Event(kind="restored", reason=f"{endpoint.transport.shown_url} answers again"))
            health.succeeded(now)
            endpoint.misfits = 0
        elif verdict.error_kind in _ANOTHER_MODEL:
            self.misfit(endpoint, verdict)
        elif verdict.action is Action.RETRY:
            health.failed(now)
            if self._balancer.eject(endpoint, now):
                reason = f"{endpoint.transport.shown_url} is left alone for a while: {verdict.reason}"
                self._emit(Event(kind="ejected", status=verdict.status, reason=reason))

    async def _with_leave(
        self, send: Send, deadline: Deadline, work: ChunkTask | None, only: EndpointState | None, *, fresh: bool
    ) -> tuple[Exchanged, EndpointState | None]:
        group = self._group
        while True:
            started, reservation = self.now(), None
            endpoint = self._balancer.only if group.unlimited and self._stop_event.stopped is None else None
            if endpoint is None or not endpoint.open(started):
                leave = await self._leave(deadline, work, only)
                if isinstance(leave, Verdict):
                    return leave, None
                (endpoint, reservation), started = leave, self.now()
            if group.controller is not None and group.crowded(deadline):
                group.rates.give_back(reservation)
                raise _LimitLowered
            try:
                return await self._timed(send, endpoint, deadline, work, started, fresh=fresh), endpoint
            except NoDescriptor:  # nothing was sent, and nothing is charged
                group.rates.give_back(reservation)
                group.lower()
                await self._stop_event.sleep(_UNTIL_FREE)
                if group.crowded(deadline):
                    raise _LimitLowered from None
            except SendAborted:  # the gate was shut while a connection was made
                group.rates.give_back(reservation)

    async def _timed(
        self,
        send: Send,
        endpoint: EndpointState,
        deadline: Deadline,
        work: ChunkTask | None,
        started: float,
        *,
        fresh: bool,
    ) -> Response | TransportError:
        counters = self._counters
        self._count(endpoint, 1)
        endpoint.pending += 1
        counters.in_flight += 1
        if counters.in_flight > counters.max_in_flight:
            counters.max_in_flight = counters.in_flight
        size = 0 if work is None or work.payload is None else work.payload.nbytes
        counters.bytes_sent += size
        if (controller := self._group.controller) is not None:
            controller.sent(deadline, started)
        deadline.start(started, self._group.timeouts.attempt)
        try:
            response: Response | TransportError = await send(endpoint, fresh)
            endpoint.answered = True
        except TransportError as error:
            response = error
        except SendAborted:
            self._count(endpoint, -1)
            counters.bytes_sent -= size
            raise
        except asyncio.CancelledError:
            if not deadline.absorbed():
                raise
            response = self._too_late()
        finally:
            endpoint.pending -= 1
            counters.in_flight -= 1
            deadline.stop()
            if controller is not None:
                controller.back(deadline, self.now())
        ended = self.now()
        counters.latencies.record(ended - started)
        if isinstance(response, Response):
            counters.bytes_received += len(response.body)
            if response.status < 400:
                self._heed(endpoint, response, work, started, ended)
        # Somebody below may have swallowed the cancellation, or made another error of it.
        return self._too_late() if deadline.expired and deadline.absorbed() else response

    def _count(self, endpoint: EndpointState, requests: int) -> None:
        endpoint.requests += requests
        self._group.requests += requests
        self._counters.requests += requests

    def _too_late(self) -> AttemptTimeout:
        return AttemptTimeout(f"no whole answer within the attempt timeout of {self._group.timeouts.attempt:g} s")

    def _heed(
        self, endpoint: EndpointState, response: Response, work: ChunkTask | None, started: float, ended: float
    ) -> None:
        if (
            self._balancer.only is None and response.status < 300
        ):  # a refusal that comes at once makes no endpoint quick
            endpoint.latency.record(ended, ended - started)
        try:
            shut = endpoint.heed(response, work, ended)
        except Exception:  # noqa: BLE001 - a header that makes a parser fail says nothing, and costs no answer
            shut = 0.0
        if shut:
            reason = "the endpoint says that nothing is left for this time"
            self._emit(Event(kind="pause", seconds=shut, status=response.status, reason=reason))

    async def _leave(
        self, asker: Deadline, work: ChunkTask | None, only: EndpointState | None
    ) -> tuple[EndpointState, Reservation] | Verdict:
        """Wait until gate, brake and rates allow a request to an endpoint. A verdict: none may be sent at all."""
        group, rates = self._group, self._group.rates
        tried = () if work is None else work.tried
        reservation: Reservation | None = None
        try:
            while self._stop_event.stopped is None:
                now = self.now()
                endpoint = self._balancer.admit(now, asker, tried, only)
                if not isinstance(endpoint, EndpointState):
                    rates.give_back(reservation)
                    reservation = None  # slots kept through a pause would let all go at once after it
                    await self._stop_event.sleep(endpoint, group.wait_queue)
                    continue
                if reservation is None or rates.outdated(reservation):
                    reservation = rates.reserve(now, group.cost(work))
                if reservation.start > now + _ROUNDING:
                    await self._stop_event.sleep(reservation.start - now)
                    continue
                if not group.spent:
                    granted, reservation = reservation, None
                    return endpoint, granted
                reason = f"the limit of max_requests = {group.limits.max_requests} is reached"
                return Verdict(action=Action.STOP, reason=reason, stop="max_requests")
        finally:
            rates.give_back(reservation)
        self._balancer.dismiss(asker)
        stop = self._stop_event.stopped
        return Verdict(action=Action.STOP, reason=stop.reason, stop=stop.kind)
