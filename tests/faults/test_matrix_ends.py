"""Rows 53 to 57 of the fault matrix: clocks that jump, cancelled runs, closed clients, abnormal ends, deadlines."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Client, ClientStateError, Limits, RetryPolicy, RunStopped, Timeouts
from fanout.codecs import V1
from fanout.serving.exchange import StatusError
from fanout.testing import FaultServer
from tests.faults.scene import QUICK, X, assert_whole, client, double

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

TWO = Limits(concurrency=2)


async def test_row_53_a_wall_clock_that_jumps_by_an_hour_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on backoff, nor on the pause that was asked for, nor on any deadline."""
    real, jumps = time.time, itertools.cycle([3600.0, -3600.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    async with FaultServer(double) as server:
        server.script(503, None, "silence", "429-retry-after:0.3")
        times = Timeouts(attempt=0.3, run=60)
        async with client(server, limits=TWO, timeouts=times) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.seconds >= 0.3


@asynccontextmanager
async def wholly_free(c: Client) -> AsyncIterator[None]:
    """Require that the block leaves no task, no slot in use and no connection in use behind."""
    before = asyncio.all_tasks()
    yield
    session = c._session  # noqa: SLF001 - one slot of several that leaks shows in nothing else
    assert session is not None
    for _ in range(3):  # tasks and sockets end a turn of the loop after their ends
        await asyncio.sleep(0)
    # The server's own, and the look-ups of names that aiohttp lets end by themselves: others may wait for the same.
    others = ("_meet", "_resolve_host_with_throttle")
    left = {task for task in asyncio.all_tasks() - before if not any(name in repr(task) for name in others)}
    assert left == set()
    assert c.statistics().in_flight == 0
    assert not session._group.limiter.waiters  # noqa: SLF001 - one slot of several that leaks shows in nothing else
    assert not session._group.balancer.wait_queue.sleepers  # noqa: SLF001 - one slot of several that leaks shows in nothing else
    (host,) = session._group.balancer.endpoints  # noqa: SLF001 - one slot of several that leaks shows in nothing else
    assert host.breaker._trial is None  # noqa: SLF001 - one slot of several that leaks shows in nothing else
    assert host.in_flight == 0
    connector = host.transport._http.connector  # noqa: SLF001 - one slot of several that leaks shows in nothing else
    connector.collect()  # the connections at hand for the next request
    assert not connector._acquired  # noqa: SLF001 - one slot of several that leaks shows in nothing else


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def poisoned(x: np.ndarray) -> np.ndarray:
    rows = np.asarray(x)
    if (rows[:, 0] == X[10, 0]).any():
        raise StatusError(422, "poison")
    return rows * 2


async def test_row_54_a_run_cancelled_at_any_step_leaves_pool_and_slots_wholly_free() -> None:
    """Cancelled after 0, 1, 2, ... turns of the loop, on a way through most that can happen to a chunk."""
    faults: Iterator[Any] = iter(())
    async with FaultServer(poisoned, faults=lambda _: next(faults, None)) as server:
        limits = Limits(concurrency=2, requests_per_second=20000)
        async with client(server, limits=limits, chunk_rows=16) as c:
            await c.map(X[:1])
            finished, steps = False, 0
            while not finished:
                faults = iter([None, 503, "429-retry-after:0.001", "reset-mid-body", "nan", "close-on-reuse"])
                async with wholly_free(c):
                    task = asyncio.create_task(c.map(X[:96], on_error="keep"))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    finished = task.done()
                    if not finished:
                        await cancelled(task)
                steps += 1 if steps < 100 else 7
            faults = iter(())
            assert steps > 50
            result = await c.map(X[16:], on_error="keep")
    assert_whole(result, X[16:] * 2)


WAITING: dict[str, tuple[list[Any], dict[str, Any], Callable[[Any], bool]]] = {
    "for the header": (["silence"] * 2, {}, lambda s: s.in_flight == 2),
    "for the body": (["drip:60"] * 2, {}, lambda s: s.in_flight == 2),
    "for the right answer": (["slow:60"] * 2, {}, lambda s: s.in_flight == 2),
    "for the cooldown": (["429-retry-after:60"] * 2, {}, lambda s: s.received == 2 and not s.in_flight),
    "in backoff": ([503] * 2, {"retry": RetryPolicy(initial_backoff=1e4, max_backoff=1e4)}, lambda s: s.received >= 2),
    "for the circuit": (
        [None] + [503] * 40,
        {"retry": RetryPolicy(max_attempts=50, initial_backoff=0)},  # the tenth failure opens the circuit
        lambda s: s.hits["503"] >= 10,
    ),
    "for the rate": ([], {"limits": Limits(concurrency=2, requests_per_second=0.01)}, lambda s: s.received == 1),
}


@pytest.mark.parametrize("state", WAITING)
async def test_row_54_a_run_cancelled_while_it_waits_leaves_pool_and_slots_wholly_free(state: str) -> None:
    steps, options, reached = WAITING[state]
    settings = {"limits": TWO, "chunk_rows": 16, "timeouts": Timeouts(attempt=600)} | options
    async with FaultServer(double) as server, client(server, **settings) as c, wholly_free(c), asyncio.timeout(10):
        server.script(*steps)
        task = asyncio.create_task(c.map(X))
        while not reached(server):  # noqa: ASYNC110 - at every turn of the loop, so that nothing else goes by
            await asyncio.sleep(0)
        for _ in range(20):  # after these, the client has seen the server's last action
            await asyncio.sleep(0)
        assert not task.done()
        await cancelled(task)


async def test_row_54_a_run_cancelled_while_it_connects_leaves_pool_and_slots_wholly_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connecting, loop = asyncio.Event(), asyncio.get_running_loop()

    async def never(*_: Any, **__: Any) -> Any:
        connecting.set()
        await loop.create_future()

    monkeypatch.setattr(loop, "getaddrinfo", never)
    async with client("http://model.test/v1/models/m:predict", limits=TWO) as c, wholly_free(c):
        task = asyncio.create_task(c.map(X))
        await connecting.wait()
        await cancelled(task)


async def test_row_54_a_client_serves_on_after_many_cancellations() -> None:
    """A slot or connection lost each time would leave none."""
    async with FaultServer(double) as server, client(server, limits=TWO, timeouts=Timeouts(attempt=600)) as c:
        for number in range(10):
            server.script("silence", "silence")
            task = asyncio.create_task(c.map(X))
            await server.arrived(2 * number + 2)
            await cancelled(task)
        assert_whole(await c.map(X, on_error="keep"))


async def test_row_55_a_client_closed_with_a_full_queue_leaves_no_call_waiting() -> None:
    async with FaultServer(double, faults=lambda _: "silence") as server:
        before = asyncio.all_tasks()
        c = client(server, limits=TWO, timeouts=Timeouts(attempt=600))
        await c.open()
        run = asyncio.create_task(c.map(X))
        callers = [asyncio.create_task(c.predict(row)) for row in X]
        await server.arrived(2)
        async with asyncio.timeout(5):
            await c.close()
            outcomes = await asyncio.gather(run, *callers, return_exceptions=True)
    assert isinstance(outcomes[0], RunStopped)
    assert len(outcomes[0].result.pending) == 1
    assert {type(outcome) for outcome in outcomes[1:]} <= {ClientStateError, RunStopped}
    assert asyncio.all_tasks() - before == set()


async def test_row_55_a_stream_left_with_full_queues_ends_at_once() -> None:
    """Endless input, and a consumer that takes one chunk: all other chunks are released, queued or in flight."""
    taken = 0

    async def endless() -> AsyncIterator[np.ndarray]:
        nonlocal taken
        while True:
            yield X[taken % len(X)]
            taken += 1

    async with FaultServer(double) as server, client(server, limits=TWO, chunk_rows=4, retry=QUICK) as c:
        async with wholly_free(c), asyncio.timeout(10), c.stream(endless()) as results:
            async for done in results:
                assert done.ok.all()
                break
        assert taken <= 4 * (2 * 2 + 2 + 3), "no more than the window was taken from the input"
        assert_whole(await c.map(X, on_error="keep"))


class Ending:
    """Code of a user's own, which ends abnormally in its fifth call."""

    def __init__(self, ending: type[BaseException], gives: Any) -> None:
        self.ending = ending
        self.gives = gives
        self.calls = 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls >= 5:
            raise self.ending
        return self.gives(*given)


def ending_options(where: str, ending: type[BaseException]) -> dict[str, Any]:
    trap = Ending(ending, {"headers=": lambda: {"A": "b"}, "count_tokens": lambda _: 1.0}.get(where, lambda *_: None))
    if where == "headers=":
        trap.calls = 3  # asked before the first request, and after the 401
        return {"headers": trap}
    if where == "the codec's decode":

        class Trapped(V1):
            def decode(self, response: Any, n_rows: int) -> Any:
                trap()
                return super().decode(response, n_rows)

        return {"codec": Trapped()}
    return {"on_event": trap} if where == "on_event" else {"count_tokens": trap, "chunk_max_tokens": 2}


@pytest.mark.parametrize("ending", [asyncio.CancelledError, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["the input", "headers=", "the codec's decode", "count_tokens", "on_event"])
async def test_row_56_code_that_ends_abnormally_is_named_and_nothing_is_published(
    where: str, ending: type[BaseException], tmp_path: Path
) -> None:
    def rows() -> Iterator[Any]:
        for number, row in enumerate(X[:40]):
            if where == "the input" and number == 12:
                raise ending
            yield row

    options = {} if where == "the input" else ending_options(where, ending)
    output = tmp_path / "y.npy"
    async with FaultServer(double) as server:
        server.script(*[None, None, 401, None] if where == "headers=" else [])
        async with client(server, chunk_rows=2, limits=Limits(concurrency=1), **options) as c:
            with pytest.raises(RunStopped, match=f"{where} raised {ending.__name__}") as caught:
                await c.run(rows(), fanout.open_sink(output))
    result = caught.value.result
    assert caught.value.kind == "error"
    assert 0 < result.ok.sum() < 40 or where == "on_event"  # which is called once rows are in the file
    assert result.ok.any()
    pending = sum(map(len, result.pending))
    assert len(result.ok) == result.ok.sum() + pending
    assert not output.exists()


async def test_row_57_a_deadline_around_a_call_keeps_the_answers_so_far() -> None:
    """Ctrl-C in the blocking face: tests/test_interrupts.py."""
    async with (
        FaultServer(double, faults=lambda _: None if server.received <= 3 else "silence") as server,
        client(server, limits=Limits(concurrency=1), timeouts=Timeouts(attempt=60)) as c,
    ):
        with pytest.raises(RunStopped, match="timeout=") as caught:
            await c.map(X, timeout=2.0)
    assert caught.value.kind == "deadline"
    assert caught.value.result.ok.tolist() == [True] * 192 + [False] * (len(X) - 192)
    assert np.array_equal(caught.value.result.values[:192], X[:192] * 2)
