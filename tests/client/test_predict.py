"""Callers of `predict` that share a client: nothing that one of them sends, does or gets is felt by another."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fanout
from fanout import (
    Client,
    ClientStateError,
    ConfigError,
    Endpoint,
    Limits,
    RetryPolicy,
    RowsFailed,
    RunStopped,
    Timeouts,
)
from fanout.engine import Run
from fanout.errors import EncodeError, QueueFull
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint, Scripted, VirtualClock
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

pytestmark = pytest.mark.virtual_time

X = np.arange(192.0).reshape(64, 3)
WINDOW = 0.002
LATENCY = 0.1


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def unless(bad: Iterable[float], status: int) -> Callable[[np.ndarray], np.ndarray]:
    """A model that refuses requests with one of these rows (by their first number) in them."""
    numbers = list(bad)

    def model(x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0], numbers).any():
            raise StatusError(status, "a bad row")
        return x * 2

    return model


async def answered(client: Client, rows: Iterable[Any]) -> tuple[list[Any], list[float]]:
    """The outcomes of calls that begin together, and how long each has waited."""
    loop, started = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    waited = {}

    async def call(number: int, row: Any) -> Any:
        try:
            return await client.predict(row)
        finally:
            waited[number] = loop.time() - started

    outcomes = await asyncio.gather(*(call(*pair) for pair in enumerate(rows)), return_exceptions=True)
    return outcomes, [waited[number] for number in range(len(outcomes))]


def failed(outcomes: list[Any]) -> list[int]:
    return [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]


class TestForms:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"a": 1}, {"b": 1}),
            ({"a": 1}, {"a": 1, "b": 2}),
            ({"a": 1}, {"a": "1"}),
            ({"a": [1, 2]}, {"a": [1, 2, 3]}),
            ({"a": np.zeros(2)}, {"a": np.zeros(3)}),
            ([1, 2], [1, 2, 3]),
            ([1, 2], [1.5, 2]),
            ([1, 2], ["1", "2"]),
            ([True, False], [0, 1]),
            ([[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 6]]),
            ([[1], [2]], [1, 2]),
            ([], [1]),
            ("text", {"text": "text"}),
            (1, 1.5),
            (None, 1),
            (np.zeros(3), np.zeros(3, np.float32)),
            (np.zeros(3), [0.0, 0.0, 0.0]),
        ],
    )
    async def test_rows_of_different_form_travel_in_different_requests(self, one: Any, other: Any) -> None:
        with MockEndpoint(lambda rows: [0.0] * len(rows)) as mock:
            async with Client(mock.url("v1"), codec="v1") as client:
                await asyncio.gather(*(client.predict(row) for row in (one, other, one, other)))
        sent = [request.json()["instances"] for request in mock.requests]
        assert [len(rows) for rows in sent] == [2, 2]
        assert all(rows[0] == rows[1] for rows in sent)
        assert mock.times == [pytest.approx(WINDOW)] * 2

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("short", "a longer text"),
            ([1.5, 2], [1, 2.5]),
            ({"a": 1, "b": "x"}, {"b": "y", "a": 2}),
            ([{"role": "user"}], [{"role": "user"}, {"role": "assistant"}]),
            (np.arange(3.0), np.ones(3)),
        ],
    )
    async def test_rows_of_one_form_share_a_request(self, one: Any, other: Any) -> None:
        with MockEndpoint(lambda rows: [0.0] * len(rows)) as mock:
            async with Client(mock.url("v1"), codec="v1") as client:
                await asyncio.gather(client.predict(one), client.predict(other))
        assert len(mock.requests) == 1

    async def test_an_object_array_that_nothing_can_send_takes_no_texts_along(self) -> None:
        with MockEndpoint(lambda rows: [0.0] * len(rows)) as mock:
            async with Client(mock.url("v1"), codec="v1") as client:
                texts, objects = np.array(["a"], object), np.array([{}], object)
                outcomes, _ = await answered(client, [texts, objects, texts])
        assert [outcomes[0], outcomes[2]] == [0, 0]
        assert isinstance(outcomes[1], ConfigError)

    async def test_each_form_waits_its_own_window_and_fills_its_own_request(self) -> None:
        rows = [row for pair in zip(range(6), "abcdef", strict=True) for row in pair]
        with MockEndpoint(lambda rows: [0.0] * len(rows)) as mock:
            async with Client(mock.url("v1"), codec="v1", chunk_rows=4) as client:
                await answered(client, rows)
        assert [len(request.json()["instances"]) for request in mock.requests] == [4, 4, 2, 2]
        assert mock.times == [0.0, 0.0, pytest.approx(WINDOW), pytest.approx(WINDOW)]


class TestFailures:
    @pytest.mark.parametrize("status", [400, 413, 422, 500, 451])
    @pytest.mark.parametrize("bad", [[0], [31], [0, 1], [0, 1, 2, 62, 63], list(range(63))])
    async def test_a_bad_row_fails_alone_and_the_others_wait_for_no_retry(self, status: int, bad: list[int]) -> None:
        model = unless((3.0 * row for row in bad), status)
        with MockEndpoint(model, latency=LATENCY) as mock:
            async with Client(mock.url(Plain), codec=Plain, limits=Limits(concurrency=128)) as client:
                outcomes, waited = await answered(client, X)
                statistics = client.statistics()
        assert failed(outcomes) == bad
        assert all(isinstance(outcomes[row], RowsFailed) for row in bad)
        good = [row for row in range(len(X)) if row not in bad]
        assert np.array_equal([outcomes[row] for row in good], X[good] * 2)
        # 64 rows, 32, 16, 8, 4, 2, 1: each level of halves at once, and no backoff in between.
        assert max(waited[row] for row in good) <= 7 * LATENCY + 1e-6
        assert (statistics.rows, statistics.ok, statistics.failed) == (64, len(good), len(bad))

    async def test_half_of_the_others_wait_for_one_more_request_only(self) -> None:
        with MockEndpoint(unless([0.0], 500), latency=LATENCY) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                _, waited = await answered(client, X)
        assert waited[32:] == [pytest.approx(2 * LATENCY)] * 32

    async def test_the_failure_counts_the_attempts_with_others_too(self) -> None:
        with MockEndpoint(unless([0.0], 422)) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                outcomes, _ = await answered(client, X)
        (failure,) = outcomes[0].result.failures
        assert (failure.start, failure.stop, failure.attempts) == (0, 1, 8), "64, 32, 16, 8, 4, 2, 1 and 1 to confirm"
        assert len(outcomes[0].result.ok) == 1
        assert len(mock.requests) == 14, "two for each of six levels, the first and the last"

    async def test_where_every_row_is_refused_each_costs_three_requests_at_most(self) -> None:
        with MockEndpoint(unless(X[:, 0], 400)) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                outcomes, _ = await answered(client, X)
        assert all(isinstance(outcome, RowsFailed) for outcome in outcomes)
        assert len(mock.requests) <= 3 * len(X)

    async def test_an_invalid_answer_fails_its_row_alone(self) -> None:
        def model(x: np.ndarray) -> np.ndarray:
            return np.where(x[:, :1] == 30, np.nan, x * 2)

        with MockEndpoint(model, latency=LATENCY) as mock:
            async with Client(mock.url("v1"), codec="v1") as client:
                outcomes, waited = await answered(client, X)
        assert failed(outcomes) == [10]
        assert max(waited[:10] + waited[11:]) <= 7 * LATENCY + 1e-6

    async def test_answers_that_differ_in_length_are_given_to_each(self) -> None:
        """No array holds them together, but each caller wants only its own."""

        lengths = [1, 2, 3, 4]
        answers = [[1.0] * length for length in lengths]
        bodies = [answers, *([answer] for answer in answers)]
        with MockEndpoint(double) as mock:
            mock.script(*(Scripted(body=orjson.dumps({"predictions": body})) for body in bodies))
            async with Client(mock.url("v1"), codec="v1") as client:
                outcomes, _ = await answered(client, lengths)
        assert [len(outcome) for outcome in outcomes] == lengths
        assert len(mock.requests) == 5, "all together, then each alone: halves would be no better"

    async def test_an_answer_that_is_too_large_together_is_taken_in_parts(self) -> None:
        with MockEndpoint(double) as mock:
            endpoint = Endpoint(url=mock.url(Plain), max_response_bytes=600)
            async with Client(endpoint, codec=Plain) as client:
                outcomes, _ = await answered(client, X)
        assert np.array_equal(outcomes, X * 2)

    async def test_rows_that_cannot_be_encoded_fail_with_reasons_of_their_own(self) -> None:
        class Picky(Plain):
            def encode(self, rows: Any) -> fanout.Payload:
                empty = [number for number, row in enumerate(rows) if not row]
                if empty:
                    raise EncodeError(f"row {empty[0]} is empty", rows=empty)
                return super().encode(rows)

        with MockEndpoint(lambda rows: [float(len(row)) for row in rows]) as mock:
            async with Client(mock.url(Picky), codec=Picky) as client:
                outcomes, _ = await answered(client, ["a", "", "ccc", ""])
                statistics = client.statistics()
        assert [outcomes[0], outcomes[2]] == [1, 3]
        assert failed(outcomes) == [1, 3]
        assert all("row 0: cannot be sent: row 0 is empty" in str(outcomes[row]) for row in (1, 3))
        assert len(mock.requests) == 1
        assert (statistics.rows, statistics.ok, statistics.failed) == (4, 2, 2)

    async def test_a_row_that_makes_the_endpoint_hang_holds_others_up_while_nothing_else_succeeds_only(self) -> None:
        """A timeout may be the endpoint's. Once other requests succeed it is the rows'."""

        def delay(number: int) -> float:
            return 1000.0 if [0.0, 1.0, 2.0] in mock.requests[number].json()["instances"] else LATENCY

        with MockEndpoint(double, latency=delay) as mock:
            timeouts = Timeouts(attempt=5)
            async with Client(mock.url(Plain), codec=Plain, timeouts=timeouts, chunk_rows=32) as client:
                outcomes, waited = await answered(client, X)
        assert failed(outcomes) == [0]
        assert max(waited[32:]) == pytest.approx(LATENCY)
        assert max(waited[16:32]) == pytest.approx(5 + LATENCY), "one timeout, then the half without the row at once"

    async def test_an_endpoint_without_room_gets_no_more_requests_than_for_one_caller(self) -> None:
        with MockEndpoint(double) as mock:
            mock.script(503, 429, 503)
            async with Client(mock.url(Plain), codec=Plain) as client:
                outcomes, _ = await answered(client, X)
        assert np.array_equal(outcomes, X * 2)
        assert [len(request.json()["instances"]) for request in mock.requests] == [64] * 4

    async def test_a_forbidden_row_fails_alone(self) -> None:
        with MockEndpoint(unless([30.0], 403)) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                await client.predict(X[0])
                outcomes, _ = await answered(client, X)
        assert failed(outcomes) == [10]

    async def test_wrong_credentials_cost_few_requests(self) -> None:
        with MockEndpoint(unless(X[:, 0], 403)) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                outcomes, _ = await answered(client, X)
        assert {type(outcome) for outcome in outcomes} <= {RunStopped, RowsFailed}
        assert len(mock.requests) < 20

    async def test_the_deadline_of_a_run_holds_for_its_parts_too(self) -> None:
        with MockEndpoint(unless([0.0], 500), latency=1.0) as mock:
            timeouts = Timeouts(run=3.5)
            async with Client(mock.url(Plain), codec=Plain, timeouts=timeouts) as client:
                outcomes, waited = await answered(client, X)
        assert max(waited) == pytest.approx(3.5)
        assert np.array_equal(outcomes[16:], X[16:] * 2)
        assert {outcome.kind for outcome in outcomes[:16]} == {"deadline"}

    async def test_requests_bounded_by_bytes_answer_their_rows_apart(self) -> None:
        """One batch in several requests: those of one that fails do not keep the others' answers."""
        with MockEndpoint(unless([0.0], 503), latency=LATENCY) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_max_bytes=200) as client:
                outcomes, waited = await answered(client, X)
        assert len(mock.requests) > 4
        assert np.array_equal(outcomes[32:], X[32:] * 2)
        assert max(waited[32:]) == pytest.approx(LATENCY)


class TestOutcomes:
    async def test_an_exception_is_its_callers_alone(self) -> None:
        with MockEndpoint(double) as mock:
            mock.script(401)
            async with Client(mock.url(Plain), codec=Plain) as client:
                outcomes, _ = await answered(client, X[:3])
        assert len({id(outcome) for outcome in outcomes}) == 3
        assert all(isinstance(outcome, RunStopped) and len(outcome.result.ok) == 1 for outcome in outcomes)

    async def test_a_stop_shows_no_caller_the_answers_of_others(self) -> None:
        with MockEndpoint(double, latency=LATENCY) as mock:
            mock.script(400, None, 401)
            async with Client(mock.url(Plain), codec=Plain) as client:
                outcomes, _ = await answered(client, X)
        assert np.array_equal(outcomes[:32], X[:32] * 2)
        assert all(outcome.result.values is None for outcome in outcomes[32:])

    async def test_an_error_in_the_input_is_its_callers_alone(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url("openai-embeddings"), codec="openai-embeddings") as client:
                outcomes, _ = await answered(client, X[:3])
        assert all(isinstance(outcome, fanout.InputError) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 3

    async def test_an_answer_keeps_no_others_in_memory(self) -> None:
        refs = []

        class Watched(Plain):
            def decode(self, response: fanout.Response, n_rows: int) -> Any:
                values = super().decode(response, n_rows)
                refs.append(weakref.ref(values))
                return values

        with MockEndpoint(double) as mock:
            async with Client(mock.url(Watched), codec=Watched) as client:
                outcomes, _ = await answered(client, X)
                gc.collect()
                assert [ref() for ref in refs] == [None]
        outcomes[0] += 1000
        assert np.array_equal(outcomes[1:], X[1:] * 2)


class TestCallersThatGiveUp:
    async def test_a_bad_row_without_a_waiting_caller_is_not_isolated(self) -> None:
        with MockEndpoint(unless([0.0], 500), latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                callers = [asyncio.create_task(client.predict(row)) for row in X]
                await asyncio.sleep(0.5)
                callers[0].cancel()
                outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert np.array_equal(outcomes[1:], X[1:] * 2)
        assert [len(request.json()["instances"]) for request in mock.requests] == [64, 32, 31]

    async def test_all_that_give_up_in_a_part_end_it(self) -> None:
        with MockEndpoint(unless([0.0], 500), latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=2) as client:
                callers = [asyncio.create_task(client.predict(row)) for row in X[:2]]
                await asyncio.sleep(1.5)
                callers[0].cancel()
                assert np.array_equal(await callers[1], X[1] * 2)
                await asyncio.sleep(1000)
        assert len(mock.requests) == 3

    async def test_a_timeout_of_one_caller_takes_no_other_along_in_the_search(self) -> None:
        with MockEndpoint(unless([0.0], 500), latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                others = asyncio.gather(*(client.predict(row) for row in X[1:]))
                with pytest.raises(RunStopped, match=r"deadline of 2\.5 s"):
                    await client.predict(X[0], timeout=2.5)
                assert np.array_equal(await others, X[1:] * 2)

    async def test_a_task_that_is_cancelled_from_outside_leaves_no_caller_waiting(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client, asyncio.timeout(100):
                before = asyncio.all_tasks()
                callers = [asyncio.create_task(client.predict(row)) for row in X[:4]]
                await asyncio.sleep(0.5)
                for task in asyncio.all_tasks() - before - set(callers):
                    task.cancel()
                outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(outcome, fanout.FanoutError) for outcome in outcomes)

    @pytest.mark.parametrize("moment", [0.0, 0.001, 0.5, 1.5, 2.5])
    async def test_closing_answers_everyone_also_in_the_search_for_a_bad_row(self, moment: float) -> None:
        with MockEndpoint(unless([0.0], 500), latency=1.0) as mock:
            client = Client(mock.url(Plain), codec=Plain)
            await client.open()
            before = asyncio.all_tasks()
            callers = [asyncio.create_task(client.predict(row)) for row in X]
            await asyncio.sleep(moment)
            async with asyncio.timeout(100):
                await client.close()
                outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert asyncio.all_tasks() == before
        assert mock.in_flight == 0
        for outcome in outcomes:
            assert isinstance(outcome, np.ndarray | ClientStateError)
        assert isinstance(outcomes[0], ClientStateError)


class TestQueue:
    async def test_a_full_queue_refuses_the_next_call_and_serves_the_waiting_ones(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, max_pending=10) as client:
                callers = [asyncio.create_task(client.predict(row)) for row in X[:10]]
                await asyncio.sleep(0.5)
                with pytest.raises(QueueFull, match=r"10 calls of predict.*max_pending.*map") as caught:
                    await client.predict(X[10])
                assert np.array_equal(await asyncio.gather(*callers), X[:10] * 2)
                assert np.array_equal(await client.predict(X[10]), X[10] * 2)
        assert isinstance(caught.value, RuntimeError)
        assert sum(len(request.json()["instances"]) for request in mock.requests) == 11

    async def test_a_caller_that_gives_up_leaves_its_place(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, max_pending=2) as client:
                callers = [asyncio.create_task(client.predict(row)) for row in X[:2]]
                await asyncio.sleep(0.5)
                callers[0].cancel()
                await asyncio.sleep(0)
                assert np.array_equal(await client.predict(X[2]), X[2] * 2)
                assert np.array_equal(await callers[1], X[1] * 2)

    async def test_the_queue_bounds_neither_map_nor_stream(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, max_pending=1, chunk_rows=1) as client:
                assert np.array_equal(await client.map(X), X * 2)

    @pytest.mark.parametrize("given", [0, -1, 1.5, "10", True, None])
    def test_an_invalid_number_of_callers_is_refused(self, given: Any) -> None:
        with pytest.raises(ConfigError, match="max_pending must be a whole number, at least 1"):
            Client("http://host/x", codec=Plain, max_pending=given)

    async def test_callers_are_served_in_the_order_of_their_calls(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client:
                _, waited = await answered(client, X[:10])
        assert waited == [pytest.approx(1.0 + number // 2) for number in range(10)]

    async def test_a_map_under_way_lets_a_caller_have_its_turn(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client:
                run = asyncio.create_task(client.map(X))
                await asyncio.sleep(4.5)
                _, waited = await answered(client, X[:1])
                assert waited[0] <= 2.5 + 1e-6
                assert np.array_equal(await run, X * 2)

    async def test_rows_join_those_that_wait_for_a_slot(self) -> None:
        with MockEndpoint(double, latency=0.4) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=8, limits=Limits(concurrency=1)) as client:
                first = [asyncio.create_task(client.predict(row)) for row in X[:16]]  # under way, and in the queue
                await asyncio.sleep(0.1)
                second = [asyncio.create_task(client.predict(row)) for row in X[16:20]]
                await asyncio.sleep(0.1)
                third = [asyncio.create_task(client.predict(row)) for row in X[20:24]]
                assert np.array_equal(await asyncio.gather(*first, *second, *third), X[:24] * 2)
        assert [len(request.json()["instances"]) for request in mock.requests] == [8, 8, 8]

    async def test_an_urgent_caller_is_held_back_by_urgent_ones_only(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client:
                others = [asyncio.create_task(client.predict(row, priority="bulk")) for row in X[:40]]
                await asyncio.sleep(0.5)
                _, waited = await answered(client, X[40:41])
                await asyncio.gather(*others)
        assert waited == [pytest.approx(1.5)]

    async def test_rows_that_are_repeated_hold_no_others_back(self) -> None:
        bad = [3.0 * row for row in range(12)]
        with MockEndpoint(unless(bad, 500)) as mock:
            limits, retry = Limits(concurrency=2), RetryPolicy(initial_backoff=20.0, max_backoff=20.0)
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, retry=retry) as client:
                await client.map(X[20:])
                failing = [asyncio.create_task(client.predict(row)) for row in X[:8]]
                await asyncio.sleep(0.5)
                _, waited = await answered(client, X[20:24])
                for task in failing:
                    task.cancel()
        assert max(waited) <= 0.2

    @pytest.mark.parametrize("seconds", [5.0, 0.5, 0.05])
    async def test_held_rows_keep_the_deadline_of_a_run(self, seconds: float) -> None:
        with MockEndpoint(double, latency=100.0) as mock:
            limits, timeouts = Limits(concurrency=1), Timeouts(run=seconds)
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits, timeouts=timeouts) as client:
                outcomes, waited = await answered(client, X[:20])
        assert len(failed(outcomes)) == 20
        assert max(waited) == pytest.approx(seconds, abs=0.01)

    async def test_closing_answers_rows_that_are_held_back(self) -> None:
        with MockEndpoint(double, latency=10.0) as mock:
            client = Client(mock.url(Plain), codec=Plain, chunk_rows=4, limits=Limits(concurrency=1))
            await client.open()
            callers = [asyncio.create_task(client.predict(row)) for row in X[:14]]
            await asyncio.sleep(0.5)
            await client.close()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(outcome, ClientStateError) for outcome in outcomes)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_mixture_of_rows_failures_and_callers_that_give_up(data: st.DataObject) -> None:
    """Every good row that is waited for has its answer, every bad one its failure, and every caller returns."""
    n = data.draw(st.integers(1, 24))
    bad = data.draw(st.sets(st.integers(0, n - 1)))
    status = data.draw(st.sampled_from([400, 422, 500, 418]))
    quitters = data.draw(st.dictionaries(st.integers(0, n - 1), st.floats(0, 5)))
    chunk_rows = data.draw(st.sampled_from([1, 2, 5, 64]))
    script = data.draw(st.lists(st.sampled_from([503, None]), max_size=4))
    seed = data.draw(st.integers(0, 2**32 - 1))
    begins_with_runs = data.draw(st.booleans())

    async def scenario() -> None:
        random.seed(seed)
        with MockEndpoint(unless((3.0 * row for row in bad), status), latency=0.5) as mock:
            limits, retry = Limits(concurrency=4), RetryPolicy(max_attempts=8)
            async with Client(
                mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=limits, retry=retry
            ) as client:
                if not begins_with_runs:
                    await client.predict(X[63])
                mock.script(*script)
                async with asyncio.timeout(3000):
                    callers = [asyncio.create_task(client.predict(row)) for row in X[:n]]
                    for number, when in quitters.items():
                        asyncio.get_running_loop().call_later(when, callers[number].cancel)
                    outcomes = await asyncio.gather(*callers, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, asyncio.CancelledError):
                assert number in quitters
            elif number in bad:  # many that get a 500 may open the circuit breaker, and then one of them stalls
                assert isinstance(outcome, RowsFailed | RunStopped)
            else:
                assert np.array_equal(outcome, X[number] * 2)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(scenario())


def runs() -> list[Run]:
    return [one for one in gc.get_objects() if isinstance(one, Run)]


async def test_a_call_leaves_nothing_to_the_garbage_collector() -> None:
    """To find the parts of ended runs, which refer to each other, cost more than the runs."""
    # An exception that is a parameter of another test keeps the runs that it was raised in, for the whole session.
    others = runs()
    gc.disable()
    try:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
                answers = await asyncio.gather(*(client.predict(row) for row in X[:20]))
                await asyncio.sleep(1)
                assert np.array_equal(answers, X[:20] * 2)
                assert [one for one in runs() if not any(one is other for other in others)] == []
    finally:
        gc.enable()
