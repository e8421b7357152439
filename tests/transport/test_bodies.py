"""Bodies of responses are whole, however they are framed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fanout.addresses import Endpoint
from fanout.errors import IncompleteResponse
from fanout.settings import Timeouts
from fanout.transport import EndpointClient
from tests.loopback import Line, Received, chunked, http, loopback
from tests.transport.exchanges import GZIPPED, PAYLOAD, PLAIN, failure_of, hanging_up, transport_to

NOT_WHOLE = {
    name: f"HTTP/1.1 200 OK\r\n{head}\r\n"
    for name, head in {
        "xchunked": "Transfer-Encoding: xchunked",
        "chunkedx": "Transfer-Encoding: chunkedx",
        "chunked, gzip": "Transfer-Encoding: chunked, gzip",
        "gzip, chunked": "Transfer-Encoding: gzip, chunked",
        "chunked twice": "Transfer-Encoding: chunked, chunked",
        "two fields": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "two fields, one odd": "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "identity and chunked": "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "with a parameter": "Transfer-Encoding: chunked;q=1",
        "quoted": 'Transfer-Encoding: "chunked"',
        "nothing": "Transfer-Encoding: ",
        "with a length": "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "length with a sign": "Content-Length: +2",
        "lengths joined": "Content-Length: 2, 3",
    }.items()
} | {
    "chunked in HTTP/1.0": "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
    "206": "HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 0-1/9\r\n",
    "206 in chunks": "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n",
    "226": "HTTP/1.1 226 IM Used\r\nContent-Length: 2\r\n",
}
"""Heads of answers whose bodies would be taken for whole by a reader that looks less closely."""


class TestWholeReplies:
    @pytest.mark.parametrize(
        "answer",
        [
            http(b"hello world"),
            chunked(b"hello", b" ", b"world"),
            b"HTTP/1.1 100 Continue\r\n\r\n" + http(b"hello world"),
            hanging_up(b"HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\nhello world"),
        ],
        ids=["Content-Length", "chunked", "after 100 Continue", "HTTP/1.0"],
    )
    async def test_a_reply_is_whole_however_it_is_framed(self, answer):
        async with loopback(answer) as server, transport_to(server.url) as transport:
            response = await transport.post(PAYLOAD)
            assert (response.status, response.body) == (200, b"hello world")
            assert response.url == server.url

    async def test_a_reply_may_come_byte_by_byte(self):
        async def answer(_: Received, line: Line) -> None:
            for byte in http(b"hello"):
                await line.send(bytes([byte]))
                await asyncio.sleep(0)

        async with loopback(answer) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b"hello"

    @pytest.mark.parametrize("body", [b'{"a": [1]}', b" [[1], [2]]\n", b'{"a": [1'])
    async def test_json_that_only_the_close_ends_is_left_to_its_syntax_which_shows_if_it_is_whole(self, body):
        async with (
            loopback(hanging_up(b"HTTP/1.0 200 OK\r\n\r\n" + body)) as server,
            transport_to(server.url) as transport,
        ):
            assert (await transport.post(PAYLOAD)).body == body

    @pytest.mark.parametrize("body", [b"", b"hello world", b"\0\0\x80?" * 4, b'"text"', b"12"])
    @pytest.mark.parametrize("header", [b"", b"Transfer-Encoding: identity\r\n"])
    async def test_a_body_ended_by_the_close_alone_is_not_known_to_be_whole(self, header, body):
        error = await failure_of(hanging_up(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n" + body))
        assert isinstance(error, IncompleteResponse)
        assert "neither Content-Length nor chunks" in str(error)

    @pytest.mark.parametrize("status", [200, 201, 202, 203, 205, 207, 208, 299])
    async def test_a_framed_body_is_whole_for_any_status_of_success(self, status):
        async with loopback(http(b"abc", status=status)) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b"abc"

    @pytest.mark.parametrize("framing", ["Transfer-Encoding: CHUNKED", "Transfer-Encoding: \t chunked "])
    async def test_chunked_may_be_written_in_any_case(self, framing):
        answer = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode()
        async with loopback(answer) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b"abc"

    @pytest.mark.parametrize("head", NOT_WHOLE.values(), ids=NOT_WHOLE)
    @pytest.mark.parametrize("body", [b"2\r\n{}\r\n0\r\n\r\n", b"{}"], ids=["chunks", "plain"])
    async def test_a_partial_or_oddly_framed_body_is_not_whole(self, head, body):
        error = await failure_of(hanging_up(head.encode() + b"\r\n" + body))
        assert type(error) is IncompleteResponse

    @pytest.mark.parametrize("sent", [b'{"a": 1}', b" \n[1]"])
    @pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", None])
    @pytest.mark.parametrize("framed", [True, False], ids=["Content-Length", "ended by close"])
    async def test_a_byte_order_mark_before_json_is_left_out(self, sent, kind, framed):
        body = b"\xef\xbb\xbf" + sent
        head = ([f"Content-Length: {len(body)}"] if framed else []) + ([f"Content-Type: {kind}"] if kind else [])
        answer = "\r\n".join(["HTTP/1.1 200 OK", *head, "", ""]).encode() + body
        async with loopback(hanging_up(answer)) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == sent

    @pytest.mark.parametrize("body", [b"\xef\xbb\xbf{\x00\x01", b"\xef\xbb\xbftext", b"\xef\xbb\xbf"])
    async def test_the_same_bytes_outside_of_json_stay(self, body):
        answer = http(body, headers={"Content-Type": "application/octet-stream"})
        async with loopback(answer) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == body

    @pytest.mark.parametrize("status", [400, 503])
    async def test_a_byte_order_mark_before_an_error_is_left_out(self, status):
        async with (
            loopback(http(b'\xef\xbb\xbf{"error": "no"}', status=status)) as server,
            transport_to(server.url) as transport,
        ):
            assert (await transport.post(PAYLOAD)).json() == {"error": "no"}

    async def test_a_header_of_60_kb_is_read(self):
        for fields in ({"X-Long": "x" * 60_000}, {f"X-Field-{i}": "x" * 50 for i in range(900)}):
            async with loopback(http(b"abc", headers=fields)) as server, transport_to(server.url) as transport:
                assert (await transport.post(PAYLOAD)).headers.keys() >= fields.keys()

    @pytest.mark.parametrize("fields", [{"X": "x" * 1000}, {f"X-Field-{i}": "x" * 10 for i in range(100)}])
    async def test_max_header_bytes_bounds_the_header(self, fields):
        async with loopback(http(b"abc", headers=fields)) as server:
            for most, fits in ((900, False), (4000, True)):
                endpoint = Endpoint(url=server.url, max_header_bytes=most)
                transport = EndpointClient(endpoint, server.url, timeouts=Timeouts(), connections=1)
                try:
                    if fits:
                        assert (await transport.post(PAYLOAD)).body == b"abc"
                    else:
                        with pytest.raises(IncompleteResponse, match="max_header_bytes"):
                            await transport.post(PAYLOAD)
                finally:
                    await transport.close()

    async def test_gzip_shows_its_own_end(self):
        answer = hanging_up(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + GZIPPED)
        async with loopback(answer) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == PLAIN

    @pytest.mark.parametrize("framed", [True, False], ids=["Content-Length", "ended by close"])
    async def test_a_large_reply_is_joined_in_order(self, framed):
        body = b"[%b]" % np.random.default_rng(0).bytes(3_000_000)
        head = f"Content-Length: {len(body)}\r\n".encode() if framed else b""
        answer = hanging_up(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", body)
        async with loopback(answer) as server, transport_to(server.url, cap=len(body)) as transport:
            assert (await transport.post(PAYLOAD)).body == body

    async def test_an_empty_reply_is_a_reply(self):
        async with loopback(b"HTTP/1.1 204 No\r\n\r\n") as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b""

    async def test_header_look_up_ignores_case(self):
        answer = http(headers={"Retry-After": "7"})
        async with loopback(answer) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).headers["retry-after"] == "7"

    async def test_one_connection_serves_many_requests(self):
        async with loopback(http(b"hi")) as server, transport_to(server.url) as transport:
            for _ in range(20):
                await transport.post(PAYLOAD)
            await transport.get(server.url)
            assert server.connections == 1
            assert len(server.requests) == 21

    async def test_concurrent_requests_use_no_more_connections_than_allowed(self):
        async with loopback(http(b"hi")) as server, transport_to(server.url, connections=3) as transport:
            await asyncio.gather(*(transport.post(PAYLOAD) for _ in range(30)))
            assert server.connections == 3
