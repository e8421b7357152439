"""The pace of one endpoint where its concurrency is "auto": what requests come to, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.limits import Adaptive

if TYPE_CHECKING:
    from collections.abc import Callable


class Pace:
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
        self._in_flight = 0
        self._sent: dict[object, tuple[float, int]] = {}
        self._back: dict[object, float] = {}

    @property
    def limit(self) -> int:
        """Most requests in flight, as things are."""
        return self._adaptive.limit

    def sent(self, asker: object, now: float) -> None:
        """A request goes out."""
        self._in_flight += 1
        self._sent[asker] = now, self._in_flight

    def back(self, asker: object, now: float) -> None:
        """It is no longer in flight, whatever has come of it; what that is will be told."""
        self._in_flight -= 1
        self._back[asker] = now

    def told(self, asker: object, *, success: bool, overload: bool) -> None:
        """What has come of the last request of ``asker``, if it sent one."""
        ended = self._back.pop(asker, None)
        if ended is None:
            return
        sent, in_flight = self._sent.pop(asker)
        before = self.limit
        if success:
            self._adaptive.succeeded(ended, sent=sent, in_flight=in_flight)
        elif overload:
            self._adaptive.overloaded(ended, sent=sent, in_flight=in_flight)
        if self.limit != before:
            self._changed(self.limit)
