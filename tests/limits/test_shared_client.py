"""Clients that share limits, in virtual time: what the endpoint sees, and what happens when the backend is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import fanout
from fanout import Client, ConfigError, Limits, Prices, RetryPolicy, RunStopped
from fanout.limits import Cost, shared
from fanout.limits.shared import HORIZON, BackendLostError, Bounds, Notice, Want
from fanout.limits.shared_client import SharedLimits
from fanout.testing import MockEndpoint, Scripted
from tests.limits.shared_backend import HUBS, Hub, HubBackend

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setitem(vars(shared)["_PACKAGED"], "hub", "tests.limits.shared_backend:HubBackend")
    monkeypatch.setitem(HUBS, "hub://one", hub := Hub())
    return hub


def now():
    return asyncio.get_running_loop().time()


def client(mock, *, retry=None, cost=None, **limits: Any):
    shared_limits = Limits(shared="hub://one", **limits)
    return Client(mock.url("v1"), codec="v1", chunk_rows=1, limits=shared_limits, retry=retry, cost=cost)


def rows(n):
    return np.arange(float(2 * n)).reshape(n, 2)


async def until_requests(mock, n):
    while len(mock.times) < n:  # noqa: ASYNC110 - the mock has no event
        await asyncio.sleep(0.01)


def most_in_a_second(times):
    return max(sum(first <= other < first + 1 for other in times) for first in times)


@pytest.fixture
def mock():
    with MockEndpoint(lambda x: x[:, 0], latency=0.05) as mock:
        yield mock


async def both(mock, n, **limits):
    """The results of two clients that send ``n`` rows each."""
    async with client(mock, **limits) as one, client(mock, **limits) as two:
        return await asyncio.gather(one.map(rows(n)), two.map(rows(n)))


async def test_two_clients_keep_one_rate_together(mock, hub):
    began = now()
    for result in await both(mock, 40, requests_per_second=20):
        assert result.tolist() == rows(40)[:, 0].tolist()
    assert now() - began == pytest.approx(80 / 20, rel=0.02)
    assert most_in_a_second(mock.times) <= 21
    assert len(hub.calls) < 4 * 80, "no client asks again before the time that it was given"
    assert not hub.queues, "a closed client leaves no connection"


async def test_uneven_load_uses_the_whole_rate(mock, hub):
    limits = {"requests_per_second": 20, "concurrency": 32}
    async with client(mock, **limits) as busy, client(mock, **limits) as idle:
        began = now()
        await asyncio.gather(busy.map(rows(75)), idle.map(rows(5)))
    assert now() - began == pytest.approx(80 / 20, rel=0.02)


async def test_starts_that_a_stall_of_the_process_has_missed_are_asked_for_again(mock, hub):
    limits: dict[str, Any] = {"requests_per_second": 50, "concurrency": 64, "max_cost": 150.0, "shared_key": "run"}
    async with client(mock, cost=Prices(per_request=1.0), **limits) as one:
        run = asyncio.create_task(one.map(rows(150)))
        await until_requests(mock, 30)
        vars(asyncio.get_running_loop())["_now"] += 0.8
        await run
    # Without it, the forty of the stall would go at once, and fifty more in the same second.
    assert most_in_a_second(mock.times) <= 1.1 * 50 + 1
    assert len(mock.times) == 150
    # Requests that ask again still have their estimates.
    assert {want.price for call in hub.calls for want in call.wants} == {1.0}


async def test_requests_in_flight_are_bounded_together(mock, hub):
    in_flight = []
    mock_in_flight = lambda: sum(sent <= now() < sent + 0.05 for sent in mock.times)  # noqa: E731

    async def watch():
        while True:
            in_flight.append(mock_in_flight())
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    began = now()
    await both(mock, 30, concurrency=4)
    watching.cancel()
    assert max(in_flight) == 4
    # 60 requests, four at a time, 50 ms each; the backend adds some milliseconds to each.
    assert now() - began < 60 / 4 * 0.07


async def test_a_permit_that_becomes_free_is_reported_to_a_client_that_waits_for_it(mock, hub):
    began = now()
    await both(mock, 1, concurrency=1)
    assert now() - began < 2 * 0.05 + 0.05


async def test_a_client_that_comes_later_gets_its_share_of_the_permits(mock, hub):
    async with client(mock, concurrency=4) as one, client(mock, concurrency=4) as two:
        first = asyncio.create_task(one.map(rows(140)))
        await until_requests(mock, 20)
        began = now()
        await two.map(rows(20))
        # With two of four permits, 20 requests of 50 ms take half a second.
        assert now() - began < 1.0
        await first


async def test_a_refusal_of_one_client_stops_the_others(mock, hub):
    mock.script(*[None] * 20, Scripted(status=429, headers={"Retry-After": "5"}))
    await asyncio.sleep(100)
    async with client(mock, requests_per_second=100) as one, client(mock, requests_per_second=100) as two:
        runs = asyncio.gather(one.map(rows(40)), two.map(rows(40)))
        await until_requests(mock, 21)
        refused = mock.times[20]
        await runs
    after = [at - refused for at in mock.times[21:]]
    assert not [at for at in after if 0.05 + 2 * hub.delay < at < 5.0]
    assert 5.0 < max(after) < 6.0
    assert most_in_a_second([at for at in mock.times if at > refused + 1]) <= 101


async def test_max_requests_counts_for_all(mock, hub):
    limits: dict[str, Any] = {"max_requests": 21, "shared_key": "run", "concurrency": 3}
    async with client(mock, **limits) as one, client(mock, **limits) as two:
        ends = await asyncio.gather(one.map(rows(40)), two.map(rows(40)), return_exceptions=True)
    assert len(mock.times) == 21
    assert {vars(end)["kind"] for end in ends} == {"max_requests"}
    assert sum(int(vars(end)["result"].ok.sum()) for end in ends) == 21


async def test_max_cost_counts_for_all_with_what_is_in_flight(mock, hub):
    limits: dict[str, Any] = {"max_cost": 5.0, "shared_key": "run", "concurrency": 8}
    cost = Prices(per_request=0.25)
    async with client(mock, cost=cost, **limits) as one, client(mock, cost=cost, **limits) as two:
        ends = await asyncio.gather(one.map(rows(40)), two.map(rows(40)), return_exceptions=True)
    assert {end.kind for end in ends} == {"cost"}
    assert len(mock.times) == 20
    assert sum(end.result.stats.cost for end in ends) == pytest.approx(5.0)


async def test_tokens_that_the_answers_report_are_charged(hub):
    def answer(texts):
        return np.ones((len(texts), 2))

    with MockEndpoint(answer, latency=0.01) as mock:
        limits = Limits(shared="hub://one", tokens_per_second=100)
        client = Client(
            mock.url("v1"), codec="v1", chunk_rows=1, limits=limits, count_tokens=lambda row: 10,
        )  # fmt: skip
        async with client:
            began = now()
            await client.map(rows(40))
    assert now() - began == pytest.approx(40 * 10 / 100, rel=0.05)


async def test_nothing_is_sent_while_the_backend_is_lost(mock, hub):
    async with client(mock, requests_per_second=50) as one:
        run = asyncio.create_task(one.map(rows(70)))
        await until_requests(mock, 30)
        lost, sent = now(), len(mock.times)
        hub.go_down()
        await asyncio.sleep(20)
        assert len(mock.times) <= sent + 1
        hub.is_down = False
        assert (await run).tolist() == rows(70)[:, 0].tolist()
    assert not [at for at in mock.times if lost + 0.05 < at < lost + 20]
    assert len(mock.times) == 70


async def test_a_backend_that_stays_lost_stops_the_run_as_unreachable(mock, hub, caplog):
    retry = RetryPolicy(stall=30)
    async with client(mock, requests_per_second=50, retry=retry) as one:
        run = asyncio.create_task(one.map(rows(70)))
        await until_requests(mock, 30)
        lost = now()
        hub.go_down()
        with pytest.raises(RunStopped, match=r"limits\.shared cannot be reached.*the hub is down") as stopped:
            await run
    assert stopped.value.kind == "unreachable"
    assert "nothing is sent until it is back: the connection of the hub broke" in caplog.text
    assert int(stopped.value.result.ok.sum()) == len(mock.times)
    assert 29 < now() - lost < 31


async def test_a_backend_without_its_state_lets_nothing_start_before_the_longest_wait_has_passed(mock, hub):
    mock.script(*[None] * 20, Scripted(status=429, headers={"Retry-After": "10"}))
    async with client(mock, requests_per_second=100) as one, client(mock, requests_per_second=100) as two:
        runs = asyncio.gather(one.map(rows(60)), two.map(rows(60)))
        await until_requests(mock, 21)
        refused = mock.times[20]
        await asyncio.sleep(1)
        hub.go_down()
        hub.begin_anew()
        await asyncio.sleep(1)
        hub.is_down = False
        await asyncio.sleep(1)
        # A client that knows nothing of the cooldown learns of it from the others.
        async with client(mock, requests_per_second=100) as third:
            await third.map(rows(10))
        await runs
    assert not [at for at in mock.times if refused + 0.06 < at < refused + 10]


async def test_a_state_that_is_lost_while_the_connection_holds_is_noticed(mock, hub):
    async with client(mock, requests_per_second=50) as one:
        run = asyncio.create_task(one.map(rows(50)))
        await until_requests(mock, 30)
        hub.begin_anew()
        lost = now()
        await run
    pause = min(at for at in mock.times if at > lost + 0.1) - lost
    assert HORIZON <= pause < HORIZON + 0.2


async def test_a_notice_of_a_cooldown_is_capped_and_others_are_ignored(mock, hub):
    async with client(mock, retry=RetryPolicy(max_pushback=3)) as one:
        await one.map(rows(1))
        (endpoint,) = {want.endpoint for call in hub.calls for want in call.wants}
        hub.publish(Notice("0123456789abcdef", 1000.0))
        hub.publish(Notice(endpoint, 1e9))
        await asyncio.sleep(0.01)
        began = now()
        await one.map(rows(1))
    assert 2.9 < now() - began < 3.5


async def test_a_cancelled_call_returns_its_permits(mock, hub):
    async with client(mock, concurrency=2) as one, client(mock, concurrency=2) as two:
        run = asyncio.create_task(one.map(rows(100)))
        await until_requests(mock, 5)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        began = now()
        await two.map(rows(10))
        assert now() - began < 1.0


async def test_metadata_and_repeated_requests_claim_a_start_too(mock, hub):
    mock.script(None, 503, 503, None)
    async with client(mock, requests_per_second=1) as one:
        await one.map(rows(3))
    assert len(mock.times) == 5
    assert all(later - earlier >= 0.99 for earlier, later in zip(mock.times, mock.times[1:], strict=False))


async def test_predict_shares_the_limits(mock, hub):
    async with client(mock, requests_per_second=2) as one:
        began = now()
        await asyncio.gather(*(one.predict(row) for row in rows(3)))
    assert now() - began >= 0.9


async def test_a_backend_that_cannot_be_reached_is_an_error_of_the_settings(mock, hub):
    hub.is_down = True
    with pytest.raises(ConfigError, match="no answer within 10 s from hub://one: the hub is down"):
        async with client(mock):
            pass


async def test_an_unknown_scheme_names_the_nearest(mock):
    settings = Limits(shared="reddis://me:hunter22@h")
    with pytest.raises(ConfigError, match=r"unknown scheme, 'reddis' \(did you mean 'redis'\?\)") as error:
        async with Client(mock.url("v1"), codec="v1", limits=settings):
            pass
    assert "hunter22" not in str(error.value)


async def test_a_mock_takes_no_part_in_the_limits(hub):
    class Offline:
        offline = True

        async def send(self, request):
            return fanout.Response(status=200, headers={}, body=b'{"predictions": [1.0]}')

    limits = Limits(shared="hub://one", requests_per_second=5)
    async with Client("http://h/x", codec="v1", chunk_rows=1, limits=limits, transport=Offline()) as one:
        began = now()
        await one.map(rows(11))
    assert now() - began == pytest.approx(2.0)
    assert not hub.calls


async def test_a_start_that_is_granted_to_a_cancelled_call_is_returned_at_once(mock, hub):
    hub.delay = 0.1
    limits: dict[str, Any] = {"max_requests": 1, "shared_key": "run"}
    async with client(mock, **limits) as one, client(mock, **limits) as two:
        run = asyncio.create_task(one.map(rows(1)))
        while not any(call.wants for call in hub.calls):  # noqa: ASYNC110 - the hub has no event
            await asyncio.sleep(0.01)
        # The backend has granted the start, and its answer is on the way.
        run.cancel()
        began = now()
        await two.map(rows(1))
        assert now() - began < 2.0
        assert len(mock.times) == 1


async def fails_at_a_cancellation(self):
    try:
        while True:
            yield await asyncio.sleep(1000, Notice())
    finally:
        raise BackendLostError("the connection broke as it was closed")


async def swallows_a_cancellation(self):
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(1000)
    yield Notice()
    await asyncio.sleep(1000)


@pytest.mark.parametrize("notices", [fails_at_a_cancellation, swallows_a_cancellation])
async def test_a_backend_that_misbehaves_while_the_client_closes_is_left_alone(mock, hub, monkeypatch, notices):
    monkeypatch.setattr(HubBackend, "notices", notices)
    before = asyncio.all_tasks()
    async with client(mock, requests_per_second=50) as one:
        await one.map(rows(1))
        connected = hub.times_connected
    await asyncio.sleep(5)
    assert asyncio.all_tasks() == before
    assert hub.times_connected == connected


async def test_a_backend_that_refuses_the_client_is_tried_with_pauses(mock, hub, monkeypatch):
    attempts = []

    async def refuse(self):
        attempts.append(now())
        raise ConfigError("the password was changed")

    async with client(mock, requests_per_second=50) as one:
        await one.map(rows(1))
        with monkeypatch.context() as patched:
            patched.setattr(HubBackend, "connect", refuse)
            hub.go_down()
            await asyncio.sleep(10)
        assert 10 < len(attempts) < 50
        assert attempts[3] - attempts[0] < 0.02 + 0.04 + 0.08 + 0.01, "the first pauses are short"
        hub.is_down = False
        await one.map(rows(1))


async def test_tokens_are_charged_although_calls_with_them_were_lost(hub, monkeypatch):
    lost: list[float] = []

    async def lose_two(self, call):
        if len(lost) < 2:
            lost.append(call.charge)
            raise BackendLostError("the answer did not come")
        return await reserve(self, call)

    limits = SharedLimits(HubBackend("hub://one", "key", Bounds()), {}, longest=1.0)
    await limits.open()
    reserve = HubBackend.reserve
    monkeypatch.setattr(HubBackend, "reserve", lose_two)
    limits.charge(7.0)
    limits.give_back(limits.claim(Want("e", Cost())))
    await asyncio.sleep(1)
    await limits.close()
    assert lost == [7.0, 7.0]
    assert sum(call.charge for call in hub.calls) == 7.0
