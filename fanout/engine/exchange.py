"""One HTTP exchange with leave: a permit, an open gate, no brake, a slot of the rate; then a deadline of its own."""

from __future__ import annotations

import asyncio
from random import uniform
from typing import TYPE_CHECKING, TypeAlias

from fanout.classify import classify_error
from fanout.errors import AttemptTimeout, TransportError
from fanout.transport import Withheld
from fanout.types import Action, Event, Reply, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.deadline import Deadline
    from fanout.engine.halt import Halt
    from fanout.engine.link import Link
    from fanout.statistics import Counters

_GATE_JITTER = 0.1
"""Part of a pushback by which a request may come later, so that not all come at once when the gate opens."""

Send: TypeAlias = "Callable[[bool], Awaitable[Reply]]"
"""Sends one request, on a fresh connection if the argument is true."""

Exchanged: TypeAlias = Reply | TransportError | Verdict
"""A whole answer, why there is none, or the verdict by which no request was sent."""


class _Crowded(Exception):  # noqa: N818 - no fault of anybody's
    """The limit has fallen since the permit was taken: back to the end of the line."""


class Exchanges:
    """Makes the exchanges of one run over the link that it shares with others."""

    def __init__(self, link: Link, counters: Counters, halt: Halt, tell: Callable[[Event], None]) -> None:
        self._link = link
        self._counters = counters
        self._halt = halt
        self._tell = tell
        self._now = asyncio.get_running_loop().time

    async def make(self, send: Send, deadline: Deadline) -> Exchanged:
        """Wait for leave, then send. The wait is charged to no attempt: the deadline starts with the request.

        It is sent once more where the server refuses the headers (401) and new ones can be had, or where a kept-alive
        connection turned out to be closed. What comes of it has to be told to `report`, or to `abandon`, with the same
        ``deadline``: it may be the endpoint's probe.
        """
        permits = self._link.permits
        while True:
            if not permits.take():
                await permits.acquire()
            # One permit for both: a probe that gave its own back would wait behind those who wait for the probe.
            try:
                exchanged = await self._with_leave(send, deadline, fresh=False)
                if not isinstance(exchanged, Reply):
                    stale = isinstance(exchanged, TransportError) and classify_error(exchanged).action is Action.RESEND
                    return await self._with_leave(send, deadline, fresh=True) if stale else exchanged
                if exchanged.status == 401 and await self._link.transport.renew_headers():
                    return await self._with_leave(send, deadline, fresh=False)
                return exchanged
            except _Crowded:
                continue
            finally:
                permits.release()

    def report(
        self, verdict: Verdict | None, deadline: Deadline, *, first_try: bool, alone: bool = False, last: bool = False
    ) -> bool:
        """Tell brake and pace of a success (no verdict) or a failure. True if that is not to be charged to its chunk.

        A failure of the rows' own, which others do not share (``alone``), costs nothing. Where a full endpoint refuses
        a chunk's ``last`` attempt, and serves no other, the brake is pulled: it is to fail no rows. A failed probe is
        the endpoint's, unless its kind may be the rows' own: those have to come to an end. An endpoint that never
        answered at all is none of the brake's business: the attempts are counted, and then the run stops.
        """
        link, brake = self._link, self._link.brake
        if link.pace is not None:
            # A probe's failure tells of an endpoint that is down, and one that its rows may be to blame for, of them.
            overload = verdict is not None and verdict.overload and not (alone or brake.is_probe(deadline))
            link.pace.told(deadline, success=verdict is None, overload=overload)
        if verdict is None:
            brake.succeeded(first_try=first_try)
            return False
        was_probe = brake.is_probe(deadline)
        if verdict.action is not Action.RETRY:
            brake.answered(deadline)
        elif was_probe or (link.answered and not alone):
            brake.failed(self._now(), deadline, rows_suspect=verdict.rows_suspect)
        if verdict.action is not Action.RETRY or verdict.rows_suspect:
            return False
        if last and verdict.no_room:  # few in flight may use their attempts up before the tokens are spent
            brake.pull(self._now())
            return True
        return was_probe

    def abandon(self, deadline: Deadline) -> None:
        """Nothing will be reported: if this was the probe, somebody else may be it."""
        self._link.brake.abandoned(deadline)
        if self._link.pace is not None:
            self._link.pace.told(deadline, success=False, overload=False)

    def pause(self, verdict: Verdict) -> Verdict:
        """Shut the gate if the server wants no request for a while; a verdict to stop where that is too long."""
        wait, longest = verdict.pushback, self._link.retry.max_pushback
        if wait is None or verdict.action is Action.STOP:
            return verdict
        if wait > longest:
            reason = f"the endpoint wants no request for {wait:g} s (max_pushback is {longest:g} s): {verdict.reason}"
            return Verdict(action=Action.STOP, reason=reason, status=verdict.status, stop="pushback")
        self._link.gate.shut_until(self._now() + wait)
        self._tell(Event(kind="pause", seconds=wait, status=verdict.status, reason=verdict.reason))
        return verdict

    async def _with_leave(self, send: Send, deadline: Deadline, *, fresh: bool) -> Exchanged:
        link = self._link
        while True:
            started = self._now()
            if self._halt.stopped is not None or not link.unhindered(started):
                if (refusal := await self._leave(deadline)) is not None:
                    return refusal
                started = self._now()
            if link.pace is not None and link.crowded(deadline):
                raise _Crowded
            try:
                return await self._timed(send, deadline, started, fresh=fresh)
            except Withheld:  # the gate was shut while a connection was made
                continue

    async def _timed(self, send: Send, deadline: Deadline, started: float, *, fresh: bool) -> Reply | TransportError:
        link = self._link
        self._count(1)
        if (pace := link.pace) is not None:
            pace.sent(deadline, started)
        deadline.start(started, link.timeouts.attempt)
        try:
            reply: Reply | TransportError = await send(fresh)
            link.answered = True
        except TransportError as error:
            reply = error
        except Withheld:
            self._count(-1)
            raise
        except asyncio.CancelledError:
            if not deadline.absorbed():
                raise
            reply = self._too_late()
        finally:
            deadline.stop()
            if pace is not None:
                pace.back(deadline, self._now())
        self._counters.latencies.record(self._now() - started)
        # Somebody below may have swallowed the cancellation, or made another error of it.
        return self._too_late() if deadline.expired and deadline.absorbed() else reply

    def _count(self, requests: int) -> None:
        self._link.requests += requests
        self._counters.requests += requests

    def _too_late(self) -> AttemptTimeout:
        return AttemptTimeout(f"no whole answer within the attempt timeout of {self._link.timeouts.attempt:g} s")

    async def _leave(self, asker: Deadline) -> Verdict | None:
        """Wait until gate, brake and rate allow a request. A verdict means that none may be sent at all."""
        link, slot = self._link, None
        while self._halt.stopped is None:
            now = self._now()
            if (shut := link.gate.wait(now)) > 0:
                slot = None  # a slot reserved before the pause would let all go at once after it
                await self._halt.sleep(shut + uniform(0, _GATE_JITTER * shut))
                continue
            if (braked := link.brake.wait(now, asker)) > 0:
                slot = None
                await self._halt.sleep(braked, link.bell)
                continue
            if slot is None:
                slot = link.rate.reserve(now)
            if slot > now:
                await self._halt.sleep(slot - now)
                continue
            if not link.spent:
                return None
            reason = f"the limit of max_requests = {link.limits.max_requests} is reached"
            return Verdict(action=Action.STOP, reason=reason, stop="max_requests")
        link.brake.abandoned(asker)
        stop = self._halt.stopped
        return Verdict(action=Action.STOP, reason=stop.reason, stop=stop.kind)
