"""Users mock aiohttp's session with aioresponses, and fanout sends through that session."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import ServerDisconnectedError
from aioresponses import CallbackResult, aioresponses

from fanout import Client, RetryPolicy, RunStopped
from fanout.testing import MockedResponse
from tests.loopback import Line, Received, http, loopback

URL = "http://model.test/v1/models/m:predict"
X = np.arange(30.0).reshape(10, 3)


def doubled(width: int, url: Any, **sent: Any) -> CallbackResult:
    """Answer with each row doubled, or repeated up to ``width`` numbers."""
    rows = orjson.loads(sent["data"].decode())["instances"]
    answers = [[2 * x for x in row] * (width // 3) for row in rows]
    return CallbackResult(payload={"predictions": answers}, response_class=MockedResponse)


@pytest.fixture
def mock():
    with aioresponses() as mock:
        yield mock


# A large body is longer than the limit at which a stream pauses its connection.
@pytest.mark.parametrize("width", [3, 30_000])
async def test_a_callback_of_aioresponses_answers_the_rows(mock, width):
    mock.post(URL, callback=partial(doubled, width), repeat=True)
    async with Client(URL, codec="v1", chunk_rows=4) as client:
        assert np.array_equal(await client.map(X), np.tile(2 * X, width // 3))
    assert sum(map(len, mock.requests.values())) == 3


@pytest.mark.virtual_time
async def test_errors_of_aioresponses_are_retried(mock):
    mock.post(URL, status=503, headers={"Retry-After": "40"}, response_class=MockedResponse)
    mock.post(URL, exception=ServerDisconnectedError())
    mock.post(URL, callback=partial(doubled, 3), repeat=True)
    async with Client(URL, codec="v1", chunk_rows=10) as client:
        assert np.array_equal(await client.map(X), 2 * X)
        assert client.statistics().retries == 2


async def test_a_refusal_of_aioresponses_stops_the_run_with_its_words(mock):
    mock.post(URL, status=401, payload={"error": "no such key"}, repeat=True, response_class=MockedResponse)
    async with Client(URL, codec="v1", retry=RetryPolicy(max_attempts=1)) as client:
        with pytest.raises(RunStopped, match="no such key"):
            await client.map(X)


async def test_a_mock_that_starts_between_two_runs_of_a_client_answers_the_second() -> None:
    async def answer(received: Received, line: Line) -> None:
        await line.send(http(orjson.dumps({"predictions": orjson.loads(received.body)["instances"]})))

    async with loopback(answer) as seen, Client(seen.url + ":predict", codec="v1", chunk_rows=5) as client:
        assert np.array_equal(await client.map(X), X)
        with aioresponses() as mock:
            mock.post(seen.url + ":predict", callback=partial(doubled, 3), repeat=True)
            assert np.array_equal(await client.map(X), 2 * X)
        assert np.array_equal(await client.map(X), X)
