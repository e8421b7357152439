"""The parts of which endpoints are made: how requests wait, are served, and are refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from heapq import heappop, heappush
from itertools import count
from math import exp, inf
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator.clock import Clock


RESET = 0
"""Stands for the status where the connection is reset."""

SILENCE = -2
"""Stands for the status where no answer ever comes."""


class Outcome(NamedTuple):
    """The outcome of a request."""

    status: int = 200
    retry_after: float | None = None


ChunkResult: TypeAlias = "Callable[[Outcome], None]"
Times: TypeAlias = "Callable[[Random], float]"
"""Draws the seconds that one request takes."""


def constant(seconds: float) -> Times:
    return lambda _: seconds


def lognormal(median: float, sigma: float) -> Times:
    return lambda random: median * exp(random.gauss(0.0, sigma))


def now_and_then(times: Times, factor: float, share: float) -> Times:
    """A ``share`` of the requests takes ``factor`` times as long."""
    return lambda random: times(random) * (factor if random.random() < share else 1.0)


class Server(ABC):
    """One endpoint. It does not notice that a client has gone, and finishes every accepted request."""

    def __init__(self, clock: Clock, seed: int = 0) -> None:
        self.clock = clock
        self.random = Random(seed)
        self.received = 0
        self.refused = 0
        self.in_flight = 0

    def submit(self, done: ChunkResult) -> None:
        """Accept a request; ``done`` is called with its outcome, perhaps at once."""
        self.received += 1
        self.in_flight += 1

        def ended(outcome: Outcome) -> None:
            self.in_flight -= 1
            self.refused += outcome.status != 200
            done(outcome)

        self._take(ended)

    @abstractmethod
    def _take(self, done: ChunkResult) -> None: ...


class Queue(Server):
    """So many requests are worked on at once; so many more may wait, in order; the rest is refused at once."""

    def __init__(
        self, clock: Clock, times: Times, *, capacity: int, room: float = inf, status: int = 503, seed: int = 0
    ) -> None:
        super().__init__(clock, seed)
        self._times = times
        self._capacity = capacity
        self._room = room
        self._status = status
        self._at_work = 0
        self._waiting: deque[ChunkResult] = deque()

    @property
    def capacity(self) -> int:
        return self._capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        """The batch at work is finished."""
        self._capacity = capacity
        self._start()

    def _take(self, done: ChunkResult) -> None:
        if self._at_work >= self._capacity and len(self._waiting) >= self._room:
            done(Outcome(self._status))
            return
        self._waiting.append(done)
        self._start()

    def _start(self) -> None:
        while self._waiting and self._at_work < self._capacity:
            self._at_work += 1
            self.clock.call_later(self._times(self.random), self._end, self._waiting.popleft())

    def _end(self, done: ChunkResult) -> None:
        self._at_work -= 1
        self._start()
        done(Outcome())


class Sharing(Server):
    """Processor sharing: all are worked on, up to ``capacity`` of them at full speed, more of them the slower."""

    def __init__(self, clock: Clock, times: Times, *, capacity: float, seed: int = 0) -> None:
        super().__init__(clock, seed)
        self._times = times
        self._capacity = capacity
        self._task = 0.0
        """Seconds of work that each request present from the beginning would have got."""
        self._since = 0.0
        self._order = count()
        self._ends: list[tuple[float, int, ChunkResult]] = []
        self._turn = 0

    def _take(self, done: ChunkResult) -> None:
        self._catch_up()
        heappush(self._ends, (self._task + self._times(self.random), next(self._order), done))
        self._plan()

    def _catch_up(self) -> None:
        now = self.clock.time()
        self._task += (now - self._since) * self._speed()
        self._since = now

    def _speed(self) -> float:
        return min(1.0, self._capacity / max(1, len(self._ends)))

    def _plan(self) -> None:
        self._turn += 1
        if self._ends:
            wait = max(0.0, self._ends[0][0] - self._task) / self._speed()
            self.clock.call_later(wait, self._end, self._turn)

    def _end(self, turn: int) -> None:
        if turn != self._turn:  # another request came since, and the end was planned anew
            return
        self._catch_up()
        _, _, done = heappop(self._ends)
        self._plan()
        done(Outcome())


class Batching(Server):
    """Collects requests for ``delay``, up to ``largest``, and works on one batch after the other.

    Args:
        slowness: draws the factor of one batch's time.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        base: float,
        each: float,
        largest: int,
        delay: float = 0.0,
        slowness: Times | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(clock, seed)
        self._slowness = slowness or constant(1.0)
        self._base = base
        self._each = each
        self._largest = largest
        self._delay = delay
        self._waiting: deque[ChunkResult] = deque()
        self._busy = False

    def _take(self, done: ChunkResult) -> None:
        self._waiting.append(done)
        if not self._busy:
            self._gather()

    def _gather(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            self.clock.call_later(0.0 if len(self._waiting) >= self._largest else self._delay, self._begin)

    def _begin(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._largest, len(self._waiting)))]
        seconds = (self._base + self._each * len(batch)) * self._slowness(self.random)
        self.clock.call_later(seconds, self._end, batch)

    def _end(self, batch: list[ChunkResult]) -> None:
        for done in batch:
            done(Outcome())
        self._gather()


class Flaky(Server):
    """Another server, behind something that fails a share of all requests, whatever their number.

    Args:
        status: the status of the failures; `RESET` and `SILENCE` stand for no answer.
        late: a failure takes as long as an answer; else it comes at once, and the server never sees the request.
    """

    def __init__(self, clock: Clock, server: Server, *, share: float, status: int = 503, late: bool, seed: int) -> None:
        super().__init__(clock, seed)
        self._server = server
        self._share = share
        self._status = status
        self._late = late

    def _take(self, done: ChunkResult) -> None:
        if self.random.random() >= self._share:
            self._server.submit(done)
        elif self._status == SILENCE:
            return
        elif self._late:
            self._server.submit(lambda outcome: done(outcome._replace(status=self._status)))
        else:
            done(Outcome(self._status))


class Far(Server):
    """Another server, some way off."""

    def __init__(self, clock: Clock, server: Server, *, seconds: float) -> None:
        super().__init__(clock)
        self._server = server
        self._one_way = seconds / 2

    def _take(self, done: ChunkResult) -> None:
        def answered(outcome: Outcome) -> None:
            self.clock.call_later(self._one_way, done, outcome)

        self.clock.call_later(self._one_way, self._server.submit, answered)


class RateLimited(Server):
    """Another server, behind a limit of so many requests in each window of time; the rest has 429.

    Args:
        retry_after: the refusals have the time until the next window.
    """

    def __init__(
        self, clock: Clock, server: Server, *, per_window: int, window: float = 1.0, retry_after: bool = False
    ) -> None:
        super().__init__(clock)
        self._server = server
        self._per_window = per_window
        self._seconds = window
        self._retry_after = retry_after
        self._window = -1
        self._left = 0

    def _take(self, done: ChunkResult) -> None:
        window = int(self.clock.time() / self._seconds)
        if window != self._window:
            self._window, self._left = window, self._per_window
        if self._left:
            self._left -= 1
            self._server.submit(done)
            return
        wait = (window + 1) * self._seconds - self.clock.time()
        done(Outcome(429, wait if self._retry_after else None))


class Bucket(Server):
    """Another server, behind a bucket of tokens that is filled evenly; a request without one has 429."""

    def __init__(self, clock: Clock, server: Server, *, per_second: float, burst: int) -> None:
        super().__init__(clock)
        self._server = server
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at = 0.0

    def _take(self, done: ChunkResult) -> None:
        now = self.clock.time()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            self._server.submit(done)
        else:
            done(Outcome(429))
