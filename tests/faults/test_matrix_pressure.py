"""Rows 30 to 35 and 78 of the fault matrix: an endpoint that has too much to do, says so, or only seems to."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Event, Limits, RetryPolicy, RunStopped
from fanout.serving.exchange import StatusError
from fanout.testing import FaultServer, MockEndpoint
from tests.faults.scene import CHUNKS, X, assert_whole, client, double

if TYPE_CHECKING:
    from fanout.serving.exchange import ServerRequest

FOUR = Limits(concurrency=4)


async def paused(fault: str, seconds: float) -> None:
    """One of four requests in flight gets Retry-After: no other request starts for that time, and the run ends well."""
    async with FaultServer(double) as server:
        server.script(fault, "slow:0.1", "slow:0.1", "slow:0.1")
        events: list[Event] = []
        async with client(server, limits=FOUR, on_event=events.append) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    pushback, *_ = server.times
    assert server.times[4] - pushback >= seconds, "four were in flight; the fifth came too early"
    assert [event.seconds for event in events if event.kind == "pause"] == [seconds]
    assert server.received == CHUNKS + 1


async def test_row_30_a_429_with_retry_after_pauses_the_whole_endpoint() -> None:
    await paused("429-retry-after:0.4", 0.4)


async def test_row_31_a_429_with_a_date_is_measured_by_the_servers_own_clock() -> None:
    """Its clock is an hour late: by ours, the date has long passed."""
    await paused("429-date:1", 1.0)


@pytest.mark.parametrize("text", ["nan", "inf", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "1e999", ""])
async def test_row_32_a_retry_after_that_means_nothing_is_ignored(text: str) -> None:
    async with FaultServer(double) as server:
        server.script(f"429-retry-after:{text}")
        events: list[Event] = []
        async with client(server, on_event=events.append) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert [event.kind for event in events if event.kind != "done"] == ["retry"]


async def test_row_32_a_retry_after_of_thirty_years_stops_the_run_and_nothing_is_sent_early() -> None:
    async with FaultServer(double) as server:
        server.script(None, None, "429-retry-after:1e9")
        async with client(server) as c:
            with pytest.raises(RunStopped, match=r"wants no request for 1e\+09 s \(max_pushback is 120 s\)") as caught:
                await c.map(X)
    assert caught.value.kind == "pushback"
    assert server.received == 3
    assert caught.value.result.ok.sum() == 128


@pytest.mark.parametrize(
    ("limits", "most"), [pytest.param(FOUR, 4, marks=pytest.mark.slow), (Limits(concurrency="auto"), 8)]
)
async def test_row_33_a_storm_of_503_brakes_the_endpoint_and_the_run_ends_well(limits: Limits, most: int) -> None:
    """The minute of the matrix is waited out in virtual time in tests/engine/test_overload.py."""
    loop = asyncio.get_running_loop()
    over = loop.time() + 0.5
    async with (
        FaultServer(double, faults=lambda _: 503 if loop.time() < over else None) as server,
        client(server, limits=limits, chunk_rows=4) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert server.hits["503"] <= most + 10 + 1, "in flight, the bucket, a trial"
    assert server.max_in_flight <= (most if limits is FOUR else 256)


@pytest.mark.virtual_time
@pytest.mark.parametrize("concurrency", [1, 2, 4, 16, "auto"])
async def test_row_33_an_outage_of_a_minute_in_mid_run_fails_no_row(concurrency: Any) -> None:
    loop = asyncio.get_running_loop()

    def down_for_a_minute(x: np.ndarray) -> np.ndarray:
        if 1 < loop.time() < 61:
            raise StatusError(503, "down")
        return x * 2

    with MockEndpoint(down_for_a_minute, latency=0.5) as mock:
        limits = Limits(concurrency=concurrency)
        async with client(mock.url("v1"), limits=limits, chunk_rows=8, retry=RetryPolicy()) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)


async def test_row_34_a_slow_endpoint_gets_no_more_than_its_concurrency() -> None:
    async with (
        FaultServer(double, latency=0.02) as server,
        client(server, limits=Limits(concurrency=8), chunk_rows=4) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert server.max_in_flight == 8
    assert server.connections == 8
    assert server.received == len(X) // 4


async def test_row_35_a_flapping_endpoint_costs_a_bounded_number_of_requests() -> None:
    """Up for 20 requests, down for 5: every outage is short, and there is always another."""

    def flapping(request: ServerRequest) -> int | None:
        return 503 if server.received % 25 >= 20 else None

    patient = RetryPolicy(max_attempts=20, initial_backoff=0.01)
    async with (
        FaultServer(double, faults=flapping) as server,
        client(server, limits=FOUR, chunk_rows=2, retry=patient) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert server.received == len(X) // 2 + server.hits["503"]
    assert server.received <= 1.25 * len(X) // 2 + 25
    assert server.max_in_flight <= 4


class SickReplica:
    """Chooses the outcome of each request, a share of them bad, and counts the requests at the server meanwhile."""

    def __init__(self, share: float, step: str) -> None:
        self._random = Random(1)
        self._share = share
        self._step = step
        self.server: FaultServer
        self.in_flight: list[int] = []

    def __call__(self, request: ServerRequest) -> str | None:
        self.in_flight.append(self.server.in_flight)
        return self._step if self._random.random() < self._share else None


@pytest.mark.slow  # delays of a busy machine count as the server's: tests/simulator has the same in virtual time
@pytest.mark.parametrize(
    ("share", "step"),
    [(0.01, "503"), (0.03, "503"), (0.1, "503"), (0.1, "reset-before-headers"), (0.03, "slow:0.4")],
)
async def test_row_78_failures_that_the_load_does_not_cause_do_not_lower_auto(share: float, step: str) -> None:
    """By Little's law, as many at the server as at the fixed 16 bring as many answers. Slow ones fill places too."""
    sick = SickReplica(share, step)
    patient = RetryPolicy(max_attempts=10, initial_backoff=0.01, max_backoff=0.05)
    rows = np.arange(3 * 2000.0).reshape(-1, 3) + 0.5
    async with FaultServer(double, latency=0.02, faults=sick) as server:
        sick.server = server
        async with client(server, limits=Limits(concurrency="auto"), chunk_rows=1, retry=patient) as c:
            result = await c.map(rows, on_error="keep")
    assert_whole(result, rows * 2)
    later = sick.in_flight[len(sick.in_flight) // 2 :]
    assert sum(min(n, 16) for n in later) / len(later) >= 0.9 * 16
