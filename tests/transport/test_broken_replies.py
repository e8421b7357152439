"""Responses that break off or are framed wrongly: a named error, and nothing of them in the next exchange."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from fanout.errors import ClientStateError, IncompleteResponse, TransportError
from fanout.transport import bodies
from fanout.types import Payload
from tests.loopback import Line, Received, chunked, http, loopback
from tests.transport.exchanges import BROKEN, PAYLOAD, failure_of, hanging_up, transport_to


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"], ids=["header", "body"])
async def test_an_exchange_that_its_own_close_ends_is_not_blamed_on_the_server(sent):
    arrived = asyncio.Event()

    async def answer(_: Received, line: Line) -> None:
        await line.send(sent)
        arrived.set()

    async with loopback(answer) as server, transport_to(server.url) as transport:
        exchange = asyncio.create_task(transport.post(PAYLOAD))
        await arrived.wait()
        await transport.close()
        with pytest.raises(ClientStateError, match="the client is closed"):
            await asyncio.wait_for(exchange, 5)


class TestBrokenReplies:
    @pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
    async def test_a_reply_that_breaks_off_is_incomplete(self, answer):
        error = await failure_of(answer)
        assert type(error) is IncompleteResponse
        assert "\n" not in str(error)
        assert "s3cret" not in str(error)

    @pytest.mark.parametrize("digit", [b"0", b"9"])
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n",
            b"HTTP/1.1 %b OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/%b.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n\r\n",
        ],
        ids=["length", "status", "version", "chunk"],
    )
    async def test_thousands_of_digits_are_an_answer_or_a_broken_one(self, head, digit):
        """int() raises ValueError for more than 4,300."""
        async with loopback(hanging_up(head % (digit * 5000))) as server, transport_to(server.url) as transport:
            try:
                response = await transport.post(PAYLOAD)
            except TransportError:
                return
        assert response.body == b""

    @pytest.mark.parametrize("error", [ValueError, RecursionError, KeyError, UnicodeError, OverflowError])
    @pytest.mark.parametrize("part", ["readany", "read_nowait"])
    async def test_any_exception_of_a_parser_fails_only_its_exchange(self, error, part, monkeypatch):
        def fail(*_: Any) -> None:
            raise error("s\nno")

        monkeypatch.setattr(aiohttp.StreamReader, part, fail)
        async with loopback(http(b"abc")) as server, transport_to(server.url) as transport:
            monkeypatch.setattr(aiohttp.StreamReader, "is_eof", lambda _: part == "read_nowait")
            with pytest.raises(IncompleteResponse, match=f"broke off: {error.__name__}: "):
                await transport.post(PAYLOAD)

    async def test_framing_that_breaks_in_mid_body_fails_at_once(self):
        async def answer(_: Received, line: Line) -> None:
            await line.send(chunked(b"abc", end=False))
            await asyncio.sleep(0.02)
            await line.send(b"zz\r\nabc\r\n0\r\n\r\n")

        assert type(await failure_of(answer)) is IncompleteResponse

    @pytest.mark.one_way
    async def test_a_connection_lost_before_the_body_is_read_ends_the_exchange(self):
        content = aiohttp.StreamReader(SimpleNamespace(_reading_paused=False), 2**16, loop=asyncio.get_running_loop())
        gone = SimpleNamespace(connection=None, content=content)
        with pytest.raises(aiohttp.ClientPayloadError), bodies._EndWithConnection(gone):  # noqa: SLF001 - to wait for what an idle connection has noticed
            await content.readany()

    async def test_a_content_length_that_is_too_small_spoils_no_later_answer(self):
        """The remaining bytes would be the beginning of the next response."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"
        async with loopback(answer) as server, transport_to(server.url) as transport:
            for _ in range(3):
                with suppress(IncompleteResponse):
                    assert (await transport.post(PAYLOAD)).body == b"abc"
            assert server.connections == 3

    async def test_nothing_of_a_broken_connection_is_used_again(self):
        answers = iter([hanging_up(chunked(b"abc", end=False)), http(b"whole")])

        async def answer(received: Received, line: Line) -> None:
            now = next(answers)
            await (line.send(now) if isinstance(now, bytes) else now(received, line))

        async with loopback(answer) as server, transport_to(server.url) as transport:
            with pytest.raises(IncompleteResponse):
                await transport.post(PAYLOAD)
            assert (await transport.post(PAYLOAD)).body == b"whole"
            assert server.connections == 2

    async def test_a_cancelled_exchange_closes_its_connection(self):
        arrived = asyncio.Event()

        async def answer(received: Received, line: Line) -> None:
            if received.body == b"slow":
                await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl")
                arrived.set()
            else:
                await line.send(http(received.body))

        async with loopback(answer) as server, transport_to(server.url, connections=1) as transport:
            slow = asyncio.create_task(transport.post(Payload(body=b"slow")))
            await arrived.wait()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await transport.post(Payload(body=b"quick"))).body == b"quick"
            assert server.connections == 2
