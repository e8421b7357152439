"""Connections that cannot be opened, and connections that are kept for the next request."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from fanout.errors import ClientStateError, ConnectError, IncompleteResponse, StaleConnectionError, TransportError
from fanout.types import Payload
from tests.loopback import Line, Received, http, loopback
from tests.transport.exchanges import PAYLOAD, closed_port, failure_of, hanging_up, transport_to

if TYPE_CHECKING:
    from fanout.transport import EndpointClient


class TestNoConnection:
    async def test_a_refused_connection_is_a_connect_error_in_plain_words(self):
        port = await closed_port()
        async with transport_to(f"http://127.0.0.1:{port}/m") as transport:
            with pytest.raises(ConnectError) as raised:
                await transport.post(PAYLOAD)
        assert str(raised.value) == f"cannot connect to http://127.0.0.1:{port}/m: {os.strerror(errno.ECONNREFUSED)}"

    async def test_an_unknown_name_is_a_connect_error(self, monkeypatch):
        async def unknown(*_: object, **__: object) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        async with transport_to("http://nowhere.test/m") as transport:
            with pytest.raises(ConnectError, match=r"http://nowhere\.test/m: Name or service not known"):
                await transport.post(PAYLOAD)

    async def test_a_connection_that_takes_too_long_is_a_connect_error(self):
        with socket.socket() as full:  # its queue holds one connection; the next one gets no reply
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.socket() as first:
                first.connect(full.getsockname())
                url = f"http://127.0.0.1:{full.getsockname()[1]}/m"
                async with transport_to(url, connect=0.05) as transport:
                    with pytest.raises(ConnectError, match="no connection within the connect timeout"):
                        await transport.post(PAYLOAD)

    @pytest.mark.one_way
    async def test_a_closed_transport_says_so(self):
        async with transport_to("http://127.0.0.1:1/m") as transport:
            await transport.close()
            with pytest.raises(ClientStateError, match="closed"):
                await transport.post(PAYLOAD)


class TestKeptConnections:
    async def echo(self, received: Received, line: Line) -> None:
        await line.send(http(received.body))

    async def test_a_kept_connection_that_closes_as_it_is_used_is_stale(self):
        async def answer(received: Received, line: Line) -> None:
            if received.body == b"second" and received.connection == 0:
                line.close()
            else:
                await line.send(http(received.body))

        async with loopback(answer) as server, transport_to(server.url) as transport:
            await transport.post(Payload(body=b"first"))
            with pytest.raises(StaleConnectionError, match="closed a kept-alive connection"):
                await transport.post(Payload(body=b"second"))
            assert (await transport.post(Payload(body=b"second"), fresh=True)).body == b"second"
            assert server.connections == 2

    async def test_a_kept_connection_that_is_reset_as_it_is_used_is_stale(self):
        async def answer(received: Received, line: Line) -> None:
            if received.body == b"second":
                line.reset()
            else:
                await line.send(http(received.body))

        async with loopback(answer) as server, transport_to(server.url) as transport:
            await transport.post(Payload(body=b"first"))
            with pytest.raises(StaleConnectionError):
                await transport.post(Payload(body=b"second"))

    async def test_a_reset_that_meets_a_large_body_on_its_way_is_stale(self):
        async with loopback(self.echo) as server, transport_to(server.url) as transport:
            await transport.post(Payload(body=b"first"))
            server.lines[0].reset()  # the client has not heard of it when it begins to write
            with pytest.raises(StaleConnectionError):
                await transport.post(Payload(body=bytes(8 * 2**20)))

    async def test_a_connection_closed_while_idle_is_invisible(self):
        async with loopback(self.echo) as server, transport_to(server.url) as transport:
            await transport.post(Payload(body=b"first"))
            server.lines[0].close()
            await _heard(transport)
            assert (await transport.post(Payload(body=b"second"))).body == b"second"
            assert server.connections == 2

    async def test_the_end_of_an_idle_connection_is_not_logged(self, caplog):
        async def answer(_: Received, line: Line) -> None:
            await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
            await asyncio.sleep(0.01)
            await line.send(b"slowly")

        async with loopback(answer) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b"slowly"
            server.lines[0].reset()
            await _heard(transport)
        gc.collect()
        assert caplog.records == []  # asyncio logs an exception that was never retrieved

    async def test_a_new_connection_that_closes_is_not_stale(self):
        assert type(await failure_of(hanging_up())) is IncompleteResponse

    async def test_a_fresh_request_uses_no_kept_connection(self):
        async with loopback(self.echo) as server, transport_to(server.url) as transport:
            await asyncio.gather(*(transport.post(PAYLOAD) for _ in range(3)))
            before = server.connections
            await transport.post(Payload(body=b"fresh"), fresh=True)
            assert server.requests[-1].connection == before
            assert server.connections == before + 1
            await transport.post(PAYLOAD)
            assert server.connections == before + 1

    @pytest.mark.parametrize(
        "unasked",
        [http(b"SPOILED"), http(b"timeout", status=408, headers={"Connection": "close"}), b"x"],
        ids=["200", "408", "a byte"],
    )
    async def test_an_unsolicited_response_answers_no_request(self, unasked):
        async with loopback(self.echo) as server, transport_to(server.url, connections=1) as transport:
            await transport.post(Payload(body=b"0"))
            await server.lines[0].send(unasked)
            await _heard(transport)
            for i in range(1, 5):
                text = b"%d" % i
                assert (await transport.post(Payload(body=text))).body == text
            assert server.connections == 2

    async def test_bytes_behind_a_response_answer_no_request(self):
        """Two answers in one segment: the second must not wait for the next request."""

        async def answer(received: Received, line: Line) -> None:
            await line.send(http(received.body) + (http(b"SPOILED") if received.body == b"0" else b""))

        async with loopback(answer) as server, transport_to(server.url, connections=1) as transport:
            for i in range(4):
                text = b"%d" % i
                with suppress(TransportError):  # no answer is better than a wrong one
                    assert (await transport.post(Payload(body=text))).body == text

    async def test_get_tries_once_more_itself_and_its_second_failure_is_not_stale(self):
        """aiohttp repeats idempotent requests on a new connection."""

        async def answer(received: Received, line: Line) -> None:
            if received.line.startswith("GET"):
                line.close()
            else:
                await line.send(http())

        async with loopback(answer) as server, transport_to(server.url) as transport:
            await transport.post(PAYLOAD)
            with pytest.raises(IncompleteResponse):
                await transport.get(server.url)
            assert server.connections == 2


async def _heard(transport: EndpointClient) -> None:
    """Wait until the idle connection of ``transport`` has noticed the server's action."""
    http = transport._http  # noqa: SLF001 - nothing else shows what an idle connection has noticed
    idle = http.fast_path._idle._idle if http.fast_path is not None else []  # noqa: SLF001 - as above
    protocol = idle[0].protocol if idle else next(iter(http.connector._conns.values()))[0][0]  # noqa: SLF001 - as above
    async with asyncio.timeout(5):
        while not protocol.should_close:  # noqa: ASYNC110 - it comes from the socket, not from a task
            await asyncio.sleep(0)
