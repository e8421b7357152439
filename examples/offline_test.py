"""Test without a network and without waiting, with scripted faults: pytest examples/offline_test.py"""

import asyncio
import os

import numpy as np
import pytest

import fanout
from fanout.testing import MockEndpoint, Scripted, VirtualClock

X = np.arange(100.0)


def test_a_pause_requested_by_the_server_holds_for_all_requests() -> None:
    async def scenario() -> None:
        with MockEndpoint(lambda x: x * 2) as mock:  # the model: a function on arrays
            mock.script(503, Scripted(status=429, headers={"Retry-After": "30"}))  # later requests reach the model
            limits = fanout.Limits(concurrency=2)
            async with fanout.Client(mock.url("v1"), codec="v1", chunk_rows=10, limits=limits) as client:
                assert np.array_equal(await client.map(X), X * 2)
                assert client.statistics().retries == 2
        assert mock.max_in_flight == 2
        assert not any(0 < time < 30 for time in mock.times), "a request was sent during the pause"

    with asyncio.Runner(loop_factory=VirtualClock) as runner:  # the 30 s take no time
        runner.run(scenario())


def test_a_row_that_the_model_cannot_answer_fails_alone() -> None:
    def inverse(x: np.ndarray) -> list[float]:
        return [1 / value for value in x.tolist()]  # an exception in the model becomes a response with status 500

    with MockEndpoint(inverse) as mock, pytest.raises(fanout.RowsFailed) as caught:
        fanout.map(X, mock.url("v1"), codec="v1", retry=fanout.RetryPolicy(initial_backoff=0.001))
    assert np.flatnonzero(~caught.value.result.ok).tolist() == [0]


if __name__ == "__main__":  # without the settings of a surrounding project
    raise SystemExit(pytest.main(["-c", os.devnull, "-p", "no:cacheprovider", "-W", "ignore", __file__]))
