"""The pace of one endpoint where its concurrency is "auto": what requests come to, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fanout.limits import Adaptive

if TYPE_CHECKING:
    from collections.abc import Callable


class _Ended(NamedTuple):
    sent: float
    at: float
    in_flight: float


class ConcurrencyController:
    """Watches the requests, and has the limit changed that `Adaptive` finds.

    Those that wait for a rate, a gate or a brake hold a permit, but are not in flight: the endpoint does not feel them.

    Args:
        now: the time.
        largest: the limit is never above this.
        changed: called with another limit.
    """

    def __init__(self, now: float, *, largest: int, changed: Callable[[int], None]) -> None:
        self._adaptive = Adaptive(now, largest=largest)
        self._changed = changed
        self._now = now
        self._in_flight = 0
        self._seconds = 0.0
        """Of all requests together, up to now."""
        self._sent: dict[object, tuple[float, float]] = {}
        self._ended: dict[object, _Ended] = {}

    @property
    def limit(self) -> int:
        """Most requests in flight, as things are."""
        return self._adaptive.limit

    def sent(self, asker: object, now: float) -> None:
        """A request goes out."""
        self._catch_up(now)
        self._in_flight += 1
        self._adaptive.sent()
        self._sent[asker] = now, self._seconds

    def back(self, asker: object, now: float) -> None:
        """It is no longer in flight, whatever has come of it; what that is will be told."""
        self._catch_up(now)
        sent, seconds = self._sent.pop(asker)
        lasted = now - sent
        # An average, since many may come back together, and then the first of the next to go would seem to be alone.
        in_flight = (self._seconds - seconds) / lasted if lasted > 0 else self._in_flight
        self._ended[asker] = _Ended(sent, now, in_flight)
        self._in_flight -= 1

    def told(
        self, asker: object, *, success: bool, overload: bool, certain: bool = False, timed_out: bool = False
    ) -> None:
        """What has come of the last request of ``asker``, if it sent one.

        An overload is ``certain`` where the endpoint has said that it was asked too much (429). Else only what exceeds
        the usual share of failures is one.
        """
        ended = self._ended.pop(asker, None)
        if ended is None:
            return
        before = self.limit
        if success:
            self._adaptive.succeeded(ended.at, sent=ended.sent, in_flight=ended.in_flight)
        elif overload:
            self._adaptive.overloaded(
                ended.at, sent=ended.sent, in_flight=ended.in_flight, certain=certain, timed_out=timed_out
            )
        if self.limit != before:
            self._changed(self.limit)

    def _catch_up(self, now: float) -> None:
        self._seconds += self._in_flight * (now - self._now)
        self._now = now
