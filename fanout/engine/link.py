"""The link: what all runs of one client share about the endpoints that it talks to."""

from __future__ import annotations

import asyncio
from random import uniform
from typing import TYPE_CHECKING

from fanout.brake import Brake
from fanout.endpoints import best_of_two
from fanout.engine.halt import Bell
from fanout.engine.heeding import Heed
from fanout.engine.host import Host
from fanout.engine.pace import Pace
from fanout.errors import InvalidReply
from fanout.hedging import Hedger
from fanout.limits import Cost, Permits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fanout.engine.work import Work
    from fanout.limits import RateLimiter, TokenMeter
    from fanout.settings import Hedge, Limits, RetryPolicy, Timeouts
    from fanout.transport import Transport
    from fanout.types import EndpointStatistics, ModelInfo


_GATE_JITTER = 0.1
"""Part of a pushback by which a request may come later, so that not all come at once when the gate opens."""


class Link:
    """A pool of endpoints, most often of one, and the limits that hold for all of them together.

    Args:
        transports: one for each endpoint.
        weights: their shares, where they are not alike.
    """

    def __init__(
        self,
        transports: Sequence[Transport],
        *,
        limits: Limits,
        retry: RetryPolicy,
        timeouts: Timeouts,
        rates: RateLimiter,
        meter: TokenMeter,
        hedge: Hedge | None = None,
        weights: Sequence[float] = (),
    ) -> None:
        self.limits = limits
        self.retry = retry
        self.timeouts = timeouts
        now = asyncio.get_running_loop().time
        auto = limits.concurrency == "auto"
        self.pace = Pace(now(), largest=limits.most_in_flight, changed=self._follow) if auto else None
        concurrency = limits.most_in_flight if self.pace is None else self.pace.limit
        self.permits = Permits(concurrency)
        self.followers: dict[Callable[[], None], None] = {}
        """Called when more or fewer requests may be in flight than before."""
        self.rates = rates
        self.meter = meter
        self.hedger = Hedger(share=hedge.share, delay=hedge.delay) if hedge is not None and hedge.share else None
        self.bell = Bell()
        self.hosts = [
            self._host(transport, weight, concurrency)
            for transport, weight in zip(transports, weights or [1.0] * len(transports), strict=True)
        ]
        self.only = self.hosts[0] if len(self.hosts) == 1 else None
        """The endpoint, where there is but one: no choice is to be made then."""

        for host in self.hosts:
            host.transport.withhold_if(lambda gate=host.gate: gate.wait(now()) > 0)  # type: ignore[misc]
            host.welcome = self.only is not None  # of several each has to tell first what it serves
            # What one of several has left says nothing of how fast all of them together may be asked.
            eased = rates if self.only is not None else None
            host.heed = Heed(eased, host.gate, self.permits, meter, longest=retry.max_pushback)
        self.requests = 0
        self.successes = 0
        """Chunks answered so far; if there is one, requests of this form can succeed. Metadata is none of them."""
        self._unguarded = limits.max_requests is None
        self.prepared = False
        """The codec has learnt what an endpoint tells of its model."""
        self.preparing = asyncio.Lock()
        self.model: ModelInfo | None = None
        """The model that the codec has learnt about."""
        self.model_name: str | None = None
        """What the answers call the model."""

    @property
    def answered(self) -> bool:
        """An HTTP answer of any kind has come from anywhere."""
        return any(host.answered for host in self.hosts)

    def crowded(self, asker: object) -> bool:
        """More have a permit than there are now, and ``asker`` is not the probe for which the others may be waiting."""
        return self.permits.in_use > self.permits.total and not self.probes(asker)

    def probes(self, asker: object) -> bool:
        """True while ``asker`` is the one that was let through a pulled brake."""
        return any(host.brake.is_probe(asker) for host in self.hosts)

    @property
    def chosen(self) -> int | None:
        """The limit on requests in flight that "auto" has come to; None where it is fixed."""
        return None if self.pace is None else self.pace.limit

    def _host(self, transport: Transport, weight: float, concurrency: int) -> Host:
        brake = Brake(
            concurrency=concurrency,
            budget=self.retry.budget,
            suspect_wait=self._patience(concurrency),
            changed=self.bell.ring,
        )
        return Host(transport, brake, weight)

    def _patience(self, concurrency: int) -> float:
        """So often that, in half of the time to a stall, every chunk in hand can use its attempts up as a probe."""
        return self.retry.stall / 2 / (concurrency * self.retry.max_attempts)

    def _follow(self, concurrency: int) -> None:
        self.permits.resize(concurrency)
        for host in self.hosts:
            host.brake.resize(concurrency, suspect_wait=self._patience(concurrency))
        for follow in list(self.followers):
            follow()

    @property
    def spent(self) -> bool:
        """True when no other request may be sent (``max_requests``)."""
        return self.limits.max_requests is not None and self.requests >= self.limits.max_requests

    @property
    def unlimited(self) -> bool:
        """True where no slot or number has to be reserved for a request."""
        return self._unguarded and not self.rates.active

    def cost(self, work: Work | None) -> Cost:
        """What one attempt of ``work`` takes from the rates; without one, what asking about the model does."""
        if work is None:
            return Cost()
        if self.rates.takes_tokens and (work.tokens is None or not self.meter.counts):
            assert work.payload is not None
            work.tokens = self.meter.of_request(work.rows, work.payload.nbytes)
        return Cost(rows=work.n, tokens=work.tokens or 0.0)

    def account(self, work: Work, usage: Mapping[str, int], now: float) -> None:
        """Take note of what an answer says that it has cost. What was not charged before is charged now."""
        tokens = usage.get("total_tokens")
        if not tokens or work.payload is None:
            return
        self.meter.learn(work.payload.nbytes, tokens)
        if self.rates.takes_tokens and work.tokens is not None:
            more = tokens - work.tokens
            # A count is the user's own word: an answer may add to it what he could not know, but takes nothing back.
            if more > 0 or not self.meter.counts:
                self.rates.charge(now, more)

    def open_host(self, now: float, avoid: Collection[Host] = ()) -> Host | None:
        """The endpoint that a request may go to at once; None where there is a reason to wait.

        An endpoint that is due for a probe comes first: others go on meanwhile, so it costs nobody's time but one's.
        Those in ``avoid`` are the last choice.
        """
        if (only := self.only) is not None:
            return only if only.open(now) else None
        asked = [host for host in self.hosts if host.out is None and host.welcome]
        for host in asked:
            if host.brake.probe_due(now) and host not in avoid and host.gate.wait(now) == 0:
                return host
        candidates = [host for host in asked if host.open(now)]
        fresh = [host for host in candidates if host not in avoid] or candidates
        return best_of_two(fresh, now) if fresh else None

    def admit(self, now: float, asker: object, avoid: Collection[Host], only: Host | None) -> Host | float:
        """The endpoint to which ``asker`` may send now, or the seconds until he should ask again (or the bell rings).

        On a braked endpoint who is let through is its probe, and has to report what came of it.
        """
        host = self.open_host(now, avoid) if only is None else None
        if host is not None and host.brake.wait(now, asker) == 0:
            return self._admitted(host, asker)
        waits = []
        for host in self.hosts if only is None else (only,):
            if only is None and (host.out is not None or not host.welcome):
                continue
            if (shut := host.gate.wait(now)) > 0:
                waits.append(shut + uniform(0, _GATE_JITTER * shut))
            elif (braked := host.brake.wait(now, asker)) > 0:
                waits.append(braked)
            else:
                return self._admitted(host, asker)
        return min(waits)

    def dismiss(self, asker: object) -> None:
        """``asker`` will neither ask again nor report."""
        for host in self.hosts:
            host.brake.abandoned(asker)

    def dispensable(self, host: Host) -> bool:
        """True if another endpoint is there to do the work, be it braked for the moment."""
        return any(one is not host and one.out is None and one.welcome for one in self.hosts)

    def elsewhere(self, tried: Collection[Host], now: float) -> bool:
        """True if there is an open endpoint that is none of ``tried``."""
        return any(one.out is None and one.welcome and one.open(now) for one in self.hosts if one not in tried)

    def eject(self, host: Host, now: float) -> bool:
        """Leave ``host`` alone for a while if it fares badly and others do not; the last one stays."""
        others = [
            one for one in self.hosts if one is not host and one.out is None and one.welcome and not one.brake.braked
        ]
        shares = [share for one in others if (share := one.health.share(now)) is not None]
        if host.brake.braked or not others or not host.health.failing(now, max(shares, default=None)):
            return False
        host.brake.pull(now, probe_after=host.health.eject(now))
        return True

    def _admitted(self, host: Host, asker: object) -> Host:
        if self.only is None:
            for one in self.hosts:
                if one is not host:  # it may stand in their lines
                    one.brake.abandoned(asker)
        return host

    def require_model(self, name: str) -> None:
        """Raise `InvalidReply` for an answer of another model than the first one that was named."""
        if self.model_name is None:
            self.model_name = name
        elif name != self.model_name:
            what = f"the answer is of model {name!r}, others are of {self.model_name!r}"
            raise InvalidReply(f"{what}: all endpoints have to serve the same one", flaw="model")

    def endpoints(self) -> tuple[EndpointStatistics, ...]:
        """How each endpoint stands."""
        return tuple(host.statistics() for host in self.hosts)

    def conceal(self, text: str) -> str:
        """``text`` without anything that may be a secret of any endpoint."""
        for host in self.hosts:
            text = host.transport.conceal(text)
        return text
