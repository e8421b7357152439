"""Limits that hold for several processes together: the protocol between clients and the backend that keeps them.

A client sends a `Call`: its whole state, and the requests that it wants to send. The backend answers each with a start,
a wait or a refusal. Times in both directions are seconds from now, since the clocks of machines differ.

Backends are classes by the scheme of ``limits.shared``. Other packages register theirs, subclasses of `LimitsBackend`,
in the entry point group ``fanout.limits``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from fanout.errors import ConfigError
from fanout.options import Registry, did_you_mean

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout.limits.rates import Cost
    from fanout.settings import Limits

_PERIODS = {"second": 1.0, "minute": 60.0}

HORIZON = 1.0
"""Seconds by which a start may be reserved ahead. A client that is killed wastes no more of the rate than that."""

LIFETIME = 15.0
"""Seconds for which the permits of a client hold after its last call."""

KEY = "limits.shared"


class Rate(NamedTuple):
    """One rate, in the terms of the generic cell rate algorithm; see `fanout.limits.rates`."""

    name: str
    unit: str
    """A field of `Cost`."""

    # The time between two units, and not the rate: the algorithm adds times, so that nothing is rounded twice.
    interval: float
    """Seconds that one unit pays for."""

    capacity: float
    """Units that may go at once after a quiet time."""


class Bounds(NamedTuple):
    """The limits that hold for all clients together; None for no limit."""

    rates: tuple[Rate, ...] = ()
    concurrency: int | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    max_tokens: float | None = None

    @property
    def has_limits(self) -> bool:
        """False if clients share cooldowns alone, so that no request needs a start."""
        return bool(self.rates) or self.concurrency is not None or self.counts

    @property
    def counts(self) -> bool:
        """True if something is counted for the life of the run."""
        return (self.max_requests, self.max_cost, self.max_tokens) != (None, None, None)


# Totals, because a call may reach the backend and its reply be lost: the client then sends it again.
class Report(NamedTuple):
    """The state of one client. All values are totals, so that a report which is repeated changes nothing."""

    held: int = 0
    """Permits: requests in flight, and those that may start."""

    unsent: int = 0
    """Requests that may start, and have not yet."""

    sent: int = 0
    """Requests sent since the client was opened."""

    cost: float = 0.0
    tokens: float = 0.0
    """Spent since the client was opened."""

    cost_held: float = 0.0
    tokens_held: float = 0.0
    """Estimates for the requests in flight."""


class Want(NamedTuple):
    """One request that a client wants to send."""

    endpoint: str
    """Digest of its URL, for the cooldown."""

    cost: Cost
    price: float = 0.0
    tokens: float = 0.0
    """Estimates for ``max_cost`` and ``max_tokens``."""


class Call(NamedTuple):
    """A message from a client to the backend."""

    client: str
    """Random name of the client."""

    state: str
    """Name of the backend's state as the client knows it; empty at first."""

    new_state: str
    """Random name for the state, if the backend has none."""

    report: Report
    wants: tuple[Want, ...]
    charge: float
    """Tokens that requests took beyond their reservations, since the last call."""


class Decided(IntEnum):
    """The decision about one request."""

    GRANTED = 0
    """It may start after the seconds in the answer."""

    LATER = 1
    """Ask again after these seconds, or when permits become free."""

    MAX_REQUESTS = 2
    """``max_requests`` is reached."""

    BUDGET = 3
    """``max_cost`` or ``max_tokens_total`` is reached, and nothing is in flight."""


class Answer(NamedTuple):
    """The decision about one request, and its seconds."""

    decided: Decided
    seconds: float = 0.0


class Reply(NamedTuple):
    """The answer to a `Call`, with one for each request that is wanted."""

    state: str
    """Name of the backend's state. Another one than before: the backend has lost all that it knew."""

    others_wait: bool
    """Another client waits for permits."""

    answers: tuple[Answer, ...]


class Notice(NamedTuple):
    """A message from the backend to all clients: of a cooldown, or of permits that are wanted or free."""

    endpoint: str = ""
    """Digest of the endpoint's URL; empty if it is about permits."""

    seconds: float = 0.0
    """Length of the cooldown."""


class BackendLostError(Exception):
    """The backend cannot be reached now. The client reconnects, and sends nothing meanwhile."""


class LimitsBackend(ABC):
    """Keeps limits for several processes. One object serves one client.

    Each method raises `BackendLostError` if the backend cannot be reached, and `ConfigError` if it never will be.

    Args:
        url: the value of ``limits.shared``, its variables resolved.
        key: name under which clients share the limits.
        bounds: the limits.
    """

    # A call of an actor of Ray takes longer than one of Redis, so that each backend has a pause of its own.
    pause: float = 0.0
    """Seconds between two calls. Requests that come meanwhile share a call, so that a dear one is made less often."""

    def __init__(self, url: str, key: str, bounds: Bounds) -> None:
        self.url, self.key, self.bounds = url, key, bounds

    @abstractmethod
    async def connect(self) -> None:
        """Connect, or connect again. Notices that come from now on are received."""

    @abstractmethod
    async def reserve(self, call: Call) -> Reply:
        """Decide about all requests of ``call``."""

    @abstractmethod
    async def cool_down(self, endpoint: str, seconds: float) -> None:
        """Keep every client from ``endpoint`` for ``seconds``; a longer cooldown stays."""

    @abstractmethod
    def notices(self) -> AsyncIterator[Notice]:
        """Yield the notices of the backend, without an end."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


def bounds_of(limits: Limits) -> Bounds:
    """Return the limits of the settings that clients share. An adaptive concurrency remains each client's own."""
    rates = []
    for name, most in limits.rates.items():
        unit, _, period = name.split("_")
        rates.append(Rate(name, unit, _PERIODS[period] / most, limits.burst * most))
    concurrency = None if limits.concurrency == "auto" else int(limits.concurrency)
    return Bounds(tuple(rates), concurrency, limits.max_requests, limits.max_cost, limits.max_tokens_total)


def open_backend(url: str, key: str, bounds: Bounds) -> LimitsBackend:
    """Return the backend for a value of ``limits.shared``. Raises `ConfigError` for an unknown scheme."""
    scheme = url.partition("://")[0]
    if scheme in _REDIS:
        from fanout.limits.shared_redis import RedisBackend  # its library is optional

        return RedisBackend(url, key, bounds)
    if scheme == "ray":
        from fanout.limits.shared_ray import RayBackend

        return RayBackend(url, key, bounds)
    if scheme not in _REGISTRY.names():
        # "ray" keeps no more than rates and cooldowns: it is for engines that divide the other limits.
        known = [*_REDIS, *_REGISTRY.names()]
        hint = did_you_mean(scheme, known)
        raise ConfigError(f"shared has an unknown scheme, {scheme!r}{hint}; there are {', '.join(known)}", key=KEY)
    return _REGISTRY.find(scheme)(url, key, bounds)


_REDIS = ("redis", "rediss", "unix")
_PACKAGED: dict[str, str] = {}
_REGISTRY: Registry[LimitsBackend] = Registry(LimitsBackend, "backend", _PACKAGED, "fanout.limits", KEY)
