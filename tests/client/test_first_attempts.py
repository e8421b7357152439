"""Batches of `predict` that are sent without a run of their own, and those that become one."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, Limits, RetryPolicy, RowsFailed, RunStopped, Timeouts
from fanout.engine import EndpointGroup, Run
from fanout.engine.first_attempts import FirstAttempts
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fanout import Event

pytestmark = pytest.mark.virtual_time

X = np.arange(192.0).reshape(64, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def unless(bad: float) -> Callable[[np.ndarray], np.ndarray]:
    def model(x: np.ndarray) -> np.ndarray:
        if x[0, 0] == bad:
            raise StatusError(400, "a bad row")
        return x * 2

    return model


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The classes of the runs and first attempts that are made."""
    kinds: list[type] = []
    for kind in (Run, FirstAttempts):
        init: Callable[..., None] = kind.__init__

        def noted(self: Any, *args: Any, kind: type = kind, init: Callable[..., None] = init, **options: Any) -> None:
            kinds.append(kind)
            init(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", noted)
    return kinds


@asynccontextmanager
async def warm(mock: MockEndpoint, codec: type[Plain] = Plain, **options: Any) -> AsyncIterator[Client[Any]]:
    """A client that has had an answer, by a run: only then it knows the model."""
    async with Client(mock.url(codec), codec=codec, **options) as client:
        await client.predict(X[63])
        yield client


async def test_batches_that_are_answered_share_one_task_and_make_no_run(made: list[type]) -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=2)) as client:
            made.clear()
            answers = await asyncio.gather(*(client.predict(row) for row in X[:20]))
            stats = client.statistics()
    assert np.array_equal(answers, X[:20] * 2)
    assert made == [FirstAttempts] * 4, "two in flight, and two that wait for a slot"
    assert (stats.rows, stats.ok, stats.failed, stats.requests) == (21, 21, 0, 21)
    assert stats.latency_p50 == pytest.approx(0.1, rel=0.05)
    assert stats.max_in_flight == 2


async def test_a_first_attempt_that_fails_goes_on_as_a_run_with_its_counts(made: list[type]) -> None:
    with MockEndpoint(double) as mock:
        async with warm(mock, retry=RetryPolicy(max_attempts=3)) as client:
            made.clear()
            mock.script(503)
            assert np.array_equal(await client.predict(X[0]), X[0] * 2)
            assert made == [FirstAttempts, Run]
            stats = client.statistics()
            assert (stats.rows, stats.ok, stats.requests, stats.retries) == (2, 2, 3, 1)
            mock.script(400, 400)
            with pytest.raises(RowsFailed) as failure:
                await client.predict(X[1])
            one, stats = failure.value.result, client.statistics()
    assert one.failures[0].attempts == 2
    assert (one.stats.requests, one.stats.retries) == (2, 1)
    assert (stats.rows, stats.ok, stats.failed, stats.requests, stats.retries) == (3, 2, 1, 5, 2)


async def test_what_a_first_attempt_counts_shows_while_it_is_under_way() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with warm(mock) as client:
            caller = asyncio.create_task(client.predict(X[0]))
            await asyncio.sleep(0.5)
            stats = client.statistics()
            assert (stats.rows, stats.ok, stats.requests, stats.in_flight) == (2, 1, 2, 1)
            caller.cancel()
            await asyncio.sleep(0.1)
            stats = client.statistics()
            assert (stats.rows, stats.ok, stats.in_flight) == (2, 1, 0)


async def test_a_caller_that_gives_up_as_its_answer_comes_ends_no_later_batch() -> None:
    callers: list[asyncio.Task[Any]] = []

    def model(x: np.ndarray) -> np.ndarray:
        if x[0, 0] == 0:
            callers[0].cancel()  # its place in the batch is given up one turn of the loop later
        return x * 2

    with MockEndpoint(model, latency=1.0) as mock:
        async with warm(mock, chunk_rows=2, limits=Limits(concurrency=1)) as client:
            callers += [asyncio.create_task(client.predict(row)) for row in X[:16]]
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert np.array_equal(outcomes[1:], X[1:16] * 2)


async def test_all_callers_that_give_up_end_their_request_alone() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            callers = [asyncio.create_task(client.predict(row)) for row in X[:6]]
            await asyncio.sleep(0.5)
            callers[0].cancel()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert mock.in_flight == 0
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert np.array_equal(outcomes[1:], X[1:6] * 2)


@pytest.mark.parametrize("options", [{"timeouts": Timeouts(run=5.0)}, {"retry": RetryPolicy(stall=5.0)}])
async def test_deadline_and_stall_hold_for_each_batch_by_itself(options: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    with MockEndpoint(double, latency=lambda number: 2.0 if number < 4 else 1000.0) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=1), **options) as client:
            # Together they take longer than each may.
            assert np.array_equal([await client.predict(row) for row in X[:3]], X[:3] * 2)
            began = loop.time()
            with pytest.raises(RunStopped) as stop:
                await client.predict(X[3])
            stats = client.statistics()
    assert stop.value.kind == ("deadline" if "timeouts" in options else "stall")
    assert loop.time() - began == pytest.approx(5.0, abs=0.01)
    assert stop.value.result.stats.requests == 1
    assert (stats.rows, stats.ok, stats.failed, stats.in_flight) == (5, 4, 0, 0)


async def test_a_task_that_sends_many_batches_is_no_stall(made: list[type]) -> None:
    async def caller(client: Client[Any]) -> None:
        for row in X[:10]:
            assert np.array_equal(await client.predict(row), row * 2)

    with MockEndpoint(double, latency=0.4) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=1), retry=RetryPolicy(stall=2.0)) as client:
            made.clear()
            await asyncio.gather(*(caller(client) for _ in range(4)))
    assert made == [FirstAttempts] * 2


async def test_a_stall_counts_from_the_first_attempt_also_in_the_run_that_follows() -> None:
    loop = asyncio.get_running_loop()
    with MockEndpoint(double, latency=lambda number: 0.0 if number == 0 else 1000.0) as mock:
        async with warm(mock, timeouts=Timeouts(attempt=3.0), retry=RetryPolicy(stall=5.0)) as client:
            began = loop.time()
            with pytest.raises(RunStopped, match="nothing has succeeded for 5 s"):
                await client.predict(X[0])
    assert loop.time() - began == pytest.approx(5.0, abs=0.01)


async def test_a_batch_that_fails_has_no_counts_of_those_before_it() -> None:
    with MockEndpoint(unless(9.0), latency=0.1) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            outcomes = await asyncio.gather(*(client.predict(row) for row in X[:6]), return_exceptions=True)
    assert isinstance(outcomes[3], RowsFailed)
    assert outcomes[3].result.stats.requests == outcomes[3].result.failures[0].attempts == 2


async def test_refused_credentials_stop_the_batch_after_one_request() -> None:
    with MockEndpoint(double) as mock:
        async with warm(mock) as client:
            mock.script(401)
            with pytest.raises(RunStopped) as stop:
                await client.predict(X[0])
    assert stop.value.kind == "refused"
    assert len(mock.requests) == 2


async def test_a_listener_has_the_events_of_first_attempts_and_one_that_fails_is_called_for_the_next_batches() -> None:
    seen: list[str] = []

    def listener(event: Event) -> None:
        seen.append(event.kind)
        if len(seen) == 2:
            raise ValueError("once")

    with MockEndpoint(double, latency=0.1) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=1), on_event=listener) as client:
            answers = await asyncio.gather(*(client.predict(row) for row in X[:6]))
    assert np.array_equal(answers, X[:6] * 2)
    assert seen == ["done"] * 7


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("now"), asyncio.CancelledError()])
async def test_rows_that_cannot_be_encoded_end_as_they_do_in_a_run(error: BaseException) -> None:
    class Failing(Plain):
        def encode(self, rows: Any) -> Any:
            if rows[0, 0] == 0:
                raise error
            return super().encode(rows)

    async def outcome(client: Client[Any]) -> BaseException:
        with pytest.raises(BaseException) as raised:  # noqa: PT011 - compared below
            await client.predict(X[0])
        return raised.value

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Failing), codec=Failing) as client:
            expected = await outcome(client)
            assert np.array_equal(await client.predict(X[1]), X[1] * 2)
            actual = await outcome(client)
            assert np.array_equal(await client.predict(X[2]), X[2] * 2)
    assert (type(actual), str(actual)) == (type(expected), str(expected))


async def test_rows_of_calls_with_other_headers_are_sent_with_their_own() -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        async with warm(mock, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            calls = [client.predict(row, headers={"x-tenant": str(i // 2)}) for i, row in enumerate(X[:8])]
            await asyncio.gather(*calls)
    for request in mock.requests[1:]:
        number = int(request.json()["instances"][0][0]) // 3
        assert request.headers["x-tenant"] == str(number // 2)


async def test_a_second_answer_stops_what_is_in_flight() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with warm(mock) as client:
            caller = asyncio.create_task(client.predict(X[0]))
            await asyncio.sleep(0.5)
            (group,) = [one for one in gc.get_objects() if type(one) is EndpointGroup and one.on_second_answer]
            (report,) = group.on_second_answer
            report(group.balancer.endpoints[0], [])
            with pytest.raises(RunStopped, match="answered a request twice") as stop:
                await caller
            assert np.array_equal(await client.predict(X[1]), X[1] * 2)
    assert stop.value.kind == "duplicate"


async def test_first_attempts_leave_nothing_to_the_garbage_collector() -> None:
    with MockEndpoint(double) as mock:
        async with warm(mock, chunk_rows=1) as client:
            others = [one for one in gc.get_objects() if isinstance(one, FirstAttempts)]
            gc.disable()
            try:
                await asyncio.gather(*(client.predict(row) for row in X[:20]))
                await asyncio.sleep(1)
                left = [one for one in gc.get_objects() if isinstance(one, FirstAttempts)]
                assert [one for one in left if not any(one is other for other in others)] == []
            finally:
                gc.enable()
