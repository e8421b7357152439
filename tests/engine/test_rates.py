"""Rates as an endpoint sees them: all that is sent pays, waits waste nothing, and clients keep rates together."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Client, ConfigError, Limits, RateLimiter, Response, RetryPolicy, RunControl, RunStopped, SyncClient
from fanout.errors import StaleConnectionError
from fanout.testing import FaultServer, MockEndpoint, Scripted
from tests.support import Plain

if TYPE_CHECKING:
    from fanout.transport import Request

X = np.arange(3000.0).reshape(1000, 3)


def now() -> float:
    return asyncio.get_running_loop().time()


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


class Instant:
    """Answers everything at once, without HTTP: only the client takes time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def send(self, sent: Request) -> Response:
        self.times.append(now())
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": [0.0]}))


async def assert_paced(requests: int) -> None:
    """So many requests at 1,000 a second take a thousandth of it in seconds, none sooner than it may."""
    transport, limits = Instant(), Limits(requests_per_second=1000, concurrency=32)
    async with Client("http://far.test/x", codec=Plain, chunk_rows=1, limits=limits, transport=transport) as client:
        await client.map(np.zeros(requests))
    assert len(transport.times) == requests
    assert now() == pytest.approx(requests / 1000, rel=0.02)
    assert np.diff(transport.times).min() >= 0.001 - 1e-9


@pytest.mark.virtual_time
async def test_a_stall_of_the_process_costs_its_time_and_lets_no_more_go_in_any_second() -> None:
    transport, limits = Instant(), Limits(requests_per_second=100, concurrency=128)
    async with Client("http://far.test/x", codec=Plain, chunk_rows=1, limits=limits, transport=transport) as client:
        run = asyncio.create_task(client.map(np.zeros(300)))
        await asyncio.sleep(0.5)
        vars(asyncio.get_running_loop())["_now"] += 0.8
        await run
    times = np.array(transport.times)
    assert max(np.searchsorted(times, times + 1.0) - np.arange(300)) <= 1.1 * 100 + 1
    assert times[-1] == pytest.approx(3.7, abs=0.05)


@pytest.mark.virtual_time
async def test_6_000_requests_at_1_000_a_second_take_6_seconds() -> None:
    await assert_paced(6_000)


@pytest.mark.slow
@pytest.mark.virtual_time
async def test_60_000_requests_at_1_000_a_second_take_60_seconds() -> None:
    await assert_paced(60_000)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"requests_per_second": 10}, 9.9),
        ({"requests_per_minute": 120}, 49.5),
        ({"rows_per_second": 50}, 19.8),
        ({"rows_per_minute": 600, "burst": 0.1}, 94.0),
        ({"rows_per_second": 50, "requests_per_second": 2}, 49.5),
        ({"requests_per_second": 10, "burst": 5}, 5.0),
    ],
)
async def test_a_run_takes_the_time_of_its_strictest_rate(limits: dict[str, float], seconds: float) -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=Limits(**limits)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert mock.times[-1] - mock.times[0] == pytest.approx(seconds)


@pytest.mark.virtual_time
async def test_retries_splits_and_metadata_pay_too() -> None:
    def refusing(x: np.ndarray) -> np.ndarray:
        if (x[:, 0] == 9).any():
            raise fanout.serving.exchange.StatusError(400, "a nine")
        return x * 2

    with MockEndpoint(refusing) as mock:
        mock.script(503, None, 500)
        async with Client(mock.url("oip"), codec="oip", chunk_rows=4, limits=Limits(requests_per_second=0.5)) as client:
            await client.map(X[:40], on_error="keep")
            stats = client.statistics()
    assert stats.retries >= 2
    assert stats.splits >= 2
    assert mock.times[0] == 2.0 * (stats.requests - len(mock.requests))  # after the metadata
    assert np.diff(mock.times).min() >= 2.0 - 1e-9


@pytest.mark.virtual_time
async def test_rows_of_another_attempt_pay_again() -> None:
    with MockEndpoint(double) as mock:
        mock.script(503)
        retry = RetryPolicy(initial_backoff=0.0)
        limits = Limits(rows_per_second=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=limits, retry=retry) as client:
            await client.map(X[:20])
    assert mock.times == [0.0, 10.0, 20.0]


class ClosedOnReuse(Instant):
    """Closes a kept-alive connection as its second request comes."""

    async def send(self, sent: Request) -> Response:
        response = await super().send(sent)
        if len(self.times) == 2:
            raise StaleConnectionError("closed as it was used again")
        return response


@pytest.mark.virtual_time
async def test_a_resend_on_a_fresh_connection_pays_too() -> None:
    transport, limits = ClosedOnReuse(), Limits(requests_per_second=10)
    async with Client("http://far.test/x", codec=Plain, limits=limits, transport=transport) as client:
        await client.map(np.zeros(1))
        await client.map(np.zeros(1))
        assert client.statistics().requests == 3
    assert transport.times == pytest.approx([0.0, 0.1, 0.2])


TEXTS = [f"{'word ' * (1 + i % 5)}" for i in range(200)]


def words(text: str) -> int:
    return len(text.split())


def embedding() -> Any:
    return fanout.codec("openai-embeddings", model="mock")


def embed(texts: Any) -> np.ndarray:
    return np.array([[float(len(text))] for text in texts])


@pytest.mark.virtual_time
async def test_counted_tokens_hold_their_rate() -> None:
    limits = Limits(tokens_per_second=20, burst=1, concurrency=4)
    with MockEndpoint(embed) as mock:
        async with Client(
            mock.url(embedding()), codec=embedding(), chunk_max_tokens=12, count_tokens=words, limits=limits
        ) as client:
            await client.map(TEXTS)
            usage = client.statistics().usage
    assert usage["total_tokens"] == 600  # the mock counts words too
    taken = [sum(map(words, orjson.loads(request.body)["input"])) for request in mock.requests]
    assert max(taken) <= 12
    assert mock.times[-1] == pytest.approx((600 - 20) / 20, abs=1)
    for first in mock.times:
        inside = sum(n for n, t in zip(taken, mock.times, strict=True) if first <= t <= first + 5)
        assert inside <= 5 * 20 + 20 + 1e-6


@pytest.mark.virtual_time
async def test_estimated_tokens_are_corrected_by_the_usage_in_responses() -> None:
    """One token for four bytes is far too many here; the run still takes the time of the true number."""
    limits = Limits(tokens_per_second=20, concurrency=2)
    with MockEndpoint(embed, latency=0.05) as mock:
        async with Client(mock.url(embedding()), codec=embedding(), chunk_rows=4, limits=limits) as client:
            await client.map(TEXTS)
            assert client.statistics().usage["total_tokens"] == 600
    assert mock.times[-1] == pytest.approx(600 / 20, rel=0.1)


@pytest.mark.virtual_time
async def test_uncounted_tokens_of_a_response_are_charged_afterwards() -> None:
    limits = Limits(tokens_per_minute=60, concurrency=1)
    with MockEndpoint(lambda texts: [text * 9 for text in texts]) as mock:
        codec = fanout.codec("openai-chat", model="mock")
        async with Client(mock.url(codec), codec=codec, count_tokens=words, limits=limits) as client:
            await client.map(["a "] * 5)
    assert mock.times == pytest.approx([0, 10, 20, 30, 40])


@pytest.mark.virtual_time
async def test_a_tokenizer_counts_in_the_place_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.client.session.tiktoken_counter", lambda name: {"by-words": words}[name])
    limits = Limits(tokens_per_second=1, tokenizer="by-words")
    with MockEndpoint(embed) as mock:
        async with Client(mock.url(embedding()), codec=embedding(), chunk_rows=1, limits=limits) as client:
            await client.map(TEXTS[:5])
    assert mock.times == pytest.approx([0, 1, 3, 6, 10])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count_tokens": "cl100k_base"}, "count_tokens must be a function, not 'cl100k_base'; limits.tokenizer"),
        ({"count_tokens": len, "limits": Limits(tokenizer="x")}, "count_tokens and limits.tokenizer both"),
        ({"count_tokens": len, "limits": RateLimiter(Limits(tokenizer="x"))}, "count_tokens and limits.tokenizer both"),
    ],
)
def test_tokens_are_counted_in_one_way(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Client("http://h/x", codec=Plain, **options)


@pytest.mark.virtual_time
async def test_a_function_that_cannot_count_ends_the_run_by_name() -> None:
    with MockEndpoint(double) as mock:
        limits = Limits(tokens_per_second=1)
        async with Client(mock.url(Plain), codec=Plain, count_tokens=lambda row: row.n, limits=limits) as client:
            with pytest.raises(ConfigError, match="count_tokens raised AttributeError"):
                await client.map(X)
    assert not mock.requests


@pytest.mark.virtual_time
async def test_a_request_stopped_or_cancelled_while_waiting_leaves_no_debt() -> None:
    """16 workers have reserved starts up to 16 minutes ahead: the next run does not wait for them."""
    with MockEndpoint(double) as mock:
        limits = Limits(requests_per_minute=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits) as client:
            task = asyncio.create_task(client.map(X))
            await asyncio.sleep(90)
            task.cancel()
            await asyncio.wait([task])
            control = RunControl()
            asyncio.get_running_loop().call_later(60, control.drain)
            with pytest.raises(RunStopped):
                await client.map(X, control=control)
            await client.map(X[:1])
    assert mock.times == pytest.approx([0.0, 60.0, 120.0, 180.0])


@pytest.mark.virtual_time
async def test_reservations_from_before_a_pause_are_spaced_anew_after_it() -> None:
    with MockEndpoint(double) as mock:
        mock.script(None, Scripted(status=429, headers={"Retry-After": "100"}))
        limits = Limits(requests_per_second=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=100, limits=limits) as client:
            await client.map(X)
    late = [t for t in mock.times if t > 1]
    assert late[0] >= 100
    assert np.diff(late).min() >= 1 - 1e-9
    assert late[-1] - late[0] <= 10 + 0.1 * 100  # the jitter of the cooldown


@pytest.mark.virtual_time
async def test_clients_with_one_limiter_keep_its_rates_together() -> None:
    shared = RateLimiter(Limits(concurrency=3, requests_per_second=10))
    with MockEndpoint(double, latency=0.5) as mock:
        async with (
            Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=shared) as one,
            Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=shared) as other,
        ):
            await asyncio.gather(one.map(X[:300]), other.map(X[:300]))
            assert one.statistics().max_in_flight == other.statistics().max_in_flight == 3
    assert np.diff(mock.times).min() >= 0.1 - 1e-9
    assert mock.times[-1] <= 60 * 0.1 + 1


def test_clients_in_several_threads_keep_rates_together() -> None:
    shared = RateLimiter(Limits(requests_per_second=100))

    def task(url: str) -> None:
        with SyncClient(url, codec="v1", chunk_rows=1, limits=shared) as client:
            client.map(X[:20])

    with fanout.testing.Background(FaultServer(double)) as server:
        threads = [threading.Thread(target=task, args=(server.url("v1"),)) for _ in range(3)]
        # A busy server may take in its first request late, so that its own times would show too short a time.
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times = sorted(server.times)
    assert len(times) == 60
    assert 0.5 <= times[-1] - began <= 2  # a fifth of a second with a rate each


def test_limits_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"limits must be a fanout.Limits\(...\), not dict"):
        Client("http://h/x", codec=Plain, limits={"concurrency": 3})
