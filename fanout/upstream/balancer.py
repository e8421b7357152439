"""The pool: the endpoints that serve one model, most often one, and which of them a request goes to."""

from __future__ import annotations

from random import uniform
from typing import TYPE_CHECKING

from fanout.upstream import best_of_two
from fanout.upstream.model_names import ModelNames

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fanout.stop import WaitQueue
    from fanout.types import EndpointStatistics, ModelInfo
    from fanout.upstream.endpoint import EndpointState

_LATELY = 1.0
"""Seconds for which an endpoint that had too much to do counts as one that has."""

_GATE_JITTER = 0.1
"""Part of a pushback by which a request may come later, so that not all come at once when the gate opens."""


class Balancer:
    """Decides, without waiting for anything, which endpoint is asked; the caller passes in the time and waits.

    Args:
        endpoints: at least one.
        wait_queue: rings when those who wait should ask again.
    """

    def __init__(self, endpoints: Sequence[EndpointState], wait_queue: WaitQueue) -> None:
        self.endpoints = endpoints
        self.wait_queue = wait_queue
        self.only = endpoints[0] if len(endpoints) == 1 else None
        """The endpoint, where there is but one: no choice is to be made then."""

        for endpoint in endpoints:
            endpoint.welcome = self.only is not None  # of several each has to tell first what it serves
        self.model: ModelInfo | None = None
        """The model that the codec has learnt about."""

        self.model_names = ModelNames()

    @property
    def answered(self) -> bool:
        """An HTTP answer of any kind has come from anywhere."""
        return any(endpoint.answered for endpoint in self.endpoints)

    def open_host(self, now: float, avoid: Collection[EndpointState] = ()) -> EndpointState | None:
        """The endpoint that a request may go to at once; None where there is a reason to wait.

        An endpoint that is due for a probe comes first: others go on meanwhile, so it costs nobody's time but one's.
        Those in ``avoid`` are the last choice.
        """
        if (only := self.only) is not None:
            return only if only.open(now) else None
        asked = [endpoint for endpoint in self.endpoints if endpoint.present]
        for endpoint in asked:
            if endpoint.breaker.probe_due(now) and endpoint not in avoid and endpoint.cooldown.wait(now) == 0:
                return endpoint
        candidates = [endpoint for endpoint in asked if endpoint.open(now)]
        fresh = [endpoint for endpoint in candidates if endpoint not in avoid] or candidates
        return best_of_two(fresh, now) if fresh else None

    def admit(
        self, now: float, asker: object, avoid: Collection[EndpointState], only: EndpointState | None
    ) -> EndpointState | float:
        """The endpoint to which ``asker`` may send now, or the seconds until he should ask again (or the bell rings).

        On a braked endpoint who is let through is its probe, and has to report what came of it.
        """
        endpoint = self.open_host(now, avoid) if only is None else None
        if endpoint is not None and endpoint.breaker.wait(now, asker) == 0:
            return self._admitted(endpoint, asker)
        waits = []
        for endpoint in self.endpoints if only is None else (only,):
            if only is None and not endpoint.present:
                continue
            if (shut := endpoint.cooldown.wait(now)) > 0:
                waits.append(shut + uniform(0, _GATE_JITTER * shut))
            elif (braked := endpoint.breaker.wait(now, asker)) > 0:
                waits.append(braked)
            else:
                return self._admitted(endpoint, asker)
        return min(waits)

    def overloaded(self, endpoint: EndpointState, now: float) -> bool:
        """Note that ``endpoint`` is overloaded. True if most endpoints are: others may take what one refuses."""
        endpoint.overloaded_at = now
        present = [one for one in self.endpoints if one.present]
        return 2 * sum(now - one.overloaded_at < _LATELY for one in present) > len(present)

    def dismiss(self, asker: object) -> None:
        """``asker`` will neither ask again nor report."""
        for endpoint in self.endpoints:
            endpoint.breaker.abandoned(asker)

    def dispensable(self, endpoint: EndpointState) -> bool:
        """True if another endpoint is there to do the work, be it braked for the moment."""
        return any(one is not endpoint and one.present for one in self.endpoints)

    def elsewhere(self, tried: Collection[EndpointState], now: float) -> bool:
        """True if there is an open endpoint that is none of ``tried``."""
        return any(one.present and one.open(now) for one in self.endpoints if one not in tried)

    def eject(self, endpoint: EndpointState, now: float) -> bool:
        """Leave ``endpoint`` alone for a while if it fares badly and others do not; the last one stays."""
        others = [one for one in self.endpoints if one is not endpoint and one.present and not one.breaker.braked]
        shares = [share for one in others if (share := one.health.share(now)) is not None]
        if endpoint.breaker.braked or not others or not endpoint.health.failing(now, max(shares, default=None)):
            return False
        endpoint.breaker.pull(now, probe_after=endpoint.health.eject(now))
        return True

    def probes(self, asker: object) -> bool:
        """True while ``asker`` is the one that was let through a pulled brake."""
        return any(endpoint.breaker.is_probe(asker) for endpoint in self.endpoints)

    def statistics(self) -> tuple[EndpointStatistics, ...]:
        """How each endpoint stands."""
        return tuple(endpoint.statistics() for endpoint in self.endpoints)

    def conceal(self, text: str) -> str:
        """``text`` on one line, without secrets of any endpoint and without control characters."""
        for endpoint in self.endpoints:
            text = endpoint.transport.conceal(text)
        return text

    def redact(self, error: Exception) -> None:
        """Leave secrets out of an exception's message."""
        error.args = tuple(self.conceal_lines(part) if isinstance(part, str) else part for part in error.args)

    def conceal_lines(self, text: str) -> str:
        """The same for a text of several lines."""
        return "\n".join(map(self.conceal, text.split("\n")))

    def _admitted(self, endpoint: EndpointState, asker: object) -> EndpointState:
        if self.only is None:
            for one in self.endpoints:
                if one is not endpoint:  # it may stand in their lines
                    one.breaker.abandoned(asker)
        return endpoint
