"""Content encodings, the cap on the size of a response, and the bodies of errors."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import pytest

from fanout.addresses import Endpoint
from fanout.errors import IncompleteResponse, ResponseTooLarge
from fanout.settings import Timeouts
from fanout.transport import ERROR_BODY_CAP, EndpointClient
from fanout.types import Payload
from tests.loopback import Line, Received, chunked, http, loopback
from tests.transport.exchanges import GZIPPED, PAYLOAD, PLAIN, encoded, failure_of, hanging_up, transport_to


class TestContentEncoding:
    @pytest.mark.parametrize(
        ("body", "encoding"),
        [
            (GZIPPED, "gzip"),
            (GZIPPED, "GZIP"),
            (GZIPPED, "x-gzip"),
            (zlib.compress(PLAIN), "deflate"),
            (PLAIN, "identity"),
            (PLAIN, "Identity"),
        ],
    )
    async def test_an_unrequested_encoding_is_removed(self, body, encoding):
        async with loopback(encoded(body, encoding)) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == PLAIN

    @pytest.mark.parametrize(
        "body",
        [
            GZIPPED[:-1],
            GZIPPED[:-8],
            GZIPPED[: len(GZIPPED) // 2],
            b"",
            GZIPPED[:-8] + bytes([GZIPPED[-8] ^ 1]) + GZIPPED[-7:],
            GZIPPED[:30] + bytes([GZIPPED[30] ^ 255]) + GZIPPED[31:],
            PLAIN,
            GZIPPED + b"more",
        ],
        ids=["last byte missing", "no CRC", "half", "empty", "bad CRC", "bad data", "plain", "more behind"],
    )
    async def test_damaged_gzip_is_incomplete(self, body):
        error = await failure_of(encoded(body, "gzip"))
        assert type(error) is IncompleteResponse
        assert "gzip" in str(error)

    @pytest.mark.parametrize("encoding", ["", "utf-8", "UTF8", "identity", "identity, utf-8", " , none", "binary"])
    async def test_a_header_without_compression_leaves_the_body_unchanged(self, encoding):
        async with loopback(encoded(b"abc", encoding)) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b"abc"

    async def test_the_field_may_come_twice(self):
        head = f"Content-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: {len(GZIPPED)}\r\n\r\n"
        async with loopback(f"HTTP/1.1 200 OK\r\n{head}".encode() + GZIPPED) as server, transport_to(server.url) as it:
            assert (await it.post(PAYLOAD)).body == PLAIN

    @pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "gzip, gzip"])
    async def test_an_unknown_encoding_is_named(self, encoding):
        error = await failure_of(encoded(b"abc", encoding))
        assert type(error) is IncompleteResponse
        assert repr(encoding) in str(error)

    async def test_a_gzip_bomb_is_too_large_and_takes_no_memory(self):
        packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        block = bytes(2**20)
        bomb = b"".join([*(packer.compress(block) for _ in range(64)), packer.flush()])
        cap = 2**20
        async with loopback(encoded(bomb, "gzip")) as server, transport_to(server.url, cap=cap) as transport:
            tracemalloc.start()
            try:
                with pytest.raises(ResponseTooLarge, match="once decompressed"):
                    await transport.post(PAYLOAD)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < 4 * cap

    @pytest.mark.parametrize("spare", [0, 1])
    async def test_a_body_of_just_the_cap_is_taken_after_decompression_too(self, spare):
        answer = encoded(GZIPPED, "gzip")
        async with loopback(answer) as server, transport_to(server.url, cap=len(PLAIN) + spare) as transport:
            assert (await transport.post(PAYLOAD)).body == PLAIN
        assert type(await failure_of(answer, cap=len(PLAIN) - 1)) is ResponseTooLarge


class TestSize:
    @pytest.mark.parametrize("cut", [1, 2, 3])
    async def test_a_body_above_the_cap_is_too_large_however_it_comes(self, cut):
        body = bytes(1000)
        pieces = [body[i::cut] for i in range(cut)]
        for answer in (http(body), chunked(*pieces), hanging_up(b"HTTP/1.1 200 OK\r\n\r\n", *pieces)):
            error = await failure_of(answer, cap=999)
            assert type(error) is ResponseTooLarge
            assert "999 bytes" in str(error)
            assert "max_response_bytes" in str(error)

    async def test_a_body_of_just_the_cap_is_taken(self):
        async with loopback(http(bytes(1000))) as server, transport_to(server.url, cap=1000) as transport:
            assert len((await transport.post(PAYLOAD)).body) == 1000

    async def test_an_endless_body_ends_at_the_cap(self):
        sent = 0

        async def answer(_: Received, line: Line) -> None:
            nonlocal sent
            await line.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while not line.closed:
                await line.send(bytes(2**16))
                sent += 2**16

        assert type(await failure_of(answer, cap=2**18)) is ResponseTooLarge
        assert sent < 2**26  # the size of the kernel's buffers

    async def test_a_connection_with_an_answer_that_is_too_large_is_not_used_again(self):
        answers = iter([http(bytes(1001)), http(b"small")])

        async def answer(_: Received, line: Line) -> None:
            await line.send(next(answers))

        async with loopback(answer) as server, transport_to(server.url, cap=1000) as transport:
            with pytest.raises(ResponseTooLarge):
                await transport.post(PAYLOAD)
            assert (await transport.post(PAYLOAD)).body == b"small"


class TestErrorPages:
    async def page(self, answer: Any, **options: Any) -> Any:
        async with loopback(answer) as server, transport_to(server.url, **options) as transport:
            return await asyncio.wait_for(transport.post(PAYLOAD), 5)

    @pytest.mark.parametrize("status", [300, 400, 401, 429, 500, 503])
    async def test_an_error_is_a_reply_with_its_body(self, status):
        response = await self.page(http(b'{"error": "why"}', status=status, headers={"Retry-After": "3"}))
        assert (response.status, response.body, response.headers["Retry-After"]) == (status, b'{"error": "why"}', "3")

    @pytest.mark.parametrize("framed", [True, False])
    async def test_an_error_page_of_any_size_is_cut(self, framed):
        body = bytes(ERROR_BODY_CAP + 2**20)
        head = b"Content-Length: %d\r\n" % len(body) if framed else b""
        response = await self.page(hanging_up(b"HTTP/1.1 500 No\r\n" + head + b"\r\n", body), cap=10)
        assert (response.status, response.body) == (500, body[:ERROR_BODY_CAP])

    async def test_an_endless_error_page_is_cut(self):
        async def answer(_: Received, line: Line) -> None:
            await line.send(b"HTTP/1.1 503 No\r\n\r\n")
            while not line.closed:
                await line.send(b"x" * 2**16)

        assert (await self.page(answer)).body == b"x" * ERROR_BODY_CAP

    async def test_a_small_error_page_keeps_the_connection(self):
        async with loopback(http(b"busy", status=503)) as server, transport_to(server.url) as transport:
            for _ in range(5):
                await transport.post(PAYLOAD)
            assert server.connections == 1

    async def test_a_compressed_error_page_is_read(self):
        assert (await self.page(encoded(GZIPPED, "gzip", status=400))).body == PLAIN

    async def test_a_compressed_error_page_is_cut_too(self):
        response = await self.page(encoded(gzip.compress(bytes(2**22)), "gzip", status=400))
        assert response.body == bytes(ERROR_BODY_CAP)

    @pytest.mark.parametrize(
        "answer",
        [
            hanging_up(b"HTTP/1.1 429 No\r\nRetry-After: 9\r\nContent-Length: 50\r\n\r\nabc"),
            hanging_up(b"HTTP/1.1 429 No\r\nRetry-After: 9\r\nContent-Length: 50\r\n\r\nabc", reset=True),
            http(PLAIN, status=429, headers={"Retry-After": "9", "Content-Encoding": "gzip"}),
            http(PLAIN, status=429, headers={"Retry-After": "9", "Content-Encoding": "br"}),
        ],
        ids=["cut", "reset", "no gzip", "unknown encoding"],
    )
    async def test_status_and_pushback_count_even_if_the_body_is_damaged(self, answer):
        response = await self.page(answer)
        assert (response.status, response.headers["Retry-After"]) == (429, "9")

    @pytest.mark.parametrize("more", [b"x", b""], ids=["drips", "silent"])
    async def test_pushback_counts_although_the_body_never_ends(self, more):
        """The deadline would make a mere timeout of it, after which the next request comes too early."""
        over = asyncio.Event()

        async def answer(_: Received, line: Line) -> None:
            await line.send(b"HTTP/1.1 429 No\r\nRetry-After: 9\r\nContent-Length: 5000\r\n\r\nabc")
            with suppress(ConnectionError):
                while not over.is_set():
                    await line.send(more)
                    await asyncio.sleep(0.02)

        async with loopback(answer) as server:
            client = EndpointClient(
                Endpoint(url=server.url), server.url, timeouts=Timeouts(connect=5, attempt=2), connections=1
            )
            response = await client.post(PAYLOAD)  # and no timeout
            assert (response.status, response.headers["Retry-After"]) == (429, "9")
            over.set()
            await client.close()

    async def test_an_early_refusal_of_a_large_body_is_seen(self):
        """The server answers without reading, and closes: no broken pipe, but its 413."""

        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http(b"too large", status=413, headers={"Connection": "close"}))
            await writer.drain()
            while await reader.read(2**20):  # a server that resets instead may take its own answer back
                pass
            writer.close()
            done.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/m"
            async with transport_to(url) as transport:
                response = await asyncio.wait_for(transport.post(Payload(body=bytes(8 * 2**20))), 5)
            assert (response.status, response.body) == (413, b"too large")
            await done.wait()
        finally:
            server.close()
