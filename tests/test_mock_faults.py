"""Faults without a connection have the same outcome as on a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import fanout
from fanout import Client, RetryPolicy, RunStopped, Timeouts
from fanout.mock import MockTransport
from fanout.testing import FAULTS, FaultServer, VirtualClock

X = np.arange(12.0).reshape(4, 3)
# Bytes behind a response are found on its connection, which the mock does not have.
BEHIND = {"unsolicited", "answered-twice"}
BY_CHANCE = [
    *sorted(FAULTS.keys() - {"413-early", "gzip-bomb", "endless", "drip", "slow"} - BEHIND),
    "gzip-bomb:1000", "drip:0.0001", "slow:0.01",
]  # fmt: skip


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


async def outcome(url: str, codec: Any, *, attempt: float = 30, **options: Any) -> tuple[Any, ...]:
    """Return the outcome of one chunk and one attempt: values, or the status and the first words of the reason."""
    timeouts, retry = Timeouts(attempt=attempt), RetryPolicy(max_attempts=1)
    try:
        async with Client(url, codec=codec, timeouts=timeouts, retry=retry, chunk_rows=4, **options) as client:
            result = await client.map(X, on_error="keep")
    except RunStopped as stop:
        return stop.kind, stop.result.ok.all()
    statuses = {failure.status for failure in result.failures}
    return statuses, result.ok.all() and np.array_equal(result.values, double(X))


@pytest.mark.parametrize("codec", ["v1", "oip"])
@pytest.mark.parametrize("fault", BY_CHANCE)
async def test_a_fault_has_the_outcome_that_it_has_on_a_socket(fault: str, codec: str) -> None:
    attempt = 0.5 if fault == "silence" else 30  # no other one is ended by time, on however busy a machine

    def rehearsed() -> tuple[Any, ...]:
        instance = fanout.codec(codec)
        url = "http://nobody.test" + instance.path.replace("{model}", "m")
        transport = MockTransport(instance, url, double, faults={fault: 1.0})
        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            return runner.run(outcome(url, instance, transport=transport, attempt=attempt))

    async with FaultServer(double, faults={fault: 1.0}) as server:
        on_a_socket = await outcome(server.url(codec), codec, attempt=attempt)
        assert server.hits
    assert await asyncio.to_thread(rehearsed) == on_a_socket


async def test_a_body_without_end_is_given_up() -> None:
    transport = MockTransport(
        instance := fanout.codec("v1"), url := "http://nobody.test/x", double, faults={"endless": 1.0}
    )
    statuses, whole = await outcome(url, instance, transport=transport)
    assert (statuses, whole) == ({None}, False)
