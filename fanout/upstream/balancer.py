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
        hosts: at least one.
        bell: rings when those who wait should ask again.
    """

    def __init__(self, hosts: Sequence[EndpointState], bell: WaitQueue) -> None:
        self.hosts = hosts
        self.bell = bell
        self.only = hosts[0] if len(hosts) == 1 else None
        """The endpoint, where there is but one: no choice is to be made then."""

        for host in hosts:
            host.welcome = self.only is not None  # of several each has to tell first what it serves
        self.model: ModelInfo | None = None
        """The model that the codec has learnt about."""

        self.model_names = ModelNames()

    @property
    def answered(self) -> bool:
        """An HTTP answer of any kind has come from anywhere."""
        return any(host.answered for host in self.hosts)

    def open_host(self, now: float, avoid: Collection[EndpointState] = ()) -> EndpointState | None:
        """The endpoint that a request may go to at once; None where there is a reason to wait.

        An endpoint that is due for a probe comes first: others go on meanwhile, so it costs nobody's time but one's.
        Those in ``avoid`` are the last choice.
        """
        if (only := self.only) is not None:
            return only if only.open(now) else None
        asked = [host for host in self.hosts if host.present]
        for host in asked:
            if host.brake.probe_due(now) and host not in avoid and host.gate.wait(now) == 0:
                return host
        candidates = [host for host in asked if host.open(now)]
        fresh = [host for host in candidates if host not in avoid] or candidates
        return best_of_two(fresh, now) if fresh else None

    def admit(
        self, now: float, asker: object, avoid: Collection[EndpointState], only: EndpointState | None
    ) -> EndpointState | float:
        """The endpoint to which ``asker`` may send now, or the seconds until he should ask again (or the bell rings).

        On a braked endpoint who is let through is its probe, and has to report what came of it.
        """
        host = self.open_host(now, avoid) if only is None else None
        if host is not None and host.brake.wait(now, asker) == 0:
            return self._admitted(host, asker)
        waits = []
        for host in self.hosts if only is None else (only,):
            if only is None and not host.present:
                continue
            if (shut := host.gate.wait(now)) > 0:
                waits.append(shut + uniform(0, _GATE_JITTER * shut))
            elif (braked := host.brake.wait(now, asker)) > 0:
                waits.append(braked)
            else:
                return self._admitted(host, asker)
        return min(waits)

    def overloaded(self, host: EndpointState, now: float) -> bool:
        """``host`` has too much to do. True if most endpoints have: what one alone refuses the others may well take."""
        host.overloaded_at = now
        present = [one for one in self.hosts if one.present]
        return 2 * sum(now - one.overloaded_at < _LATELY for one in present) > len(present)

    def dismiss(self, asker: object) -> None:
        """``asker`` will neither ask again nor report."""
        for host in self.hosts:
            host.brake.abandoned(asker)

    def dispensable(self, host: EndpointState) -> bool:
        """True if another endpoint is there to do the work, be it braked for the moment."""
        return any(one is not host and one.present for one in self.hosts)

    def elsewhere(self, tried: Collection[EndpointState], now: float) -> bool:
        """True if there is an open endpoint that is none of ``tried``."""
        return any(one.present and one.open(now) for one in self.hosts if one not in tried)

    def eject(self, host: EndpointState, now: float) -> bool:
        """Leave ``host`` alone for a while if it fares badly and others do not; the last one stays."""
        others = [one for one in self.hosts if one is not host and one.present and not one.brake.braked]
        shares = [share for one in others if (share := one.health.share(now)) is not None]
        if host.brake.braked or not others or not host.health.failing(now, max(shares, default=None)):
            return False
        host.brake.pull(now, probe_after=host.health.eject(now))
        return True

    def probes(self, asker: object) -> bool:
        """True while ``asker`` is the one that was let through a pulled brake."""
        return any(host.brake.is_probe(asker) for host in self.hosts)

    def statistics(self) -> tuple[EndpointStatistics, ...]:
        """How each endpoint stands."""
        return tuple(host.statistics() for host in self.hosts)

    def conceal(self, text: str) -> str:
        """``text`` on one line, without secrets of any endpoint and without control characters."""
        for host in self.hosts:
            text = host.transport.conceal(text)
        return text

    def redact(self, error: Exception) -> None:
        """Leave secrets out of an exception's message."""
        error.args = tuple(self.conceal_lines(part) if isinstance(part, str) else part for part in error.args)

    def conceal_lines(self, text: str) -> str:
        """The same for a text of several lines."""
        return "\n".join(map(self.conceal, text.split("\n")))

    def _admitted(self, host: EndpointState, asker: object) -> EndpointState:
        if self.only is None:
            for one in self.hosts:
                if one is not host:  # it may stand in their lines
                    one.brake.abandoned(asker)
        return host
