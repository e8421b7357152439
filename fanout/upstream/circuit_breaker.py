"""The retry budget of one endpoint, and the brake that is pulled when it is spent.

Retries help against accidents and make an overload worse, so what may be spent on them is bounded by what succeeds
(the token bucket of gRPC's retry throttling, https://github.com/grpc/proposal/blob/master/A6-client-retries.md). An
endpoint whose budget is spent is asked by one probe at a time until it answers: nobody fails meanwhile, all wait.
"""

from __future__ import annotations

from math import inf
from random import uniform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SMALLEST_CAPACITY = 10
FIRST_PROBE_AFTER = 1.0
_LATER_PROBES_AT_MOST = 30.0
_JITTER = 0.25
"""Part of the wait for a probe that is added at random, so that clients stopped together do not probe together."""


class CircuitBreaker:
    """Decides, without waiting for anything, whether a request may go; the caller passes in the time and waits.

    Args:
        concurrency: most requests in flight; sets the size of the bucket.
        budget: tokens that a first-try success puts back.
        suspect_wait: longest wait for a probe after one whose failure may be its rows' fault: rows that no server can
            answer would else keep the endpoint braked for ever.
        changed: called when those who wait should ask again.
    """

    def __init__(self, *, concurrency: int, budget: float, suspect_wait: float, changed: Callable[[], None]) -> None:
        self.resize(concurrency, suspect_wait=suspect_wait)
        self.tokens = self.capacity
        self.braked = False
        self._budget = budget
        self._changed = changed
        self._prober: object = None
        self._line: dict[object, None] = {}
        self._probe_at = 0.0
        self._probe_wait = FIRST_PROBE_AFTER

    def resize(self, concurrency: int, *, suspect_wait: float) -> None:
        """Another number of requests in flight. A bucket that is too full now runs over with the next success."""
        self.capacity = float(max(_SMALLEST_CAPACITY, concurrency))
        self._suspect_wait = min(suspect_wait, _LATER_PROBES_AT_MOST)

    def wait(self, now: float, asker: object) -> float:
        """Seconds to wait before asking again (infinity: until `changed`); 0 if ``asker`` may send now.

        On a braked endpoint the asker who is let through is the probe, until it reports what came of it. Askers come
        in turn; one that will not ask again has to say so (`abandoned`).
        """
        if not self.braked or self._prober is asker:
            return 0.0
        self._line.setdefault(asker)
        if self._prober is not None:
            return inf
        if now < self._probe_at:
            return self._probe_at - now
        if next(iter(self._line)) is not asker:  # the first in line is woken at the same moment
            return inf
        del self._line[asker]
        self._prober = asker
        return 0.0

    def is_probe(self, asker: object) -> bool:
        """True while ``asker`` is the one that was let through a pulled brake."""
        return self._prober is asker

    def failed(self, now: float, asker: object, *, rows_suspect: bool = False) -> None:
        """A retryable failure: it costs a token; the last one pulls the brake. A failed probe puts the next one off."""
        if self._prober is asker:
            longest = self._suspect_wait if rows_suspect else _LATER_PROBES_AT_MOST
            self._probe_wait = min(2 * self._probe_wait, longest)
            self._wait_for_probe(now)
        elif not self.braked:
            self.tokens -= 1
            if self.tokens < 1:
                self.pull(now)

    def pull(self, now: float, *, probe_after: float = FIRST_PROBE_AFTER) -> None:
        """Brake the endpoint, however many tokens are left."""
        if not self.braked:
            self.braked = True
            self._probe_wait = probe_after
            self._wait_for_probe(now)

    def probe_due(self, now: float) -> bool:
        """True if the next who asks would be the probe."""
        return self.braked and self._prober is None and now >= self._probe_at

    def spend(self) -> bool:
        """Take a token for a request that nobody would miss; False where there is none to spare."""
        if self.braked or self.tokens < 2:
            return False
        self.tokens -= 1
        return True

    def answered(self, asker: object) -> None:
        """The endpoint dealt with a request, though it may have refused it: a probe has found it alive."""
        if self._prober is asker:
            self._release()

    def succeeded(self, *, first_try: bool) -> None:
        """A success: it releases the brake and fills the bucket, by a token if it took a retry, else by the budget."""
        if self.braked:
            self._release()
        if self.tokens != self.capacity:
            self.tokens = min(self.capacity, self.tokens + (self._budget if first_try else 1.0))

    def abandoned(self, asker: object) -> None:
        """``asker`` will neither ask again nor report: somebody else may be the probe."""
        waiting = asker in self._line
        self._line.pop(asker, None)
        if self._prober is asker:
            self._prober = None
        elif not waiting:
            return
        self._changed()

    def _wait_for_probe(self, now: float) -> None:
        self._prober = None
        self._probe_at = now + self._probe_wait * uniform(1, 1 + _JITTER)
        self._changed()

    def _release(self) -> None:
        """Half a bucket: one success proves that the endpoint is there, not that it can take all that waits."""
        self.braked = False
        self._prober = None
        self._line.clear()
        self.tokens = self.capacity / 2
        self._changed()

    def __repr__(self) -> str:
        return f"<Brake {'pulled' if self.braked else 'released'}, {self.tokens:.1f}/{self.capacity:g} tokens>"
