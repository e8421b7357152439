"""Calls of one client side by side: the end of one, whatever ends it, neither stops nor fails another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Client, Limits, RetryPolicy, RowsFailed, RunControl, RunStopped, Timeouts
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from fanout import Event

    Call = Callable[[Client], Coroutine[Any, Any, Any]]

pytestmark = pytest.mark.virtual_time

X = np.arange(120.0).reshape(40, 3)
BAD = X + 1000.0
"""Rows that the model refuses."""

SLOW = RetryPolicy(max_attempts=8)


def picky(x: np.ndarray) -> np.ndarray:
    if (x >= 1000).any():
        raise StatusError(400, "a bad row")
    return x * 2


class Trapped(Plain):
    """Encodes and decodes everything but rows of its choice."""

    def encode(self, rows: Any) -> fanout.Payload:
        if np.asarray(rows).dtype == np.float32:
            raise asyncio.CancelledError
        return super().encode(rows)


async def cut(client: Client) -> Any:
    control = RunControl()
    asyncio.get_running_loop().call_later(2.5, control.cut)
    return await client.map(X, control=control)


async def drained(client: Client) -> Any:
    control = RunControl()
    asyncio.get_running_loop().call_later(2.5, control.drain)
    return await client.map(X, control=control)


async def timed_out(client: Client) -> Any:
    return await client.map(X, timeout=2.5)


async def cancelled(client: Client) -> Any:
    async with asyncio.timeout(2.5):
        return await client.map(X)


async def refused(client: Client) -> Any:
    return await client.map(BAD)


async def not_encoded(client: Client) -> Any:
    return await client.map(X.astype(np.float32))


async def left_early(client: Client) -> Any:
    async with client.stream(X) as results:
        async for _ in results:
            return
    raise AssertionError


async def never_read(client: Client) -> Any:
    """A stream whose consumer takes nothing keeps its own window only."""
    async with client.stream(iter(X)):
        await asyncio.sleep(1000)


async def of_a_source_that_raises(client: Client) -> Any:
    async def rows() -> AsyncIterator[np.ndarray]:
        for row in X[:5]:
            yield row
        raise KeyError("a broken source")

    async with client.stream(rows()) as results:
        async for _ in results:
            pass


async def predicted(client: Client) -> Any:
    return await asyncio.gather(*(client.predict(row) for row in BAD), return_exceptions=True)


async def given_up(client: Client) -> Any:
    callers = [asyncio.create_task(client.predict(row)) for row in X]
    await asyncio.sleep(2.5)
    for caller in callers:
        caller.cancel()
    return await asyncio.gather(*callers, return_exceptions=True)


ENDINGS = [
    cut, drained, timed_out, cancelled, refused, not_encoded, left_early, never_read, of_a_source_that_raises,
    predicted, given_up,
]  # fmt: skip


async def mapped(client: Client) -> Any:
    return await client.map(X)


async def streamed(client: Client) -> np.ndarray:
    out = np.zeros_like(X)
    async with client.stream(X) as results:
        async for done in results:
            out[done.start : done.stop] = done.values
    return out


async def asked_one_by_one(client: Client) -> np.ndarray:
    return np.array(await asyncio.gather(*(client.predict(row) for row in X)))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("other", [mapped, streamed, asked_one_by_one])
@pytest.mark.parametrize("concurrency", [1, "auto"])
@pytest.mark.parametrize(
    "steps",
    [[], [503, None, 503], [500] * 3, [TimeoutError] * 4, [503] * 14],
    ids=["well", "503", "500", "broken", "down"],
)
async def test_the_end_of_one_call_is_not_felt_by_another(
    ending: Call,
    other: Call,
    concurrency: Any,
    steps: list[Any],
) -> None:
    with MockEndpoint(picky, latency=1.0) as mock:
        mock.script(*steps)
        limits = Limits(concurrency=concurrency)
        async with Client(mock.url(Trapped), codec=Trapped, chunk_rows=4, limits=limits, retry=SLOW) as client:
            async with asyncio.timeout(2000):
                first = asyncio.create_task(ending(client))
                second = asyncio.create_task(other(client))
                assert np.array_equal(await second, X * 2)
                await asyncio.gather(first, return_exceptions=True)
            statistics = client.statistics()
        assert (statistics.in_flight, mock.in_flight) == (0, 0)


@pytest.mark.parametrize("ending", [cut, timed_out, cancelled, left_early])
async def test_a_run_that_ends_during_the_metadata_request_leaves_it_to_the_next(
    ending: Call,
) -> None:
    with MockEndpoint(picky) as mock:
        mock.script_metadata(*[503] * 6)
        async with Client(mock.url("oip"), codec="oip", retry=RetryPolicy(max_attempts=20)) as client:
            first = asyncio.create_task(ending(client))
            second = asyncio.create_task(client.map(X))
            assert np.array_equal(await second, X * 2)
            await asyncio.gather(first, return_exceptions=True)


async def test_callers_wait_for_one_failure_to_ask_about_the_model_and_not_for_one_each() -> None:
    with MockEndpoint(picky) as mock:
        mock.script_metadata(*[503] * 1000)
        async with Client(mock.url("oip"), codec="oip", chunk_rows=1) as client:
            started = asyncio.get_running_loop().time()
            outcomes = await asyncio.gather(*(client.predict(row) for row in X), return_exceptions=True)
            assert asyncio.get_running_loop().time() - started < 10
        assert all(isinstance(outcome, RunStopped) and outcome.kind == "metadata" for outcome in outcomes)
    assert not mock.requests


@pytest.mark.parametrize("ending", [ValueError("a broken listener"), asyncio.CancelledError(), SystemExit(3)])
async def test_a_listener_that_raises_for_one_run_ends_no_other(ending: BaseException) -> None:
    events = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.kind == "failed":  # only the run with bad rows has such an event
            raise ending

    with MockEndpoint(picky, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=4, on_event=listen) as client:
            await client.map(X[:4])
            rows = np.concatenate([X[:7], BAD[:1], X[7:]])
            first = asyncio.create_task(client.map(rows))
            second = asyncio.create_task(client.map(X))
            assert np.array_equal(await second, X * 2)
            with pytest.raises((RowsFailed, RunStopped)):
                await first
            before = len(events)
            await client.map(X)
            assert len(events) - before == 10, "the next run is heard again"


async def test_the_deadline_of_all_runs_is_each_ones_own() -> None:
    with MockEndpoint(picky, latency=1.0) as mock:
        options: dict[str, Any] = {"chunk_rows": 4, "limits": Limits(concurrency=20), "timeouts": Timeouts(run=3)}
        async with Client(mock.url(Plain), codec=Plain, **options) as client:
            first = asyncio.create_task(client.map(np.concatenate([X] * 10)))
            await asyncio.sleep(2)
            second = asyncio.create_task(client.map(X))
            with pytest.raises(RunStopped, match="deadline"):
                await first
            assert np.array_equal(await second, X * 2)
