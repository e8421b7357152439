"""Rows 34 to 36 of the fault matrix: several endpoints, and second requests.

tests/engine measures the time of such runs in virtual time; here real sockets show the requests of each endpoint.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, Event, Hedge, Limits, RetryPolicy
from fanout.testing import FaultServer
from tests.faults.scene import QUICK, X, assert_whole, double

if TYPE_CHECKING:
    from collections.abc import Callable

EIGHT = Limits(concurrency=8)


def always(step: Any, _: object) -> Any:
    return step


async def pooled(stack: AsyncExitStack, *behaviours: str | Callable[[Any], Any], **options: Any) -> list[FaultServer]:
    """A server for each behaviour: a step for every request, or a function that gives one."""
    return [
        await stack.enter_async_context(
            FaultServer(double, faults=each if callable(each) else partial(always, each), **options)
        )
        for each in behaviours
    ]


def client(servers: list[FaultServer], **options: Any) -> Client:
    settings: dict[str, Any] = {"limits": EIGHT, "retry": QUICK, "chunk_rows": 4, "codec": "v1"}
    return Client([server.url("v1") for server in servers], **settings | options)


async def test_row_34_one_endpoint_ten_times_slower_gets_little_to_do() -> None:
    async with AsyncExitStack() as stack:
        servers = await pooled(stack, "slow:0.02", "slow:0.02", "slow:0.02", "slow:0.2")
        async with client(servers) as c:
            assert_whole(await c.map(X, on_error="keep"))
    *quick, slow = (server.received for server in servers)
    assert slow <= 10
    assert min(quick) >= 25
    assert sum(quick) + slow == len(X) // 4


async def test_row_34_with_a_fixed_rate_too_the_slow_one_gets_little() -> None:
    """A rate decides when, the pool decides where to."""
    async with AsyncExitStack() as stack:
        servers = await pooled(stack, "slow:0.02", "slow:0.4")
        async with client(servers, limits=Limits(concurrency=8, requests_per_second=200)) as c:
            assert_whole(await c.map(X, on_error="keep"))
    assert servers[1].received <= 12


async def test_row_35_a_flapping_endpoint_is_left_alone_and_tried_rarely() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    events: list[Event] = []

    def flaps(_: Any) -> Any:
        return 503 if int((loop.time() - begun) / 0.15) % 2 else "slow:0.01"

    async with AsyncExitStack() as stack:
        servers = await pooled(stack, "slow:0.01", flaps)
        async with client(servers, chunk_rows=1, on_event=events.append) as c:
            assert_whole(await c.map(X, on_error="keep"))
    assert 1 <= sum(event.kind == "ejected" for event in events) <= 4
    assert servers[1].hits.get("503", 0) <= 30
    assert servers[0].received >= len(X) // 2


@pytest.mark.parametrize("way", ["refused", "reset-before-headers", 503])
async def test_an_endpoint_that_is_gone_costs_no_row(way: str | int) -> None:
    async with AsyncExitStack() as stack:
        servers = await pooled(stack, "slow:0.01", "slow:0.01", "slow:0.01")
        servers[1].script(*[way] * 1000)
        async with client(servers, retry=RetryPolicy(max_attempts=2, initial_backoff=0.01)) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.endpoints[1].state == "ejected"
    assert result.stats.endpoints[1].requests <= 20


async def test_row_36_of_two_answers_one_is_merged_and_a_failed_hedge_never_wins() -> None:
    steps = iter(["slow:0.3", "slow:0.05", "slow:0.3", 500, "slow:0.3", "truncated-json"])
    async with AsyncExitStack() as stack:
        servers = await pooled(stack, lambda _: next(steps))
        async with client(servers, limits=Limits(concurrency=2), chunk_rows=64, hedge=Hedge(share=1.0, delay=0.1)) as c:
            won, failed, invalid = [await c.map(X[:8], on_error="keep") for _ in range(3)]
    for result in (won, failed, invalid):
        assert_whole(result, X[:8] * 2)
        assert result.stats.hedges == 1
    assert [result.stats.hedges_won for result in (won, failed, invalid)] == [1, 0, 0]


async def test_row_36_the_loser_is_cancelled_within_50_ms() -> None:
    """Its server sees the connection close as soon as the other has answered."""
    answered: list[float] = []
    closed: list[float] = []
    all_closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        while head := await reader.read(65536):
            number += 1
            if number % 2:  # the first request of a pair is never answered
                assert not await reader.read()
                closed.append(loop.time())
                if len(closed) == 9:
                    all_closed.set()
                break
            while b"}" not in head:
                head += await reader.read(65536)
            body = b'{"predictions": [[1.5]]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            answered.append(loop.time())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/models/m:predict"
    async with server, Client(url, codec="v1", limits=EIGHT, hedge=Hedge(share=1.0, delay=0.05)) as c:
        for _ in range(9):
            assert np.array_equal(await c.map(np.array([[1.0]])), [[1.5]])
        await all_closed.wait()
    assert median(end - answer for answer, end in zip(answered, closed, strict=True)) <= 0.05
