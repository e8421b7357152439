"""rows == ok + failed + pending, and every ok row right, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import fanout
from fanout import Client, Hedge, Interrupted, Limits, RetryPolicy, RunControl, RunStopped
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint, Scripted, VirtualClock
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from fanout import ChunkResult, Response, Result

N_ROWS = 40
X = np.arange(3.0 * N_ROWS).reshape(N_ROWS, 3)

PLACES = ["input", "headers", "async headers", "encode", "decode", "classify", "count_tokens", "event", "none"]
ENDINGS = [
    asyncio.CancelledError,
    SystemExit,
    GeneratorExit,
    KeyboardInterrupt,
    LookupError,
    TimeoutError,
    StopIteration,
]
STEPS = [
    None, None, None, None, 503, 500, 429, 400, 401, 413, ConnectionResetError("x"), TimeoutError("x"),
    Scripted(body=b"{"), Scripted(body=b'{"predictions": [' + b"[1,1,1]," * 60 + b"[1,1,1]]}"),
    Scripted(status=429, headers={"Retry-After": "1"}),
]  # fmt: skip


@dataclass(frozen=True)
class Trap:
    """User code of which one place ends abnormally in its nth call; another may cancel its own task."""

    place: str
    ending: type[BaseException]
    at: int


class Trapped(Plain):
    """A codec that meets its trap."""

    def __init__(self, trap: Trap) -> None:
        super().__init__()
        self.trap = trap
        self.calls = 0

    def meet(self, place: str) -> None:
        if place == self.trap.place:
            self.calls += 1
            if self.calls == self.trap.at:
                raise self.trap.ending

    def encode(self, rows: Any) -> Any:
        self.meet("encode")
        return super().encode(np.asarray(rows))

    def decode(self, response: Response, n_rows: int) -> Any:
        self.meet("decode")
        return super().decode(response, n_rows)

    def classify(self, response: Response) -> None:
        self.meet("classify")


def assert_account(result: Result, n_rows: int) -> None:
    failed = sum(failure.stop - failure.start for failure in result.failures)
    pending = sum(len(chunk) for chunk in result.pending)
    assert len(result.ok) == n_rows
    assert int(result.ok.sum()) + failed + pending == n_rows
    absent: list[Any] = [*result.failures, *result.pending]
    for rows in absent:
        assert not result.ok[rows.start : rows.stop].any()


class Scene:
    """One run through one of the ways of sending rows, disturbed by user code, servers and callers."""

    def __init__(self, call: str, trap: Trap, source: str) -> None:
        self.call = call
        self.trap = trap
        self.source = source
        self.codec = Trapped(trap)
        self.done: list[ChunkResult] = []

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        meet = self.codec.meet

        def headers() -> dict[str, str]:
            meet("headers")
            return {"A": "b"}

        async def later() -> dict[str, str]:
            await asyncio.sleep(0.1)
            meet("async headers")
            return {"A": "b"}

        def counted(_: Any) -> float:
            meet("count_tokens")
            return 1.0

        if "headers" in self.trap.place:
            options["headers"] = headers if self.trap.place == "headers" else later
        if self.trap.place == "count_tokens":
            options |= {"count_tokens": counted, "chunk_max_tokens": 7}
        if self.trap.place == "event":
            options["on_event"] = lambda _: meet("event")
        return options

    def rows(self) -> Any:
        if self.call == "map" or self.source == "array":
            return X
        return self._slowly() if self.source == "async" else self._one_by_one()

    def _one_by_one(self) -> Iterator[np.ndarray]:
        for row in X:
            self.codec.meet("input")
            yield row

    async def _slowly(self) -> AsyncIterator[np.ndarray]:
        for row in X:
            await asyncio.sleep(0.05)
            self.codec.meet("input")
            yield row

    def write(self, done: Any) -> None:
        self.done += done

    async def run(self, client: Client, control: RunControl, timeout: float | None) -> Result | None:
        """The result, of whatever kind its end is; None for a stream that came to its end."""
        rows = self.rows()
        if self.call == "map":
            return await client.map(rows, on_error="keep", control=control, timeout=timeout)
        if self.call == "run":
            return await client.run(rows, self, control=control, timeout=timeout)
        async with client.stream(rows, control=control, timeout=timeout) as results:
            async for done in results:
                self.done.append(done)
        return None


def assert_right(scene: Scene, result: Result | None, *, stopped: bool) -> None:
    if result is not None:
        assert_account(result, len(result.ok))
        assert stopped or not result.pending
        assert stopped or len(result.ok) == N_ROWS
        if result.values is not None:
            assert np.array_equal(result.values[result.ok], X[: len(result.ok)][result.ok] * 2)
    seen = np.zeros(N_ROWS, int)
    for done in scene.done:
        seen[done.start : done.stop] += done.ok
        if done.values is not None:
            assert np.array_equal(done.values[done.ok], X[done.start : done.stop][done.ok] * 2)
    assert seen.max() <= 1
    if scene.call != "map" and result is not None:
        assert np.array_equal(np.flatnonzero(seen), np.flatnonzero(result.ok))


async def play(scene: Scene, mock: MockEndpoint, options: dict[str, Any], how: str, moment: float) -> None:
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    async with Client(mock.url(Plain), codec=scene.codec, **scene.options(), **options) as client:
        control = RunControl()
        running = asyncio.create_task(contained(scene.run(client, control, moment if how == "timeout" else None)))
        if how in ("drain", "cut"):
            loop.call_later(moment, getattr(control, how))
        elif how == "cancel":
            loop.call_later(moment, running.cancel)
        elif how == "cancel a task":
            loop.call_later(moment, cancel_one, before | {running})
        outcome: Any
        (outcome,) = await asyncio.gather(running, return_exceptions=True)
        assert client.statistics().in_flight == 0
        assert mock.in_flight == 0
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    judge(scene, outcome, how)


async def contained(call: Coroutine[Any, Any, Any]) -> Any:
    """Return the outcome, also an exception that would end the event loop."""
    try:
        return await call
    except (KeyboardInterrupt, SystemExit, GeneratorExit) as ending:
        return ending


def cancel_one(others: set[Any]) -> None:
    for task in asyncio.all_tasks() - others:
        task.cancel()
        return


def judge(scene: Scene, outcome: Any, how: str) -> None:
    event(f"{scene.call}: {type(outcome).__name__} {getattr(outcome, 'kind', '')}")
    if isinstance(outcome, RunStopped | Interrupted):
        assert outcome.kind != "internal"
        assert_right(scene, outcome.result, stopped=True)
    elif isinstance(outcome, asyncio.CancelledError):
        assert how == "cancel", "cancelled, although that was not asked for"
    elif isinstance(outcome, BaseException):
        assert type(outcome) in (LookupError, TimeoutError, RuntimeError, fanout.ConfigError), repr(outcome)
        assert_right(scene, getattr(outcome, "result", None), stopped=True)
    else:
        assert_right(scene, outcome, stopped=False)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    call=st.sampled_from(["map", "stream", "run"]),
    source=st.sampled_from(["array", "iterator", "async"]),
    trap=st.builds(Trap, st.sampled_from(PLACES), st.sampled_from(ENDINGS), st.integers(1, 30)),
    steps=st.lists(st.sampled_from(STEPS), max_size=25),
    how=st.sampled_from(["to the end", "drain", "cut", "cancel", "cancel a task", "timeout"]),
    moment=st.floats(0.01, 12.0),
    bad=st.sets(st.integers(0, N_ROWS - 1), max_size=2),
    chunk_rows=st.integers(1, 12),
    concurrency=st.integers(1, 6),
    hedged=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_rows_are_accounted_for_whatever_ends_whatever(
    call: str,
    source: str,
    trap: Trap,
    steps: list[Any],
    how: str,
    moment: float,
    bad: set[int],
    chunk_rows: int,
    concurrency: int,
    hedged: bool,
    seed: int,
) -> None:
    latency = np.random.default_rng(seed).uniform(0, 2, 1000)

    def model(x: np.ndarray) -> np.ndarray:
        if np.isin(x[:, 0] / 3, list(bad)).any():
            raise StatusError(422, "that row is poison")
        return x * 2

    async def scenario() -> None:
        options = {
            "chunk_rows": chunk_rows,
            "limits": Limits(concurrency=concurrency),
            "retry": RetryPolicy(stall=200.0),
            "hedge": Hedge(share=1.0, delay=0.5) if hedged else None,
        }
        with MockEndpoint(model, latency=lambda n: float(latency[n % 1000])) as mock:
            mock.script(*steps)
            await play(Scene(call, trap, source), mock, options, how, moment)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(scenario())
