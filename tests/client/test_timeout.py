"""`timeout=`: a deadline for one call, which keeps the answers so far."""

from __future__ import annotations

import asyncio
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, ConfigError, Limits, RunStopped, Timeouts, open_sink
from fanout.testing import MockEndpoint
from tests.client.scene import X, double
from tests.support import Plain

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.virtual_time


def one_by_one(mock: MockEndpoint, **options: Any) -> Client:
    return Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=Limits(concurrency=1), **options)


async def test_a_map_stops_at_its_deadline_with_the_answers_so_far() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with one_by_one(mock) as client:
            with pytest.raises(RunStopped, match=r"the run deadline of 3\.5 s has passed \(timeout=\)") as caught:
                await client.map(X, timeout=3.5)
            assert asyncio.get_running_loop().time() == 3.5
            assert client.statistics().in_flight == 0
            assert np.array_equal(await client.map(X[:10], timeout=3.5), X[:10] * 2)
    assert caught.value.kind == "deadline"
    assert np.array_equal(caught.value.result.values[:30], X[:30] * 2)
    assert caught.value.result.ok.tolist() == [True] * 30 + [False] * 270


@pytest.mark.parametrize(("timeout", "named"), [(2.0, "timeout="), (9.0, "timeouts.run")])
async def test_of_two_deadlines_the_earlier_counts(timeout: float, named: str) -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with one_by_one(mock, timeouts=Timeouts(run=4)) as client:
            with pytest.raises(RunStopped, match=named):
                await client.map(X, timeout=timeout)
            assert asyncio.get_running_loop().time() == min(timeout, 4)


async def test_a_stream_yields_the_answers_so_far_and_stops() -> None:
    starts: list[int] = []

    async def consume(client: Client) -> None:
        async with client.stream(iter(X), timeout=3.5) as results:
            async for done in results:
                starts.append(done.start)

    with MockEndpoint(double, latency=1.0) as mock:
        async with one_by_one(mock) as client:
            with pytest.raises(RunStopped) as caught:
                await consume(client)
    assert caught.value.kind == "deadline"
    assert starts == [0, 10, 20]
    assert caught.value.result.ok.sum() == 30


async def test_a_run_into_a_file_writes_the_answers_so_far(tmp_path: Path) -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with one_by_one(mock) as client:
            with pytest.raises(RunStopped) as caught:
                await client.run(X, open_sink(tmp_path / "y.npy"), timeout=3.5)
    assert caught.value.kind == "deadline"
    assert np.array_equal(np.load(tmp_path / "y.npy")[:30], X[:30] * 2)


async def test_of_callers_that_share_a_request_only_the_impatient_one_stops() -> None:
    with MockEndpoint(double, latency=5.0) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            patient = asyncio.create_task(client.predict(X[1]))
            with pytest.raises(RunStopped, match="deadline of 1 s") as caught:
                await client.predict(X[0], timeout=1)
            assert asyncio.get_running_loop().time() == 1
            assert np.array_equal(await patient, X[1] * 2)
    assert len(mock.requests) == 1
    assert caught.value.kind == "deadline"
    assert caught.value.result.ok.tolist() == [False]


@pytest.mark.parametrize("timeout", [0, -1, nan, inf, "5", True])
@pytest.mark.parametrize("call", ["map", "stream", "run", "predict"])
async def test_a_timeout_that_is_none_is_named(call: str, timeout: Any) -> None:
    async def called(client: Client) -> None:
        if call == "stream":
            async with client.stream(X, timeout=timeout):
                pass
        elif call == "run":
            await client.run(X, open_sink("y.npy"), timeout=timeout)
        else:
            await getattr(client, call)(X, timeout=timeout)

    with MockEndpoint(double) as mock:
        async with one_by_one(mock) as client:
            with pytest.raises(ConfigError, match="timeout must be a finite number of seconds above 0"):
                await called(client)
    assert not mock.requests
