"""Endpoints by name, as they are met: each made anew for a clock and a seed."""

from __future__ import annotations

from math import exp, inf
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tests.simulator.servers import (
    RESET,
    SILENCE,
    Batching,
    Bucket,
    Far,
    Flaky,
    Queue,
    RateLimited,
    Server,
    Sharing,
    Times,
    constant,
    lognormal,
    now_and_then,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator.clock import Clock

Make: TypeAlias = "Callable[[Clock, int], Server]"
"""A server for a clock and a seed."""


class Endpoint(NamedTuple):
    """A server as a client meets it."""

    make: Make
    timeout: float = inf
    """Seconds for which the client waits for an answer."""


def moving(clock: Clock, seed: int, *, seconds: float, room: float, plan: dict[float, int]) -> Queue:
    """A server whose capacity is another from each time of the plan on; the first counts from the beginning."""
    server = Queue(clock, lognormal(seconds, 0.1), capacity=next(iter(plan.values())), room=room, seed=seed)
    for when, capacity in plan.items():
        clock.call_later(when, setattr, server, "capacity", capacity)
    return server


def warming_up(clock: Clock, seed: int) -> Server:
    """Ten times as slow at first, at its best after a minute."""
    return Queue(clock, lambda _: 0.2 * max(1.0, 10.0 - 9.0 * clock.time() / 60), capacity=12, seed=seed)


def disturbed(clock: Clock, seed: int) -> Server:
    """On a machine that has other things to do now and then: all requests take three times as long for a while."""

    def times(random: Random) -> float:
        busy = Random(int(clock.time() / 1.5)).random() < 0.25
        return 0.05 * exp(random.gauss(0.0, 0.1)) * (3.0 if busy else 1.0)

    return Queue(clock, times, capacity=6, seed=seed)


def fresh_at_first(clock: Clock, seed: int) -> Server:
    """Larger batches are worth it to the end, though ever less; its first moments are its best; none is like the other.

    Measured at a server of embeddings (Infinity, all-MiniLM-L6-v2, two cores).
    """

    def slowness(random: Random) -> float:
        mood = Random(f"{seed} {int(clock.time() / 1.5)}").gauss(0.0, 0.07)
        return exp(mood + random.gauss(0.0, 0.05)) * (0.6 if clock.time() < 0.4 else 1.0)

    return Batching(clock, base=0.045, each=0.0086, largest=32, slowness=slowness, seed=seed)


def flaky(make: Make, share: float, status: int, *, late: bool) -> Make:
    """The same server, behind one sick replica: it fails a share of the requests, whatever their number."""
    return lambda clock, seed: Flaky(clock, make(clock, seed), share=share, status=status, late=late, seed=seed)


def _queue(times: Times, capacity: int, room: float = inf) -> Make:
    return lambda clock, seed: Queue(clock, times, capacity=capacity, room=room, seed=seed)


def _batching(base: float, each: float, largest: int) -> Make:
    return lambda clock, seed: Batching(clock, base=base, each=each, largest=largest, delay=0.01)


def _rate(retry_after: bool) -> Make:
    wide = _queue(constant(0.2), 100)
    return lambda clock, seed: RateLimited(clock, wide(clock, seed), per_window=30, retry_after=retry_after)


def _bucket(clock: Clock, seed: int) -> Server:
    return Bucket(clock, Queue(clock, constant(0.2), capacity=100), per_second=30, burst=10)


def _far(clock: Clock, seed: int) -> Server:
    return Far(clock, Queue(clock, lognormal(0.01, 0.2), capacity=1, seed=seed), seconds=0.2)


def _shared(clock: Clock, seed: int) -> Server:
    return Sharing(clock, lognormal(0.3, 0.3), capacity=10, seed=seed)


ENDPOINTS: dict[str, Endpoint] = {
    "queue": Endpoint(_queue(lognormal(0.4, 0.1), 12)),
    "refuses above 12": Endpoint(_queue(lognormal(0.4, 0.1), 12, room=0)),
    "refuses above 3": Endpoint(_queue(lognormal(0.1, 0.1), 3, room=0)),
    "short queue": Endpoint(_queue(lognormal(0.4, 0.2), 8, room=8)),
    "impatient client": Endpoint(_queue(lognormal(0.4, 0.2), 8), timeout=1.5),
    "shared processor": Endpoint(_shared),
    "batches": Endpoint(_batching(0.2, 0.01, 64)),
    "fresh at first": Endpoint(fresh_at_first),
    "small batches": Endpoint(_batching(0.15, 0.02, 8)),
    "noisy": Endpoint(_queue(lognormal(0.3, 1.0), 16)),
    "slow tail": Endpoint(_queue(now_and_then(lognormal(0.2, 0.2), 20.0, 0.02), 16)),
    "disturbed": Endpoint(disturbed),
    "one thread": Endpoint(_queue(constant(0.05), 1)),
    "fast and far": Endpoint(_far),
    "wide": Endpoint(_queue(lognormal(1.0, 0.1), 60)),
    "warming up": Endpoint(warming_up),
    "rate, told": Endpoint(_rate(retry_after=True)),
    "rate, not told": Endpoint(_rate(retry_after=False)),
    "bucket of tokens": Endpoint(_bucket),
}


SHARES = (0.01, 0.03, 0.1)
"""Of requests that fail, or take twenty times as long, whatever the load."""


def noisy_endpoints() -> dict[str, Endpoint]:
    """Endpoints with a background of failures, or of slow answers."""
    fast = _queue(lognormal(0.02, 0.2), 16)
    makes = {"fast": fast, **{name: ENDPOINTS[name].make for name in ("queue", "refuses above 12", "batches", "wide")}}
    results = {}
    for share in SHARES:
        for name, make in makes.items():
            results[f"{name}, {share:.0%} 503"] = Endpoint(flaky(make, share, 503, late=False))
            results[f"{name}, {share:.0%} late 503"] = Endpoint(flaky(make, share, 503, late=True))
        results[f"fast, {share:.0%} resets"] = Endpoint(flaky(fast, share, RESET, late=False))
        for seconds, capacity in ((0.02, 16), (0.2, 16), (0.4, 8)):
            times = now_and_then(lognormal(seconds, 0.2), 20.0, share)
            results[f"{seconds:g} s, {share:.0%} slow"] = Endpoint(_queue(times, capacity))
        results[f"fast, {share:.0%} hang"] = Endpoint(flaky(fast, share, SILENCE, late=False), timeout=1.0)
    return results
