"""Assertions on the requests at an endpoint: they pass where they should, and name the culprit where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanout import Client, Limits
from fanout.testing import (
    MockEndpoint,
    assert_attempts,
    assert_headers,
    assert_in_flight,
    assert_rate,
    attempts_per_chunk,
    most_in_window,
)

pytestmark = pytest.mark.virtual_time
X = np.arange(20.0)


async def seen(*steps: Any, latency: float = 1.0, **limits: Any) -> MockEndpoint:
    """A mock that has answered 20 rows, one a request."""
    with MockEndpoint(lambda x: x, latency=latency) as mock:
        mock.script(*steps)
        headers = {"X-Team": "blue"}
        async with Client(mock.url("v1"), codec="v1", chunk_rows=1, limits=Limits(**limits), headers=headers) as client:
            await client.map(X)
    return mock


async def test_attempts_are_counted_for_each_chunk() -> None:
    mock = await seen(503, concurrency=1)
    assert attempts_per_chunk(mock) == [2] + [1] * 19
    assert len(mock.requests) == 21
    assert_attempts(mock, at_most=2)
    with pytest.raises(AssertionError, match=r'a chunk was sent 2 times, at most 1 were allowed: b\'{"instances"'):
        assert_attempts(mock, at_most=1)


async def test_requests_in_flight_are_bounded() -> None:
    mock = await seen(concurrency=7)
    assert_in_flight(mock, at_most=7)
    with pytest.raises(AssertionError, match="7 requests were in flight at once, at most 6"):
        assert_in_flight(mock, at_most=6)


async def test_the_rate_holds_in_every_window_wherever_it_begins() -> None:
    mock = await seen(concurrency=20, requests_per_second=4.0)
    assert_rate(mock, at_most=4)
    assert_rate(mock, at_most=8, seconds=2)
    with pytest.raises(AssertionError, match="4 requests came within 1 s, at most 3"):
        assert_rate(mock, at_most=3)


@pytest.mark.parametrize(
    ("times", "most"), [([], 0), ([5.0], 1), ([0.0, 0.9, 1.0, 1.8, 1.85], 4), ([3.0, 1.0, 2.0], 1)]
)
async def test_a_window_ends_before_its_end(times: list[float], most: int) -> None:
    mock = MockEndpoint(lambda x: x)
    mock.times = times
    assert most_in_window(mock, 1.0) == most


async def test_headers_are_those_of_every_request() -> None:
    mock = await seen(503)
    assert_headers(mock, {"x-team": "blue", "Content-Type": "application/json", "Authorization": None})
    with pytest.raises(AssertionError, match="request 0 had X-Team: 'blue' where 'red' was expected"):
        assert_headers(mock, {"X-Team": "red"})
    with pytest.raises(AssertionError, match="no request came"):
        assert_headers(MockEndpoint(lambda x: x), {})
