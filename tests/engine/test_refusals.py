"""Refusals of single rows, and refusals of all of them in words that no table knows, in virtual time."""

from __future__ import annotations

import asyncio
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fanout import Client, Hedge, Limits, Response, RunStopped
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint, Scripted
from tests.fleet import Fleet, says, served
from tests.support import Plain

if TYPE_CHECKING:
    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
X = np.arange(3000.0).reshape(1000, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def forbidding(*bad: int, status: int = 403, words: str = "flagged by the firewall") -> Any:
    def model(x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0] / 3, bad).any():
            raise StatusError(status, words)
        return x * 2

    return model


def assert_only(result: Any, bad: list[int], rows: np.ndarray = X) -> None:
    assert np.flatnonzero(~result.ok).tolist() == bad
    assert [(f.start, f.stop, f.status) for f in result.failures] == [(row, row + 1, 403) for row in bad]
    assert result.pending == ()
    assert np.array_equal(result.values[result.ok], (rows * 2)[result.ok])


@pytest.mark.parametrize("concurrency", [1, pytest.param(2, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize("bad", [0, 500, *(pytest.param(row, marks=pytest.mark.slow) for row in (63, 999))])
@pytest.mark.parametrize("chunk_rows", [1, 64])
async def test_row_73_one_forbidden_row_fails_alone(bad: int, concurrency: int, chunk_rows: int) -> None:
    with MockEndpoint(forbidding(bad), latency=0.1) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=limits) as client:
            assert_only(await client.map(X, on_error="keep"), [bad])
    assert len(mock.requests) <= ceil(1000 / chunk_rows) + 2 * ceil(log2(chunk_rows)) + 2


@pytest.mark.parametrize("chunk_rows", [1, 64])
@pytest.mark.parametrize("status", [406, 418, 451, 499])
async def test_row_73_a_row_that_is_refused_with_an_unusual_status_fails_alone(status: int, chunk_rows: int) -> None:
    with MockEndpoint(forbidding(70, 300, status=status), latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows) as client:
            result = await client.map(X, on_error="keep")
    assert [(f.start, f.stop, f.status) for f in result.failures] == [(row, row + 1, status) for row in (70, 300)]
    assert len(mock.requests) <= ceil(1000 / chunk_rows) + 2 * (2 * ceil(log2(chunk_rows)) + 2)


@pytest.mark.parametrize("status", [406, 418, 426, 431])
async def test_an_unusual_status_for_every_request_stops_the_run_soon(status: int) -> None:
    with MockEndpoint(double) as mock:
        mock.script(*[status] * 10_000)
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=4)) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X)
    assert caught.value.kind == "rejected"
    assert len(mock.requests) <= 4 + 2 * (2 * 6 + 2)


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_row_72_rows_that_talk_of_money_and_are_quoted_stop_no_run(concurrency: int) -> None:
    words = "Your credit balance is too low, says my bank, in letter "
    texts = [words + str(i) if i in (70, 71, 300) else f"text {i}" for i in range(1000)]

    def model(texts: list[str]) -> np.ndarray:
        for text in texts:
            if text.startswith(words):
                raise StatusError(400, f"'{text}' is not of type 'number'")
        return np.array([float(len(text)) for text in texts])

    with MockEndpoint(model, latency=0.1) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url("v1"), codec="v1", chunk_rows=64, limits=limits) as client:
            result = await client.map(texts, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [70, 71, 300]
    assert len(mock.requests) <= 16 + 3 * (2 * 6 + 2)


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_row_73_a_firewall_that_is_quicker_than_the_model_stops_no_run(concurrency: int) -> None:
    """The first answers to come are refusals, while others are still being worked on."""
    bad = [0, 64, 65, 128, 300, 777]
    slow = lambda n: 0.01 if n in (0, 1, 2, 4) else 5.0  # noqa: E731 - the chunks with bad rows
    with MockEndpoint(forbidding(*bad), latency=slow) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, limits=limits) as client:
            assert_only(await client.map(X, on_error="keep"), bad)
    assert len(mock.requests) <= 16 + len(bad) * (2 * 6 + 2)


@pytest.mark.parametrize("chunk_rows", [1, 64])
async def test_row_73_many_forbidden_rows_among_good_ones_all_fail_alone(chunk_rows: int) -> None:
    bad = np.flatnonzero(np.random.default_rng(7).random(1000) < 0.1).tolist()
    with MockEndpoint(forbidding(*bad), latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows) as client:
            assert_only(await client.map(X, on_error="keep"), bad)
    assert len(mock.requests) <= ceil(1000 / chunk_rows) + len(bad) * (2 * ceil(log2(chunk_rows)) + 2)


async def test_an_error_403_with_status_200_is_the_rows_too() -> None:
    async def hiding(sent: Any) -> Response:
        if b"[[70.0" in sent.joined():
            body = orjson.dumps({"error": {"code": 403, "message": "flagged"}})
            return Response(status=200, headers={}, body=body)
        return await served()(sent)

    fleet = Fleet(a=hiding)
    rows = np.arange(200.0).reshape(100, 2)
    assert_only(await fleet.run(rows), [35], rows)
    assert len(fleet.sent) == 101


@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("chunk_rows", [1, 64])
@pytest.mark.parametrize("after", [0, 3])
async def test_forbidden_credentials_stop_the_run_and_blame_no_row(
    after: int, chunk_rows: int, concurrency: int
) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        mock.script(*[None] * after, *[Scripted(status=403, body=b"no such key")] * 10_000)
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=limits) as client:
            with pytest.raises(RunStopped, match="no such key") as caught:
                await client.map(X)
    result = caught.value.result
    assert caught.value.kind == "refused"
    assert result.failures == ()
    assert result.ok.sum() == after * chunk_rows
    rows = 20 if after else 2
    assert len(mock.requests) <= after + 3 * concurrency + rows * (2 * ceil(log2(chunk_rows)) + 2)


async def test_the_only_row_that_there_is_stops_the_run_where_it_is_forbidden() -> None:
    with MockEndpoint(double) as mock:
        mock.script(*[403] * 100)
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X[:1])
    assert caught.value.kind == "refused"
    assert caught.value.result.failures == ()
    assert len(mock.requests) <= 2


async def test_a_forbidden_row_waits_for_requests_in_flight_and_leaves_no_timer_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others show after a few seconds that the credentials are good."""
    loop, began = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def counted(delay: float, *call: Any, **options: Any) -> asyncio.TimerHandle:
        began.append(delay)
        return call_later(delay, *call, **options)

    with MockEndpoint(double, latency=lambda n: 0.1 if n == 0 else 3.5) as mock:
        mock.script(403)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=4)) as client:
            assert np.array_equal(await client.map(X[:4]), X[:4] * 2)
            assert mock.times[4:] == [3.5], "the row is sent again once another is answered"
            monkeypatch.setattr(loop, "call_later", counted)
            await asyncio.sleep(60)
    assert set(began) <= {60}


async def test_a_forbidden_row_waits_for_the_requests_of_other_runs_too() -> None:
    with MockEndpoint(double, latency=lambda n: 0.1 if n == 1 else 3.5) as mock:
        mock.script(None, 403)
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=4)) as client:
            other = asyncio.create_task(client.map(X[:1]))
            await asyncio.sleep(0.01)
            assert np.array_equal(await client.map(X[1:2]), X[1:2] * 2)
            assert other.done()
    assert asyncio.get_running_loop().time() < 10


async def test_one_endpoint_of_several_that_forbids_a_row_is_not_put_out() -> None:
    flagged = says(403, seconds=0.05)

    async def moderated(sent: Any) -> Any:
        rows = np.array(orjson.loads(sent.joined())["instances"])
        return await (flagged if (rows[:, 0] == 70).any() else served())(sent)

    rows = np.arange(2000.0).reshape(1000, 2)
    fleet = Fleet(a=moderated, b=moderated)
    assert_only(await fleet.run(rows), [35], rows)
    assert fleet.kinds()["excluded"] == 0


async def test_one_endpoint_of_several_whose_key_is_revoked_is_put_out_and_costs_no_row() -> None:
    calls = 0

    async def revoked(sent: Any) -> Any:
        nonlocal calls
        calls += 1
        return await (served() if calls < 100 else says(403))(sent)

    rows = np.arange(2000.0).reshape(1000, 2)
    fleet = Fleet(a=served(), b=revoked)
    result = await fleet.run(rows)
    assert fleet.kinds()["excluded"] == 1
    assert result.ok.sum() >= 998
    assert calls < 120


UNKNOWN = "Your account was closed, see ticket 8f14e45f-ceea-467f"


@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("chunk_rows", [1, 8, 64])
@pytest.mark.parametrize("status", [400, 422, 406])
async def test_row_72_the_same_refusal_again_and_again_stops_the_run(
    status: int, chunk_rows: int, concurrency: int
) -> None:
    number = 0

    def model(x: np.ndarray) -> np.ndarray:
        nonlocal number
        number += 1
        if number > 5:
            raise StatusError(status, f"{UNKNOWN}-{number:012}")
        return x * 2

    rows = np.arange(9000.0).reshape(3000, 3)
    with MockEndpoint(model, latency=0.1) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=limits) as client:
            with pytest.raises(RunStopped, match="account was closed") as caught:
                await client.map(rows)
    result = caught.value.result
    assert caught.value.kind == "rejected"
    failed = sum(f.stop - f.start for f in result.failures)
    assert 20 <= failed <= 20 + 2 * concurrency + 17 * chunk_rows * (chunk_rows > 1)
    if concurrency > 1:
        assert failed <= 20 + 2 * concurrency + 4 * chunk_rows
    assert len(mock.requests) <= 5 + 2 * concurrency + failed * (2 * ceil(log2(chunk_rows)) + 2)


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("chunk_rows", [1, 8])
@pytest.mark.parametrize(
    "body", [b"Account 17 is on hold", b'{"message": "Account 17 is on hold"}', b'{"status": "on hold"}']
)
async def test_row_70_the_same_error_in_unknown_words_with_status_200_stops_the_run(
    body: bytes, chunk_rows: int, concurrency: int
) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        mock.script(*[None] * 5, *[Scripted(body=body)] * 9_999)
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec="v1", chunk_rows=chunk_rows, limits=limits) as client:
            with pytest.raises(RunStopped, match="in the same words") as caught:
                await client.map(X)
    failed = sum(f.stop - f.start for f in caught.value.result.failures)
    assert caught.value.kind == "rejected"
    assert 20 <= failed <= 20 + 2 * concurrency + 4 * chunk_rows
    assert len(mock.requests) <= 5 + 2 * concurrency + failed * (2 * ceil(log2(chunk_rows)) + 2 + 2)


async def test_rows_for_which_a_model_gives_no_number_stop_no_run() -> None:
    """The first 96 rows: their answers are whole but for these values."""

    async def model(sent: Any) -> Response:
        values = [row[0] * 2 if row[0] >= 192 else None for row in orjson.loads(sent.joined())["instances"]]
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": values}))

    rows = np.arange(400.0).reshape(200, 2)
    fleet = Fleet(a=model)
    async with fleet.client(codec="v1", chunk_rows=8, limits=Limits(concurrency=1)) as client:
        first = await client.map(rows[100:101], on_error="keep")
        result = await client.map(rows, on_error="keep")
    assert first.ok.all()
    assert np.flatnonzero(~result.ok).tolist() == list(range(96))


async def test_rows_that_are_bad_in_the_same_words_stop_no_run_while_others_succeed() -> None:
    bad = [row for row in range(400) if row % 15]
    with MockEndpoint(forbidding(*bad, status=400)) as mock:
        limits = Limits(concurrency=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits) as client:
            result = await client.map(X[:400], on_error="keep")
    assert np.flatnonzero(result.ok).tolist() == list(range(0, 400, 15))


async def test_rows_that_are_bad_in_words_of_their_own_stop_no_run() -> None:
    def model(x: np.ndarray) -> np.ndarray:
        if x[0, 0]:
            raise StatusError(400, f"cannot take {x[0, 0]:g}")
        return x * 2

    with MockEndpoint(model) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            result = await client.map(X[:100], on_error="keep")
    assert len(result.failures) == 99


@pytest.mark.parametrize("hedge", [None, Hedge(share=1.0, delay=0.5)])
@pytest.mark.parametrize(
    "response",
    [
        Scripted(status=429, body=b'{"error": {"code": "insufficient_quota", "message": "no money"}}'),
        Scripted(status=400, body=b'{"error": {"message": "Your credit balance is too low: no money"}}'),
        Scripted(body=b'{"error": {"code": 402, "message": "no money"}}'),
        Scripted(status=402, body=b"no money", headers={"Retry-After": "1", "x-should-retry": "true"}),
    ],
)
async def test_row_72_no_request_is_sent_after_the_first_answer_that_says_that_money_is_gone(
    response: Scripted, hedge: Hedge | None
) -> None:
    """With hedging too, where the other attempt for the same rows is still under way."""
    with MockEndpoint(double, latency=lambda n: {20: 3.0, 30: 0.7}.get(n, 1.0)) as mock:
        mock.script(*[None] * 20, response, *[None] * 5, *[response] * 1000)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=4, hedge=hedge) as client:
            with pytest.raises(RunStopped, match="no money") as caught:
                await client.map(X)
        first = min(
            time + (3.0 if number == 20 else 0.7 if number == 30 else 1.0)
            for number, time in enumerate(mock.times)
            if number == 20 or number >= 26
        )
        assert max(mock.times) <= first
    assert caught.value.kind == "quota"
    assert caught.value.result.failures == ()


@given(
    statuses=st.lists(st.sampled_from([200, 200, 200, 400, 403, 422]), min_size=1, max_size=60),
    chunk_rows=st.integers(1, 16),
    concurrency=st.integers(1, 8),
    seed=st.integers(0, 9),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whichever_rows_are_refused_every_row_is_accounted_for_and_requests_are_bounded(
    statuses: list[int], chunk_rows: int, concurrency: int, seed: int
) -> None:
    def model(x: np.ndarray) -> np.ndarray:
        status = max(statuses[int(row) // 3] for row in x[:, 0])
        if status != 200:
            raise StatusError(status, "refused")
        return x * 2

    draw = np.random.default_rng(seed)
    rows = X[: len(statuses)]
    with MockEndpoint(model, latency=lambda _: float(draw.uniform(0.01, 1.0))) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=limits) as client:
            try:
                result, kind = await client.map(rows, on_error="keep"), None
            except RunStopped as stopped:
                result, kind = stopped.result, stopped.kind
    if kind is None:
        assert result.ok.tolist() == [status == 200 for status in statuses]
        assert result.pending == ()
    else:
        assert kind in ("refused", "rejected")
        assert sum(status != 200 for status in statuses) >= min(2, len(statuses))
    absent: list[Any] = [*result.failures, *result.pending]
    assert result.ok.sum() + sum(part.stop - part.start for part in absent) == len(rows)
    bad = sum(status != 200 for status in statuses)
    chunks = ceil(len(rows) / chunk_rows)
    assert len(mock.requests) <= chunks + bad * (2 * ceil(log2(chunk_rows)) + 2)


class Tokens:
    """Gives tokens to a client; the server takes the newest, and 20 requests with each."""

    given = used = 0

    async def headers(self) -> dict[str, str]:
        self.given += 1
        self.used = 0
        return {"Authorization": f"Bearer {self.given}"}


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    "refusal",
    [
        {"error": {"code": 401, "message": "Unauthorized"}},
        {"error": "Unauthorized"},
        {"error": {"code": 403, "message": "The token has expired"}},
    ],
)
async def test_row_77_credentials_that_are_refused_with_status_200_are_renewed(
    refusal: dict[str, Any], concurrency: int
) -> None:
    def refused(request: Any) -> Any:
        tokens.used += 1
        good = request.headers["Authorization"] == f"Bearer {tokens.given}" and tokens.used <= 20
        return None if good else Scripted(body=orjson.dumps(refusal))

    tokens = Tokens()
    with MockEndpoint(double, latency=0.1, faults=refused) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=limits, headers=tokens.headers) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
    assert 5 <= tokens.given <= 5 + 100 // 20 * 2
    assert len(mock.requests) <= 100 + tokens.given * concurrency


async def test_row_77_credentials_that_stay_refused_with_status_200_stop_the_run() -> None:
    tokens = Tokens()
    with MockEndpoint(double) as mock:
        mock.script(*[Scripted(body=b'{"error": {"code": 401, "message": "no such user"}}')] * 100)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, headers=tokens.headers) as client:
            with pytest.raises(RunStopped, match="no such user") as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert len(mock.requests) <= 2 * 16


BROKE = Response(status=402, headers={}, body=b'{"error": {"message": "no money"}}')


@pytest.mark.parametrize(
    ("urls", "headers", "stops"),
    [
        (("http://one.test/a", "http://one.test/b"), {}, True),
        (("http://one.test/m", "http://two.test/m"), {"Authorization": "Bearer mine-alone"}, True),
        (("http://one.test/m", "http://two.test/m"), {}, False),
        (("http://one.test/m?key=first-of-two", "http://one.test/m?key=second-of-two"), {}, False),
    ],
)
async def test_row_72_exhausted_money_stops_the_run_where_all_endpoints_are_of_one_account(
    urls: tuple[str, str], headers: dict[str, str], stops: bool
) -> None:
    class Noting:
        sent: list[str] = []  # noqa: RUF012 - of this test alone

        async def send(self, sent: Request) -> Any:
            self.sent.append(sent.url)
            await asyncio.sleep(0.1)
            broke = sent.url == urls[0] and len(self.sent) > 40
            return BROKE if broke else await served(0)(sent)

    transport, rows = Noting(), np.arange(400.0).reshape(200, 2)
    limits = Limits(concurrency=4)
    async with Client(urls, codec=Plain, chunk_rows=1, limits=limits, transport=transport, headers=headers) as client:
        if not stops:
            assert np.array_equal(await client.map(rows), rows * 2)
            return
        with pytest.raises(RunStopped, match="no money") as caught:
            await client.map(rows)
        assert caught.value.kind == "quota"
        assert len(transport.sent) <= 40 + 2 * 4
        assert caught.value.result.failures == ()
        assert [endpoint.state for endpoint in client.statistics().endpoints] == ["in use", "in use"]
