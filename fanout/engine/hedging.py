"""A race between two attempts for the same rows: the first valid answer wins, and the loser is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from fanout.types import Response, Verdict
from fanout.upstream.admission import Ticket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.statistics import Counters
    from fanout.types import Array
    from fanout.upstream.dispatcher import Dispatcher, Send
    from fanout.upstream.endpoint import EndpointState
    from fanout.upstream.group import EndpointGroup
    from fanout.upstream.hedge_policy import Hedger

    Judged: TypeAlias = tuple[dict[str, Array] | Verdict, EndpointState | None]
    Attempt: TypeAlias = Callable[[Send, Ticket, EndpointState | None], Awaitable[Judged]]


class HedgedAttempt:
    """One of the two attempts: a task with a deadline of its own, and when and where its request went out."""

    def __init__(self, attempt: Attempt, send: Send, only: EndpointState | None = None) -> None:
        self._now = asyncio.get_running_loop().time
        self._post = send
        self.endpoint: EndpointState | None = None
        self.sent_at: float | None = None
        self.took: float | None = None
        self.deadline: Ticket
        self.task = asyncio.create_task(self._run(attempt, only))

    @property
    def won(self) -> bool:
        """It has a valid answer."""
        return self.task.done() and not self.task.cancelled() and not isinstance(self.task.result()[0], Verdict)

    async def end(self) -> None:
        """Cancel it, if it has not come to its end. It closes its connection then."""
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.exception()  # seen: what it came to counts only where it is decisive

    async def _run(self, attempt: Attempt, only: EndpointState | None) -> Judged:
        self.deadline = Ticket()
        try:
            return await attempt(self._send, self.deadline, only)
        finally:
            self.deadline.close()

    async def _send(self, endpoint: EndpointState, fresh: bool) -> Response:
        self.endpoint, self.sent_at = endpoint, self._now()
        try:
            return await self._post(endpoint, fresh)
        finally:
            self.took = self._now() - self.sent_at


class HedgedRequests:
    """Makes attempts, and a second one beside each that takes longer than most."""

    def __init__(self, hedger: Hedger, group: EndpointGroup, dispatcher: Dispatcher, counters: Counters) -> None:
        self._hedger = hedger
        self._group = group
        self._dispatcher = dispatcher
        self._counters = counters
        self._now = asyncio.get_running_loop().time

    async def run(self, attempt: Attempt, send: Send) -> tuple[Judged, Ticket]:
        """The outcome of the first attempt, or of the second where that alone has a valid answer, or has it sooner."""
        self._hedger.asked()
        first, second = HedgedAttempt(attempt, send), None
        try:
            if await self._takes_long(first):
                second = self._second(attempt, send, first)
            if second is not None:
                await asyncio.wait([first.task, second.task], return_when=asyncio.FIRST_COMPLETED)
                if not (first.won or second.won):  # a failure ends no race
                    await asyncio.wait([first.task, second.task])
            decisive = second if second is not None and second.won and not first.won else first
            await asyncio.wait([decisive.task])
        finally:
            for lane in (first, second):
                if lane is not None:
                    await lane.end()
                    self._note(lane)
        self._settle(first, second, decisive)
        return decisive.task.result(), decisive.deadline

    async def _takes_long(self, first: HedgedAttempt) -> bool:
        """Wait until it has ended, or has taken longer than most do, from its sending on."""
        while (delay := self._hedger.delay) is not None:
            since = self._now() if first.sent_at is None else first.sent_at
            left = since + delay - self._now()
            if left <= 0:
                return not first.task.done()
            done, _ = await asyncio.wait([first.task], timeout=left)
            if done:
                return False
        await asyncio.wait([first.task])
        return False

    def _second(self, attempt: Attempt, send: Send, first: HedgedAttempt) -> HedgedAttempt | None:
        """To another endpoint where there is one. The endpoint's budget pays for it."""
        assert first.endpoint is not None
        endpoint = self._group.balancer.open_host(self._now(), avoid=(first.endpoint,))
        if endpoint is None or not self._hedger.take():
            return None
        if not endpoint.breaker.spend():
            self._hedger.give_back()
            return None
        return HedgedAttempt(attempt, send, only=endpoint)

    def _note(self, lane: HedgedAttempt) -> None:
        if lane.took is not None:
            self._hedger.answered(lane.took)

    def _settle(self, first: HedgedAttempt, second: HedgedAttempt | None, decisive: HedgedAttempt) -> None:
        if second is None:
            return
        if second.sent_at is None:
            self._hedger.give_back()
            return
        self._counters.hedges += 1
        if decisive is second:
            self._counters.hedges_won += 1
        other = first if decisive is second else second
        if other.task.cancelled():
            return
        outcome, endpoint = other.task.result()
        # The outcome of the other one is the endpoint's affair alone.
        if isinstance(outcome, Verdict):
            self._dispatcher.failed(endpoint, outcome, other.deadline)
        else:
            self._dispatcher.succeeded(endpoint, other.deadline, first_try=False)
