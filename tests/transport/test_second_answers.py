"""A server that answers a request twice: no kept connection is used on which something has come that was not asked for.

The server runs on threads, so that its bytes are in the socket while the client's event loop is busy.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import ssl
import subprocess
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import trustme

from fanout import Client, Endpoint, Event, Limits, Result, RunStopped, open_sink
from fanout.client import reopen_failures
from fanout.codecs import V1
from fanout.io.journal.journal import Journal
from fanout.settings import Timeouts
from fanout.testing import FaultServer
from fanout.transport import EndpointClient, connections
from fanout.types import Chunk, Payload
from tests.loopback import Line, Received, http, loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

X = np.arange(40 * 3.0).reshape(-1, 3) + 0.5
LATE_408 = http(b"", status=408, headers={"Connection": "close"})


class Server:
    """Doubles rows; after each answer it sends ``late``, or the answer again, once the client decodes the first one."""

    def __init__(self, late: bytes | None, context: ssl.SSLContext | None, pieces: int = 1) -> None:
        self._late = late
        self._pieces = pieces
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._decoding = threading.Semaphore(0)
        self._sent = threading.Semaphore(0)
        self.connections = 0
        self.requests = 0
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/v1/models/m:predict"

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads[1:])

    @contextmanager
    def running(self) -> Iterator[Server]:
        self._threads[0].start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            for thread in self._threads:
                thread.join()

    def finish(self) -> None:
        """Wait until all has been sent that comes after an answer; it is sent when this is called."""
        self._decoding.release()
        self._sent.acquire(timeout=10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self._sockets.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._sockets.append(connection)
            with connection, connection.makefile("rb") as lines:
                while request := lines.readline():
                    assert request.startswith(b"POST")
                    length = 0
                    while (field := lines.readline().lower()) != b"\r\n":
                        if field.startswith(b"content-length:"):
                            length = int(field.partition(b":")[2])
                    rows = orjson.loads(lines.read(length))["instances"]
                    self.requests += 1
                    answer = http(orjson.dumps({"predictions": [[2 * x for x in row] for row in rows]}))
                    connection.sendall(answer)
                    late = answer if self._late is None else self._late
                    self._decoding.acquire(timeout=10)
                    if late:
                        size = -(-len(late) // self._pieces)
                        for start in range(0, len(late), size):
                            connection.sendall(late[start : start + size])
                    self._sent.release()


class Slow(V1):
    """Decodes until the server has sent all that it sends, with the event loop held up."""

    def __init__(self, wait: Callable[[], object]) -> None:
        super().__init__()
        self._wait = wait

    def decode(self, response: Any, n_rows: int) -> Any:
        self._wait()
        return super().decode(response, n_rows)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", pytest.param("TLS 1.2", marks=pytest.mark.slow), "TLS 1.3"])
def security(request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path) -> tuple[Any, str | None]:
    if request.param == "plain":
        return None, None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    version = ssl.TLSVersion.TLSv1_2 if request.param == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = version
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return context, str(tmp_path / "ca.pem")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine on that loop."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


async def mapped(server: Server, ca_file: str | None, wait: Callable[[], object]) -> tuple[Any, RunStopped | None]:
    endpoint = Endpoint(url=server.url, ca_file=ca_file)
    async with Client(endpoint, codec=Slow(wait), chunk_rows=1, limits=Limits(concurrency=1)) as client:
        stop: RunStopped | None = None
        try:
            result: Any = await client.map(X)
        except RunStopped as stopped:
            result, stop = stopped.result, stopped
    for _ in range(1000):  # TLS ends its connections in the background
        if not server.busy:
            break
        await asyncio.sleep(0.001)
    for _ in range(3):
        await asyncio.sleep(0)
    return result, stop


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_answer_that_comes_twice_while_the_first_is_decoded_stops_the_run(
    run: Callable[[Any], Any], security: tuple[Any, str | None], pieces: int
) -> None:
    context, ca_file = security
    with Server(None, context, pieces).running() as server:
        result, stop = run(mapped(server, ca_file, server.finish))
    assert stop is not None
    assert stop.kind == "duplicate"
    assert "answered a request twice, so the answers for rows 0 of this run" in stop.reason
    assert "request_id_header" in stop.reason
    assert server.requests == 1, "nothing is sent once it is known"
    if result.ok.any():  # the only answer, which no other confirmed
        assert np.array_equal(result.values[result.ok], X[result.ok] * 2)


@pytest.mark.parametrize(
    "late", [LATE_408, http(b"going down", status=503), b"\r\n", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent"]
)
def test_any_other_bytes_cost_the_connection_alone(
    run: Callable[[Any], Any], security: tuple[Any, str | None], late: bytes
) -> None:
    context, ca_file = security
    with Server(late, context).running() as server:
        result, stop = run(mapped(server, ca_file, server.finish))
    assert stop is None
    assert np.array_equal(result, X * 2)


def test_a_connection_that_nothing_has_come_on_is_kept(
    run: Callable[[Any], Any], security: tuple[Any, str | None]
) -> None:
    """A fresh connection over TLS 1.3 holds session tickets, which are no reason to give it up."""
    context, ca_file = security
    with Server(b"", context).running() as server:
        result, stop = run(mapped(server, ca_file, server.finish))
    assert stop is None
    assert np.array_equal(result, X * 2)
    assert (server.connections, server.requests) == (1, len(X))


@pytest.mark.parametrize("delay", [0.0005, 0.002])
async def test_false_rows_are_named_where_an_answer_is_decoded_before_it_comes_again(delay: float) -> None:
    """The request that is sent before the second answer comes gets it: only an id that the server repeats shows it."""
    rows = np.arange(1200 * 3.0).reshape(-1, 3) + 0.5
    async with FaultServer(lambda x: np.asarray(x) * 2, faults=lambda _: f"answered-twice:{delay}") as server:
        limits = Limits(concurrency=1)
        async with Client(server.url("v1"), codec="v1", chunk_rows=1, limits=limits) as client:
            with pytest.raises(RunStopped, match="answered a request twice") as caught:
                await client.map(rows)
    stop, result = caught.value, caught.value.result
    assert stop.kind == "duplicate"
    named = re.search(r"for rows (\d+):(\d+) of this run", stop.reason)
    assert named is not None
    if result.values is not None:
        false = np.flatnonzero(result.ok & (result.values != rows * 2).any(axis=1))
        assert set(false) <= set(range(int(named[1]), int(named[2])))


@pytest.mark.parametrize("echoes", [True, False])
async def test_a_second_answer_with_the_id_of_its_request_proves_nothing_against_the_others(echoes: bool) -> None:
    async def answer(received: Received, line: Line) -> None:
        rows = orjson.loads(received.body)["instances"]
        fields = {"X-Id": received.headers["x-id"]} if echoes else {}
        await line.send(http(orjson.dumps({"predictions": rows}), headers=fields) * 2)

    async with loopback(answer) as server:
        endpoint = Endpoint(url=server.url + ":predict", request_id_header="X-Id")
        async with Client(endpoint, codec="v1", chunk_rows=10, limits=Limits(concurrency=1)) as client:
            if echoes:
                assert np.array_equal(await client.map(X), X)
                assert server.connections == 4
            else:
                with pytest.raises(RunStopped, match="answered a request twice"):
                    await client.map(X)


async def test_a_second_answer_that_comes_last_is_reported_too() -> None:
    async def answer(received: Received, line: Line) -> None:
        rows = orjson.loads(received.body)["instances"]
        await line.send(http(orjson.dumps({"predictions": rows})) * (1 + (rows[0][0] > 80)))

    async with (
        loopback(answer) as server,
        Client(server.url + ":predict", codec="v1", chunk_rows=10, limits=Limits(concurrency=1)) as client,
    ):
        with pytest.raises(RunStopped, match="for rows 0:40 of this run") as caught:
            await client.map(X)
        assert caught.value.result.pending == (Chunk(0, 40),), "they may be those of other rows"
        assert caught.value.result.stats.ok == client.statistics().ok == 0
        assert np.array_equal(await client.map(X[:20]), X[:20]), "the next run has connections of its own"


async def test_an_endpoint_that_answers_twice_is_excluded_and_the_others_go_on() -> None:
    """All rows but those whose answers are suspect are done, and the next run sends these to the other endpoint."""
    twice = 0

    async def broken(received: Received, line: Line) -> None:
        nonlocal twice
        rows = orjson.loads(received.body)["instances"]
        twice += 1
        await line.send(http(orjson.dumps({"predictions": rows})) * (1 + (twice > 3)))

    async def healthy(received: Received, line: Line) -> None:
        await asyncio.sleep(0.005)
        await line.send(http(orjson.dumps({"predictions": orjson.loads(received.body)["instances"]})))

    async with loopback(broken) as one, loopback(healthy) as other:
        events: list[Event] = []
        endpoints = Endpoint(urls=[one.url + ":predict", other.url + ":predict"])
        limits = Limits(concurrency=2)
        async with Client(endpoints, codec="v1", chunk_rows=1, limits=limits, on_event=events.append) as client:
            with pytest.raises(RunStopped, match="answered a request twice") as caught:
                await client.map(X)
            result = caught.value.result
            assert caught.value.kind == "duplicate"
            assert np.array_equal(result.values[result.ok], X[result.ok])
            pending = sum(map(len, result.pending))
            assert 1 <= pending <= 6, "only rows that the broken endpoint answered"
            assert int(result.ok.sum()) == len(X) - pending
            (excluded,) = [event.reason for event in events if event.kind == "excluded"]
            assert excluded.startswith(one.url)
            assert np.array_equal(await client.map(X), X), "the next run leaves the broken endpoint out"


async def test_a_second_answer_is_reported_although_its_connection_is_lost_before_it_is_wanted_again() -> None:
    decoded, closed = asyncio.Event(), asyncio.Event()

    class Noting(V1):
        def decode(self, response: Any, n_rows: int) -> Any:
            decoded.set()
            return super().decode(response, n_rows)

    async def answer(received: Received, line: Line) -> None:
        rows = orjson.loads(received.body)["instances"]
        body = http(orjson.dumps({"predictions": rows}))
        if rows == X[1:2].tolist():
            await closed.wait()
        await line.send(body)
        if rows == X[:1].tolist():
            await decoded.wait()
            await line.send(body)
            line.close()
            for _ in range(20):  # turns in which the client reads the second answer and the end
                await asyncio.sleep(0)
            closed.set()

    async with (
        loopback(answer) as server,
        Client(server.url + ":predict", codec=Noting, chunk_rows=1, limits=Limits(concurrency=2)) as client,
    ):
        with pytest.raises(RunStopped, match="answered a request twice, so the answers for rows 0"):
            await client.map(X[:2])


class TwiceAnswering:
    """Doubles rows; while it is ``broken`` it answers every third request twice."""

    def __init__(self) -> None:
        self.broken = True
        self.rows: list[float] = []

    async def __call__(self, received: Received, line: Line) -> None:
        rows = orjson.loads(received.body)["instances"]
        self.rows += [row[0] for row in rows]
        answer = http(orjson.dumps({"predictions": [[2 * x for x in row] for row in rows]}))
        await line.send(answer * (2 if self.broken and len(self.rows) > 20 else 1))


@pytest.mark.parametrize("name", ["y.npy", "y.jsonl", "y.parquet"])
@pytest.mark.parametrize("bad_row", [False, True])
async def test_suspect_answers_are_sent_again_when_the_run_is_resumed(tmp_path: Path, name: str, bad_row: bool) -> None:
    output, server = tmp_path / name, TwiceAnswering()

    async def answer(received: Received, line: Line) -> None:
        if bad_row and b"[3.5," in received.body:
            await line.send(http(b"{}", status=422))
        else:
            await server(received, line)

    async with (
        loopback(answer) as seen,
        Client(seen.url + ":predict", codec="v1", chunk_rows=4, limits=Limits(concurrency=2)) as client,
    ):
        with pytest.raises(RunStopped, match="answered a request twice") as caught:
            await client.run(X, open_sink(output), journal=tmp_path / "y.journal")
        result, stats = caught.value.result, caught.value.result.stats
        assert sum(map(len, result.pending)) >= 20
        assert (stats.ok, stats.failed) == (result.ok.sum(), sum(f.stop - f.start for f in result.failures))
        assert not output.exists()
        server.broken, server.rows = False, []
        result = await client.run(X, open_sink(output), journal=tmp_path / "y.journal")
    assert result.ok.sum() == len(X) - bad_row
    assert set(X[:, 0]) - {3.5} - set(server.rows) <= set(X[20:, 0]), "the suspect rows have been sent again"
    assert len(server.rows) >= 20
    assert np.array_equal(_read(output)[result.ok], (X * 2)[result.ok])


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".jsonl":
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).column(0).to_pylist()
    return np.array([row or [0.0] * 3 for row in rows])


async def test_an_answer_that_is_known_to_have_come_twice_is_given_to_no_caller() -> None:
    server = TwiceAnswering()
    server.rows = [0.0] * 20
    async with loopback(server) as seen, Client(seen.url + ":predict", codec="v1", chunk_rows=4) as client:
        for _ in range(2):
            with pytest.raises(RunStopped, match="answered a request twice"):
                await client.predict(X[0])
        async with client.stream(iter(X)) as stream:
            with pytest.raises(RunStopped, match="answered a request twice"):
                assert [done async for done in stream] == []
    assert not stream.result().ok.any()


async def test_a_second_answer_that_comes_after_the_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    late = asyncio.Event()
    came = asyncio.Event()

    async def answer(received: Received, line: Line) -> None:
        body = http(orjson.dumps({"predictions": orjson.loads(received.body)["instances"]}))
        await line.send(body)
        await late.wait()
        await line.send(body)
        came.set()

    async with loopback(answer) as seen:
        async with Client(seen.url + ":predict", codec="v1") as client:
            assert np.array_equal(await client.map(X), X)
            late.set()
            await came.wait()
            assert not caplog.records
        (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "answered a request twice, which was seen after the run" in record.getMessage()


async def test_answers_of_a_server_that_answers_twice_are_not_published(tmp_path: Path) -> None:
    output = tmp_path / "y.npy"
    np.save(output, np.zeros(3))
    before = output.read_bytes()
    async with (
        loopback(TwiceAnswering()) as seen,
        Client(seen.url + ":predict", codec="v1", chunk_rows=4, limits=Limits(concurrency=2)) as client,
    ):
        with pytest.raises(RunStopped, match="answered a request twice"):
            await client.run(X, open_sink(output))
    assert output.read_bytes() == before


async def test_a_complete_run_stays_complete_where_its_failed_rows_are_answered_twice(tmp_path: Path) -> None:
    output, server = tmp_path / "y.npy", TwiceAnswering()
    fails = server.broken = True

    async def answer(received: Received, line: Line) -> None:
        rows = orjson.loads(received.body)["instances"]
        if fails and any(row[0] > 100 for row in rows):
            await line.send(http(orjson.dumps({"message": f"cannot take {rows}"}), status=451))
        elif fails:
            await line.send(http(orjson.dumps({"predictions": [[2 * x for x in row] for row in rows]})))
        else:
            await server(received, line)

    async with (
        loopback(answer) as seen,
        Client(seen.url + ":predict", codec="v1", chunk_rows=4, limits=Limits(concurrency=1)) as client,
    ):

        async def only_failed() -> Result:
            sink = open_sink(output)
            with closing(Journal(tmp_path / "y.journal", client.identity(X))) as journal:
                reopen_failures(sink, journal)
                return await client.run(X, sink, journal=journal)

        first = await client.run(X, open_sink(output), journal=tmp_path / "y.journal")
        before, fails, server.rows = output.read_bytes(), False, [0.0] * 20
        with pytest.raises(RunStopped, match="answered a request twice"):
            await only_failed()
        assert output.read_bytes() == before
        again = await client.run(X, open_sink(output), journal=tmp_path / "y.journal")
        assert np.array_equal(again.ok, first.ok)
        server.broken = False
        last = await only_failed()
    assert last.ok.all()
    assert np.array_equal(np.load(output), X * 2)


@pytest.mark.skipif(not __import__("shutil").which("openssl"), reason="needs the openssl command")
async def test_tls_records_without_data_cost_no_connection(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key update is read by the loop, and is no part of an answer. This server has one connection at a time."""
    descriptors: list[int] = []
    look_at = connections._look_at  # noqa: SLF001 - to count looks at the socket
    monkeypatch.setattr(connections, "_look_at", lambda number: (descriptors.append(number), look_at(number))[1])  # type: ignore[func-returns-value]
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", "server.pem", "-tls1_3", "-crlf"]
    server = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        await asyncio.wait_for(server.stdout.readuntil(b"ACCEPT\n"), 10)
        url = f"https://127.0.0.1:{port}/"
        endpoint = Endpoint(url=url, ca_file=str(tmp_path / "ca.pem"))
        transport = EndpointClient(endpoint, url, timeouts=Timeouts(), connections=1)
        try:
            for number in (b"1", b"2", b"3"):
                sent = asyncio.create_task(transport.post(Payload(body=b"body%b\n" % number)))
                await asyncio.wait_for(server.stdout.readuntil(b"body%b\n" % number), 10)
                server.stdin.write(b"HTTP/1.1 200 OK\nContent-Length: 1\n\n%b" % number)
                await server.stdin.drain()
                assert (await asyncio.wait_for(sent, 10)).body == number
                os.write(server.stdin.transport.get_extra_info("pipe").fileno(), b"k\n")
                assert select.select(descriptors[-1:], [], [], 10)[0], "the event loop has not read it"
            assert len(descriptors) == 1
        finally:
            await transport.close()
    finally:
        server.kill()
        await server.wait()
