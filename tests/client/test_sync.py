"""The blocking face, on a real server: from scripts, from threads, inside a running loop, and after its end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import ClientStateError, Codec, InputError, Payload, RetryPolicy, RowsFailed, RunStopped, SyncClient
from tests.loopback import Line, Received, http, loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout import Response


class Doubling(Codec):
    """JSON lists both ways."""

    name = "doubling"

    def encode(self, rows: Any) -> Payload:
        return Payload(body=orjson.dumps(np.asarray(rows).tolist()))

    def decode(self, reply: Response, n_rows: int) -> Any:
        return np.array(reply.json(), float)


class Numbered(Doubling):
    """Numbers, or dicts that hold one; a request with both cannot be encoded."""

    def encode(self, rows: Any) -> Payload:
        return super().encode([row["odd"] for row in rows] if isinstance(rows[0], dict) else rows)


@dataclass
class Server:
    """A server in a thread of its own, that doubles numbers; ``refused`` numbers get a 400."""

    url: str = ""
    requests: list[list[float]] = field(default_factory=list)
    refused: set[float] = field(default_factory=set)
    status: int = 200
    held: threading.Event = field(default_factory=threading.Event)
    """While it is not set, answers wait."""

    arrived: threading.Event = field(default_factory=threading.Event)

    async def answer(self, received: Received, line: Line) -> None:
        rows = json.loads(received.body)
        self.requests.append(rows)
        self.arrived.set()
        await asyncio.to_thread(self.held.wait)
        if self.status != 200 or self.refused & set(rows):
            await line.send(http(b"no", status=self.status if self.status != 200 else 400))
        else:
            await line.send(http(orjson.dumps([2 * row for row in rows])))


@contextmanager
def serving() -> Iterator[Server]:
    server, ready, loops = Server(), threading.Event(), []
    server.held.set()

    async def live() -> None:
        end = asyncio.Event()
        async with loopback(server.answer) as seen:
            server.url = seen.url
            loops.append((asyncio.get_running_loop(), end))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="server")
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        server.held.set()
        loop, end = loops[0]
        loop.call_soon_threadsafe(end.set)
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_thread_is_left(few_objects: None) -> Iterator[None]:
    yield
    gc.collect()
    for thread in loop_threads():  # the thread of a source is asked to end, and not waited for
        thread.join(20)
    assert not loop_threads()


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fanout")]


X = np.arange(200.0)


def test_map_gives_every_row_its_answer(server):
    np.testing.assert_array_equal(fanout.map(X, server.url, codec=Doubling), 2 * X)
    assert len(server.requests) == 4


def test_map_takes_the_options_of_the_client(server):
    result = fanout.map(X, server.url, codec=Doubling(), chunk_rows=100, on_error="keep")
    assert isinstance(result, fanout.Result)
    assert result.ok.all()
    assert len(server.requests) == 2


def test_map_of_nothing_is_empty(server):
    assert fanout.map(X[:0], server.url, codec=Doubling).shape == (0,)


def test_one_client_serves_many_calls(server):
    with SyncClient(server.url, codec=Doubling) as client:
        for n in (1, 10, 100):
            np.testing.assert_array_equal(client.map(X[:n]), 2 * X[:n])
        assert client.predict(np.float64(21)) == 42
        assert client.statistics().ok == 112
        assert client.statistics().in_flight == 0


@pytest.mark.parametrize("call", ["fanout.map", "SyncClient"])
async def test_it_works_inside_a_running_loop(server, call):
    """As in a notebook: the loop of the caller stands still meanwhile."""
    if call == "fanout.map":
        answers = fanout.map(X, server.url, codec=Doubling)
    else:
        with SyncClient(server.url, codec=Doubling) as client:
            answers = client.map(X)
    np.testing.assert_array_equal(answers, 2 * X)
    await asyncio.sleep(0)


def test_stream_yields_every_chunk(server):
    with SyncClient(server.url, codec=Doubling, chunk_rows=10) as client:
        chunks = list(client.stream(float(x) for x in X))
    assert len(chunks) == 20
    for done in chunks:
        np.testing.assert_array_equal(done.values, 2 * X[done.start : done.stop])


def test_a_stream_may_be_left_early(server):
    with SyncClient(server.url, codec=Doubling, chunk_rows=10) as client:
        for done in client.stream(X):
            assert done.ok.all()
            break
        assert client.predict(np.float64(1)) == 2
        assert client.statistics().in_flight == 0


def test_a_stream_may_outlive_its_client(server):
    client = SyncClient(server.url, codec=Doubling, chunk_rows=10)
    stream = client.stream(X)
    next(stream)
    client.close()
    with pytest.raises(ClientStateError, match="closed"):
        list(stream)
    SyncClient(server.url, codec=Doubling).close()


def test_an_abandoned_stream_of_a_closed_client_is_collected_in_silence(server):
    client = SyncClient(server.url, codec=Doubling, chunk_rows=10)
    stream = client.stream(X)
    next(stream)
    client.close()
    del stream
    gc.collect()


def test_errors_of_the_input_of_a_stream_are_raised(server):
    def rows() -> Iterator[float]:
        yield from range(30)
        raise ZeroDivisionError("in the input")

    with SyncClient(server.url, codec=Doubling, chunk_rows=10) as client, pytest.raises(ZeroDivisionError):
        list(client.stream(rows()))


class Collecting:
    """A sink."""

    def __init__(self) -> None:
        self.written: dict[int, Any] = {}

    def write(self, done: Any) -> None:
        self.written |= {chunk.start: chunk.values for chunk in done}


def test_run_writes_every_chunk_to_the_sink(server):
    sink = Collecting()
    with SyncClient(server.url, codec=Doubling) as client:
        result = client.run(X, sink)
    assert result.ok.all()
    np.testing.assert_array_equal(np.concatenate([sink.written[start] for start in sorted(sink.written)]), 2 * X)


def test_callers_of_predict_on_several_threads_share_a_request(server, monkeypatch):
    n = 8
    monkeypatch.setattr(
        "fanout.client.batches._LINGER", 60.0
    )  # the batch goes when it is full, however slow a thread is
    with SyncClient(server.url, codec=Doubling, chunk_rows=n) as client, ThreadPoolExecutor(n) as threads:
        answers = list(threads.map(client.predict, np.arange(n, dtype=float)))
    assert answers == [2.0 * number for number in range(n)]
    assert [sorted(rows) for rows in server.requests] == [list(range(n))]


def test_failed_rows_are_raised_with_all_that_succeeded(server):
    server.refused = {7.0}
    with pytest.raises(RowsFailed, match="row 7") as raised:
        fanout.map(X[:64], server.url, codec=Doubling)
    result = raised.value.result
    assert list(np.flatnonzero(~result.ok)) == [7]
    np.testing.assert_array_equal(result.values[result.ok], 2 * X[:64][result.ok])


def test_a_stopped_run_is_raised_with_its_reason(server):
    server.status = 401
    with pytest.raises(RunStopped, match="HTTP 401") as raised:
        fanout.map(X, server.url, codec=Doubling)
    assert raised.value.kind == "refused"
    assert not loop_threads()


def test_one_row_that_fails_is_raised_to_its_caller_alone(server):
    server.refused = {3.0}
    with SyncClient(server.url, codec=Doubling) as client:
        with pytest.raises((RowsFailed, RunStopped)):
            client.predict(np.float64(3))
        assert client.predict(np.float64(4)) == 8


def test_threads_that_predict_do_not_feel_each_other(server):
    server.refused = {3.0, 17.0}
    rows = [np.float64(number) if number % 2 else {"odd": number} for number in range(64)]

    def called(client, row):
        try:
            return client.predict(row)
        except (RowsFailed, RunStopped) as error:
            return error

    with SyncClient(server.url, codec=Numbered) as client, ThreadPoolExecutor(64) as threads:
        outcomes = list(threads.map(lambda row: called(client, row), rows))
    failed = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == [3, 17]
    assert all(len(outcomes[number].result.ok) == 1 for number in failed)
    assert [outcome for outcome in outcomes if not isinstance(outcome, Exception)] == [
        2.0 * number for number in range(64) if number not in failed
    ]


def test_of_more_threads_than_may_wait_one_is_refused_at_once(server):
    server.held.clear()
    with SyncClient(server.url, codec=Doubling, max_pending=4) as client, ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(client.predict, np.float64(number)) for number in range(5)]
        refused, waiting = wait(calls, return_when=FIRST_COMPLETED)
        server.held.set()
        assert [type(call.exception()) for call in refused] == [fanout.QueueFull]
        assert [call.result() for call in waiting] == [2.0 * calls.index(call) for call in waiting]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"codec": Doubling, "chunk_rows": 0}, fanout.ConfigError),
        ({"codec": "no such codec"}, fanout.ConfigError),
        ({"codec": Doubling, "no_such_option": 1}, fanout.UnknownOptionError),
        ({}, TypeError),
    ],
)
def test_a_wrong_argument_starts_no_thread(options, error):
    with pytest.raises(error):
        SyncClient("http://127.0.0.1:1/m", **options)
    assert not loop_threads()


def test_a_client_that_cannot_be_opened_leaves_no_thread():
    class Pathless(Doubling):
        path = "/v1/models/{model}:predict"

    with pytest.raises(fanout.ConfigError, match="names no model"):
        SyncClient("http://127.0.0.1:1", codec=Pathless)
    assert not loop_threads()


def test_rows_without_a_length_are_refused_as_by_the_async_client(server):
    with SyncClient(server.url, codec=Doubling) as client, pytest.raises(TypeError, match="stream takes any iterable"):
        client.map(iter(X))


def test_a_client_lives_in_one_thread_until_it_is_closed(server):
    with SyncClient(server.url, codec=Doubling) as client:
        client.map(X)
        assert len(loop_threads()) == 1
        assert all(thread.daemon for thread in loop_threads())
    assert not loop_threads()


def test_close_may_be_called_again(server):
    client = SyncClient(server.url, codec=Doubling)
    client.close()
    client.close()


CALLS = {
    "map": lambda client: client.map(X),
    "predict": lambda client: client.predict(np.float64(1)),
    "stream": lambda client: list(client.stream(X)),
    "run": lambda client: client.run(X, Collecting()),
    "statistics": lambda client: client.statistics(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_client_says_so(server, call):
    client = SyncClient(server.url, codec=Doubling)
    client.close()
    with pytest.raises(ClientStateError, match="closed"):
        call(client)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_client_from_before_a_fork_says_so(server, call, monkeypatch):
    with SyncClient(server.url, codec=Doubling) as client:
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: 1)
            with pytest.raises(ClientStateError, match="before a fork"):
                call(client)
        call(client)


def test_a_call_from_on_event_is_refused_since_it_would_wait_for_itself(server):
    server.refused = {0.0}
    seen: list[Any] = []

    def on_event(event: fanout.Event) -> None:
        with pytest.raises(ClientStateError, match="would wait for itself"):
            client.predict(np.float64(1))
        seen.append(client.statistics())  # a progress display may look, though

    with SyncClient(server.url, codec=Doubling, on_event=on_event) as client, pytest.raises(RowsFailed):
        client.map(X[:2])
    assert seen


@pytest.mark.parametrize("call", ["map", "predict"])
def test_closing_ends_the_calls_of_other_threads(server, call):
    server.held.clear()
    client = SyncClient(server.url, codec=Doubling, retry=RetryPolicy(max_attempts=1))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(CALLS[call], client)
        server.arrived.wait()
        client.close()
        with pytest.raises(fanout.FanoutError, match=r"the client (is|was) closed"):
            waiting.result(timeout=5)


def test_closing_ends_a_call_that_waits_for_something_else_than_the_server(server):
    """For the rows of its input, for instance."""
    client = SyncClient(server.url, codec=Doubling)
    started = threading.Event()

    async def rows() -> Any:
        started.set()
        await asyncio.Event().wait()
        yield 1.0

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.run, rows(), Collecting())
        started.wait()
        client.close()
        with pytest.raises(RunStopped, match="the client was closed"):
            waiting.result(timeout=5)


def test_an_interrupt_abandons_the_run(server, monkeypatch):
    """Ctrl-C arrives while the main thread waits for the answer."""
    server.held.clear()
    with SyncClient(server.url, codec=Doubling) as client:

        def interrupted(self: Any, timeout: float | None = None) -> Any:
            server.arrived.wait()
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("concurrent.futures.Future.result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.map(X)
        while client.statistics().in_flight:
            time.sleep(0.001)
        server.held.set()
        assert client.predict(np.float64(1)) == 2


def test_the_repr_shows_the_state_and_no_secret(server):
    client = SyncClient(server.url.replace("//", "//user:s3cret@") + "?key=s3cret", codec=Doubling)
    shown = repr(client)
    client.close()
    assert shown.startswith("<SyncClient http://***@")
    assert shown.endswith("codec='doubling' open>")
    assert "s3cret" not in shown
    assert repr(client).endswith("closed>")


def test_a_local_server_lives_as_long_as_the_call():
    x = np.random.default_rng(0).random((3, 2))
    np.testing.assert_allclose(fanout.map(x, "local://echo", codec="v1"), x)


@pytest.mark.usefixtures("shared_local")
def test_the_blocking_client_previews_too() -> None:
    with SyncClient("local://digits", codec="oip") as client:
        preview = client.preview(np.zeros((100, 64)))
        with pytest.raises(InputError, match=r"shape \[64\].*shape \[63\]"):
            client.preview(np.zeros((100, 63)))
    assert (preview.model.name, preview.chunk_rows, preview.tensors[0].shape) == ("digits", 64, (64, 64))
