"""Several endpoints as one: each gets its share, and a failing one costs no row."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Client, Endpoint, Hedge, Limits, Response, RetryPolicy, RunStopped
from tests.fleet import Fleet, X, changing, dead, says, served
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time


def assert_right(result: Any, rows: np.ndarray = X) -> None:
    assert result.ok.all()
    assert np.array_equal(result.values, rows * 2)


async def test_endpoints_that_are_alike_share_the_work():
    fleet = Fleet(a=served(), b=served(), c=served())
    assert_right(await fleet.run())
    assert fleet.shares.total() == 1000
    assert min(fleet.shares.values()) > 250


async def test_row_34_one_endpoint_ten_times_slower_costs_less_than_a_fifth_of_the_others_speed():
    three = Fleet(a=served(), b=served(), c=served())
    assert_right(await three.run())
    four = Fleet(a=served(), b=served(), c=served(), slow=served(1.0))
    assert_right(await four.run())
    assert four.shares["slow"] < 20
    assert three.took / four.took > 0.8


async def test_weights_are_shares():
    fleet = Fleet(a=served(), b=served())
    async with Client(
        Endpoint(urls=["http://a/m", "http://b/m"], weights=[3, 1]), codec=Plain, chunk_rows=1, transport=fleet,
        limits=Limits(concurrency=16),
    ) as client:  # fmt: skip
        assert np.array_equal(await client.map(X), X * 2)
    assert 2.0 < fleet.shares["a"] / fleet.shares["b"] < 4.0


@pytest.mark.parametrize("dies", [0.0, 2.0, 5.5], ids=["at the start", "in the middle", "near the end"])
async def test_an_endpoint_that_dies_loses_no_row_and_delays_no_request(dies):
    fleet = Fleet(a=served(), b=changing((dies, served()), last=dead), c=served())
    assert_right(await fleet.run(retry=RetryPolicy(max_attempts=2)))
    assert fleet.took < 1000 / 16 * 0.1 + 0.5  # as if it had never been there
    times = [now for now, name in fleet.sent if name != "b"]
    assert max(np.diff(times)) <= 0.11  # no request waits for it
    asked_in_vain = sum(1 for now, name in fleet.sent if name == "b" and now >= dies)
    assert asked_in_vain < 40
    assert fleet.kinds()["ejected"] >= (dies < 5)


async def test_two_of_three_may_be_dead_from_the_start():
    fleet = Fleet(a=dead, b=dead, c=served())
    assert_right(await fleet.run(retry=RetryPolicy(max_attempts=2)))


@pytest.mark.slow
async def test_row_35_each_ejection_of_a_flapping_endpoint_is_longer():
    flips = [(5.0 * k + 5.0, says(503) if k % 2 else served()) for k in range(100)]
    fleet = Fleet(a=served(), flaps=changing(*flips, last=served()))
    rows = np.arange(20_000.0).reshape(10_000, 2)
    assert_right(await fleet.run(rows), rows)
    assert 1 <= fleet.kinds()["ejected"] <= 12  # in 62 s it goes down six times
    down = [now for now, name in fleet.sent if name == "flaps" and int(now // 5) % 2]
    assert len(down) < 250
    ejections = fleet.kinds()["ejected"]
    assert fleet.kinds()["restored"] <= ejections


async def test_an_endpoint_that_fails_often_is_ejected_without_five_consecutive_failures():
    number = 0

    async def shaky(sent: Request) -> Response:
        nonlocal number
        number += 1
        return await (served() if number % 4 == 0 else says(502))(sent)

    fleet = Fleet(a=served(), shaky=shaky)
    assert_right(await fleet.run())
    assert fleet.kinds()["ejected"] >= 1


async def test_the_last_endpoint_is_never_ejected():
    fleet = Fleet(a=dead, b=changing((3.0, says(502)), last=served()))
    assert_right(await fleet.run(X[:100]), X[:100])
    assert {event.reason.split()[0] for event in fleet.events if event.kind == "ejected"} <= {"http://a/m"}


async def test_a_cooldown_holds_for_one_endpoint_alone():
    fleet = Fleet(a=served(), b=changing((1.0, says(429, {"Retry-After": "3"})), last=served()))
    assert_right(await fleet.run())
    times = {name: [now for now, asked in fleet.sent if asked == name] for name in "ab"}
    assert max(np.diff(times["a"])) < 0.2
    first_pause = max(now for now in times["b"] if now < 1.0)
    assert min((now for now in times["b"] if now > first_pause), default=99) >= 3.0


async def test_a_cooldown_that_is_too_long_stops_no_run_that_has_another_endpoint():
    fleet = Fleet(a=served(), b=says(429, {"Retry-After": "86400"}))
    assert_right(await fleet.run())
    assert fleet.shares["b"] <= 16


@pytest.mark.parametrize("status", [401, 403, 302])
async def test_an_endpoint_that_refuses_all_requests_is_excluded(status):
    headers = {"Location": "http://elsewhere/m"} if status == 302 else {}
    fleet = Fleet(a=served(), b=says(status, headers))
    assert_right(await fleet.run())
    assert fleet.shares["b"] <= 16
    assert fleet.kinds()["excluded"] == 1
    (reason,) = [event.reason for event in fleet.events if event.kind == "excluded"]
    assert reason.startswith("http://b/m is excluded: ")


async def test_the_run_stops_if_all_endpoints_refuse():
    fleet = Fleet(a=says(401), b=says(403))
    with pytest.raises(RunStopped) as caught:
        await fleet.run()
    assert caught.value.kind == "refused"


async def test_the_run_stops_if_no_endpoint_ever_answers():
    fleet = Fleet(a=dead, b=dead)
    with pytest.raises(RunStopped) as caught:
        await fleet.run()
    assert caught.value.kind == "unreachable"
    assert fleet.shares.total() < 1000


async def test_answers_of_another_shape_are_not_merged():
    async def wide(sent: Request) -> Response:
        await asyncio.sleep(0.1)
        n = len(orjson.loads(sent.joined())["instances"])
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": [[1.0, 2.0, 3.0]] * n}))

    fleet = Fleet(a=served(), b=served(), wide=wide)
    assert_right(await fleet.run(codec=Plain(shape=[2])))
    assert fleet.kinds()["excluded"] == 1
    assert fleet.shares["wide"] <= 16


async def test_endpoints_whose_answers_have_another_length_do_not_end_the_run():
    """Their model is another; the lengths of rows do not differ."""

    async def wide(sent: Request) -> Response:
        rows = orjson.loads((await served()(sent)).body)["predictions"]
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": [[*row, 0.0] for row in rows]}))

    other = changing((0.05, served()), last=wide)
    fleet = Fleet(a=served(), b=other, c=other)
    assert_right(await fleet.run())
    assert fleet.kinds()["excluded"] == 2


async def test_answers_of_another_model_are_not_merged():
    class Named(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            return fanout.DecodedResponse(super().decode(response, n_rows), usage={}, model=response.headers["model"])

    def named(model: str, factor: float = 2.0) -> Callable[[Request], Any]:
        async def answer(sent: Request) -> Response:
            response = await served(factor=factor)(sent)
            return Response(status=200, headers={"model": model}, body=response.body)

        return answer

    fleet = Fleet(a=named("m-1"), b=changing((1.0, named("m-1")), last=named("m-2", factor=9.0)))
    assert_right(await fleet.run(codec=Named))
    (reason,) = [event.reason for event in fleet.events if event.kind == "excluded"]
    assert "model 'm-2', others are of 'm-1'" in reason


class Asking(Plain):
    """Requests the metadata of the model."""

    model = ""

    def metadata_requests(self, url: str, responses: Any = ()) -> Any:
        return [f"{url}/metadata"]

    def with_metadata(self, responses: Any) -> Any:
        (response,) = responses
        if response.status == 404:
            raise fanout.ConfigError("no such model", key="codec")
        codec = copy.copy(self)
        codec.model = response.body.decode()
        return codec

    def describe(self) -> fanout.ModelInfo:
        return fanout.ModelInfo(name=self.model)


def knowing(name: str, **more: Any) -> Callable[[Request], Any]:
    async def answer(sent: Request) -> Response:
        if sent.method == "GET":
            return Response(status=200, headers={}, body=name.encode())
        return await served(**more)(sent)

    return answer


async def test_every_endpoint_is_probed_and_one_with_another_model_gets_no_rows():
    fleet = Fleet(a=knowing("m"), b=knowing("m"), other=knowing("n", factor=9.0))
    assert_right(await fleet.run(codec=Asking))
    assert fleet.shares["other"] == 1
    (reason,) = [event.reason for event in fleet.events if event.kind == "excluded"]
    assert reason == "http://other/m is not asked: it serves the model 'n', another endpoint the model 'm'"


async def test_an_endpoint_with_late_metadata_joins_late():
    fleet = Fleet(a=changing((2.5, dead), last=knowing("m")), b=knowing("m"))
    rows = np.arange(6000.0).reshape(3000, 2)
    assert_right(await fleet.run(rows, codec=Asking), rows)
    assert fleet.took < 3000 / 16 * 0.1 + 0.5  # the other began at once
    assert fleet.shares["a"] > 500


async def test_the_run_stops_if_no_endpoint_returns_metadata():
    fleet = Fleet(a=dead, b=says(401))
    with pytest.raises(RunStopped):
        await fleet.run(codec=Asking)
    with pytest.raises(fanout.ConfigError, match="no such model"):
        await Fleet(a=says(404), b=dead).run(codec=Asking)


async def test_a_bad_row_fails_alone_and_condemns_no_endpoint():
    async def picky(sent: Request) -> Response:
        if 42.0 in np.array(orjson.loads(sent.joined())["instances"]):
            return await says(400)(sent)
        return await served()(sent)

    fleet = Fleet(a=picky, b=picky)
    result = await fleet.run(chunk_rows=16)
    assert np.flatnonzero(~result.ok).tolist() == [21]
    assert not fleet.kinds()["ejected"] + fleet.kinds()["excluded"]


async def test_a_failure_names_the_endpoint_that_gave_it():
    async def picky(sent: Request) -> Response:
        bad = np.array(orjson.loads(sent.joined())["instances"])[0, 0] % 10 == 8
        return await (says(400, seconds=0.2) if bad else served())(sent)

    fleet = Fleet(a=picky, b=picky)
    result = await fleet.run(X[:200])
    assert {failure.endpoint for failure in result.failures} == {"http://a/m", "http://b/m"}


async def test_the_concurrency_limit_holds_for_all_endpoints_together():
    most = now = 0

    def counted(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def count(sent: Request) -> Response:
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                return await answer(sent)
            finally:
                now -= 1

        return count

    await Fleet(a=counted(served()), b=counted(dead), c=counted(served())).run()
    assert most == 16


async def test_a_request_that_goes_to_another_endpoint_is_a_retry():
    fleet = Fleet(a=served(), b=says(503))
    result = await fleet.run()
    assert_right(result)
    assert result.stats.retries == fleet.shares["b"] > 0


async def test_an_endpoint_without_metadata_is_reported_with_the_reason():
    result = await Fleet(a=knowing("m"), b=dead).run(codec=Asking)
    assert [one.state for one in result.stats.endpoints] == ["in use", "excluded"]
    assert "connection refused" in result.stats.endpoints[1].reason


async def test_the_statistics_report_the_state_of_each_endpoint():
    fleet = Fleet(a=served(), b=says(401), c=changing((1.0, served()), last=dead))
    result = await fleet.run()
    a, b, c = result.stats.endpoints
    assert [one.url for one in (a, b, c)] == ["http://a/m", "http://b/m", "http://c/m"]
    assert (a.state, b.state, c.state) == ("in use", "excluded", "ejected")
    assert "HTTP 401" in b.reason
    assert a.latency == pytest.approx(0.1)
    assert b.latency is None
    assert {one.url[7]: one.requests for one in (a, b, c)} == fleet.shares
    assert sum(one.requests for one in (a, b, c)) == result.stats.requests


AUTO = Limits(concurrency="auto")


async def test_row_33_auto_survives_an_overload_of_all_endpoints():
    storm = changing((2.0, served()), (62.0, says(503)), last=served())
    fleet = Fleet(a=storm, b=storm)
    rows = np.arange(4000.0).reshape(2000, 2)
    assert_right(await fleet.run(rows, limits=AUTO, retry=RetryPolicy(stall=600)), rows)
    assert sum(1 for now, _ in fleet.sent if 2.5 < now < 62.0) < 200


async def test_row_34_with_auto_the_slow_endpoint_gets_few_requests():
    fleet = Fleet(a=served(), b=served(), c=served(), slow=served(1.0))
    assert_right(await fleet.run(limits=AUTO))
    assert fleet.shares["slow"] < 60


@pytest.mark.slow
async def test_row_35_with_auto_a_flapping_endpoint_is_ejected():
    flips = [(5.0 * k + 5.0, says(503) if k % 2 else served()) for k in range(100)]
    fleet = Fleet(a=served(), flaps=changing(*flips, last=served()))
    rows = np.arange(10_000.0).reshape(5000, 2)
    assert_right(await fleet.run(rows, limits=AUTO), rows)
    assert fleet.kinds()["ejected"] <= 8
    assert fleet.shares["a"] > 1500


async def test_row_36_hedging_works_with_auto():
    fleet = Fleet(a=served(3.0), b=served(0.1))
    result = await fleet.run(X[:200], limits=AUTO, hedge=Hedge(share=0.5, delay=0.5))
    assert_right(result, X[:200])
    assert result.stats.hedges_won > 0


async def test_with_auto_one_overloaded_endpoint_does_not_slow_the_others_down():
    number = 0

    async def shaky(sent: Request) -> Response:
        nonlocal number
        number += 1
        return await (served() if number % 3 else says(503))(sent)

    rows = np.arange(10_000.0).reshape(5000, 2)
    fleet = Fleet(a=served(), b=served(), c=shaky)
    result = await fleet.run(rows, limits=AUTO)
    assert_right(result, rows)
    assert result.stats.concurrency > 32


@pytest.mark.slow
async def test_with_auto_an_overload_of_all_endpoints_lowers_the_limit():
    def full(most: int) -> Callable[[Request], Any]:
        busy = 0

        async def answer(sent: Request) -> Response:
            nonlocal busy
            if busy >= most:
                return await says(503, seconds=0.001)(sent)
            busy += 1
            try:
                return await served()(sent)
            finally:
                busy -= 1

        return answer

    rows = np.arange(10_000.0).reshape(5000, 2)
    fleet = Fleet(a=full(6), b=full(6))
    result = await fleet.run(rows, limits=AUTO)
    assert_right(result, rows)
    assert 4 <= result.stats.concurrency <= 16


async def test_a_row_that_all_endpoints_have_failed_waits_once_and_then_tries_all_of_them_again() -> None:
    fleet = Fleet(a=says(503), b=says(503))
    with pytest.raises(RunStopped):
        await fleet.run(X[:1], limits=Limits(concurrency=1))
    (first, one), (second, other), (third, again), (fourth, last) = fleet.sent[:4]
    assert {one, other} == {again, last} == {"a", "b"}
    assert second - first == pytest.approx(0.01)
    assert third - second > 0.01
    assert fourth - third == pytest.approx(0.01)
