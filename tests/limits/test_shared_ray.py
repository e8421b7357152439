"""The actor of shared limits and its clients, with a stand-in for Ray: its calls reach the actor in this process.

A cluster of Ray is in tests/cluster/test_shared_rates.py.
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType, SimpleNamespace

import pytest

from fanout import ConfigError, Limits
from fanout.limits import Cost
from fanout.limits.shared import BackendLostError, Call, Decided, Notice, Report, Want, bounds_of
from fanout.limits.shared_ray import LimitsActor, RayBackend, limits_actor

pytestmark = pytest.mark.virtual_time

BOUNDS = bounds_of(Limits(requests_per_second=10))


class RayError(Exception):
    pass


class StandIn(ModuleType):
    """As much of the module ``ray`` as the limits use."""

    def __init__(self):
        super().__init__("ray")
        self.is_open = True
        self.lost = None
        self.actors = {}

    def is_initialized(self):
        return self.is_open

    def remote(self, actor):
        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *a: self._get(actor, options, a))
        )

    def _get(self, actor, options, arguments):
        if self.lost is not None:
            raise self.lost
        assert options["get_if_exists"]
        if options["name"] not in self.actors:
            self.actors[options["name"]] = actor(*arguments)
        made = self.actors[options["name"]]
        return SimpleNamespace(**{name: self._method(made, name) for name in ("reserve", "cool_down", "notices")})

    def _method(self, made, name):
        async def call(*arguments):
            if self.lost is not None:
                raise self.lost
            return await getattr(made, name)(*arguments)

        return SimpleNamespace(remote=call)


@pytest.fixture
def ray(monkeypatch):
    ray, exceptions = StandIn(), ModuleType("ray.exceptions")
    monkeypatch.setitem(vars(exceptions), "RayError", RayError)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    return ray


def call(client, n_wants=1):
    return Call(client, "", "state", Report(), (Want("endpoint", Cost()),) * n_wants, 0.0)


def now():
    return asyncio.get_running_loop().time()


async def test_notices_that_are_new_are_returned_at_once_and_others_awaited():
    actor = LimitsActor(BOUNDS)
    assert await actor.notices(None) == (0, [])
    await actor.cool_down("a", 1.0)
    await actor.cool_down("b", 2.0)
    began = now()
    assert await actor.notices(0) == (2, [Notice("a", 1.0), Notice("b", 2.0)])
    assert await actor.notices(1) == (2, [Notice("b", 2.0)])
    assert await actor.notices(None) == (2, [])
    assert now() == began
    waiting = asyncio.create_task(actor.notices(2))
    await asyncio.sleep(1)
    await actor.cool_down("c", 3.0)
    assert await waiting == (3, [Notice("c", 3.0)])
    assert now() == began + 1
    # A client that is gone does not wait for ever.
    assert await actor.notices(3) == (3, [])
    assert now() == began + 11


async def test_a_client_that_asks_late_gets_the_last_thousand_notices():
    actor = LimitsActor(BOUNDS)
    for seconds in range(1, 1504):
        await actor.cool_down("a", float(seconds))
    assert await actor.notices(None) == (1503, [])
    n_notices, notices = await actor.notices(2)
    assert (n_notices, [notice.seconds for notice in notices]) == (1503, [*map(float, range(504, 1504))])
    assert await actor.notices(1502) == (1503, [Notice("a", 1503.0)])


async def test_clients_share_the_rates_and_cooldowns_of_one_actor(ray):
    one, two = (RayBackend("ray://limits", "key", BOUNDS) for _ in range(2))
    await one.connect()
    await two.connect()
    assert list(ray.actors) == ["limits"]
    granted = [(await backend.reserve(call("ab"[i]))).answers[0] for i, backend in enumerate((one, two))]
    assert [answer.decided for answer in granted] == [Decided.GRANTED] * 2
    # The clock of the actor is that of its process, and goes on between the two calls.
    assert granted[0].seconds == 0
    assert 0 < granted[1].seconds <= 0.1
    await one.cool_down("endpoint", 5.0)
    assert await anext(two.notices()) == Notice("endpoint", 5.0)
    later = (await two.reserve(call("b"))).answers[0]
    assert later.decided is Decided.LATER
    assert 4 < later.seconds <= 5


async def test_an_actor_that_is_lost_is_an_error_that_passes(ray):
    backend = RayBackend("ray://limits", "key", BOUNDS)
    await backend.connect()
    ray.lost = RayError("the actor died")
    with pytest.raises(BackendLostError, match=r"^ray://limits: RayError: the actor died"):
        await backend.reserve(call("a"))
    for error in (RayError("no driver"), ConnectionError("no cluster"), ValueError("no such actor")):
        ray.lost = error
        with pytest.raises(BackendLostError, match=f"^ray://limits: {error}"):
            await backend.connect()


def test_without_a_cluster_the_error_names_the_remedy(ray, monkeypatch):
    ray.is_open = False
    with pytest.raises(ConfigError, match="holds for workers of Ray"):
        limits_actor("ray://limits", BOUNDS)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'fanout-ml\[ray\]'"):
        limits_actor("ray://limits", BOUNDS)
