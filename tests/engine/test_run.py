"""Whole runs against the mock endpoint, in virtual time, as a user sees them."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanout
from fanout import Client, ConfigError, EncodeError, Limits, RetryPolicy, RowsFailed, RunControl, RunStopped, Timeouts
from fanout.rows import RowSet
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint, Scripted, VirtualClock
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout import Response

pytestmark = pytest.mark.virtual_time
X = np.arange(3000.0).reshape(1000, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def refusing(*bad: int, status: int = 400) -> Callable[[np.ndarray], np.ndarray]:
    """A model that takes no request with one of the ``bad`` rows of X in it."""

    def model(x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0] / 3, bad).any():
            raise StatusError(status, "that row is poison")
        return x * 2

    return model


def answer(values: Any) -> Scripted:
    return Scripted(body=orjson.dumps({"predictions": values}, option=orjson.OPT_SERIALIZE_NUMPY))


def assert_accounts(result: fanout.Result, n_rows: int) -> None:
    failed = sum(failure.stop - failure.start for failure in result.failures)
    pending = sum(len(chunk) for chunk in result.pending)
    assert len(result.ok) == n_rows
    assert result.ok.sum() + failed + pending == n_rows
    absent: list[Any] = [*result.failures, *result.pending]
    for rows in absent:
        assert not result.ok[rows.start : rows.stop].any()


async def test_rows_come_back_in_their_places_whatever_the_order_of_completion() -> None:
    with MockEndpoint(double, latency=lambda number: (number * 7919 % 13) / 10) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=7) as client:
            assert np.array_equal(await client.map(X), X * 2)
            stats = client.statistics()
    assert (stats.rows, stats.ok, stats.requests, stats.retries) == (1000, 1000, 143, 0)
    assert mock.max_in_flight == stats.max_in_flight == 16


async def test_no_rows_ask_nothing_and_give_an_empty_array() -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            values = await client.map(np.zeros((0, 3)))
    assert values.shape == (0,)
    assert not mock.requests


@pytest.mark.parametrize("step", [408, 429, 500, 502, 503, 504, 529, ConnectionResetError("x"), TimeoutError()])
async def test_a_transient_failure_is_tried_again(step: Any) -> None:
    with MockEndpoint(double) as mock:
        mock.script(step, step, None)
        async with Client(mock.url(Plain), codec=Plain) as client:
            assert np.array_equal(await client.map(X[:10]), X[:10] * 2)
    assert len(mock.requests) == 3


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1.0] * 3], "1 rows for 64"),
        ([[1.0] * 3] * 63, "63 rows for 64"),
        ([[1.0] * 3] * 65, "65 rows for 64"),
        ([["1"] * 3] * 64, "dtype StringDType"),
        ([[1.0] * 4] * 64, r"shape \[4\]"),
        ([1.0] * 64, r"shape \[\]"),
        ([[1] * 3] * 64, "dtype int64"),
        ([[True] * 3] * 64, "dtype bool"),
        ([[None] * 3] * 64, "dtype object"),
    ],
)
@pytest.mark.parametrize("at", [0, 15])
async def test_a_false_answer_is_never_merged(values: Any, reason: str, at: int) -> None:
    """In the first chunk or the last, once or for ever."""
    with MockEndpoint(double) as mock:
        mock.script(*[None] * at, answer(values), None)
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=1)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(mock.requests) == 17


@pytest.mark.parametrize("at", [0, 15])
@pytest.mark.parametrize("width", [1, 4])
async def test_a_chunk_that_is_always_odd_fails_row_by_row_and_spoils_no_other(at: int, width: int) -> None:
    odd = X[at * 64 : at * 64 + 64, 0]

    def model(x: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), width)) if np.isin(x[:, 0], odd).any() else x * 2

    with MockEndpoint(model) as mock:
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=4)) as client:
            result = await client.map(X, on_error="keep")
    good = ~np.isin(X[:, 0], odd)
    assert np.array_equal(result.ok, good)
    assert np.array_equal(result.values[good], X[good] * 2)
    assert np.isnan(result.values[~good]).all()
    assert_accounts(result, 1000)


async def test_two_chunks_that_never_agree_both_fail() -> None:
    """Neither chunk is known to be right, so the result does not depend on their order."""
    with MockEndpoint(lambda x: np.zeros((len(x), 3 if x[0, 0] else 4))) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            result = await client.map(X[:128], on_error="keep")
    assert result.values is None
    assert not result.ok.any()
    assert "other answers look different" in result.failures[0].reason
    assert_accounts(result, 128)
    assert len(mock.requests) == 4


async def test_two_chunks_of_which_one_is_odd_once_both_succeed() -> None:
    with MockEndpoint(double) as mock:
        mock.script(answer([[1.0] * 4] * 64))
        async with Client(mock.url(Plain), codec=Plain) as client:
            assert np.array_equal(await client.map(X[:128]), X[:128] * 2)


async def test_a_codec_may_judge_for_itself() -> None:
    class Judging(Plain):
        def classify(self, response: Response) -> fanout.Verdict | None:
            return fanout.Verdict(action=fanout.Action.FAIL, reason="hopeless", status=response.status)

    with MockEndpoint(double) as mock:
        mock.script(503, Scripted(body=b"{}"))
        async with Client(mock.url(Plain), codec=Judging, chunk_rows=4) as client:
            result = await client.map(X[:12], on_error="keep")
    assert [(f.start, f.stop, f.reason) for f in result.failures] == [(0, 4, "hopeless"), (4, 8, "hopeless")]


async def test_answers_that_never_agree_cost_bounded_requests_and_tasks() -> None:
    numbers = iter(range(100_000))
    most = 0

    def model(x: np.ndarray) -> Any:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        n = next(numbers)
        return {f"a{n}": np.zeros(len(x)), f"b{n}": np.zeros(len(x))}

    with MockEndpoint(model) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=8, limits=Limits(concurrency=2)) as client:
            result = await client.map(X, on_error="keep")
    assert not result.ok.any()
    assert_accounts(result, 1000)
    assert most < 2 * 2 * 8 + 10  # the rows of the chunks in hand
    assert len(mock.requests) < 2500


async def test_answers_of_ever_other_lengths_end_the_run_at_once() -> None:
    widths = iter(range(1, 100_000))
    with MockEndpoint(lambda x: np.zeros((len(x), next(widths)))) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=8, limits=Limits(concurrency=2)) as client:
            with pytest.raises(RunStopped, match=r"differ in length \(1, 2, 3\).*StringDType") as caught:
                await client.map(X)
    assert_accounts(caught.value.result, 1000)
    assert len(mock.requests) <= 4


async def test_an_odd_first_answer_with_other_outputs_condemns_nothing_where_the_spec_names_none() -> None:
    answers = iter([True])

    def model(x: np.ndarray) -> Any:
        return {"a": x * 2, "b": x * 3} if next(answers, False) else x * 2

    with MockEndpoint(model, latency=lambda n: 0.01 if n == 0 else 0.05) as mock:
        async with Client(mock.url(Plain), codec=Plain(dtype="float64", shape=[3])) as client:
            assert np.array_equal(await client.map(X), X * 2)


async def test_a_listener_that_fails_loses_its_place_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: fanout.Event) -> None:
        raise LookupError("no such metric")

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, on_event=broken) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(caplog.records) == 1
    assert "on_event raised" in caplog.text


async def test_a_run_that_has_ended_can_no_longer_be_stopped() -> None:
    control = RunControl()
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client, client.stream(X, control=control) as results:
            await asyncio.sleep(100)
            control.drain()
            assert sum([done.ok.sum() async for done in results]) == 1000


async def test_the_only_answer_of_a_stopped_run_is_not_believed() -> None:
    """Another chunk might have shown that it is the odd one."""
    with MockEndpoint(lambda x: np.zeros((len(x), 7)), latency=lambda n: 0.1 if n == 0 else 1e6) as mock:
        async with Client(mock.url(Plain), codec=Plain, timeouts=Timeouts(run=5)) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X)
    assert caught.value.result.values is None
    assert_accounts(caught.value.result, 1000)


async def test_bytes_that_are_no_text_are_invalid() -> None:
    class Bytes(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            return np.array([b"\xff\xfe", b"ok", "ä".encode()][:n_rows])

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Bytes, chunk_rows=3) as client:
            with pytest.raises(RunStopped, match="no UTF-8 text"):
                await client.map(X[:3])


async def test_nan_in_an_answer_fails_its_row_alone() -> None:
    class Nan(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            values = super().decode(response, n_rows)
            values[values[:, 0] == 2 * X[500, 0], 1] = math.nan
            return values

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Nan) as client:
            result = await client.map(X, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [500]
    assert "NaN or infinity" in result.failures[0].reason


@pytest.mark.parametrize("bad", [0, 63, 128, 999])
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_one_poisoned_row_fails_alone(bad: int, status: int) -> None:
    with MockEndpoint(refusing(bad, status=status)) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(RowsFailed, match=rf"1 of 1,000 rows failed: row {bad}: HTTP {status}") as caught:
                await client.map(X)
    result = caught.value.result
    (failure,) = result.failures
    assert (failure.start, failure.stop, failure.status) == (bad, bad + 1, status)
    assert np.array_equal(np.delete(result.values, bad, 0), np.delete(X * 2, bad, 0))
    assert_accounts(result, 1000)
    assert len(mock.requests) <= 16 + 2 * 6 + 1


async def test_one_poisoned_row_among_4096_costs_at_most_18_more_requests() -> None:
    rows = np.arange(4096 * 3.0).reshape(-1, 3)
    for bad in (0, 1, 255, 2000, 4095):
        with MockEndpoint(refusing(bad)) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=256) as client:
                result = await client.map(rows, on_error="keep")
        assert np.flatnonzero(~result.ok).tolist() == [bad]
        assert len(mock.requests) <= 16 + 18


async def test_a_row_that_meets_500_again_and_again_is_found_by_splitting() -> None:
    with MockEndpoint(refusing(70, status=500)) as mock:
        async with Client(mock.url(Plain), codec=Plain, retry=RetryPolicy(max_attempts=3)) as client:
            result = await client.map(X, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [70]
    assert len(mock.requests) <= 16 + 2 + 2 * 6 + 2


async def test_a_size_that_the_server_does_not_take_is_learnt() -> None:
    def small(x: np.ndarray) -> np.ndarray:
        if len(x) > 32:
            raise StatusError(413, "too many")
        return x * 2

    with MockEndpoint(small, latency=0.1) as mock:
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=2)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    refused = sum(1 for request in mock.requests if len(request.json()["instances"]) > 32)
    assert refused <= 2 + 5, "the first two, and the search between 32 and 64"


async def test_a_request_that_is_wrong_as_a_whole_stops_the_run_early() -> None:
    with MockEndpoint(refusing(*range(1000))) as mock:
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=4)) as client:
            with pytest.raises(RunStopped, match="accepts no row at all") as caught:
                await client.map(X)
    assert caught.value.kind == "rejected"
    assert len(mock.requests) < 30
    assert_accounts(caught.value.result, 1000)


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@pytest.mark.parametrize("bad", [range(2), range(32), range(1, 33), range(63)])
async def test_bad_rows_that_stand_together_at_the_beginning_do_not_end_the_run(status: int, bad: range) -> None:
    """Nothing has succeeded when the first two of them have failed alone."""
    x, retry = X[:64], RetryPolicy(max_attempts=2)
    with MockEndpoint(refusing(*bad, status=status)) as mock:
        async with Client(mock.url(Plain), codec=Plain, retry=retry) as client:
            result = await client.map(x, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == list(bad)
    assert np.array_equal(result.values[result.ok], x[result.ok] * 2)


async def test_splitting_ends_when_it_saves_too_few_rows() -> None:
    with MockEndpoint(refusing(*range(100, 1000))) as mock:
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=2)) as client:
            result = await client.map(X, on_error="keep")
    assert result.ok[:100].all()
    assert_accounts(result, 1000)
    assert len(mock.requests) < 16 + 5 * 64


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"", "refused"),
        (402, b"", "quota"),
        (404, b"no such model", "rejected"),
        (429, b'{"error": {"code": "insufficient_quota"}}', "quota"),
    ],
)
async def test_a_permanent_failure_stops_the_run_after_requests_in_flight(status: int, body: bytes, kind: str) -> None:
    with MockEndpoint(double, latency=lambda n: 0.1 if n == 5 else 0.2) as mock:
        mock.script(*[None] * 5, Scripted(status=status, body=body))
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X)
    assert caught.value.kind == kind
    assert len(mock.requests) == 16
    result = caught.value.result
    assert result.stats.retries == 0
    assert result.ok.sum() == 150
    assert np.array_equal(result.values[result.ok], X[result.ok] * 2)
    assert_accounts(result, 1000)


async def test_a_redirect_stops_the_run_and_names_the_new_url() -> None:
    with MockEndpoint(double) as mock:
        mock.script(Scripted(status=307, headers={"Location": "https://elsewhere.test/m?key=secret"}))
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(RunStopped, match=r"https://elsewhere.test/m\?key=\*\*\*") as caught:
                await client.map(X[:5])
    assert caught.value.kind == "redirect"
    assert len(mock.requests) == 1


async def test_pushback_holds_back_every_request() -> None:
    """One of 32 requests in flight gets Retry-After: 3, and no request is sent for 3 s."""
    with MockEndpoint(double, latency=lambda n: 0.1 if n == 40 else 0.5) as mock:
        mock.script(*[None] * 40, Scripted(status=429, headers={"Retry-After": "3"}))
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, limits=Limits(concurrency=32)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    pushback = mock.times[40] + 0.1
    assert not [t for t in mock.times if pushback < t < pushback + 3]
    assert [t for t in mock.times if t >= pushback + 3]


async def test_a_pushback_longer_than_allowed_stops_the_run() -> None:
    with MockEndpoint(double) as mock:
        mock.script(Scripted(status=429, headers={"Retry-After": "500"}))
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(RunStopped, match="no request for 500 s") as caught:
                await client.map(X[:5])
    assert caught.value.kind == "pushback"


async def test_chunks_in_backoff_do_not_slow_down_the_others() -> None:
    """10 chunks wait long for their next attempt; the other 16 requests in flight stay 16."""
    slow = RetryPolicy(initial_backoff=200, max_backoff=200)
    with MockEndpoint(double, latency=1.0) as mock:
        mock.script(*[503] * 10)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, retry=slow) as client:
            run = asyncio.create_task(client.map(X))
            await asyncio.sleep(6.5)
            assert mock.in_flight == 16
            assert client.statistics().backing_off >= 8
            assert np.array_equal(await run, X * 2)


async def test_waiting_for_a_slot_is_charged_to_no_attempt() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(
            mock.url(Plain), codec=Plain, limits=Limits(concurrency=1), timeouts=Timeouts(attempt=1.5)
        ) as client:
            results = await asyncio.gather(*[client.map(X[:10]) for _ in range(10)])
    assert all(np.array_equal(result, X[:10] * 2) for result in results)
    assert mock.max_in_flight == 1
    assert len(mock.requests) == 10


async def test_an_attempt_without_answer_ends_at_its_deadline_and_is_tried_again() -> None:
    with MockEndpoint(double, latency=lambda n: 1e6 if n == 0 else 0.5) as mock:
        async with Client(mock.url(Plain), codec=Plain, timeouts=Timeouts(attempt=2)) as client:
            assert np.array_equal(await client.map(X[:10]), X[:10] * 2)
            assert client.statistics().in_flight == 0
    assert 2 <= mock.times[1] <= 2.3
    assert mock.in_flight == 0


async def test_the_run_deadline_ends_the_run_with_all_that_succeeded() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        limits, timeouts = Limits(concurrency=2), Timeouts(run=2.5)
        async with Client(mock.url(Plain), codec=Plain, limits=limits, timeouts=timeouts) as client:
            with pytest.raises(RunStopped, match=r"run deadline of 2.5 s") as caught:
                await client.map(X)
            assert asyncio.get_running_loop().time() == 2.5
    assert caught.value.kind == "deadline"
    assert caught.value.result.ok.sum() == 4 * 64
    assert_accounts(caught.value.result, 1000)


async def test_no_more_requests_than_the_guard_allows() -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, limits=Limits(max_requests=5)) as client:
            with pytest.raises(RunStopped, match="max_requests = 5") as caught:
                await client.map(X)
    assert caught.value.kind == "max_requests"
    assert len(mock.requests) == 5
    assert caught.value.result.ok.sum() == 5 * 64


async def test_requests_start_evenly_spaced_at_the_rate_asked_for() -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(requests_per_second=100)) as client:
            await client.map(X[:300])
    assert np.diff(mock.times).min() >= 0.01 - 1e-9
    assert mock.times[-1] == pytest.approx(2.99)


async def test_an_endpoint_that_never_answers_stops_the_run_in_time() -> None:
    with MockEndpoint(double) as mock:
        mock.script(*[ConnectionRefusedError(111, "Connection refused")] * 1000)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            with pytest.raises(RunStopped, match="Connection refused") as caught:
                await client.map(X)
    assert caught.value.kind == "unreachable"
    assert len(mock.requests) <= 16 * 2 * 5


async def test_rows_that_cannot_be_encoded_fail_without_a_request() -> None:
    class NoSevens(Plain):
        def encode(self, rows: Any) -> Any:
            if bad := np.flatnonzero(rows[:, 0] % 7 == 0).tolist():
                raise EncodeError("a seven", rows=bad)
            return super().encode(rows)

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=NoSevens) as client:
            result = await client.map(X, on_error="keep")
    good = X[:, 0] % 7 != 0
    assert np.array_equal(result.ok, good)
    assert np.array_equal(result.values[good], X[good] * 2)
    assert len(mock.requests) == 16
    assert result.failures[0].attempts == 0
    assert result.failures[0].reason == "cannot be sent: a seven"
    assert_accounts(result, 1000)


async def test_rows_that_are_only_together_too_much_for_a_codec_fail_together() -> None:
    class Stubborn(Plain):
        def encode(self, rows: Any) -> Any:
            if len(rows) > 1:
                raise ValueError("one at a time")
            return super().encode(rows)

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Stubborn, chunk_rows=2) as client:
            result = await client.map(X[:5], on_error="keep")
    assert result.ok.tolist() == [False] * 4 + [True]
    assert [str(failure) for failure in result.failures] == [
        "rows 0:2: cannot be sent: ValueError: one at a time",
        "rows 2:4: cannot be sent: ValueError: one at a time",
    ]


async def test_a_codec_that_stumbles_over_a_row_loses_that_row_alone() -> None:
    class Stumbling(Plain):
        def encode(self, rows: Any) -> Any:
            return super().encode([float(row) for row in rows])

    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Stumbling, chunk_rows=3) as client:
            result = await client.map(["1", "2", "x", "4", "y"], on_error="keep")
    assert result.ok.tolist() == [True, True, False, True, False]
    assert result.values[result.ok].tolist() == [2, 4, 8]
    assert "could not convert string to float" in result.failures[0].reason


async def test_an_error_of_decode_quotes_the_response() -> None:
    with MockEndpoint(double) as mock:
        mock.script(*[Scripted(body=b'{"detail": "loading"}')] * 100)
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(RunStopped, match=r"KeyError: 'predictions'.*loading"):
                await client.map(X[:4])


async def test_rows_that_no_codec_can_send_raise_at_once() -> None:
    class Picky(Plain):
        def encode(self, rows: Any) -> Any:
            raise fanout.InputError("texts, please")

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Picky) as client:
            with pytest.raises(ConfigError, match="texts, please"):
                await client.map(X)


@pytest.mark.parametrize("payload", [b"bytes", fanout.Payload(body="text")])  # type: ignore[arg-type]
async def test_a_codec_that_returns_no_payload_is_an_error(payload: Any) -> None:
    class Wrong(Plain):
        def encode(self, rows: Any) -> Any:
            return payload

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Wrong) as client:
            with pytest.raises(ConfigError, match=r"encode must return a fanout\.Payload whose body is bytes, not"):
                await client.map(X)


async def test_several_outputs_come_as_a_dict() -> None:
    with MockEndpoint(lambda x: {"sum": x.sum(axis=1), "twice": x * 2}) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            values = await client.map(X)
    assert np.array_equal(values["sum"], X.sum(axis=1))
    assert np.array_equal(values["twice"], X * 2)


async def test_the_statistics_of_a_result_are_those_of_its_run() -> None:
    """The client reports the counters that several runs share, and each result those of its run."""
    with MockEndpoint(double, latency=1.0) as mock:
        mock.script(503, None, Scripted(status=429, headers={"Retry-After": "1"}))
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10, limits=Limits(concurrency=4)) as client:
            one, other = await asyncio.gather(client.map(X, on_error="keep"), client.map(X[:20], on_error="keep"))
            whole = client.statistics()
    assert one.stats.bytes_sent + other.stats.bytes_sent == whole.bytes_sent
    assert whole.bytes_sent == sum(len(request.body) for request in mock.requests)
    assert one.stats.bytes_received + other.stats.bytes_received == whole.bytes_received > 0
    assert other.stats.bytes_sent > 0
    assert one.stats.in_flight == other.stats.in_flight == whole.in_flight == 0
    assert whole.max_in_flight == 4
    assert 0 < other.stats.max_in_flight <= 2
    assert 2 < one.stats.max_in_flight <= 4


async def test_the_statistics_of_a_stream_count_requests_in_flight() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=10) as client, client.stream(X) as results:
            await asyncio.sleep(0.5)
            assert results.statistics().in_flight == mock.in_flight == 16
    assert results.statistics().in_flight == 0


async def test_texts_come_as_texts() -> None:
    with MockEndpoint(lambda texts: [text.upper() for text in texts]) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=2) as client:
            values = await client.map(["a", "bbb", "", "dd", "e"])
    assert values.dtype == np.dtypes.StringDType()
    assert values.tolist() == ["A", "BBB", "", "DD", "E"]


async def test_draining_finishes_requests_in_flight() -> None:
    control = RunControl()
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5) as client:
            asyncio.get_running_loop().call_later(1.5, control.drain, "enough")
            with pytest.raises(RunStopped, match="enough") as caught:
                await client.map(X, control=control)
            assert asyncio.get_running_loop().time() == 2.0
    assert caught.value.kind == "interrupted"
    assert caught.value.result.ok.sum() == len(mock.requests) * 5 == 32 * 5


async def test_cutting_abandons_requests_in_flight() -> None:
    control = RunControl()
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5) as client:
            asyncio.get_running_loop().call_later(1.2, control.drain)
            asyncio.get_running_loop().call_later(1.5, control.cut)
            with pytest.raises(RunStopped) as caught:
                await client.map(X, control=control)
            assert asyncio.get_running_loop().time() == 1.5
            assert client.statistics().in_flight == 0
    assert caught.value.result.ok.sum() == 16 * 5
    assert_accounts(caught.value.result, 1000)


async def test_a_run_stopped_before_it_begins_sends_nothing() -> None:
    control = RunControl()
    control.drain()
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(RunStopped):
                await client.map(X, control=control)
    assert not mock.requests


async def test_answers_of_a_chunk_cut_short_are_not_lost() -> None:
    """A chunk is split; the run stops when one half is answered and the other is not."""
    control = RunControl()
    with MockEndpoint(double, latency=1.0) as mock:
        mock.script(400, None, None)
        async with Client(mock.url(Plain), codec=Plain) as client:
            asyncio.get_running_loop().call_later(2.5, control.cut)
            with pytest.raises(RunStopped) as caught:
                await client.map(X[:64], control=control)
    # The schema is learnt from the one answered half alone, and no other chunk confirms it.
    assert caught.value.result.ok.sum() in (0, 32)
    assert_accounts(caught.value.result, 64)


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.05, 1.5, 2.0, 3.3])
async def test_cancellation_is_prompt_and_leaves_nothing_behind(moment: float) -> None:
    """In flight, in backoff, in a cooldown, waiting for the rate."""
    before = asyncio.all_tasks()
    with MockEndpoint(double, latency=0.9) as mock:
        mock.script(503, None, Scripted(status=429, headers={"Retry-After": "1"}), ConnectionResetError())
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=5, limits=Limits(concurrency=8, requests_per_second=50)
        ) as client:
            run = asyncio.create_task(client.map(X))
            await asyncio.sleep(moment)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert asyncio.get_running_loop().time() == moment
            assert asyncio.all_tasks() == before
            assert client.statistics().in_flight == 0
            assert mock.in_flight == 0
            assert np.array_equal(await client.map(X[:50]), X[:50] * 2)


async def test_events_describe_the_run() -> None:
    events: list[fanout.Event] = []
    with MockEndpoint(refusing(3)) as mock:
        mock.script(503, Scripted(status=429, headers={"Retry-After": "2"}))
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=4, on_event=events.append) as client:
            await client.map(X[:12], on_error="keep")
    kinds = [event.kind for event in events]
    assert {"retry", "pause", "split", "failed", "done"} == set(kinds)
    (failed,) = [event for event in events if event.kind == "failed"]
    assert (failed.start, failed.stop, failed.status) == (3, 4, 400)
    assert [event.seconds for event in events if event.kind == "pause"] == [2.0]


STEPS = st.sampled_from(
    [None, None, None, 503, 500, 429, 400, 422, 401, ConnectionResetError("x"), answer([[1.0] * 3] * 61),
     Scripted(body=b"{"), Scripted(status=429, headers={"Retry-After": "1"})]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEPS, max_size=30),
    bad=st.sets(st.integers(0, 59), max_size=3),
    chunk_rows=st.integers(1, 20),
    concurrency=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_every_row_is_right_failed_or_pending_whatever_happens(
    steps: list[Any], bad: set[int], chunk_rows: int, concurrency: int, seed: int
) -> None:
    async def scenario() -> None:
        latency = np.random.default_rng(seed).uniform(0, 2, 1000)
        with MockEndpoint(refusing(*bad), latency=lambda n: float(latency[n % 1000])) as mock:
            mock.script(*steps)
            async with Client(
                mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=Limits(concurrency=concurrency)
            ) as client:
                try:
                    result = await client.map(X[:60], on_error="keep")
                except RunStopped as stopped:
                    result = stopped.result
                else:
                    assert not result.pending
            assert mock.max_in_flight <= concurrency
        assert_accounts(result, 60)
        if result.values is not None:
            assert np.array_equal(result.values[result.ok], X[:60][result.ok] * 2)
            assert np.isnan(result.values[~result.ok]).all()
        assert (result.stats.ok, result.stats.failed) == (
            result.ok.sum(),
            60 - result.ok.sum() - sum(map(len, result.pending)),
        )

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("dedupe", [False, True])
async def test_results_that_are_in_doubt_take_no_room_from_the_rows_after_them(dedupe: bool) -> None:
    """A stream reads as many chunks as it has room for, so a result that is not delivered has to leave its room."""
    rows = [X[number // 2] for number in range(400)]

    def model(x: np.ndarray) -> np.ndarray:
        # Where other endpoints go on, the run goes on, too.
        stream._run.collector.distrust(RowSet([(20, 380)]))  # noqa: SLF001 - as an endpoint that answers twice does
        return x * 2

    with MockEndpoint(model) as mock:
        client = Client(mock.url("v1"), codec="v1", chunk_rows=2, dedupe=dedupe, limits=Limits(concurrency=2))
        async with client, asyncio.timeout(60), client.stream(iter(rows)) as stream:
            with pytest.raises(RunStopped, match="360 rows were lost, although the run was not stopped") as caught:
                assert [done.start async for done in stream]
    assert caught.value.result.pending == (fanout.Chunk(20, 380),)
