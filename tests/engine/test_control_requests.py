"""A bad row at the end of a run fails at once, proven by a request for a row that was answered before."""

from __future__ import annotations

import asyncio
from math import ceil, log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from fanout import Client, Event, Limits, RunStopped
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint
from tests.support import Plain

if TYPE_CHECKING:
    from fanout.results import Result

pytestmark = pytest.mark.virtual_time
ATTEMPTS = 5


class Endpoint:
    """Doubles numbers. It answers a request that holds a bad one with a status, and all requests while it is down."""

    def __init__(self, *bad: float, status: int = 500, down: tuple[float, float] = (0.0, 0.0)) -> None:
        self.bad = bad
        self._status = status
        self._down = down
        self.requests: list[list[float]] = []

    def __call__(self, rows: Any) -> Any:
        self.requests.append(list(rows[:, 0]))
        now = asyncio.get_running_loop().time()
        if self._down[0] <= now < self._down[1] or set(self.bad).intersection(self.requests[-1]):
            raise StatusError(self._status, "boom")
        return rows * 2


class Seen(NamedTuple):
    result: Result
    seconds: float
    events: list[Event]


async def run(endpoint: Endpoint, n_rows: int, *, warm: bool = False, **options: Any) -> Seen:
    rows, loop, events = np.arange(float(n_rows))[:, None], asyncio.get_running_loop(), list[Event]()
    with MockEndpoint(endpoint, latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, on_event=events.append, **options) as client:
            if warm:
                await client.map(-1 - rows[:1])
            began = loop.time()
            result = await client.map(rows, on_error="keep")
    return Seen(result, loop.time() - began, events)


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize(("n_rows", "chunk_rows"), [(200, 64), (200, 1), (10, 64), (64, 64), (2000, 64)])
async def test_a_last_row_that_is_bad_fails_in_seconds(n_rows: int, chunk_rows: int, concurrency: int) -> None:
    endpoint = Endpoint(n_rows - 1.0)
    seen = await run(endpoint, n_rows, chunk_rows=chunk_rows, limits=Limits(concurrency=concurrency))
    assert [failure.start for failure in seen.result.failures] == [n_rows - 1]
    assert seen.result.ok.sum() == n_rows - 1
    assert seen.seconds < 20
    chunks = ceil(n_rows / chunk_rows)
    assert len(endpoint.requests) <= chunks + 2 * ceil(log2(chunk_rows)) + 2 + ATTEMPTS + 2


async def test_a_bad_row_waits_for_its_control_request_though_there_is_room_for_both() -> None:
    endpoint = Endpoint(9.0)
    await run(endpoint, 10, chunk_rows=1, limits=Limits(concurrency=4))
    assert sorted(endpoint.requests[:10]) == [[float(row)] for row in range(10)]
    repeated, (control, *last) = endpoint.requests[10:14], endpoint.requests[14:]
    assert repeated == [[9.0]] * (ATTEMPTS - 1)
    assert control in [[float(row)] for row in range(9)]
    assert last == [[9.0]]


async def test_the_control_request_sends_one_answered_row_again_without_an_event() -> None:
    endpoint = Endpoint(9.0)
    seen = await run(endpoint, 10, chunk_rows=1, limits=Limits(concurrency=1))
    assert endpoint.requests == [[float(row)] for row in range(9)] + [[9.0]] * ATTEMPTS + [[8.0], [9.0]]
    assert seen.result.stats.ok == 9
    assert seen.result.stats.requests == len(endpoint.requests)
    assert [event.start for event in seen.events if event.kind == "done"] == list(range(9))
    assert {event.start for event in seen.events if event.kind in ("retry", "failed")} == {9}


async def test_a_run_without_an_answer_takes_a_row_of_the_run_before() -> None:
    endpoint = Endpoint(0.0)
    seen = await run(endpoint, 1, warm=True)
    assert len(seen.result.failures) == 1
    assert seen.seconds < 20
    assert endpoint.requests == [[-1.0]] + [[0.0]] * ATTEMPTS + [[-1.0], [0.0]]


async def test_several_bad_rows_at_the_end_fail_in_seconds() -> None:
    bad = [float(row) for row in range(90, 100)]
    seen = await run(Endpoint(*bad), 100, chunk_rows=1, limits=Limits(concurrency=4))
    assert [failure.start for failure in seen.result.failures] == bad
    assert seen.seconds < 100


async def test_a_control_request_that_fails_shows_an_outage_in_which_no_row_fails() -> None:
    endpoint = Endpoint(down=(0.095, 200.0))
    seen = await run(endpoint, 10, chunk_rows=1, limits=Limits(concurrency=1))
    assert seen.result.ok.all()
    assert [8.0] in endpoint.requests[9:], "a control request was sent"
    assert len(endpoint.requests) <= 10 + ATTEMPTS + 25


async def test_a_control_request_that_is_refused_proves_nothing() -> None:
    """The row fails for its own attempts in time, as no request is left that could be answered."""
    endpoint = Endpoint(9.0)
    answer = endpoint.__call__

    def refuses_what_it_has_answered(rows: Any) -> Any:
        if endpoint.requests.count([8.0]) and rows[0, 0] == 8.0:
            raise StatusError(400, "not again")
        return answer(rows)

    rows = np.arange(10.0)[:, None]
    with MockEndpoint(refuses_what_it_has_answered, latency=0.01) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            result = await client.map(rows, on_error="keep")
    assert [failure.start for failure in result.failures] == [9]
    assert 120 <= asyncio.get_running_loop().time() < 160


async def test_control_requests_count_for_max_requests() -> None:
    endpoint = Endpoint(9.0)
    limits = Limits(concurrency=1, max_requests=9 + ATTEMPTS)
    with pytest.raises(RunStopped, match="max_requests = 14") as stopped:
        await run(endpoint, 10, chunk_rows=1, limits=limits)
    assert len(endpoint.requests) == 9 + ATTEMPTS
    assert stopped.value.result.ok.sum() == 9


async def test_no_control_request_is_sent_where_new_chunks_can_show_that_the_endpoint_works() -> None:
    endpoint = Endpoint(0.0)
    seen = await run(endpoint, 100, chunk_rows=1, limits=Limits(concurrency=1))
    assert [failure.start for failure in seen.result.failures] == [0]
    assert sorted(map(tuple, endpoint.requests)) == sorted([(0.0,)] * endpoint.requests.count([0.0]) + [
        (float(row),) for row in range(1, 100)
    ])  # fmt: skip
