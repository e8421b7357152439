"""The names that answers give their model: one model, a router that alternates between several, a pinned one."""

from __future__ import annotations

import asyncio
import random
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Client, ConfigError, Endpoint, Limits, Response, RetryPolicy, RunStopped
from tests.fleet import Fleet, X
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time


class Named(Plain):
    """Answers say whose they are."""

    def decode(self, response: Response, n_rows: int) -> Any:
        return fanout.DecodedResponse(super().decode(response, n_rows), usage={}, model=response.headers["model"])


def naming(names: Iterator[str], latency: Callable[[], float] = lambda: 0.1, wrong: str = "") -> Any:
    """An endpoint whose answers are by the next of ``names``; those of the ``wrong`` model have other values."""

    async def answer(sent: Request) -> Response:
        name = next(names)
        await asyncio.sleep(latency())
        rows = np.array(orjson.loads(sent.joined())["instances"]) * (9.0 if name == wrong else 2.0)
        return Response(status=200, headers={"model": name}, body=orjson.dumps({"predictions": rows.tolist()}))

    return answer


def random_names(seed: int, *names: str) -> Iterator[str]:
    draw = np.random.default_rng(seed)
    while True:
        yield str(draw.choice(names))


@pytest.mark.parametrize(("seed", "choices"), [*zip(range(10), range(10), strict=True), (3, 5), (3, 17)])
async def test_urls_of_a_router_whose_names_alternate_are_one_model(seed: int, choices: int) -> None:
    """With seed 3, b names a model that does not count eight times in a row, and by some choices of URLs early."""
    random.seed(choices)
    fleet = Fleet(a=naming(cycle(["m-1", "m-2"])), b=naming(random_names(seed, "m-1", "m-2", "m-3")))
    result = await fleet.run(codec=Named)
    assert result.ok.all()
    assert np.array_equal(result.values, X * 2)
    assert len(fleet.sent) <= 1.05 * len(X)
    assert not fleet.kinds()["excluded"]
    assert fleet.shares["a"] > 100  # it may have paused until the names of b were known


@pytest.mark.parametrize("seed", range(5))
async def test_an_endpoint_that_is_given_another_model_is_found_out_though_answers_overtake_each_other(
    seed: int,
) -> None:
    """Old answers come after new ones for a while: that is no router."""
    draw = np.random.default_rng(seed)
    asked = 0

    def upgraded() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "m-1" if asked <= 100 else "m-2"

    slow = lambda: float(draw.uniform(0.05, 1.0))  # noqa: E731 - a distribution
    fleet = Fleet(a=naming(cycle(["m-1"]), slow), b=naming(upgraded(), slow, wrong="m-2"))
    result = await fleet.run(codec=Named)
    assert result.ok.all()
    assert np.array_equal(result.values, X * 2)
    (out,) = [event.reason for event in fleet.events if event.kind == "excluded"]
    assert "model 'm-2', others are of 'm-1'" in out


async def test_an_endpoint_with_several_names_none_of_which_counts_is_found_out() -> None:
    fleet = Fleet(
        a=naming(cycle(["m-1"])), b=naming(cycle(["m-2", "m-3", "m-4", "m-5", "m-6"]), lambda: 0.2, wrong="m-2")
    )
    result = await fleet.run(codec=Named)
    assert result.ok.all()
    assert np.array_equal(result.values, X * 2)
    assert fleet.shares["b"] <= 16 + 8 * 4 + 16


async def test_a_pinned_name_is_the_only_one_that_counts() -> None:
    fleet = Fleet(a=naming(cycle(["m-1"]), wrong="m-1"), b=naming(cycle(["m-2"])))
    endpoint = Endpoint(urls=["http://a/m", "http://b/m"], model="m-2")
    limits = Limits(concurrency=4)
    async with Client(
        endpoint, codec=Named, chunk_rows=1, transport=fleet, limits=limits, on_event=fleet.events.append
    ) as client:
        assert np.array_equal(await client.map(X), X * 2)
    assert fleet.kinds()["excluded"] == 1
    assert fleet.shares["a"] <= 8 + 2 * 4


async def test_a_router_that_alternates_is_asked_again_until_the_pinned_model_answers() -> None:
    fleet = Fleet(a=naming(cycle(["m-2", "m-1"]), wrong="m-1"))
    endpoint = Endpoint(url="http://a/m", model="m-2")
    limits, retry = Limits(concurrency=1), RetryPolicy(max_attempts=20)
    async with Client(endpoint, codec=Named, chunk_rows=10, transport=fleet, limits=limits, retry=retry) as client:
        assert np.array_equal(await client.map(X[:100]), X[:100] * 2)


async def test_an_endpoint_that_never_names_the_pinned_model_stops_the_run() -> None:
    fleet = Fleet(a=naming(cycle(["m-1"])))
    async with Client(Endpoint(url="http://a/m", model="m-2"), codec=Named, chunk_rows=64, transport=fleet) as client:
        with pytest.raises(RunStopped, match=r"model 'm-1', not of 'm-2' \(endpoint.model\)") as caught:
            await client.map(X)
    assert caught.value.kind == "rejected"
    assert caught.value.result.failures == ()
    assert not caught.value.result.ok.any()
    assert len(fleet.sent) < 16 * 5 + 16


async def test_one_endpoint_may_name_any_model_unless_one_is_pinned() -> None:
    fleet = Fleet(a=naming(cycle(["m-1", "m-2"])))
    result = await fleet.run(codec=Named)
    assert result.ok.all()
    assert len(fleet.sent) == len(X)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="model must be") as caught:
        Endpoint(url="http://a/m", model="")
    assert caught.value.key == "model"
