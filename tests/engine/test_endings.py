"""Whatever ends a worker, a task or a callback otherwise than by its return is an error of the run that names it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Client, Limits, RunStopped
from fanout.testing import MockEndpoint
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from fanout import Response
    from fanout.transport import Request, Transport

pytestmark = pytest.mark.virtual_time

X = np.arange(30.0).reshape(10, 3)
ENDINGS = [asyncio.CancelledError, SystemExit, GeneratorExit]


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


async def async_source(ending: BaseException) -> AsyncIterator[np.ndarray]:
    for row in X[:4]:
        yield row
    raise ending


def generator(ending: BaseException) -> Iterator[np.ndarray]:
    yield from X[:4]
    raise ending


class Iterating:
    """An iterator that is no generator."""

    def __init__(self, ending: BaseException) -> None:
        self._rows = iter(X[:4])
        self._ending = ending

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        for row in self._rows:
            return row
        raise self._ending


class AfterThird:
    """A function that ends abnormally in its third call."""

    def __init__(self, ending: BaseException, gives: Any = None) -> None:
        self.calls = 0
        self._ending = ending
        self._gives = gives

    def __call__(self, *_: Any) -> Any:
        self.calls += 1
        if self.calls >= 3:
            raise self._ending
        return self._gives


def codec_of(method: str, ending: BaseException) -> Plain:
    """A codec one of whose methods ends abnormally in its third call."""
    trap = AfterThird(ending)

    class Trapped(Plain):
        def encode(self, rows: Any) -> Any:
            trap() if method == "encode" else None
            return super().encode(rows)

        def decode(self, response: Response, n_rows: int) -> Any:
            trap() if method == "decode" else None
            return super().decode(response, n_rows)

        def classify(self, response: Response) -> None:
            trap() if method == "classify" else None

    return Trapped()


class Through:
    """A transport that calls ``trap``, and sends through another one."""

    def __init__(self, trap: Callable[[], object]) -> None:
        self._trap = trap

    def wrap(self, transport: Transport) -> Through:
        self._transport = transport
        return self

    async def send(self, request: Request) -> Response:
        self._trap()
        return await self._transport.send(request)


def assert_account(result: fanout.Result, n_rows: int) -> None:
    failed = sum(failure.stop - failure.start for failure in result.failures)
    pending = sum(len(chunk) for chunk in result.pending)
    assert len(result.ok) == n_rows == result.ok.sum() + failed + pending


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("source", [async_source, generator, Iterating])
async def test_an_input_that_ends_abnormally_stops_the_run_and_publishes_nothing(
    source: Callable[[BaseException], Any], ending: type[BaseException], tmp_path: Path
) -> None:
    output = tmp_path / "y.npy"
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=2, limits=Limits(concurrency=1)) as client:
            with pytest.raises(RunStopped, match=rf"the input raised {ending.__name__}") as caught:
                await client.run(source(ending()), fanout.open_sink(output))
    assert caught.value.kind == "error"
    assert isinstance(caught.value.__cause__, ending)
    assert caught.value.result.ok.sum() == 4
    assert not output.exists()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("source", [async_source, generator])
async def test_a_stream_yields_all_that_was_answered_before_it_raises(
    source: Callable[[BaseException], Any], ending: type[BaseException]
) -> None:
    seen: list[fanout.ChunkResult] = []

    async def consume(client: Client) -> None:
        async with client.stream(source(ending())) as results:
            seen.extend([done async for done in results])
            seen.clear()  # never reached: the iteration ends with an error

    async def one_by_one(client: Client) -> None:
        async with client.stream(source(ending())) as results:
            async for done in results:
                seen.append(done)

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=2) as client:
            with pytest.raises(RunStopped, match="the input raised"):
                await consume(client)
            with pytest.raises(RunStopped, match="the input raised"):
                await one_by_one(client)
    assert sorted(done.start for done in seen) == [0, 2]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("hedge", [None, fanout.Hedge(share=1.0, delay=0.1)])
@pytest.mark.parametrize(
    "where", ["headers", "async headers", "encode", "decode", "classify", "count_tokens", "event", "transport"]
)
async def test_the_code_that_a_client_was_given_stops_the_run_with_its_name(
    where: str, hedge: fanout.Hedge | None, ending: type[BaseException]
) -> None:
    options: dict[str, Any] = {"codec": Plain, "limits": Limits(concurrency=1)}
    named = {"event": "on_event", "async headers": "headers="}.get(where, where)
    if where == "headers":
        options["headers"] = AfterThird(ending(), {"A": "b"})
    elif where == "async headers":
        trap = AfterThird(ending(), {"A": "b"})

        async def later() -> dict[str, str]:
            await asyncio.sleep(0.01)
            answer: dict[str, str] = trap()
            return answer

        options["headers"] = later
    elif where == "count_tokens":
        options |= {"count_tokens": AfterThird(ending(), 1.0), "limits": Limits(tokens_per_second=1e9, concurrency=1)}
    elif where == "event":
        options["on_event"] = AfterThird(ending())
    elif where == "transport":
        trap = AfterThird(ending())
        trap.calls = -2  # with hedging, two requests for each row
        options["transport"] = Through(trap)
    else:
        options["codec"] = codec_of(where, ending())
    with MockEndpoint(double, latency=1.0) as mock:
        if where.endswith("headers"):
            mock.script(*[None, None, 401] * 10)
        if where == "classify":
            mock.script(503, None, 503, None, 503)
        async with Client(mock.url(Plain), chunk_rows=1, hedge=hedge, **options) as client:
            with pytest.raises(RunStopped, match=rf"{named}.* raised {ending.__name__}") as caught:
                await client.map(X)
            assert client.statistics().in_flight == 0
    result = caught.value.result
    assert caught.value.kind == "error"
    assert_account(result, 10)
    assert 0 < result.ok.sum() < 10
    assert np.array_equal(result.values[result.ok], X[result.ok] * 2)
    assert np.isnan(result.values[~result.ok]).all()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "method", ["metadata_requests", "later metadata_requests", "with_metadata", "describe", "spec"]
)
@pytest.mark.parametrize("endpoints", [1, 2])
async def test_a_failing_metadata_codec_stops_the_run_with_its_name(
    method: str, endpoints: int, ending: type[BaseException]
) -> None:
    def trap(name: str) -> None:
        if name == method:
            raise ending

    class Asking(Plain):
        def metadata_requests(self, url: str, responses: Any = ()) -> Any:
            trap("later metadata_requests" if responses else "metadata_requests")
            return [url]

        def with_metadata(self, responses: Any) -> Any:
            trap("with_metadata")
            return self

        def describe(self) -> None:
            trap("describe")

        @property
        def spec(self) -> Any:
            trap("spec")
            return super().spec

    if method == "describe" and endpoints == 1:
        pytest.skip("a run over one endpoint does not ask for it")
    with MockEndpoint(double) as mock:
        urls = [mock.url(Plain) + f"?{number}" for number in range(endpoints)]
        async with Client(urls, codec=Asking) as client:
            with pytest.raises(
                RunStopped, match=f"the codec's {method.removeprefix('later ')} raised {ending.__name__}"
            ) as caught:
                await client.map(X)
    assert caught.value.kind == "error"
    assert not mock.requests
    assert_account(caught.value.result, 10)


async def test_an_abnormal_end_of_on_event_after_the_last_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def interrupted(event: fanout.Event) -> None:
        raise SystemExit("the listener gave up")

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, on_event=interrupted) as client:
            assert np.array_equal(await client.predict(X[0]), X[0] * 2)
    assert "SystemExit: the listener gave up" in caplog.text


async def test_an_exception_of_headers_with_several_endpoints_is_raised() -> None:
    def headers() -> dict[str, str]:
        raise LookupError("the vault is shut")

    with MockEndpoint(double) as mock:
        urls = [mock.url("oip") + f"?{number}" for number in range(2)]
        async with Client(urls, codec="oip", headers=headers) as client, asyncio.timeout(1000):
            with pytest.raises(LookupError, match="vault"):
                await client.map(X)


async def test_exceptions_of_user_code_carry_the_answers_so_far() -> None:
    tokens = iter([{"A": "b"}])

    def headers() -> dict[str, str]:
        try:
            return next(tokens)
        except StopIteration:
            raise LookupError("the vault is shut") from None

    with MockEndpoint(double) as mock:
        mock.script(None, None, 401)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=2, headers=headers, limits=Limits(concurrency=1)
        ) as client:
            with pytest.raises(LookupError, match="vault") as caught:
                await client.map(X)
    result = caught.value.result  # type: ignore[attr-defined]
    assert result.ok.tolist() == [True] * 4 + [False] * 6
    assert np.array_equal(result.values[:4], X[:4] * 2)


class Sink:
    def __init__(self, ending: type[BaseException] | None = None) -> None:
        self.ending = ending
        self.rows = 0

    def write(self, done: Any) -> None:
        if self.rows and self.ending is not None:
            raise self.ending
        self.rows += sum(chunk.stop - chunk.start for chunk in done)


@pytest.mark.parametrize("ending", [*ENDINGS, StopIteration])
async def test_a_sink_that_ends_abnormally_stops_the_run(ending: type[BaseException]) -> None:
    sink = Sink(ending)
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            with pytest.raises(RunStopped, match=f"the sink's write raised {ending.__name__}") as caught:
                await client.run(iter(X), sink)
            assert client.statistics().in_flight == 0
    assert caught.value.kind == "error"
    assert caught.value.result.ok.sum() == sink.rows


@pytest.mark.parametrize("where", ["input", "headers", "decode", "event"])
@pytest.mark.parametrize("hedge", [None, fanout.Hedge(share=1.0, delay=0.1)])
async def test_a_keyboard_interrupt_out_of_the_code_keeps_the_answers(where: str, hedge: fanout.Hedge | None) -> None:
    trap = AfterThird(KeyboardInterrupt(), {"A": "b"})

    class Trapped(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            trap() if where == "decode" else None
            return super().decode(response, n_rows)

    def source() -> Iterator[np.ndarray]:
        for row in X:
            if row[0] > 6 and where == "input":
                raise KeyboardInterrupt
            yield row

    seen: list[fanout.ChunkResult] = []

    async def consume(client: Client) -> None:
        async with client.stream(source()) as results:
            async for done in results:
                seen.append(done)

    options = {"headers": trap} if where == "headers" else {"on_event": trap} if where == "event" else {}
    with MockEndpoint(double, latency=1.0) as mock:
        mock.script(*([None, None, 401] * 10 if where == "headers" else []))
        async with Client(
            mock.url(Plain), codec=Trapped, chunk_rows=1, limits=Limits(concurrency=1), hedge=hedge, **options
        ) as client:
            with pytest.raises(fanout.Interrupted) as caught:
                await consume(client)
    assert not isinstance(caught.value, Exception)
    assert caught.value.kind == "interrupted"
    assert 0 < caught.value.result.ok.sum() == sum(int(done.ok.sum()) for done in seen) < 10


def tasks_but(*others: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task not in (asyncio.current_task(), *others)]


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.5])
async def test_a_task_that_someone_else_cancels_is_an_error_of_the_run(moment: float) -> None:
    """Before it began, too."""
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client:
            run = asyncio.create_task(client.map(X))
            await asyncio.sleep(moment)
            tasks_but(run)[0].cancel()
            with pytest.raises(RunStopped, match="a task of the run was cancelled, although the run was not") as caught:
                await run
    assert caught.value.kind == "error"
    assert_account(caught.value.result, 10)


async def test_an_event_that_cancels_the_task_in_which_it_came_is_an_error_of_the_run() -> None:
    def on_event(event: fanout.Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, on_event=on_event) as client:
            with pytest.raises(RunStopped, match="a task of the run was cancelled"):
                await client.map(X)


@pytest.mark.parametrize("source", [async_source, generator])
async def test_a_cancellation_that_meets_an_abnormal_ending_is_still_a_cancellation(
    source: Callable[[BaseException], Any],
) -> None:
    """The input ends abnormally; the caller is cancelled while requests are still in flight."""
    before = asyncio.all_tasks()

    async def consume(client: Client) -> None:
        async with client.stream(source(asyncio.CancelledError())) as results:
            async for _ in results:
                pass

    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=2) as client:
            running = asyncio.create_task(consume(client))
            await asyncio.sleep(0.5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert asyncio.get_running_loop().time() == 0.5
            assert asyncio.all_tasks() == before


async def test_an_input_that_swallows_a_cancellation_does_not_make_the_run_go_on() -> None:
    async def stubborn() -> AsyncIterator[np.ndarray]:
        for row in X:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            yield row

    sink = Sink()
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1) as client:
            run = asyncio.create_task(client.run(stubborn(), sink))
            await asyncio.sleep(5)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert asyncio.get_running_loop().time() == 5
    assert not mock.requests


@pytest.mark.parametrize("ending", [asyncio.CancelledError, LookupError])
async def test_an_input_whose_closing_fails_is_an_error(ending: type[BaseException]) -> None:
    async def closing() -> AsyncIterator[np.ndarray]:
        try:
            for row in X:
                yield row
        finally:
            raise ending

    control = fanout.RunControl()
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=1)) as client:
            asyncio.get_running_loop().call_later(3.5, control.cut)
            with pytest.raises(RunStopped if ending is asyncio.CancelledError else ending):
                await client.run(closing(), Sink(), control=control)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_callers_of_a_batch_get_an_error_for_an_abnormal_ending(ending: type[BaseException]) -> None:
    trap = AfterThird(ending())
    trap.calls = 2

    class Trapped(Plain):
        def decode(self, response: Response, n_rows: int) -> Any:
            trap()
            return super().decode(response, n_rows)

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Trapped) as client, asyncio.timeout(100):
            answers = await asyncio.gather(*(client.predict(row) for row in X), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, RunStopped)
        assert answer.kind == "error"


@pytest.mark.parametrize("call", ["map", "stream", "run"])
async def test_rows_that_the_engine_lost_are_an_internal_error_with_all_others(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No way to lose rows is known, so one is made: a chunk whose outcome is dropped."""
    from fanout.engine.results import ResultCollector

    add = ResultCollector.add

    def dropping(self: ResultCollector, task: Any, outputs: Any) -> Any:
        return [] if task.chunk.start == 4 else add(self, task, outputs)

    monkeypatch.setattr(ResultCollector, "add", dropping)
    output = tmp_path / "y.npy"

    async def consume(client: Client) -> None:
        async with client.stream(X) as results:
            async for _ in results:
                pass

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=2) as client:
            calls = {"map": client.map(X), "run": client.run(X, fanout.open_sink(output)), "stream": consume(client)}
            called = calls.pop(call)
            for other in calls.values():
                other.close()
            with pytest.raises(RunStopped, match=r"internal error.*2 rows were lost") as caught:
                await called
    assert caught.value.kind == "internal"
    assert caught.value.result.ok.tolist() == [True] * 4 + [False] * 2 + [True] * 4
    if call == "map":
        assert np.array_equal(caught.value.result.values[6:], X[6:] * 2)
    assert not output.exists()


async def streamed(client: Client, rows: Any) -> int:
    async with client.stream(rows) as stream:
        return sum([done.stop - done.start async for done in stream])


@pytest.mark.parametrize(
    ("place", "ending"),
    [  # a StopIteration of an iterator is its end, and a generator makes a RuntimeError of one
        ("input", StopAsyncIteration),
        *(
            (place, end)
            for place in ("headers=", "async headers=", "classify")
            for end in (StopIteration, StopAsyncIteration)
        ),
    ],
)
async def test_an_end_of_iteration_out_of_the_users_code_does_not_end_a_stream_as_if_all_rows_had_come(
    ending: type[Exception], place: str
) -> None:
    rows: Any = X
    options: dict[str, Any] = {"codec": Plain}
    if place == "input":
        rows = Iterating(ending())
    elif place == "classify":
        options["codec"] = codec_of("classify", ending("of it"))
    else:

        async def later() -> None:
            raise ending("of it")

        options["headers"] = later if place == "async headers=" else AfterThird(ending("of it"), None)
        if place == "headers=":
            options["headers"].calls = 2
    with MockEndpoint(double) as mock:
        mock.script(*[400] * 20 if place == "classify" else [])
        async with Client(mock.url(Plain), chunk_rows=2, limits=Limits(concurrency=1), **options) as client:
            with pytest.raises((RunStopped, RuntimeError), match=ending.__name__):
                await streamed(client, rows)
