"""An endpoint in trouble, in virtual time: bounded amplification, patience, and an end when there is no hope."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import numpy as np
import pytest

from fanout import Client, Limits, Response, RetryPolicy, RunStopped, Timeouts
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint, Scripted
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(3000.0).reshape(1000, 3)


def now() -> float:
    return asyncio.get_running_loop().time()


def down_until(when: float, status: int = 503):
    def model(x: np.ndarray) -> np.ndarray:
        if now() < when:
            raise StatusError(status, "down")
        return x * 2

    return model


@pytest.mark.parametrize("status", [503, 500, 429, 502])
async def test_an_outage_of_a_minute_is_waited_out(status: int) -> None:
    """200 chunks: no more requests than concurrency + bucket + probes, no row lost, and a good end."""
    with MockEndpoint(down_until(60, status), latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            assert np.array_equal(await client.map(X[:200]), X[:200] * 2)
    during = [t for t in mock.times if t < 60]
    probes = 33 if status == 500 else 7  # rows may be to blame for a 500, and have to come to an end
    assert len(during) <= 16 + 16 + probes
    assert mock.max_in_flight == 16


async def test_a_trial_is_charged_to_no_chunk() -> None:
    """With two attempts a chunk, hours of outage still fail no row."""
    policy = RetryPolicy(max_attempts=2, stall=1e6)
    with MockEndpoint(down_until(7200), latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, retry=policy) as client:
            mock.script(*[None] * 16)
            result = await client.map(X[:200], on_error="keep")
    assert result.failures == ()
    assert np.array_equal(result.values, X[:200] * 2)


async def test_metadata_get_as_many_attempts_as_a_chunk_and_the_next_run_asks_again() -> None:
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script_metadata(*[503] * 6)
        async with Client(mock.url("oip"), codec="oip", chunk_rows=100) as client:
            await client.map(np.zeros((0, 3)))
            with pytest.raises(RunStopped, match="HTTP 503"):
                await client.map(X)
            assert np.array_equal(await client.map(X), X * 2)


async def test_a_run_in_which_nothing_succeeds_stops() -> None:
    with MockEndpoint(down_until(1e9), latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            with pytest.raises(RunStopped, match="nothing has succeeded for 300 s") as caught:
                await client.map(X)
            assert now() == 300
            assert "; the last failure: HTTP 503" in caught.value.reason
    assert caught.value.kind == "stall"
    assert caught.value.result.failures == ()
    assert len(caught.value.result.pending) == 1
    assert len(mock.requests) < 60


async def test_a_slow_source_or_consumer_is_no_stall() -> None:
    async def slow_source():
        for row in X[:6]:
            yield row
            await asyncio.sleep(1000)

    with MockEndpoint(lambda x: x * 2, latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            seen = 0
            async with client.stream(slow_source()) as results:
                async for _ in results:
                    seen += 1
                    await asyncio.sleep(700)
    assert seen == 6


async def test_slow_answers_are_no_stall_as_long_as_some_come() -> None:
    with MockEndpoint(lambda x: x * 2, latency=250) as mock:
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=100, limits=Limits(concurrency=1), timeouts=Timeouts(attempt=1e4)
        ) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert now() == 2500


async def test_failures_that_successes_pay_for_do_not_open_the_circuit() -> None:
    """One request in five fails: the run goes on at full concurrency."""
    with MockEndpoint(lambda x: x * 2, latency=0.1) as mock:
        mock.script(*[503, None, None, None, None] * 200)
        many = RetryPolicy(max_attempts=50)  # five in a row would fail now and then, by chance
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, retry=many) as client:
            assert np.array_equal(await client.map(X[:500]), X[:500] * 2)
    assert now() < 30


@pytest.mark.parametrize(
    "concurrency", [pytest.param(4, marks=pytest.mark.slow), 16, pytest.param("auto", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("status", [503, pytest.param(500, marks=pytest.mark.slow)])
async def test_one_random_failure_in_ten_does_not_open_the_circuit(concurrency: int | str, status: int) -> None:
    """Successes give back more than such failures take: the bucket never runs dry while nine of ten succeed."""
    chance = Random(1)

    def model(x: np.ndarray) -> np.ndarray:
        if chance.random() < 0.1:
            raise StatusError(status, "sick replica")
        return x * 2

    rows = np.arange(15_000.0).reshape(-1, 3)
    ejected = 0
    many = RetryPolicy(max_attempts=50)  # of 5,000 rows one in twenty runs would meet five failures in a row
    with MockEndpoint(model, latency=0.1) as mock:
        limits = Limits(concurrency=concurrency)  # type: ignore[arg-type]
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, retry=many) as client:
            run = asyncio.create_task(client.map(rows))
            while not run.done():
                await asyncio.sleep(0.1)
                ejected += client.statistics().endpoints[0].state == "ejected"
            assert np.array_equal(await run, rows * 2)
    assert ejected == 0


async def test_a_poisoned_row_costs_no_budget() -> None:
    def model(x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0] / 3, range(0, 1000, 64)).any():
            raise StatusError(422, "poison")
        return x * 2

    with MockEndpoint(model, latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            result = await client.map(X, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == list(range(0, 1000, 64))
    assert now() < 10


async def test_several_runs_of_a_client_wait_for_the_same_trial() -> None:
    with MockEndpoint(down_until(20), latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            first, second = await asyncio.gather(client.map(X[:100]), client.map(X[100:200]))
    assert np.array_equal(np.concatenate([first, second]), X[:200] * 2)
    assert len([t for t in mock.times if t < 20]) <= 16 + 16 + 5


async def test_a_trial_that_is_cancelled_does_not_leave_the_others_waiting() -> None:
    with MockEndpoint(down_until(20), latency=0.3) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=4)) as client:
            runs = [asyncio.create_task(client.map(X[i : i + 50])) for i in range(0, 200, 50)]
            for run in runs[:-1]:
                await asyncio.sleep(1.7)
                run.cancel()
            assert np.array_equal(await runs[-1], X[150:200] * 2)
            await asyncio.gather(*runs, return_exceptions=True)


async def test_a_trial_that_is_cancelled_in_flight_leaves_the_endpoint_to_the_next() -> None:
    trial = asyncio.Event()

    def latency(_: int) -> float:
        if now() > 1.5:  # the circuit has opened, after ten failures
            trial.set()
        return 0.3

    with MockEndpoint(down_until(5), latency=latency) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=4)) as client:
            run = asyncio.create_task(client.map(X[:50]))
            await trial.wait()
            assert mock.in_flight == 1
            run.cancel()
            assert np.array_equal(await client.map(X[:50]), X[:50] * 2)
    assert now() < 60


def poisoned(*bad: int, status: int = 500):  # type: ignore[no-untyped-def]
    def model(x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0] / 3, bad).any():
            raise StatusError(status, "poison")
        return x * 2

    return model


@pytest.mark.parametrize(
    ("bad", "chunk_rows", "concurrency"),
    [
        (range(0, 1000, 100), 64, 16),
        pytest.param(range(0, 1000, 20), 64, 16, marks=pytest.mark.slow),
        pytest.param(range(40, 43), 1, 1, marks=pytest.mark.slow),
        pytest.param(range(0, 1000, 55), 1, 16, marks=pytest.mark.slow),
        (range(982, 1000), 1, 16),
        pytest.param(range(900, 918), 1, 64, marks=pytest.mark.slow),
    ],
)
async def test_rows_that_always_fail_with_500_fail_alone_and_do_not_stall_the_run(
    bad: range, chunk_rows: int, concurrency: int
) -> None:
    with MockEndpoint(poisoned(*bad), latency=0.01) as mock:
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=limits) as client:
            result = await client.map(X, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == list(bad)


async def test_rows_that_always_hang_fail_and_do_not_stall_the_run() -> None:
    bad = range(0, 500, 20)

    def latency(number: int) -> float:
        row = mock.requests[number].json()["instances"][0][0] / 3
        return 1e6 if row in bad else 0.01

    with MockEndpoint(lambda x: x * 2, latency=latency) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, timeouts=Timeouts(attempt=1)) as client:
            result = await client.map(X[:500], on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == list(bad)


@pytest.mark.parametrize("concurrency", [1, 10, 16])
async def test_a_trial_that_needs_new_headers_keeps_its_slot(concurrency: int) -> None:
    refused: list[Any] = []

    def model(x: np.ndarray) -> np.ndarray:
        if now() < 0.5:
            raise StatusError(503, "down")
        if not refused:
            refused.append(True)
            raise StatusError(401, "expired")
        return x * 2

    tokens = iter(range(100))
    with MockEndpoint(model, latency=0.01) as mock:
        limits, headers = Limits(concurrency=concurrency), lambda: {"Authorization": f"Bearer token{next(tokens)}"}
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, headers=headers) as client:
            assert np.array_equal(await client.map(X[:200]), X[:200] * 2)


async def test_a_trial_that_ends_in_an_error_of_ours_leaves_the_endpoint_to_others() -> None:
    asked = []

    def headers() -> dict[str, str]:
        asked.append(True)
        if len(asked) == 2:
            raise OSError("token service down")
        return {"Authorization": f"Bearer token{len(asked)}"}

    with MockEndpoint(lambda x: x * 2, latency=0.01) as mock:
        mock.script(*[503] * 10, 401)
        limits = Limits(concurrency=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, headers=headers) as client:
            with pytest.raises(OSError, match="token service"):
                await client.map(X[:3])
            assert np.array_equal(await client.map(X[:3]), X[:3] * 2)


async def test_metadata_that_never_come_are_a_stall_too() -> None:
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script_metadata(*[503] * 1000)
        async with Client(mock.url("oip"), codec="oip", retry=RetryPolicy(max_attempts=20)) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X[:3])
            assert now() == 300
    assert caught.value.kind == "stall"


@pytest.mark.parametrize("status", [400, 413, 422, 500, 503])
@pytest.mark.parametrize("extra", [{}, {"x-should-retry": "false"}])
async def test_no_request_is_sent_before_the_pushback_ends_for_any_status(status: int, extra: dict[str, str]) -> None:
    with MockEndpoint(lambda x: x * 2, latency=0.01) as mock:
        mock.script(Scripted(status=status, headers={"Retry-After": "30", **extra}))
        limits = Limits(concurrency=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits) as client:
            await client.map(X[:4], on_error="keep")
    assert mock.times[1] >= 30


async def test_a_codec_may_find_pushback_in_a_success() -> None:
    class Odd(Plain):
        def classify(self, response: Response) -> int | None:
            return 429 if response.headers.get("X-Busy") else None

    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(Scripted(body=b"{}", headers={"X-Busy": "1", "Retry-After": "30"}))
        async with Client(mock.url(Plain), codec=Odd, limits=Limits(concurrency=1)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert mock.times[1] >= 30


async def test_pushback_to_a_metadata_request_holds_for_all() -> None:
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script_metadata(Scripted(status=503, headers={"Retry-After": "30"}), Scripted(status=503))
        async with Client(mock.url("oip"), codec="oip") as client:
            await client.map(X)
    assert mock.times[0] >= 30


async def test_a_queue_of_two_costs_no_row() -> None:
    """Each chunk is refused several times for a full queue, while others are served."""
    full: set[float] = set()

    def latency(number: int) -> float:
        (row, *_), *_ = mock.requests[number].json()["instances"]
        (full.add if mock.in_flight > 3 else full.discard)(row)
        return 0.001 if row in full else 0.1 * mock.in_flight

    def model(x: np.ndarray) -> np.ndarray:
        if x[0, 0] in full:
            raise StatusError(503, "Exceeds maximum queue size")
        return x * 2

    with MockEndpoint(model, latency=latency) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            assert np.array_equal(await client.map(X[:64]), X[:64] * 2)
    refused = len(mock.requests) - 64
    assert 64 < refused < 64 * 10


@pytest.mark.parametrize("status", [429, 503])
async def test_a_row_that_is_refused_for_ever_while_others_are_served_fails(status: int) -> None:
    def model(x: np.ndarray) -> np.ndarray:
        if x[0, 0] == X[3, 0]:
            raise StatusError(status, "come later")
        return x * 2

    with MockEndpoint(model, latency=10) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client:
            result = await client.map(X[:300], on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [3]
    assert result.failures[0].attempts == 3 * 5 + 5


async def test_metadata_is_no_answer_that_shows_that_rows_can_be_answered() -> None:
    """The model returns its metadata but accepts no row: the run stops after few requests, for any number of rows."""

    def model(x: np.ndarray) -> np.ndarray:
        raise StatusError(400, "no row is right")

    with MockEndpoint(model) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            with pytest.raises(RunStopped, match=r"accepts no row at all.*no row is right"):
                await client.map(np.ones((1000, 3)))
    assert len(mock.requests) < 16 + 20
