"""The retry budget of one endpoint, and the circuit breaker that opens once it is spent.

Retries help against accidents and make an overload worse, so successes bound how many may be sent (the token bucket of
gRPC's retry throttling, https://github.com/grpc/proposal/blob/master/A6-client-retries.md). While the circuit is open,
one trial request at a time goes out until one succeeds: no row fails meanwhile, all of them wait.
"""

from __future__ import annotations

from math import inf
from random import uniform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SMALLEST_CAPACITY = 10
FIRST_TRIAL_AFTER = 1.0
_LONGEST_TRIAL_WAIT = 30.0
# Random part added to the wait for a trial, so that clients that stopped together do not return together.
_JITTER = 0.25


class CircuitBreaker:
    """Decides whether a request may be sent. It knows no clock and never waits: callers pass in the time.

    Requests are identified by a ``ticket``, any hashable object.

    Args:
        concurrency: most requests in flight; sets the size of the token bucket.
        budget: tokens that a success of a first attempt returns.
        suspect_wait: longest wait, in seconds, after a failed trial whose rows may be to blame: rows that no server can
            answer would otherwise hold the circuit open for ever.
        changed: called when waiting requests should ask again.
    """

    def __init__(self, *, concurrency: int, budget: float, suspect_wait: float, changed: Callable[[], None]) -> None:
        self.resize(concurrency, suspect_wait=suspect_wait)
        self.tokens = self.capacity
        self.is_open = False
        self._budget = budget
        self._changed = changed
        self._trial: object = None
        self._queue: dict[object, None] = {}
        self._trial_at = 0.0
        self._trial_wait = FIRST_TRIAL_AFTER

    def resize(self, concurrency: int, *, suspect_wait: float) -> None:
        """Adapt the bucket to another limit on requests in flight. Excess tokens go with the next success."""
        self.capacity = float(max(_SMALLEST_CAPACITY, concurrency))
        self._suspect_wait = min(suspect_wait, _LONGEST_TRIAL_WAIT)

    def wait(self, now: float, ticket: object) -> float:
        """Seconds until ``ticket`` should ask again (infinity: until `changed` is called); 0 if it may send now.

        The ticket that may send while the circuit is open is the half-open trial until it reports an outcome. Tickets
        queue; one that will not ask again has to be forgotten (`forget`).
        """
        if not self.is_open or self._trial is ticket:
            return 0.0
        # A ticket that asks again keeps its place.
        self._queue.setdefault(ticket)
        if self._trial is not None:
            return inf
        if now < self._trial_at:
            return self._trial_at - now
        if next(iter(self._queue)) is not ticket:  # the first in the queue wakes at the same moment
            return inf
        del self._queue[ticket]
        self._trial = ticket
        return 0.0

    def is_trial(self, ticket: object) -> bool:
        """True while ``ticket`` is the half-open trial."""
        return self._trial is ticket

    def trial_due(self, now: float) -> bool:
        """True if the next ticket that asks would be the half-open trial."""
        return self.is_open and self._trial is None and now >= self._trial_at

    def open(self, now: float, *, trial_after: float = FIRST_TRIAL_AFTER) -> None:
        """Open the circuit, however many tokens are left."""
        if not self.is_open:
            self.is_open = True
            # An open circuit keeps its next trial, however many failures follow.
            self._trial_wait = trial_after
            self._schedule_trial(now)

    def on_failure(self, now: float, ticket: object, *, rows_suspect: bool = False) -> None:
        """Take a token for a retryable failure; the last one opens the circuit. A failed trial delays the next one."""
        if self._trial is ticket:
            longest = self._suspect_wait if rows_suspect else _LONGEST_TRIAL_WAIT
            self._trial_wait = min(2 * self._trial_wait, longest)
            self._schedule_trial(now)
        # While the circuit is open only the trial counts: requests sent before fail for the same reason.
        elif not self.is_open:
            self.tokens -= 1
            if self.tokens < 1:
                self.open(now)

    def on_refusal(self, ticket: object) -> None:
        """Close the circuit if ``ticket`` is the trial: the endpoint processed it, even though it refused the rows."""
        if self._trial is ticket:
            self._close()

    def on_success(self, *, first_attempt: bool) -> None:
        """Close the circuit, and return a token for a retry, or the budget for a first attempt."""
        if self.is_open:
            self._close()
        if self.tokens != self.capacity:
            self.tokens = min(self.capacity, self.tokens + (self._budget if first_attempt else 1.0))

    def spend(self) -> bool:
        """Take a token for a request that could be left out, such as a hedge. False if none can be spared."""
        # The last token is left for a failure, which has to open the circuit.
        if self.is_open or self.tokens < 2:
            return False
        self.tokens -= 1
        return True

    def forget(self, ticket: object) -> None:
        """``ticket`` will neither ask again nor report: another one may be the trial."""
        if not self.is_open:
            return
        waiting = ticket in self._queue
        self._queue.pop(ticket, None)
        if self._trial is ticket:
            self._trial = None
        elif not waiting:
            return
        self._changed()

    def _schedule_trial(self, now: float) -> None:
        self._trial = None
        self._trial_at = now + self._trial_wait * uniform(1, 1 + _JITTER)
        self._changed()

    def _close(self) -> None:
        self.is_open = False
        self._trial = None
        self._queue.clear()
        # Half a bucket: one success proves that the endpoint is there, not that it can take all that waits.
        self.tokens = self.capacity / 2
        self._changed()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<CircuitBreaker {state}, {self.tokens:.1f}/{self.capacity:g} tokens>"
