"""The choice of an endpoint among those that serve one model, and the check that they do.

A single endpoint is a list of one.
"""

from __future__ import annotations

from math import inf
from random import sample, uniform
from typing import TYPE_CHECKING

from fanout.errors import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fanout.results import EndpointStatistics
    from fanout.stop import WaitQueue
    from fanout.upstream.group import EndpointState

# Fraction of a cooldown by which a request may come later, so that they do not all come at its end.
_COOLDOWN_JITTER = 0.1

# As many responses in a row of another model, for each name among them, are not those of a router.
_NO_ROUTER = 8

# More names do not excuse more responses.
_MANY_NAMES = 4

# Names of one endpoint that are remembered.
_MOST = 64


class Balancer:
    """Decides which endpoint gets a request. It knows no clock and never waits: callers pass in the time.

    Args:
        endpoints: at least one.
        wait_queue: notified when waiting requests should ask again.
    """

    def __init__(self, endpoints: Sequence[EndpointState], wait_queue: WaitQueue) -> None:
        self.endpoints = endpoints
        self.wait_queue = wait_queue
        self.several = len(endpoints) > 1
        """True if endpoints are compared: their latency, health and model names matter then."""

        self.single = None if self.several else endpoints[0]
        """The only endpoint: there is nothing to choose, as long as it is available."""

        self.model_names = ModelNames(single=not self.several)
        for endpoint in endpoints:
            # Of several endpoints each has to name its model before it gets rows. A single one is asked by `prepare`.
            endpoint.not_ready_reason = "" if self.several else None

    @property
    def answered(self) -> bool:
        """True once any endpoint has sent an HTTP response of any kind."""
        # Mostly the first has, and a generator would cost each chunk that is taken while others wait more than that.
        return self.endpoints[0].answered or any(endpoint.answered for endpoint in self.endpoints)

    def acquire(
        self,
        now: float,
        ticket: object,
        avoid: Collection[EndpointState] = (),
        only: EndpointState | None = None,
    ) -> EndpointState | float:
        """The endpoint that ``ticket`` may be sent to now, or the seconds until it should ask again.

        On an endpoint whose circuit is open, the ticket becomes the half-open trial and has to report its outcome.

        Args:
            avoid: endpoints of last choice, as the rows have failed there.
            only: the one endpoint that will do.
        """
        if only is None:
            chosen = self.choose(now, avoid)
            if chosen is not None and chosen.breaker.wait(now, ticket) == 0:
                return self._granted(chosen, ticket)
        waits = []
        for endpoint in self.endpoints if only is None else (only,):
            if only is None and not endpoint.is_candidate:
                continue
            if (cooldown := endpoint.cooldown.remaining(now)) > 0:
                waits.append(cooldown + uniform(0, _COOLDOWN_JITTER * cooldown))
            elif (wait := endpoint.breaker.wait(now, ticket)) > 0:
                waits.append(wait)
            else:
                return self._granted(endpoint, ticket)
        return min(waits, default=inf)

    def choose(self, now: float, avoid: Collection[EndpointState] = ()) -> EndpointState | None:
        """The best endpoint that a request may go to at once; None if all have to wait. ``avoid`` as in `acquire`."""
        candidates = [endpoint for endpoint in self.endpoints if endpoint.is_candidate]
        for endpoint in candidates:
            # A trial that is due comes first: the others go on meanwhile, so that it delays one request at most.
            if endpoint.breaker.trial_due(now) and endpoint not in avoid and endpoint.cooldown.until <= now:
                return endpoint
        available = [endpoint for endpoint in candidates if endpoint.is_available(now)]
        fresh = [endpoint for endpoint in available if endpoint not in avoid] or available
        return best_of_two(fresh, now) if fresh else None

    def has_alternative(self, endpoint: EndpointState) -> bool:
        """True if another endpoint can do the work, even if not at this moment."""
        return any(other is not endpoint and other.is_candidate for other in self.endpoints)

    def has_available(self, tried: Collection[EndpointState], now: float) -> bool:
        """True if an endpoint is available that is not in ``tried``."""
        return any(
            endpoint.is_candidate and endpoint.is_available(now) for endpoint in self.endpoints if endpoint not in tried
        )

    def mostly_overloaded(self, now: float) -> bool:
        """True if most endpoints are overloaded: otherwise the others can take the requests that one refuses."""
        candidates = [endpoint for endpoint in self.endpoints if endpoint.is_candidate]
        return 2 * sum(endpoint.health.overloaded(now) for endpoint in candidates) > len(candidates)

    def eject(self, endpoint: EndpointState, now: float) -> None:
        """Open the circuit of ``endpoint`` for a while if it does badly and others do not; the last one stays."""
        others = [
            other
            for other in self.endpoints
            if other is not endpoint and other.is_candidate and not other.breaker.is_open
        ]
        rates = [rate for other in others if (rate := other.health.success_rate(now)) is not None]
        if not endpoint.breaker.is_open and others and endpoint.health.failing(now, max(rates, default=None)):
            endpoint.breaker.open(now, trial_after=endpoint.health.eject(now))

    def forget(self, ticket: object) -> None:
        """``ticket`` will neither ask again nor report."""
        for endpoint in self.endpoints:
            endpoint.breaker.forget(ticket)

    def is_trial(self, ticket: object) -> bool:
        """True while ``ticket`` is the half-open trial of an endpoint."""
        return any(endpoint.breaker.is_trial(ticket) for endpoint in self.endpoints)

    def statistics(self) -> tuple[EndpointStatistics, ...]:
        """A frozen snapshot of each endpoint."""
        return tuple(endpoint.statistics() for endpoint in self.endpoints)

    def conceal(self, text: str) -> str:
        """``text`` on one line, without secrets of any endpoint and without control characters."""
        for endpoint in self.endpoints:
            text = endpoint.transport.conceal(text)
        return text

    def conceal_lines(self, text: str) -> str:
        """The same for a text of several lines."""
        return "\n".join(map(self.conceal, text.split("\n")))

    def redact(self, error: Exception) -> None:
        """Remove secrets from an exception's message."""
        error.args = tuple(self.conceal_lines(part) if isinstance(part, str) else part for part in error.args)

    def _granted(self, endpoint: EndpointState, ticket: object) -> EndpointState:
        for other in self.endpoints:
            if other is not endpoint:  # the ticket may wait in the queues of other circuit breakers
                other.breaker.forget(ticket)
        return endpoint


def best_of_two(candidates: Sequence[EndpointState], now: float) -> EndpointState:
    """The one of two random candidates with the smaller load.

    Two choices are nearly as good as a look at all, and do not send all requests to the same one (M. Mitzenmacher, "The
    Power of Two Choices in Randomized Load Balancing", 2001). An endpoint of unknown latency counts as fast as the
    fastest: it gets requests, but not all at once.
    """
    if len(candidates) == 1:
        return candidates[0]
    known = [seconds for one in candidates if (seconds := one.health.latency.seconds) is not None]
    unknown = min(known, default=1.0)
    first, second = sample(candidates, 2)
    return first if first.load(now, unknown) <= second.load(now, unknown) else second


class _Foreign:
    """Responses of one endpoint with names that do not count."""

    __slots__ = ("in_a_row", "names", "since")

    def __init__(self, since: float) -> None:
        self.names: set[str] = set()
        self.since = since
        """The time of the first such response."""

        self.in_a_row = 0
        """Such responses without another in between, to requests sent after the first one came."""

    @property
    def limit(self) -> int:
        """A router gives fewer such responses in a row."""
        return _NO_ROUTER * min(len(self.names), _MANY_NAMES)


class ModelNames:
    """Decides which responses are of the same model.

    The first name counts. A router chooses among models and names another one in every response, so an endpoint that
    returns to a name that counts, in a request sent after a response of another name, alternates: all its names count
    then. An endpoint whose name changed for good was given another model.

    Args:
        single: there is one endpoint, so that only a pinned name (``endpoint.model``) is checked.
    """

    def __init__(self, *, single: bool = False) -> None:
        self._single = single
        self._counting: set[str] = set()
        self._foreign: dict[EndpointState, _Foreign] = {}

    def check(self, endpoint: EndpointState, name: str, sent: float, now: float) -> None:
        """Raise `InvalidResponse` for another model's response, from ``endpoint``, to a request sent at ``sent``."""
        pinned = endpoint.transport.model
        if pinned is None:
            if self._single:
                return
            if not self._counting:
                self._counting.add(name)
        if name != pinned if pinned is not None else name not in self._counting:
            self._note(endpoint, name, sent, now)
            raise InvalidResponse(self._objection(name, pinned), error_kind="model")
        if (foreign := self._foreign.get(endpoint)) is not None:
            foreign.in_a_row = 0
            # The response to an earlier request may have come before the model was exchanged for another one.
            if pinned is None and sent >= foreign.since:
                self._counting |= foreign.names
                del self._foreign[endpoint]

    def is_another(self, endpoint: EndpointState) -> bool:
        """True if ``endpoint`` serves another model: by now a router would have named one that counts.

        The more models a router chooses among, the longer it may avoid those that count. While another endpoint
        shares a name with ``endpoint`` and may still turn out to be a router, ``endpoint`` has twice as long.
        """
        foreign = self._foreign.get(endpoint)
        if foreign is None or foreign.in_a_row < foreign.limit:
            return False
        undecided = (other for other in self._foreign.values() if other.in_a_row < other.limit)
        related = any(not foreign.names.isdisjoint(other.names) for other in undecided)
        return foreign.in_a_row >= (2 if related else 1) * foreign.limit

    def _note(self, endpoint: EndpointState, name: str, sent: float, now: float) -> None:
        foreign = self._foreign.get(endpoint)
        if foreign is None:
            foreign = self._foreign[endpoint] = _Foreign(now)
        if len(foreign.names) < _MOST:
            foreign.names.add(name)
        foreign.in_a_row += sent >= foreign.since

    def _objection(self, name: str, pinned: str | None) -> str:
        if pinned is not None:
            return f"the answer is of model {name!r}, not of {pinned!r} (endpoint.model)"
        others = ", ".join(map(repr, sorted(self._counting)[:3]))
        remedy = "all endpoints have to serve the same one; endpoint.model says which"
        return f"the answer is of model {name!r}, others are of {others}: {remedy}"
