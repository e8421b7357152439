"""What answers say is left is heeded before the endpoint has to refuse, and costs nothing where they say nothing."""

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
from fanout.limits import ConcurrencyLimiter, Cooldown, Cost, RateLimiter, TokenMeter
from fanout.testing import MockEndpoint, Scripted
from fanout.upstream.rate_limit_headers import RateLimitHeaders
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
    said = answer({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(seconds)}, rows=10)
    return Scripted(body=said.body, headers=said.headers)


class Windowed:
    """A tape in place of an endpoint that lets ``most`` requests through in each window, and says what is left."""

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
async def test_an_endpoint_that_tells_what_is_left_has_to_refuse_nothing(name: str) -> None:
    tape = Windowed(20, 60.0, name=name)
    async with Client(
        "http://far.test/x", codec=Plain, chunk_rows=1, limits=Limits(concurrency=8), transport=tape
    ) as client:
        await client.map(X)
    assert tape.refused == 0
    assert len(tape.times) == 100
    assert now() <= 6 * 60  # 20 a minute
    assert sum(time < 10 for time in tape.times) >= 8  # what is ample is not spread


async def test_without_the_fields_the_same_endpoint_refuses_many() -> None:
    tape = Windowed(20, 60.0, name="nothing-anybody-reads")
    retry = RetryPolicy(max_attempts=20)
    async with Client("http://far.test/x", codec=Plain, chunk_rows=1, transport=tape, retry=retry) as client:
        await client.map(X, on_error="keep")
    assert tape.refused > 0


async def test_nothing_goes_before_the_reset_once_nothing_is_left() -> None:
    events: list[fanout.Event] = []
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(used_up(50))
        limits = Limits(concurrency=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=limits, on_event=events.append) as client:
            await client.map(X)
    assert 50 <= mock.times[1] <= 55
    assert [(event.kind, event.seconds) for event in events if event.kind == "pause"] == [("pause", 50.0)]


async def test_who_waits_for_a_rate_when_less_is_told_waits_for_that() -> None:
    """Seven have starts reserved, a second apart, when the first answer says that two are left for 20 s."""
    with MockEndpoint(lambda x: x * 2, latency=0.5) as mock:
        said = answer({"RateLimit": '"default";r=2;t=20'}, rows=10)
        mock.script(Scripted(body=said.body, headers=said.headers))
        limits = Limits(concurrency=8, requests_per_second=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=limits) as client:
            await client.map(X)
    assert mock.times == pytest.approx([0, 10.5, *(20.5 + i for i in range(8))])


async def test_no_pause_is_longer_than_the_longest_allowed() -> None:
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(used_up(5000))
        retry = RetryPolicy(max_pushback=20)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=10, limits=Limits(concurrency=1), retry=retry
        ) as client:
            await client.map(X)
    assert 20 <= mock.times[1] <= 22


async def test_tokens_that_are_left_are_spread_by_what_requests_take() -> None:
    """Four in hand take 100 tokens each, 200 are left for 20 s: one in ten seconds."""
    texts = ["word " * 100] * 12
    codec = fanout.codec("openai-embeddings", model="mock", encoding_format="float")
    data = {"data": [{"index": 0, "embedding": [0.0]}], "usage": {"total_tokens": 100}}
    left = {"x-ratelimit-remaining-tokens": "200", "x-ratelimit-reset-tokens": "20s"}
    with MockEndpoint(lambda texts: np.zeros((len(texts), 1)), latency=0.1) as mock:
        limits = Limits(concurrency=4)
        async with Client(mock.url(codec), codec=codec, chunk_rows=1, limits=limits) as client:
            await client.map(texts[:1])  # what a request takes is learnt
            mock.script(*[Scripted(body=orjson.dumps(data), headers=left)] * 4)
            await client.map(texts)
    assert sum(time < 10 for time in mock.times) <= 6  # one of these answers is not looked at
    assert mock.times[6:] == pytest.approx([10.2] + [20.2] * 6, abs=0.2)


class TestHeed:
    def heed(self) -> tuple[RateLimitHeaders, RateLimiter, Cooldown, ConcurrencyLimiter]:
        rates, cooldown, limiter = RateLimiter(Limits()), Cooldown(), ConcurrencyLimiter(8)
        limiter.in_use = 8
        return RateLimitHeaders(rates, cooldown, limiter, TokenMeter(), longest=100.0), rates, cooldown, limiter

    def response(self, left: int, seconds: int) -> Response:
        return answer({"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": str(seconds)})

    def test_what_is_more_than_those_in_hand_need_changes_nothing(self) -> None:
        heed, rates, cooldown, _ = self.heed()
        assert heed(self.response(8, 60), None, 5.0) == 0
        assert not rates.active
        assert cooldown.wait(5.0) == 0

    def test_less_is_spread_and_more_lets_go(self) -> None:
        heed, rates, *_ = self.heed()
        heed(self.response(6, 60), None, 5.0)
        assert rates.active
        assert rates.reserve(5.0, Cost()).start == 15.0
        heed(self.response(60, 60), None, 6.0)
        assert not rates.active

    @pytest.mark.parametrize(("silent", "unread"), [(1, 1), (3, 3), (7, 7), (255, 127), (1000, 22)])
    def test_where_answers_say_nothing_ever_fewer_are_looked_at(self, silent: int, unread: int) -> None:
        heed, rates, *_ = self.heed()
        for _ in range(silent):
            heed(answer({}), None, 0.0)
        for _ in range(unread):
            heed(self.response(1, 9), None, 0.0)
        assert not rates.active
        heed(self.response(1, 9), None, 0.0)
        assert rates.active

    def test_who_is_alone_may_take_the_last(self) -> None:
        heed, rates, cooldown, limiter = self.heed()
        limiter.in_use = 1
        heed(self.response(1, 60), None, 5.0)
        assert not rates.active
        assert heed(self.response(0, 60), None, 5.0) == 60.0
        assert cooldown.wait(5.0) == 60.0
        assert heed(self.response(0, 70), None, 5.0) == 0.0  # it was shut already, and told so
        assert cooldown.wait(5.0) == 70.0

    def test_of_two_endpoints_with_one_limiter_neither_takes_back_what_the_other_has_told(self) -> None:
        one, rates, cooldown, limiter = self.heed()
        other = RateLimitHeaders(rates, cooldown, limiter, TokenMeter(), longest=100.0)
        one(self.response(1, 60), None, 5.0)
        other(self.response(1000, 60), None, 5.0)
        assert rates.active

    def test_what_cannot_be_known_of_requests_to_come_is_left_to_refusals(self) -> None:
        heed, rates, cooldown, _ = self.heed()
        policy = {"RateLimit": '"size";r=0;t=30', "RateLimit-Policy": '"size";q=9;w=60;qu="content-bytes"'}
        heed(answer(policy), None, 0.0)
        assert not rates.active
        assert cooldown.wait(0.0) == 0

    def test_an_answer_about_the_model_tells_nothing_of_tokens(self) -> None:
        heed, rates, *_ = self.heed()
        heed(answer({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "1s"}), None, 0.0)
        assert not rates.active
