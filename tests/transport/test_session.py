"""The transport on real loopback sockets: whole replies, named errors, and nothing of one exchange in the next."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import html
import os
import socket
import ssl
import tracemalloc
import zlib
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import aiohttp
import numpy as np
import orjson
import pytest
import trustme
from aiohttp import client_exceptions
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from fanout._version import __version__
from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ClientStateError,
    ConfigError,
    ConnectError,
    FanoutError,
    IncompleteResponse,
    ResponseTooLarge,
    StaleConnectionError,
    TransportError,
)
from fanout.settings import Endpoint, Timeouts
from fanout.transport import ERROR_BODY_CAP, EndpointClient, bodies, failures
from fanout.types import Payload
from tests.loopback import Line, Received, chunked, http, loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

PAYLOAD = Payload(body=b'{"instances":[1]}')


@asynccontextmanager
async def transport_to(
    url: str,
    *,
    cap: int = 2**20,
    headers: Mapping[str, str] | None = None,
    connections: int = 4,
    connect: float = 5.0,
) -> AsyncIterator[EndpointClient]:
    endpoint = Endpoint(url=url, headers=headers or {}, max_response_bytes=cap)
    client = EndpointClient(endpoint, url, timeouts=Timeouts(connect=connect), connections=connections)
    try:
        yield client
    finally:
        await client.close()


async def failure_of(answer: Any, *, cap: int = 2**20) -> Exception:
    """Return the error of a request to a server that answers like this."""
    async with loopback(answer) as server, transport_to(server.url, cap=cap) as transport:
        with pytest.raises(TransportError) as raised:
            await asyncio.wait_for(transport.post(PAYLOAD), 5)
    return raised.value


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


def hanging_up(*parts: bytes, reset: bool = False) -> Any:
    """Sends the parts, then ends the connection."""

    async def answer(_: Received, line: Line) -> None:
        await line.send(*parts)
        if reset:
            await asyncio.sleep(0.01)  # the sent bytes must arrive before the reset discards them
            line.reset()
        else:
            line.close()

    return answer


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


class TestRequests:
    async def sent(self, payload: Payload, **options: Any) -> Received:
        async with loopback(http()) as server, transport_to(server.url, **options) as transport:
            await transport.post(payload)
            return server.requests[0]

    async def test_a_request_carries_the_bytes_and_their_type(self):
        received = await self.sent(Payload(body=b"abc", content_type="application/octet-stream"))
        assert received.line == "POST /model HTTP/1.1"
        assert received.body == b"abc"
        assert received.headers["content-type"] == "application/octet-stream"
        assert received.headers["content-length"] == "3"
        assert "transfer-encoding" not in received.headers

    async def test_a_request_names_the_user_agent_and_asks_for_no_encoding(self):
        received = await self.sent(PAYLOAD)
        assert received.headers["user-agent"] == f"fanout-ml/{__version__}"
        assert received.headers["accept-encoding"] == "identity"
        assert not {"cookie", "referer", "expect"} & set(received.headers)

    async def test_the_endpoints_headers_go_with_every_request_and_win(self):
        headers = {"Authorization": "Bearer abc", "user-agent": "mine/1"}
        async with loopback(http()) as server, transport_to(server.url, headers=headers) as transport:
            await transport.post(PAYLOAD)
            await transport.get(server.url)
        for received in server.requests:
            assert received.headers["authorization"] == "Bearer abc"
            assert received.headers["user-agent"] == "mine/1"

    async def test_a_payloads_headers_go_with_it_alone(self):
        special = Payload(body=b"x", headers={"Inference-Header-Content-Length": "1"})
        async with loopback(http()) as server, transport_to(server.url) as transport:
            for payload in (PAYLOAD, special, PAYLOAD):
                await transport.post(payload)
        assert [received.headers.get("inference-header-content-length") for received in server.requests] == [
            None, "1", None,
        ]  # fmt: skip

    async def test_content_types_are_not_mixed_up_and_not_collected_without_end(self):
        async with loopback(http()) as server, transport_to(server.url) as transport:
            for i in range(100):
                await transport.post(Payload(body=b"x", content_type=f"multipart/form-data; boundary={i}"))
            assert len(transport._headers.by_type) < 20  # noqa: SLF001 - to wait for what an idle connection has noticed
        assert [received.headers["content-type"].rpartition("=")[2] for received in server.requests] == [
            str(i) for i in range(100)
        ]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            bytearray(b"abc"),
            memoryview(b"abc"),
            memoryview(np.arange(6, dtype="f4").reshape(2, 3)),
            (b"head", b"", bytearray(b"body"), memoryview(b"tail")),
            (b"head", memoryview(np.arange(6, dtype="f8").reshape(3, 2)), b"tail"),
            (),
            b"x" * (3 * 2**20),
            (b"{", memoryview(bytes(3 * 2**20)), b"}"),
            (b"", b"x" * (3 * 2**20), b""),
        ],
        ids=[
            "nothing",
            "bytearray",
            "view",
            "array",
            "parts",
            "parts of arrays",
            "no parts",
            "large",
            "large parts",
            "large between nothing",
        ],
    )
    async def test_every_kind_of_body_is_sent_whole_in_every_attempt(self, body):
        wanted = b"".join(bytes(part) for part in (body if isinstance(body, tuple) else (body,)))
        payload = Payload(body=body)
        async with loopback(http()) as server, transport_to(server.url) as transport:
            for _ in range(3):
                await transport.post(payload)
        assert [received.body for received in server.requests] == [wanted] * 3
        assert {received.headers["content-length"] for received in server.requests} == {str(len(wanted))}

    @pytest.mark.one_way
    async def test_mocks_and_middlewares_can_read_a_body(self):
        """They have no connection."""
        parts = bodies.Parts((b"caf", memoryview("é".encode())))
        assert await parts.as_bytes() == "café".encode()
        assert parts.decode() == "café"

    @pytest.mark.one_way
    async def test_credentials_in_the_url_become_a_header(self):
        async with (
            loopback(http()) as server,
            transport_to(server.url.replace("//", "//user:pw@") + "?key=v") as transport,
        ):
            await transport.post(PAYLOAD)
        assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwdw=="
        assert server.requests[0].line == "POST /model?key=v HTTP/1.1"

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        "headers", [{"X-Key": "s3cret\r\nX-More: 1"}, {"X-Key\n": "s3cret"}, {"X-Key": "s3cret\n"}], ids=repr
    )
    async def test_a_header_with_a_line_break_is_never_sent(self, headers):
        async with loopback(http()) as server, transport_to(server.url) as transport:
            with pytest.raises(ConfigError, match="control character") as raised:
                await transport.post(Payload(body=b"x", headers=headers))
        assert raised.value.key == "headers"
        assert "s3cret" not in str(raised.value)
        assert server.requests == []

    async def test_the_environment_is_not_read(self, monkeypatch):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        async with loopback(http(b"direct")) as server, transport_to(server.url) as transport:
            assert (await transport.post(PAYLOAD)).body == b"direct"


class TestSameOrigin:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_not_followed(self, status):
        async with loopback(http(b"stolen")) as elsewhere:
            answer = http(status=status, headers={"Location": elsewhere.url})
            async with loopback(answer) as server, transport_to(server.url) as transport:
                response = await transport.post(PAYLOAD)
                assert (response.status, response.headers["Location"]) == (status, elsewhere.url)
                assert (await transport.get(server.url)).status == status
        assert elsewhere.connections == 0

    async def test_cookies_are_not_kept(self):
        answer = http(headers={"Set-Cookie": "affinity=backend7; Path=/"})
        async with loopback(answer) as server, transport_to(server.url) as transport:
            for _ in range(2):
                await transport.post(PAYLOAD)
        assert all("cookie" not in received.headers for received in server.requests)

    @pytest.mark.one_way
    async def test_another_page_of_the_origin_can_be_fetched(self):
        async with loopback(http(b"metadata")) as server, transport_to(server.url) as transport:
            response = await transport.get(server.url + "/versions/1?a=b")
        assert response.body == b"metadata"
        received = server.requests[0]
        assert (received.line, received.body) == ("GET /model/versions/1?a=b HTTP/1.1", b"")
        assert not {"content-type", "content-length"} & set(received.headers)

    async def test_a_page_is_bounded_by_a_mib_and_an_answer_by_the_cap(self):
        large = http(b"x" * (2**20 + 1))
        async with loopback(large) as server, transport_to(server.url, cap=2**22) as transport:
            assert len((await transport.post(PAYLOAD)).body) == 2**20 + 1
            with pytest.raises(ResponseTooLarge, match="1,048,576"):
                await transport.get(server.url)

    @pytest.mark.one_way
    @pytest.mark.parametrize("url", ["https://{0}/m", "http://127.0.0.1:1/m", "http://localhost:{1}/m", "//{0}x/m"])
    async def test_a_page_of_another_origin_is_not_fetched(self, url):
        async with loopback(http()) as server, transport_to(server.url) as transport:
            host = URL(server.url)
            with pytest.raises(ConfigError):
                await transport.get(url.format(host.authority, host.port))
        assert server.connections == 0

    @pytest.mark.one_way
    @pytest.mark.parametrize("url", ["/model", "", "http://[::1", "http://ho\\st/m"])
    async def test_an_invalid_url_is_not_fetched(self, url):
        async with transport_to("http://127.0.0.1:1/m") as transport:
            with pytest.raises(ConfigError, match="not a URL that can be requested"):
                await transport.get(url)

    @pytest.mark.one_way
    async def test_a_url_that_cannot_be_requested_is_refused_when_the_transport_is_made(self):
        with pytest.raises(ConfigError, match="not a URL that can be requested") as raised:
            async with transport_to("http://user:s3cret@ho\\st/?key=s3cret"):
                pass
        assert raised.value.key == "url"
        assert "s3cret" not in str(raised.value)


async def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


BROKEN = {
    "end before the header": hanging_up(),
    "end in the header": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "reset before the header": hanging_up(reset=True),
    "end short of Content-Length": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"abc"),
    "end right after the header": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
    "chunked without its end": hanging_up(chunked(b"abc", end=False)),
    "chunk cut short": hanging_up(chunked(b"abc", end=False)[:-3]),
    "reset in mid body": hanging_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"abc", reset=True),
    "reset between chunks": hanging_up(chunked(b"abc", end=False), reset=True),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "two Content-Lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "Content-Length and chunked": chunked(b"abc", headers="Content-Length: 3\r\n"),
    "negative Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
    "bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "header beyond 64 KiB": http(b"abc", headers={"X-Long": "s3cret" * 20_000}),
    "many fields beyond 64 KiB": http(b"abc", headers={f"X-Field-{i}": "s3cret" * 20 for i in range(600)}),
    "more fields than any header has": http(b"abc", headers={f"X-{i}": "s3cret" for i in range(5000)}),
    "NUL in a header": http(b"abc", headers={"X-Nul": "s3cret\0"}),
}


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


def encoded(body: bytes, encoding: str, **options: Any) -> bytes:
    return http(body, headers={"Content-Encoding": encoding}, **options)


PLAIN = b"the quick brown fox " * 100
GZIPPED = gzip.compress(PLAIN, mtime=0)  # the time would be in the names of tests


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


@pytest.mark.one_way  # a URL with credentials always goes through the session
class TestSecrets:
    @pytest.mark.parametrize("answer", [*BROKEN.values(), encoded(b"x", "br"), http(bytes(99))])
    async def test_no_error_shows_a_secret_of_the_url(self, answer):
        async with loopback(answer) as server:
            url = server.url.replace("//", "//user:s3cret@") + "?key=s3cret"
            async with transport_to(url, cap=10) as transport:
                with pytest.raises(TransportError) as raised:
                    await transport.post(PAYLOAD)
        assert_silent(raised.value)

    async def test_no_connect_error_shows_a_secret_of_the_url(self):
        port = await closed_port()
        async with transport_to(f"http://user:s3cret@127.0.0.1:{port}/?key=s3cret") as transport:
            for request in (transport.post(PAYLOAD), transport.get(f"http://s3cret@127.0.0.1:{port}/?s3cret")):
                with pytest.raises(ConnectError) as raised:
                    await request
                assert_silent(raised.value)

    @pytest.mark.one_way
    async def test_no_configuration_error_shows_a_secret_of_the_url(self):
        url = "http://user:s3cret@127.0.0.1:1/?key=s3cret"
        async with transport_to(url) as it:
            with pytest.raises(ConfigError) as raised:
                await it.get("http://user:s3cret@other/?key=s3cret")
            assert_silent(raised.value)
        with pytest.raises(ConfigError, match="credentials in the url and in an Authorization header") as raised:
            async with transport_to(url, headers={"authorization": "s3cret"}):
                pass
        assert_silent(raised.value)

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        "secret",
        ["p%40ssword", "p@ssword", "qu%2Bery", "qu+ery", "flagged", "Bearer t0ken-123", "t0ken-123", "x-key-value",
         "dXNlcjpwQHNzd29yZA=="],
    )  # fmt: skip
    async def test_a_secret_that_the_server_repeats_can_be_concealed(self, secret):
        headers = {"X-Token": "Bearer t0ken-123", "X-Key": "x-key-value", "X-Short": "abc"}
        url = "http://user:p%40ssword@127.0.0.1:1/?key=qu%2Bery&flagged"
        async with transport_to(url, headers=headers) as transport:
            assert transport.conceal(f"no user has <{secret}>, abc") == "no user has <***>, abc"

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        "write", [orjson.dumps, lambda text: orjson.dumps(text).replace(b"/", b"\\/"), quote_plus, html.escape]
    )
    async def test_a_secret_is_concealed_as_json_urls_and_html_write_it(self, write):
        async with transport_to("http://127.0.0.1:1/", headers={"Authorization": 'Bearer s3cret/ab"=='}) as transport:
            written = write('s3cret/ab"==')
            shown = transport.conceal(f"no {written.decode() if isinstance(written, bytes) else written} here")
        assert shown.replace('"', "") == "no *** here"


def assert_silent(error: BaseException) -> None:
    """Neither the error nor its traceback holds the secret."""
    assert "s3cret" not in f"{error!s} {error!r}"
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class TestTLS:
    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's server forgets a connection without a handshake
    async def test_an_untrusted_certificate_is_a_certificate_error(self, authority):
        tls = server_side(authority.issue_cert("127.0.0.1"))
        async with loopback(http(b"stolen"), tls=tls) as server, transport_to(server.url) as transport:
            with pytest.raises(CertificateError, match=r"the certificate of .* is not valid: .*verify failed"):
                await transport.post(PAYLOAD)
        assert server.requests == []

    async def test_a_certificate_for_another_host_is_a_certificate_error(self, authority, monkeypatch):
        trust(authority, monkeypatch)
        tls = server_side(authority.issue_cert("other.test"))
        async with loopback(http(b"stolen"), tls=tls) as server, transport_to(server.url) as transport:
            with pytest.raises(CertificateError, match="is not valid"):
                await transport.post(PAYLOAD)
        assert server.requests == []

    async def test_a_valid_certificate_is_taken(self, authority, monkeypatch):
        trust(authority, monkeypatch)
        tls = server_side(authority.issue_cert("127.0.0.1"))
        async with loopback(http(b"private"), tls=tls) as server, transport_to(server.url) as transport:
            for _ in range(3):
                assert (await transport.post(PAYLOAD)).body == b"private"
            assert server.connections == 1

    async def test_tls_to_a_port_without_it_is_a_connect_error(self):
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(http(status=400))
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/m"
            async with transport_to(url) as transport:
                with pytest.raises(ConnectError):
                    await transport.post(PAYLOAD)


def trust(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", context)


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from subclasses(sub)


KEY = ConnectionKey("h", 443, True, True, None, None, None)
EINVAL = OSError(errno.EINVAL, "Invalid argument")
HANDSHAKE = (SimpleNamespace(real_url=URL("http://user:s3cret@h/?s3cret")), ())
ARGUMENTS: dict[type, tuple[Any, ...]] = {
    aiohttp.ClientConnectorCertificateError: (KEY, ssl.SSLCertVerificationError("verify failed")),
    aiohttp.ServerFingerprintMismatch: (b"a", b"b", "h", 443),
    aiohttp.ClientResponseError: HANDSHAKE,
    aiohttp.ClientConnectorError: (KEY, EINVAL),
    client_exceptions.UnixClientConnectorError: ("/a/socket", KEY, EINVAL),
    aiohttp.ClientOSError: (errno.EPIPE, "Broken pipe"),
    aiohttp.InvalidURL: ("http://user:s3cret@h/?s3cret",),
}
WANTED: dict[type, type] = {
    aiohttp.ClientConnectorCertificateError: CertificateError,
    aiohttp.ServerFingerprintMismatch: CertificateError,
    aiohttp.InvalidURL: ConfigError,
    aiohttp.NonHttpUrlClientError: ConfigError,
    aiohttp.ClientConnectorError: ConnectError,
    aiohttp.ConnectionTimeoutError: ConnectError,
    aiohttp.ServerTimeoutError: AttemptTimeout,
    aiohttp.ClientError: IncompleteResponse,
}


def nearest(cls: type, table: dict[type, Any], default: Any = None) -> Any:
    return next((table[base] for base in cls.__mro__ if base in table), default)


def library_errors() -> list[type]:
    return sorted({cls for cls in subclasses(aiohttp.ClientError) if cls.__module__.startswith("aiohttp")}, key=str)


class TestMapping:
    """Every error of aiohttp, wherever it comes from, is one of ours."""

    @pytest.mark.one_way
    @pytest.mark.parametrize("reused", [False, True], ids=["new", "reused"])
    @pytest.mark.parametrize("cls", library_errors(), ids=lambda cls: cls.__name__)
    def test_every_client_error_is_one_of_ours(self, cls, reused):
        error = cls(*nearest(cls, ARGUMENTS, ()))
        mapped = failures.mapped(error, "http://shown", reused=reused)
        wanted = nearest(cls, WANTED)
        stale = issubclass(cls, aiohttp.ServerDisconnectedError | OSError) and wanted is IncompleteResponse
        assert type(mapped) is (StaleConnectionError if reused and stale else wanted)
        assert isinstance(mapped, FanoutError)
        assert "http://shown" in str(mapped)
        assert "s3cret" not in str(mapped)

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        ("error", "wanted"),
        [
            (TimeoutError(), AttemptTimeout),
            (OSError(errno.ECONNRESET, "reset"), IncompleteResponse),
            (ConnectionResetError("Cannot write to closing transport"), IncompleteResponse),
            (OSError(), IncompleteResponse),
            (ValueError("no"), IncompleteResponse),
            (RecursionError("no"), IncompleteResponse),
            (aiohttp.ClientConnectorError(KEY, ssl.SSLCertVerificationError(1, "verify failed")), CertificateError),
            (aiohttp.ClientConnectorError(KEY, ssl.SSLError(1, "wrong version")), ConnectError),
        ],
        ids=repr,
    )
    def test_every_system_error_is_one_of_ours_too(self, error, wanted):
        assert type(failures.mapped(error, "http://shown", reused=False)) is wanted

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 80)"), os.strerror(errno.ECONNREFUSED)),
            (socket.gaierror(8, "nodename unknown"), "nodename unknown"),
            (ssl.SSLError(1, "wrong version number"), "wrong version number"),
            (OSError("several\nlines"), "several"),
            (OSError(), "OSError"),
            (aiohttp.ServerDisconnectedError(), "the server closed the connection before it had answered"),
            (aiohttp.ClientResponseError(*HANDSHAKE, message="Bad status line:\n  b's3cret'"), "(Bad status line)"),
            (aiohttp.ClientResponseError(*HANDSHAKE), "no valid HTTP"),
        ],
        ids=repr,
    )
    def test_causes_are_reported_in_plain_words(self, error, words):
        assert str(failures.mapped(error, "http://shown", reused=False)).endswith(words) or words.startswith("(")
        assert words in str(failures.mapped(error, "http://shown", reused=False))
