"""Ctrl-C in the blocking face: the answers that have come are on the exception."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Interrupted, Limits, RunStopped, SyncClient
from fanout.client.loop_thread import LoopThread
from fanout.testing import Background, FaultServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.serving.exchange import ServerRequest

X = np.arange(30.0).reshape(10, 3)
FIRST = 4


class Server:
    """Answers the first rows and no others. The first of those others has the process interrupted."""

    def __init__(self, interrupts: int = 1, ready: threading.Event | None = None) -> None:
        self.received = 0
        self.interrupts = interrupts
        self.ready = ready
        self.held = threading.Event()

    def __call__(self, request: ServerRequest) -> str | None:
        self.received += len(json.loads(request.body)["instances"])
        if self.received <= FIRST:
            return None
        if self.interrupts:
            self.interrupts -= 1
            if self.ready is not None:
                self.ready.wait()
            os.kill(os.getpid(), signal.SIGINT)
        self.held.set()
        return "silence"


@contextmanager
def serving(ready: threading.Event | None = None) -> Iterator[str]:
    with Background(FaultServer(lambda x: x * 2, faults=Server(ready=ready))) as server:
        yield server.url("v1")


def one_by_one(url: str, **options: Any) -> SyncClient:
    return SyncClient(url, codec="v1", chunk_rows=1, limits=Limits(concurrency=1), **options)


def assert_first_rows(result: fanout.Result) -> None:
    assert result.ok.tolist() == [True] * FIRST + [False] * 6
    assert [(chunk.start, chunk.stop) for chunk in result.pending] == [(FIRST, 10)]


def of_function(url: str) -> Any:
    return fanout.map(X, url, codec="v1", chunk_rows=1, limits=Limits(concurrency=1))


def of_client(url: str) -> Any:
    with one_by_one(url) as client:
        return client.map(X)


def kept(url: str) -> Any:
    with one_by_one(url) as client:
        return client.map(X, on_error="keep")


@pytest.mark.parametrize("call", [of_function, of_client, kept])
def test_an_interrupt_of_map_keeps_the_answers(call: Callable[[str], Any]) -> None:
    with serving() as url, pytest.raises(Interrupted, match=r"4 rows done, 0 failed, 6 pending") as caught:
        call(url)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not isinstance(caught.value, Exception)
    assert caught.value.kind == "interrupted"
    assert_first_rows(caught.value.result)
    assert np.array_equal(caught.value.result.values[:FIRST], X[:FIRST] * 2)


@pytest.mark.parametrize("kind", ["array", "generator"])
def test_an_interrupt_of_a_stream_counts_the_yielded_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[fanout.ChunkResult] = []
    ready = threading.Event()
    wait = LoopThread.wait

    def waiting(self: LoopThread, future: Any) -> Any:
        if len(seen) == FIRST:  # an interrupt between two calls is the caller's own
            ready.set()
        return wait(self, future)

    monkeypatch.setattr(LoopThread, "wait", waiting)
    with serving(ready) as url, one_by_one(url) as client:
        chunks = client.stream(X if kind == "array" else iter(X))
        for _ in range(FIRST):
            seen.append(next(chunks))
        with pytest.raises(Interrupted) as caught:
            next(chunks)
    result = caught.value.result
    assert result.ok.sum() == FIRST
    assert sorted(done.start for done in seen) == np.flatnonzero(result.ok).tolist()
    assert int(result.ok.sum()) + sum(map(len, result.pending)) == len(result.ok)


class Collecting:
    def __init__(self) -> None:
        self.rows: dict[int, Any] = {}

    def write(self, done: Any) -> None:
        self.rows |= {chunk.start: chunk.values for chunk in done}


def test_an_interrupt_of_run_writes_the_answered_rows() -> None:
    sink = Collecting()
    with serving() as url, one_by_one(url) as client, pytest.raises(Interrupted) as caught:
        client.run(X, sink)
    assert_first_rows(caught.value.result)
    assert sorted(sink.rows) == list(range(FIRST))


def test_an_interrupt_of_predict_says_that_its_row_is_pending() -> None:
    with serving() as url, one_by_one(url) as client:
        for row in X[:FIRST]:
            assert np.array_equal(client.predict(row), row * 2)
        with pytest.raises(Interrupted) as caught:
            client.predict(X[FIRST])
        assert [(chunk.start, chunk.stop) for chunk in caught.value.result.pending] == [(0, 1)]
        assert client.statistics().in_flight <= 1


def test_the_client_is_usable_after_an_interrupt() -> None:
    with serving() as url, one_by_one(url) as client:
        with pytest.raises(Interrupted):
            client.map(X)
        with pytest.raises(RunStopped, match="deadline"):
            client.map(X, timeout=0.05)


@pytest.mark.parametrize("submitted", [True, False])
def test_an_interrupt_while_a_call_is_submitted_ends_the_call(submitted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal may arrive while the calling thread hands its job to the loop, before or after the loop has it."""
    submit = LoopThread._submit  # noqa: SLF001 - the one place where the signal can fall between two states
    answered = threading.Event()
    interrupts = iter([True])

    def interrupted(self: LoopThread, call: Callable[[], object]) -> None:
        if not next(interrupts, False):
            submit(self, call)
            return
        if submitted:
            submit(self, call)
            answered.wait()
        raise KeyboardInterrupt

    server = FaultServer(lambda x: x * 2, faults=Server(interrupts=0))
    with (
        Background(server),
        one_by_one(server.url("v1"), on_event=lambda event: answered.set()) as client,
    ):
        monkeypatch.setattr(LoopThread, "_submit", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            client.map(X)
    interrupt = caught.value
    assert isinstance(interrupt, Interrupted) is submitted
    assert not submitted or (isinstance(interrupt, Interrupted) and interrupt.result.ok.any())


def test_a_second_interrupt_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not come to its end, as if a sink's file system hung."""
    monkeypatch.setattr("fanout.stop.RunControl.cut", lambda self: os.kill(os.getpid(), signal.SIGINT))
    with serving() as url, one_by_one(url) as client, pytest.raises(KeyboardInterrupt) as caught:
        client.map(X)
    assert not isinstance(caught.value, Interrupted)


def test_an_interrupt_while_the_client_is_closed_keeps_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    close = SyncClient.close

    def interrupted(self: SyncClient) -> None:
        close(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(SyncClient, "close", interrupted)
    with Background(FaultServer(lambda x: x * 2)) as server, pytest.raises(Interrupted) as caught:
        fanout.map(X, server.url("v1"), codec="v1")
    assert np.array_equal(caught.value.result.values, X * 2)


def test_a_keyboard_interrupt_out_of_a_callback_does_not_end_the_loop_thread() -> None:
    interrupts = iter([True])

    def on_event(event: fanout.Event) -> None:
        if next(interrupts, False):
            raise KeyboardInterrupt

    with Background(FaultServer(lambda x: x * 2)) as server, one_by_one(server.url("v1"), on_event=on_event) as client:
        with pytest.raises(Interrupted) as caught:
            client.map(X)
        assert 0 < caught.value.result.ok.sum() < 10
        assert np.array_equal(client.map(X), X * 2)


def test_a_control_ends_a_blocking_run_from_another_thread() -> None:
    control, answers, faults = fanout.RunControl(), Future[Any](), Server(interrupts=0)
    server = FaultServer(lambda x: x * 2, faults=faults)

    def work(url: str) -> None:
        with one_by_one(url) as client:
            try:
                client.map(X, control=control)
            except RunStopped as stop:
                answers.set_result(stop)

    with Background(server):
        thread = threading.Thread(target=work, args=[server.url("v1")])
        thread.start()
        faults.held.wait()
        control.cut("enough")
        thread.join()
    stop = answers.result(0)
    assert (stop.kind, stop.reason) == ("interrupted", "enough")
    assert_first_rows(stop.result)
    control.cut()  # its loop is closed: nothing happens


def test_an_interrupt_while_a_client_opens_leaves_no_connection_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wait = LoopThread.wait

    def interrupted(loop: LoopThread, future: Any) -> Any:
        monkeypatch.setattr(LoopThread, "wait", wait)
        wait(loop, future)
        raise KeyboardInterrupt  # the client is open by now

    monkeypatch.setattr(LoopThread, "wait", interrupted)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        one_by_one("http://127.0.0.1:9/v1/models/m:predict")
    gc.collect()
    assert "Unclosed" not in caplog.text
    assert threading.active_count() == threads


def test_a_listener_that_closes_its_client_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with Background(FaultServer(lambda x: x * 2)) as server:
        client: SyncClient[Any] = SyncClient(server.url("v1"), codec="v1", on_event=lambda event: client.close())
        assert np.array_equal(client.map(X), X * 2)
        assert "ClientStateError: on_event cannot wait for the client that calls it" in caplog.text
        assert np.array_equal(client.map(X), X * 2), "the client is still open"
        client.close()
