"""A run with concurrency "auto": workers, slots and windows follow the limit; tests/simulator tests the limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, Limits, RetryPolicy, Timeouts
from fanout.testing import MockEndpoint
from tests.simulator.catalog import moving
from tests.simulator.servers import Queue, RateLimited, Server, constant
from tests.simulator.transport import Doubled, Simulated
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout import Response
    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
X = np.arange(24_000.0).reshape(8000, 3)


def in_front_of(server: Server, transport: Simulated | None = None, **options: Any) -> Client:
    transport = transport or Simulated({"simulated": server})
    options = {"limits": Limits(concurrency="auto"), **options}
    return Client("http://simulated/", codec=Doubled, chunk_rows=1, transport=transport, **options)


def wide() -> Queue:
    """Takes anything, for a tenth of a second."""
    return Queue(asyncio.get_running_loop(), constant(0.1), capacity=10_000)


class Watching(Simulated):
    """Looks at the limit whenever a request starts."""

    client: Client

    def __init__(self, server: Server) -> None:
        super().__init__({"simulated": server})
        self.limits: list[int] = []

    async def send(self, request: Request) -> Response:
        stats = self.client.statistics()
        assert stats.in_flight <= stats.concurrency or stats.endpoints[0].state == "ejected"
        self.limits.append(stats.concurrency)
        return await super().send(request)


@pytest.mark.slow
async def test_an_endpoint_that_takes_anything_gets_ever_more_up_to_256() -> None:
    async with in_front_of(wide()) as client:
        result = await client.map(X, on_error="keep")
        assert np.array_equal(result.values, 2 * X)
        stats = client.statistics()
    assert result.stats.concurrency == stats.concurrency
    assert 128 < stats.concurrency <= 256
    assert 200 < stats.max_in_flight <= 256


@pytest.mark.parametrize("kind", ["refuses", "pauses", "moves"])
async def test_nothing_is_sent_while_more_are_in_flight_than_the_limit_allows(kind: str) -> None:
    """Also requests that had a slot before the limit fell, and waited for a cooldown since."""
    loop = asyncio.get_running_loop()
    server: Server = Queue(loop, constant(0.1), capacity=20, room=0)
    if kind == "pauses":
        server = RateLimited(loop, wide(), per_window=100, retry_after=True)
    if kind == "moves":
        server = moving(loop, 1, seconds=0.1, room=0, plan={0: 40, 5: 5, 10: 40, 15: 3, 20: 40})
    transport = Watching(server)
    async with in_front_of(server, transport) as client:
        transport.client = client
        result = await client.map(X[:3000], on_error="keep")
    assert np.array_equal(result.values, 2 * X[:3000])
    assert max(transport.limits) >= 16
    assert any(later < earlier for earlier, later in zip(transport.limits, transport.limits[1:], strict=False))


@pytest.mark.slow
async def test_the_window_grows_with_the_limit() -> None:
    taken = 0

    async def rows() -> AsyncIterator[np.ndarray]:
        nonlocal taken
        for row in X:
            taken += 1
            yield row

    done = widest = 0
    async with in_front_of(wide()) as client, client.stream(rows()) as results:
        async for _ in results:
            done += 1
            widest = max(widest, client.statistics().concurrency or 0)
            assert taken - done <= 2 * widest + 2
        assert client.statistics().max_in_flight > 128
    assert done == len(X)


async def test_a_slow_consumer_does_not_make_the_limit_grow() -> None:
    async with in_front_of(wide()) as client, client.stream(X[:500]) as results:
        async for _ in results:
            await asyncio.sleep(0.1)
        assert client.statistics().concurrency <= 16


async def test_a_rate_is_not_made_up_for_by_more_in_flight() -> None:
    async with in_front_of(wide(), limits=Limits(concurrency="auto", requests_per_second=20)) as client:
        await client.map(X[:600])
        assert client.statistics().concurrency == 8


@pytest.mark.slow
async def test_an_outage_of_a_minute_costs_few_requests_and_the_limit_comes_back() -> None:
    server = moving(asyncio.get_running_loop(), 1, seconds=0.2, room=0, plan={0: 64, 5: 0, 65: 64})
    before = 0

    async def look() -> None:
        nonlocal before
        await asyncio.sleep(4.9)
        before = client.statistics().concurrency or 0

    async with in_front_of(server) as client:
        looking = asyncio.create_task(look())
        result = await client.map(X, on_error="keep")
        after = client.statistics().concurrency
        await looking
    assert np.array_equal(result.values, 2 * X)
    assert before >= 48
    assert after >= 48
    assert server.refused <= 2 * 64 + 7 + 64, "in flight, the bucket, the probes; and while looking for the limit"


@pytest.mark.slow
async def test_rows_that_always_hang_do_not_take_the_others_concurrency() -> None:
    bad = range(0, 2000, 40)

    def latency(number: int) -> float:
        row = mock.requests[number].json()["instances"][0][0] / 3
        return 1e6 if row in bad else 0.05

    options: dict[str, Any] = {"retry": RetryPolicy(max_attempts=3), "timeouts": Timeouts(attempt=1)}
    with MockEndpoint(lambda x: x * 2, latency=latency) as mock:
        limits = Limits(concurrency="auto")
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, **options) as client:
            result = await client.map(X[:2000], on_error="keep")
            assert client.statistics().concurrency >= 8
    assert np.flatnonzero(~result.ok).tolist() == list(bad)


@pytest.mark.slow
async def test_several_runs_share_the_limit_and_its_measurements() -> None:
    async with in_front_of(wide()) as client:
        parts = await asyncio.gather(*(client.map(X[i : i + 2000]) for i in range(0, 8000, 2000)))
        assert np.array_equal(np.concatenate(parts), X * 2)
        statistics = client.statistics()
        assert statistics.max_in_flight <= 256
        assert (await client.predict(X[1])).tolist() == (X[1] * 2).tolist()
        assert client.statistics().concurrency == statistics.concurrency > 100


async def test_a_fixed_concurrency_reports_no_limit() -> None:
    async with in_front_of(wide(), limits=Limits()) as client:
        assert (await client.map(X[:9], on_error="keep")).stats.concurrency is None
        assert client.statistics().concurrency is None
