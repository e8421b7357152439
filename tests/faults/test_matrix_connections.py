"""Rows 1 to 7, 14 to 16 and 58 of the fault matrix: connections that fail, are silent, or end at a bad time."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Limits, RetryPolicy, RunStopped, Timeouts
from fanout.testing import FaultServer
from tests.faults.scene import CHUNK, CHUNKS, X, assert_failed, assert_whole, client, double, when_asked_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMPATIENT = Timeouts(connect=5, attempt=0.3)


async def test_row_01_refused_connections_are_retried_until_the_endpoint_counts_as_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1/models/m:predict"
        async with client(url, limits=Limits(concurrency=4)) as c:
            with pytest.raises(RunStopped, match="Connection refused") as caught:
                await c.map(X)
            requests = c.statistics().requests
    assert caught.value.kind == "unreachable"
    assert caught.value.result.failures == ()
    assert 4 <= requests <= 4 * 4 + 4, "while some back off, the workers try other chunks once"


async def test_row_01_refused_connections_cool_the_endpoint_down_and_fail_no_row() -> None:
    async with FaultServer(double) as server:
        server.script(*[None] * 8, "refused:0.5")
        async with client(server, chunk_rows=4, limits=Limits(concurrency=8)) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    vain = result.stats.requests - server.received
    assert vain <= 8 + 10 + 3, "in flight, the bucket, and a few probes"


@contextmanager
def resolver(monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], list[str]]) -> Iterator[list[int]]:
    """``model.test`` has the addresses that ``answer`` returns for a port; an exception of ``answer`` is raised."""
    asked: list[int] = []
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "model.test":
            return system(host, port, *args, **kwargs)
        asked.append(port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer(len(asked))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked


async def test_row_02_a_name_that_cannot_be_found_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def third_time_lucky(number: int) -> list[str]:
        if number < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ["127.0.0.1"]

    async with FaultServer(double) as server:
        with resolver(monkeypatch, third_time_lucky):
            async with client(server.url("v1").replace("127.0.0.1", "model.test")) as c:
                result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert (result.stats.requests, result.stats.retries) == (CHUNKS + 2, 2)


async def test_row_02_a_name_that_is_never_found_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with resolver(monkeypatch, never) as asked:
        async with client("http://model.test:9/v1/models/m:predict") as c:
            with pytest.raises(RunStopped, match="Name or service not known") as caught:
                await c.map(X)
    assert caught.value.kind == "unreachable"
    assert 1 <= len(asked) <= 4 + 1


async def test_row_03_the_next_address_serves_where_the_first_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultServer(double) as server:
        with resolver(monkeypatch, lambda _: ["127.0.0.2", "127.0.0.1"]):
            async with client(server.url("v1").replace("127.0.0.1", "model.test")) as c:
                result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert (result.stats.requests, result.stats.retries) == (CHUNKS, 0)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address whose listen queue is full, so that the kernel drops every SYN."""
    with ExitStack() as sockets:
        deaf = sockets.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/models/m:predict"


async def test_row_04_a_black_hole_costs_the_connect_timeout_and_is_tried_again(black_hole: str) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    policy = RetryPolicy(max_attempts=3, initial_backoff=0)
    async with client(black_hole, timeouts=Timeouts(connect=0.2, attempt=30), retry=policy) as c:
        with pytest.raises(RunStopped, match="no connection within the connect timeout") as caught:
            await c.map(X)
        assert c.statistics().requests == 3, "of one chunk"
    assert caught.value.kind == "unreachable"
    assert loop.time() - started >= 0.6


async def test_row_05_silence_ends_at_the_attempt_timeout_and_is_tried_again() -> None:
    async with FaultServer(double) as server:
        server.script(None, None, "silence")
        async with client(server, timeouts=IMPATIENT) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.retries == 1
    assert result.stats.seconds >= 0.3


async def test_row_05_silence_for_ever_is_no_answer_and_no_hang() -> None:
    async with (
        FaultServer(double, faults=lambda _: "silence") as server,
        client(server, timeouts=Timeouts(attempt=0.1)) as c,
    ):
        with pytest.raises(RunStopped, match=r"within the attempt timeout of 0\.1 s") as caught:
            await c.map(X)
    assert caught.value.kind == "unreachable"
    assert server.received == 4


async def test_row_06_a_drip_is_ended_by_the_attempt_deadline() -> None:
    """A byte every 100 ms would keep any read timeout quiet for minutes."""
    async with FaultServer(double) as server:
        server.script(None, None, "drip:0.1")
        async with client(server, timeouts=IMPATIENT) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.retries == 1
    assert result.stats.seconds >= 0.3


@pytest.mark.parametrize("fault", ["reset-before-headers", "close-before-headers"])
async def test_row_07_reset_before_headers_is_tried_again(fault: str) -> None:
    async with FaultServer(double) as server:
        server.script(fault, None, fault)  # on a fresh connection, then on one that has served before
        async with client(server) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.requests == CHUNKS + 2 == server.received
    assert result.stats.retries == 1, "what befalls a connection that was kept alive is made good at once"


async def test_row_07_reset_before_headers_for_ever_fails_the_row_alone() -> None:
    async with (
        FaultServer(double, faults=when_asked_for(130, "reset-before-headers")) as server,
        client(server) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(130, 131))
    assert result.failures[0].attempts >= 4
    assert server.received <= CHUNKS - 1 + 2 * (4 + 2 * 6 + 2), "a kept-alive connection that is reset is no attempt"


async def test_row_14_an_unsolicited_response_answers_nothing() -> None:
    async with FaultServer(double, faults=lambda _: "unsolicited") as server, client(server) as c:
        for rows in (X, X[::-1]):
            with pytest.raises(RunStopped, match=r"answered a request twice.* rows 0:64 of this run") as caught:
                await c.map(rows)
            result = caught.value.result
            assert caught.value.kind == "duplicate"
            assert result.values is None or np.array_equal(result.values[result.ok], rows[result.ok] * 2)
    assert server.received == server.connections == 2, "none is used again"


async def test_row_14_an_unsolicited_response_on_a_connection_long_idle_answers_nothing() -> None:
    async with FaultServer(double) as server, client(server, limits=Limits(concurrency=4)) as c:
        for _ in range(5):
            await c.map(X)
            received = server.received
            for connection in server._open:  # noqa: SLF001 - to write on an idle connection
                await connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"predictions":0}')
            for _ in range(3):  # the loop looks at its sockets between two of these
                await asyncio.sleep(0)
            with pytest.raises(RunStopped, match="rows of an earlier run") as caught:
                await c.map(X)
            assert (caught.value.kind, server.received) == ("duplicate", received), "nothing is sent"
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.retries == 0


@pytest.mark.parametrize("milliseconds", [1, 5, 10])
async def test_row_58_an_answer_that_comes_twice_stops_the_run_after_one_false_row_at_most(milliseconds: int) -> None:
    faults = lambda _: f"answered-twice:{milliseconds / 1000}"  # noqa: E731
    async with FaultServer(double, faults=faults) as server, client(server, chunk_rows=1) as c:
        with pytest.raises(RunStopped, match=r"answered a request twice.* rows 0:\d of this run") as caught:
            await c.map(X)
    assert caught.value.kind == "duplicate"
    assert server.received <= 3


async def test_row_15_a_408_on_an_idle_connection_is_invisible() -> None:
    async with FaultServer(double, faults=lambda _: "408-idle") as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.retries == 0
    assert server.received == result.stats.requests == CHUNKS


async def test_row_16_keep_alive_closed_as_it_is_reused_is_made_good_at_once() -> None:
    async with (
        FaultServer(double, faults=lambda _: "close-on-reuse") as server,
        client(server, retry=RetryPolicy(max_attempts=1)) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert server.received == CHUNKS
    assert result.stats.retries == 0
    assert result.stats.requests == 2 * CHUNKS - 1, "each resend is counted as the request that it is"
    assert server.connections == CHUNKS


async def test_row_16_keep_alive_closed_as_it_is_reused_is_made_good_only_once() -> None:
    async with FaultServer(double) as server:
        server.script("close-on-reuse", "close-before-headers")
        async with client(server) as c:
            result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.retries == 1
    assert result.stats.requests == CHUNKS + 2


async def test_row_16_keep_alive_closed_unannounced_is_invisible() -> None:
    async with (
        FaultServer(double, faults=lambda _: "close-after-answer") as server,
        client(server, limits=Limits(concurrency=4), chunk_rows=4) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert np.array_equal(result.values, X * 2)
    assert result.stats.retries == 0
    assert server.received == len(X) // 4


def test_rows_are_cut_into_whole_chunks() -> None:
    assert len(X) == CHUNK * CHUNKS
