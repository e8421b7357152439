"""A controller alone against a server: as many requests under way as it allows, and always another to send."""

from __future__ import annotations

from math import inf, isfinite
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fanout.limits.capacity import Flight
from tests.simulator.servers import Outcome

if TYPE_CHECKING:
    from tests.simulator.clock import Timeline
    from tests.simulator.servers import Server

TIMED_OUT = -1
"""Stands for the status where no answer came in time."""

_PAUSE = 0.2
"""Longest pause of a place whose request was refused: the client's first backoff."""


class Controller(Protocol):
    """Sets the limit, as `fanout.limits.ConcurrencyController` does."""

    @property
    def limit(self) -> int: ...

    def on_send(self, now: float) -> Flight: ...

    def on_end(self, flight: Flight, now: float) -> None: ...

    def on_result(
        self, flight: Flight, *, success: bool, overload: bool, certain: bool = False, timed_out: bool = False
    ) -> None: ...


class Fixed:
    """A limit that stays."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def on_send(self, now: float) -> Flight:
        return Flight(now, 0.0)

    def on_end(self, flight: Flight, now: float) -> None:
        return

    def on_result(
        self, flight: Flight, *, success: bool, overload: bool, certain: bool = False, timed_out: bool = False
    ) -> None:
        return


class Look(NamedTuple):
    """The state at one moment."""

    at: float
    limit: int
    in_flight: int
    answered: int
    refused: int


class ClosedLoop:
    """Sends until its clock stops.

    Args:
        timeout: seconds after which an answer comes too late, and counts as overload.
        supply: requests a second that there are to send; none: as many as can be sent.
        others_go_on: a request that was refused leaves its place to another while it pauses, as in a client.
    """

    def __init__(
        self,
        clock: Timeline,
        server: Server,
        controller: Controller,
        *,
        timeout: float = inf,
        supply: float | None = None,
        others_go_on: bool = False,
        seed: int = 0,
    ) -> None:
        self._clock = clock
        self._server = server
        self.controller = controller
        self._timeout = timeout
        self.space = 0.0 if supply is None else 1 / supply
        """Seconds from one request that there is to the next."""
        self._others_go_on = others_go_on
        self._next = 0.0
        self._waits = False
        self._random = Random(seed)
        self.in_flight = 0
        self._paused = 0
        self._shut_until = 0.0
        self.answered = 0
        self.refused = 0
        self.looks: list[Look] = []

    def run(self, seconds: float, every: float = 1.0) -> ClosedLoop:
        """Send for ``seconds``, looking at the state now and then."""
        self._clock.call_later(0.0, self._fill)
        self._clock.call_later(every, self._look, every)
        self._clock.run(until=self._clock.time() + seconds)
        return self

    def _look(self, every: float) -> None:
        look = Look(self._clock.time(), self.controller.limit, self.in_flight, self.answered, self.refused)
        self.looks.append(look)
        self._clock.call_later(every, self._look, every)

    def _fill(self) -> None:
        now = self._clock.time()
        while self._has_room() and now >= self._shut_until:
            if self.space and now < self._next:
                self._wait(now)
                return
            self._next = max(now, self._next) + self.space
            self._send(now)

    def _has_room(self) -> bool:
        limit = self.controller.limit
        if self._others_go_on:
            return self.in_flight < limit and self._paused < limit
        return self.in_flight + self._paused < limit

    def _wait(self, now: float) -> None:
        if not self._waits:
            self._waits = True
            self._clock.call_later(self._next - now, self._arrived)

    def _arrived(self) -> None:
        self._waits = False
        self._fill()

    def _send(self, now: float) -> None:
        self.in_flight += 1
        open_ = True

        def ended(outcome: Outcome) -> None:
            nonlocal open_
            if open_:
                open_ = False
                self._end(flight, outcome)

        flight = self.controller.on_send(now)
        self._server.submit(ended)
        if isfinite(self._timeout):
            self._clock.call_later(self._timeout, ended, Outcome(TIMED_OUT))

    def _end(self, flight: Flight, outcome: Outcome) -> None:
        self.in_flight -= 1
        now, good = self._clock.time(), outcome.status == 200
        if good:
            self.answered += 1
        else:
            self._refuse(now, outcome.retry_after)
        self.controller.on_end(flight, now)
        late = outcome.status == TIMED_OUT
        overload = late or outcome.status >= 400
        self.controller.on_result(
            flight, success=good, overload=overload, certain=outcome.status == 429, timed_out=late
        )
        self._fill()

    def _refuse(self, now: float, retry_after: float | None) -> None:
        self.refused += 1
        if retry_after is not None:
            self._shut_until = max(self._shut_until, now + retry_after)
            self._clock.call_later(self._shut_until - now, self._fill)
            return
        self._paused += 1
        self._clock.call_later(self._random.uniform(0, _PAUSE), self._resume)

    def _resume(self) -> None:
        self._paused -= 1
        self._fill()
