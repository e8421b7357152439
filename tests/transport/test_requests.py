"""Requests as the server receives them, and their origin, which nothing leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from yarl import URL

from fanout._version import __version__
from fanout.addresses import Endpoint
from fanout.errors import ConfigError, ResponseTooLarge
from fanout.settings import Timeouts
from fanout.transport import EndpointClient, bodies
from fanout.types import Payload
from tests.loopback import Received, http, loopback
from tests.transport.exchanges import PAYLOAD, transport_to


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
    async def test_a_page_of_a_named_origin_gets_no_field_of_the_endpoint(self):
        page = http(b"{}", headers={"X-Id": "another"})
        async with loopback(http()) as here, loopback(page) as there:
            headers = {"Authorization": "Bearer s3cret-token", "X-Mine": "1"}
            endpoint = Endpoint(url=here.url, headers=headers, request_id_header="X-Id")
            transport = EndpointClient(
                endpoint, here.url, timeouts=Timeouts(), connections=4, other_origins=[str(URL(there.url).origin())]
            )
            response = await transport.get(f"{there.url}?a=b")
            await transport.close()
        assert (response.status, response.body) == (200, b"{}")
        assert here.connections == 0
        assert there.requests[0].headers.keys() == {"host", "user-agent", "accept-encoding", "accept"}

    @pytest.mark.one_way
    async def test_a_page_gets_the_credentials_in_the_url_of_the_endpoint(self):
        async with (
            loopback(http(b"{}")) as server,
            transport_to(server.url.replace("//", "//user:s3cret@")) as transport,
        ):
            await transport.post(PAYLOAD)
            await transport.get(server.url)
        post, get = (request.headers["authorization"] for request in server.requests)
        assert post == get

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
