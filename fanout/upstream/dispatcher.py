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

    def __init__(self, link: EndpointGroup, counters: Counters, halt: StopEvent, tell: Callable[[Event], None]) -> None:
        self._link = link
        self._pool = link.pool
        self._counters = counters
        self._halt = halt
        self._tell = tell
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
        permits = self._link.permits
        while True:
            if not permits.take():
                await permits.acquire()
            # One permit for both: a probe that gave its own back would wait behind those who wait for the probe.
            try:
                exchanged, host = await self._with_leave(send, deadline, work, only, fresh=False)
                if host is None:
                    return exchanged, None
                if not isinstance(exchanged, Response):
                    stale = isinstance(exchanged, TransportError) and classify_error(exchanged).action is Action.RESEND
                    return (
                        await self._with_leave(send, deadline, work, host, fresh=True) if stale else (exchanged, host)
                    )
                if exchanged.status not in _REFUSED or not credentials_refused(
                    exchanged.status, exchanged.headers, exchanged.body
                ):
                    return exchanged, host
                renewed = await self._renewed(host, exchanged.status, deadline)
                if renewed is True:
                    return await self._with_leave(send, deadline, work, host, fresh=False)
                return renewed or exchanged, host
            except _LimitLowered:
                continue
            finally:
                permits.release()

    async def renewed(self, host: EndpointState, status: int, deadline: Deadline) -> bool | AttemptTimeout:
        """The same as for a 401, after an answer that says it with status 200: True if there are new headers."""
        if not host.transport.can_renew_headers:
            return False
        if deadline.started <= host.renewed_at:  # another request has been refused with the same ones
            return True
        host.transport.refuse_headers()
        renewed = await self._renewed(host, status, deadline)
        if renewed is True:
            host.renewed_at = self.now()
        return renewed

    async def _renewed(self, host: EndpointState, status: int, deadline: Deadline) -> bool | AttemptTimeout:
        """True if there are new headers; an error if they took longer than an attempt may."""
        sent, seconds = deadline.started, self._link.timeouts.attempt
        deadline.start(self.now(), seconds)
        try:
            renewed: bool | AttemptTimeout = await host.transport.renew_headers()
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
        seconds = self._link.timeouts.attempt
        why = f"headers= gave no new fields within the attempt timeout of {seconds:g} s"
        return AttemptTimeout(f"{why}, after HTTP {status}")

    def succeeded(self, host: EndpointState | None, deadline: Deadline, *, first_try: bool) -> None:
        """Tell brake and pace of a success."""
        if self._link.pace is not None:
            self._note_pace(host, None, deadline)
        if host is None:  # nothing was sent
            return
        if self._pool.only is None:
            self._note_health(host, None)
        host.brake.succeeded(first_try=first_try)

    def failed(
        self,
        host: EndpointState | None,
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
        self._note_pace(host, verdict, deadline, alone=alone)
        if host is None:
            return False
        brake = host.brake
        was_probe = brake.is_probe(deadline)
        if verdict.action is not Action.RETRY:
            brake.answered(deadline)
        elif was_probe or (host.answered and not alone):
            brake.failed(self.now(), deadline, rows_suspect=verdict.rows_suspect)
        if self._pool.only is None:
            self._note_health(host, verdict)
        if verdict.action is not Action.RETRY or verdict.rows_suspect:
            return False
        if self._pool.only is None and self._pool.elsewhere((host,), self.now()):
            return True
        if last and verdict.no_room:  # few in flight may use their attempts up before the tokens are spent
            brake.pull(self.now())
            return True
        return was_probe

    def abandon(self, deadline: Deadline) -> None:
        """Nothing will be reported: if this was a probe, somebody else may be it."""
        self._pool.dismiss(deadline)
        if self._link.pace is not None:
            self._link.pace.told(deadline, success=False, overload=False)

    def pause(self, host: EndpointState, verdict: Verdict) -> Verdict:
        """What ``verdict`` means for the endpoint, and what is left of it for the run.

        The gate is shut if the server wants no request for a while; the run has to stop where that is too long. But
        where other endpoints can do the work, one that asks too much, or refuses all requests, stops nobody.
        """
        wait, longest = verdict.pushback, self._link.retry.max_pushback
        dispensable = self._pool.only is None and self._pool.dispensable(host)
        if verdict.action is Action.STOP and verdict.stop == "quota":
            return self._account_exhausted(host, verdict)
        if verdict.action is Action.STOP:
            return self._put_out(host, verdict) if dispensable else verdict
        if wait is None:
            return verdict
        if wait > longest and not dispensable:
            reason = f"the endpoint wants no request for {wait:g} s (max_pushback is {longest:g} s): {verdict.reason}"
            return Verdict(action=Action.STOP, reason=reason, status=verdict.status, stop="pushback")
        host.gate.shut_until(self.now() + wait)
        self._tell(Event(kind="pause", seconds=wait, status=verdict.status, reason=verdict.reason))
        return verdict

    def misfit(self, host: EndpointState, verdict: Verdict) -> None:
        """An answer of this endpoint looks unlike those of the others: several in a row are no accident."""
        host.misfits += 1
        several = (
            self._pool.model_names.is_another(host) if verdict.error_kind == "model" else host.misfits >= _NO_ACCIDENT
        )
        if several and self._pool.only is None and self._pool.dispensable(host):
            self._put_out(host, verdict)

    def _account_exhausted(self, host: EndpointState, verdict: Verdict) -> Verdict:
        """Go on with endpoints of other accounts alone; without any, the run stops."""
        present = [one for one in self._pool.hosts if one is host or one.present]
        of_account = [one for one in present if one is host or one.transport.shares_account_with(host.transport)]
        if len(of_account) == len(present):
            return verdict
        for one in of_account:
            self._put_out(one, verdict)
        return replace(verdict, action=Action.RETRY)

    def _put_out(self, host: EndpointState, verdict: Verdict) -> Verdict:
        """Never ask this endpoint again; its chunk goes to another."""
        if host.out is None:
            host.out = verdict
            host.brake.pull(self.now())  # who waits for it has to look for another
            reason = f"{host.transport.shown_url} is asked no more: {verdict.reason}"
            self._tell(Event(kind="out", status=verdict.status, reason=reason))
        return replace(verdict, action=Action.RETRY)

    def _note_pace(
        self, host: EndpointState | None, verdict: Verdict | None, deadline: Deadline, *, alone: bool = False
    ) -> None:
        if self._link.pace is None:
            return
        # A probe's failure tells of an endpoint that is down, and one that its rows may be to blame for, of them.
        overload = verdict is not None and verdict.overload and not (alone or self._pool.probes(deadline))
        if overload and host is not None:
            overload = self._pool.overloaded(host, self.now())
        self._link.pace.told(
            deadline,
            success=verdict is None,
            overload=overload,
            # The key may be shared with others: a 429 is no accident, however few of them there are.
            certain=verdict is not None and verdict.status == _TOO_MANY,
            timed_out=verdict is not None and verdict.unreachable,
        )

    def _note_health(self, host: EndpointState, verdict: Verdict | None) -> None:
        now, health = self.now(), host.health
        if verdict is None:
            if host.brake.braked:
                health.came_back(now)
                self._tell(Event(kind="back", reason=f"{host.transport.shown_url} answers again"))
            health.succeeded(now)
            host.misfits = 0
        elif verdict.error_kind in _ANOTHER_MODEL:
            self.misfit(host, verdict)
        elif verdict.action is Action.RETRY:
            health.failed(now)
            if self._pool.eject(host, now):
                reason = f"{host.transport.shown_url} is left alone for a while: {verdict.reason}"
                self._tell(Event(kind="ejected", status=verdict.status, reason=reason))

    async def _with_leave(
        self, send: Send, deadline: Deadline, work: ChunkTask | None, only: EndpointState | None, *, fresh: bool
    ) -> tuple[Exchanged, EndpointState | None]:
        link = self._link
        while True:
            started, slot = self.now(), None
            host = self._pool.only if link.unlimited and self._halt.stopped is None else None
            if host is None or not host.open(started):
                leave = await self._leave(deadline, work, only)
                if isinstance(leave, Verdict):
                    return leave, None
                (host, slot), started = leave, self.now()
            if link.pace is not None and link.crowded(deadline):
                link.rates.give_back(slot)
                raise _LimitLowered
            try:
                return await self._timed(send, host, deadline, work, started, fresh=fresh), host
            except NoDescriptor:  # nothing was sent, and nothing is charged
                link.rates.give_back(slot)
                link.lower()
                await self._halt.sleep(_UNTIL_FREE)
                if link.crowded(deadline):
                    raise _LimitLowered from None
            except SendAborted:  # the gate was shut while a connection was made
                link.rates.give_back(slot)

    async def _timed(
        self,
        send: Send,
        host: EndpointState,
        deadline: Deadline,
        work: ChunkTask | None,
        started: float,
        *,
        fresh: bool,
    ) -> Response | TransportError:
        counters = self._counters
        self._count(host, 1)
        host.pending += 1
        counters.in_flight += 1
        if counters.in_flight > counters.max_in_flight:
            counters.max_in_flight = counters.in_flight
        size = 0 if work is None or work.payload is None else work.payload.nbytes
        counters.bytes_sent += size
        if (pace := self._link.pace) is not None:
            pace.sent(deadline, started)
        deadline.start(started, self._link.timeouts.attempt)
        try:
            reply: Response | TransportError = await send(host, fresh)
            host.answered = True
        except TransportError as error:
            reply = error
        except SendAborted:
            self._count(host, -1)
            counters.bytes_sent -= size
            raise
        except asyncio.CancelledError:
            if not deadline.absorbed():
                raise
            reply = self._too_late()
        finally:
            host.pending -= 1
            counters.in_flight -= 1
            deadline.stop()
            if pace is not None:
                pace.back(deadline, self.now())
        ended = self.now()
        counters.latencies.record(ended - started)
        if isinstance(reply, Response):
            counters.bytes_received += len(reply.body)
            if reply.status < 400:
                self._heed(host, reply, work, started, ended)
        # Somebody below may have swallowed the cancellation, or made another error of it.
        return self._too_late() if deadline.expired and deadline.absorbed() else reply

    def _count(self, host: EndpointState, requests: int) -> None:
        host.requests += requests
        self._link.requests += requests
        self._counters.requests += requests

    def _too_late(self) -> AttemptTimeout:
        return AttemptTimeout(f"no whole answer within the attempt timeout of {self._link.timeouts.attempt:g} s")

    def _heed(self, host: EndpointState, reply: Response, work: ChunkTask | None, started: float, ended: float) -> None:
        if self._pool.only is None and reply.status < 300:  # a refusal that comes at once makes no endpoint quick
            host.latency.record(ended, ended - started)
        try:
            shut = host.heed(reply, work, ended)
        except Exception:  # noqa: BLE001 - a header that makes a parser fail says nothing, and costs no answer
            shut = 0.0
        if shut:
            reason = "the endpoint says that nothing is left for this time"
            self._tell(Event(kind="pause", seconds=shut, status=reply.status, reason=reason))

    async def _leave(
        self, asker: Deadline, work: ChunkTask | None, only: EndpointState | None
    ) -> tuple[EndpointState, Reservation] | Verdict:
        """Wait until gate, brake and rates allow a request to an endpoint. A verdict: none may be sent at all."""
        link, rates = self._link, self._link.rates
        tried = () if work is None else work.tried
        slot: Reservation | None = None
        try:
            while self._halt.stopped is None:
                now = self.now()
                host = self._pool.admit(now, asker, tried, only)
                if not isinstance(host, EndpointState):
                    rates.give_back(slot)
                    slot = None  # slots kept through a pause would let all go at once after it
                    await self._halt.sleep(host, link.bell)
                    continue
                if slot is None or rates.outdated(slot):
                    slot = rates.reserve(now, link.cost(work))
                if slot.start > now + _ROUNDING:
                    await self._halt.sleep(slot.start - now)
                    continue
                if not link.spent:
                    granted, slot = slot, None
                    return host, granted
                reason = f"the limit of max_requests = {link.limits.max_requests} is reached"
                return Verdict(action=Action.STOP, reason=reason, stop="max_requests")
        finally:
            rates.give_back(slot)
        self._pool.dismiss(asker)
        stop = self._halt.stopped
        return Verdict(action=Action.STOP, reason=stop.reason, stop=stop.kind)
