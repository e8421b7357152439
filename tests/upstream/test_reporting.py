"""Cooldowns hold, and announced quotas throttle requests before the endpoint has to refuse any."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from multidict import CIMultiDict

import fanout
from fanout import Client, Limits, Response, RetryPolicy
from fanout.limits import ConcurrencyLimiter, Cost, RateLimiter, TokenMeter
from fanout.testing import MockEndpoint, Scripted
from fanout.transport import Cooldown
from fanout.upstream.reporting import RateLimitHeaders
from tests.support import Plain

if TYPE_CHECKING:
    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
X = np.arange(300.0).reshape(100, 3)


def now() -> float:
    return asyncio.get_running_loop().time()


def answer(headers: dict[str, str], rows: int = 0) -> Response:
    body = orjson.dumps({"predictions": [[1.0] * 3] * rows})
    return Response(status=200, headers=CIMultiDict(headers), body=body)


def used_up(seconds: int) -> Scripted:
    response = answer({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(seconds)}, rows=10)
    return Scripted(body=response.body, headers=response.headers)


def test_requests_are_allowed_without_a_cooldown() -> None:
    assert Cooldown().remaining(123.0) == 0.0


def test_a_cooldown_ends_at_its_time() -> None:
    cooldown = Cooldown()
    cooldown.extend(10.0)
    assert [cooldown.remaining(now) for now in (4.0, 9.5, 10.0, 11.0)] == [6.0, 0.5, 0.0, 0.0]


def test_a_shorter_cooldown_does_not_end_a_longer_one() -> None:
    cooldown = Cooldown()
    cooldown.extend(10.0)
    cooldown.extend(5.0)
    assert cooldown.remaining(4.0) == 6.0
    cooldown.extend(12.0)
    assert cooldown.remaining(4.0) == 8.0


class Windowed:
    """A transport that accepts ``most`` requests in each window, and reports the remaining quota."""

    def __init__(self, most: int, seconds: float, *, name: str) -> None:
        self.most, self.seconds, self.name = most, seconds, name
        self.times: list[float] = []
        self.refused = 0
        self._used: dict[int, int] = {}

    async def send(self, sent: Request) -> Response:
        self.times.append(now())
        window = int(now() // self.seconds)
        used = self._used[window] = self._used.get(window, 0) + 1
        reset = (window + 1) * self.seconds - now()
        left = max(0, self.most - used)
        status = 200 if used <= self.most else 429
        self.refused += status == 429
        await asyncio.sleep(0.3)
        rows = len(orjson.loads(b"".join(sent.body))["instances"])
        body = orjson.dumps({"predictions": [[1.0] * 3] * rows})
        return Response(status=status, headers=CIMultiDict(self._fields(left, reset)), body=body)

    def _fields(self, left: int, reset: float) -> dict[str, str]:
        seconds = math.ceil(reset)
        if self.name == "RateLimit":
            return {"RateLimit": f'"default";r={left};t={seconds}'}
        return {f"x-ratelimit-remaining-{self.name}": str(left), f"x-ratelimit-reset-{self.name}": f"{seconds}s"}


@pytest.mark.parametrize("name", ["RateLimit", "requests"])
async def test_an_endpoint_that_announces_its_quota_refuses_no_request(name: str) -> None:
    transport = Windowed(20, 60.0, name=name)
    async with Client(
        "http://far.test/x", codec=Plain, chunk_rows=1, limits=Limits(concurrency=8), transport=transport
    ) as client:
        await client.map(X)
    assert transport.refused == 0
    assert len(transport.times) == 100
    assert now() <= 6 * 60  # 20 a minute
    assert sum(time < 10 for time in transport.times) >= 8  # an ample quota is not spread


async def test_without_the_header_fields_the_same_endpoint_refuses_many_requests() -> None:
    transport = Windowed(20, 60.0, name="nothing-anybody-reads")
    retry = RetryPolicy(max_attempts=20)
    async with Client("http://far.test/x", codec=Plain, chunk_rows=1, transport=transport, retry=retry) as client:
        await client.map(X, on_error="keep")
    assert transport.refused > 0


async def test_an_exhausted_quota_holds_all_requests_until_it_resets() -> None:
    events: list[fanout.Event] = []
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(used_up(50))
        limits = Limits(concurrency=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=limits, on_event=events.append) as client:
            await client.map(X)
    assert 50 <= mock.times[1] <= 55
    assert [(event.kind, event.seconds) for event in events if event.kind == "pause"] == [("pause", 50.0)]


async def test_requests_that_wait_for_a_rate_also_wait_for_a_smaller_quota() -> None:
    """Seven have starts reserved, a second apart, when the first answer says that two are left for 20 s."""
    with MockEndpoint(lambda x: x * 2, latency=0.5) as mock:
        response = answer({"RateLimit": '"default";r=2;t=20'}, rows=10)
        mock.script(Scripted(body=response.body, headers=response.headers))
        limits = Limits(concurrency=8, requests_per_second=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=limits) as client:
            await client.map(X)
    assert mock.times == pytest.approx([0, 10.5, *(20.5 + i for i in range(8))])


async def test_no_cooldown_is_longer_than_max_pushback() -> None:
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(used_up(5000))
        retry = RetryPolicy(max_pushback=20)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=10, limits=Limits(concurrency=1), retry=retry
        ) as client:
            await client.map(X)
    assert 20 <= mock.times[1] <= 22


async def test_a_token_quota_is_spread_by_the_tokens_of_a_request() -> None:
    """Four in hand take 100 tokens each, 200 are left for 20 s: one in ten seconds."""
    texts = ["word " * 100] * 12
    codec = fanout.codec("openai-embeddings", model="mock", encoding_format="float")
    data = {"data": [{"index": 0, "embedding": [0.0]}], "usage": {"total_tokens": 100}}
    left = {"x-ratelimit-remaining-tokens": "200", "x-ratelimit-reset-tokens": "20s"}
    with MockEndpoint(lambda texts: np.zeros((len(texts), 1)), latency=0.1) as mock:
        limits = Limits(concurrency=4)
        async with Client(mock.url(codec), codec=codec, chunk_rows=1, limits=limits) as client:
            await client.map(texts[:1])  # the cost of a request is learnt
            mock.script(*[Scripted(body=orjson.dumps(data), headers=left)] * 4)
            await client.map(texts)
    assert sum(time < 10 for time in mock.times) <= 6  # one of these answers is not looked at
    assert mock.times[6:] == pytest.approx([10.2] + [20.2] * 6, abs=0.2)


class TestRateLimitHeaders:
    def new(self) -> tuple[RateLimitHeaders, RateLimiter, Cooldown, ConcurrencyLimiter]:
        rates, cooldown, limiter = RateLimiter(Limits()), Cooldown(), ConcurrencyLimiter(8)
        limiter.in_flight = 8
        return RateLimitHeaders(rates, cooldown, limiter, TokenMeter(), longest=100.0), rates, cooldown, limiter

    def response(self, left: int, seconds: int) -> Response:
        return answer({"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": str(seconds)})

    def test_a_quota_larger_than_the_requests_in_flight_need_changes_nothing(self) -> None:
        headers, rates, cooldown, _ = self.new()
        assert headers.apply(self.response(8, 60), None, 5.0) == 0
        assert not rates.active
        assert cooldown.remaining(5.0) == 0

    def test_a_smaller_quota_is_spread_over_its_window_until_a_larger_one_is_announced(self) -> None:
        headers, rates, *_ = self.new()
        headers.apply(self.response(6, 60), None, 5.0)
        assert rates.active
        assert rates.reserve(5.0, Cost()).start == 15.0
        headers.apply(self.response(60, 60), None, 6.0)
        assert not rates.active

    @pytest.mark.parametrize(("silent", "unread"), [(1, 1), (3, 3), (7, 7), (255, 127), (1000, 22)])
    def test_ever_fewer_responses_are_read_while_none_announces_a_quota(self, silent: int, unread: int) -> None:
        headers, rates, *_ = self.new()
        for _ in range(silent):
            headers.apply(answer({}), None, 0.0)
        for _ in range(unread):
            headers.apply(self.response(1, 9), None, 0.0)
        assert not rates.active
        headers.apply(self.response(1, 9), None, 0.0)
        assert rates.active

    def test_a_single_request_in_flight_may_use_the_last_of_a_quota(self) -> None:
        headers, rates, cooldown, limiter = self.new()
        limiter.in_flight = 1
        headers.apply(self.response(1, 60), None, 5.0)
        assert not rates.active
        assert headers.apply(self.response(0, 60), None, 5.0) == 60.0
        assert cooldown.remaining(5.0) == 60.0
        assert headers.apply(self.response(0, 70), None, 5.0) == 0.0  # the cooldown was announced before
        assert cooldown.remaining(5.0) == 70.0

    def test_two_endpoints_with_one_limiter_do_not_lift_each_others_throttle(self) -> None:
        one, rates, cooldown, limiter = self.new()
        other = RateLimitHeaders(rates, cooldown, limiter, TokenMeter(), longest=100.0)
        one.apply(self.response(1, 60), None, 5.0)
        other.apply(self.response(1000, 60), None, 5.0)
        assert rates.active

    def test_a_quota_in_bytes_of_content_is_left_to_refusals(self) -> None:
        headers, rates, cooldown, _ = self.new()
        policy = {"RateLimit": '"size";r=0;t=30', "RateLimit-Policy": '"size";q=9;w=60;qu="content-bytes"'}
        headers.apply(answer(policy), None, 0.0)
        assert not rates.active
        assert cooldown.remaining(0.0) == 0

    def test_a_metadata_response_throttles_no_tokens(self) -> None:
        headers, rates, *_ = self.new()
        headers.apply(answer({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "1s"}), None, 0.0)
        assert not rates.active
