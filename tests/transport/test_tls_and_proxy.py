"""Certificates of one's own, and a proxy."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trustme

from fanout import Client, ConfigError, Endpoint
from tests.support import Plain

if TYPE_CHECKING:
    from pathlib import Path

X = np.zeros(10)
BODY = b'{"predictions":[%s]}' % b",".join([b"1.0"] * 10)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class OneAnswer:
    """A server that answers every request alike, and keeps the requests."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.subjects: list[object] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            self.heads.append(head)
            certificate = writer.get_extra_info("peercert")
            self.subjects.append(certificate and certificate.get("subjectAltName"))
            writer.write(ANSWER)
            await writer.drain()
        finally:
            writer.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_a_certificate_authority_and_a_client_certificate_of_ones_own(
    authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = authority.issue_cert("me@example.org")
    mine.private_key_pem.write_to_path(tmp_path / "me.key")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "me.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    served = OneAnswer()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=context)
    endpoint = Endpoint(
        url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x",
        ca_file=str(tmp_path / "ca.pem"),
        client_cert=str(tmp_path / "me.pem"),
        client_key=str(tmp_path / "me.key"),
    )
    async with server, Client(endpoint, codec=Plain) as client:
        assert (await client.map(X)).tolist() == [1.0] * 10
    assert served.subjects == [(("email", "me@example.org"),)]


@pytest.mark.one_way
@pytest.mark.parametrize("key", ["ca_file", "client_cert"])
@pytest.mark.parametrize(("text", "why"), [(None, "No such file"), ("garbage", "holds no certificate")])
async def test_a_certificate_file_that_cannot_be_used_is_named(
    key: str, text: str | None, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{key}: .*a\.pem cannot be used: .*{why}") as caught:
        await Client(Endpoint(url="https://h/x", **{key: str(path)}), codec=Plain).open()
    assert caught.value.key == key


@pytest.mark.one_way
def test_a_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(ConfigError, match="client_key"):
        Endpoint(url="https://h/x", client_key="me.key")


@pytest.mark.one_way
async def test_requests_go_through_the_proxy_with_its_credentials() -> None:
    served = OneAnswer()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    proxy = f"http://user:hush-hush@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    endpoint = Endpoint(url="http://model.test/x", proxy=proxy)
    async with server, Client(endpoint, codec=Plain) as client:
        assert (await client.map(X)).tolist() == [1.0] * 10
    (head,) = served.heads
    assert head.startswith(b"POST http://model.test/x HTTP/1.1")
    assert b"Proxy-Authorization: Basic" in head
    assert "hush" not in repr(endpoint)


@pytest.mark.one_way
def test_a_proxy_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"proxy 'localhost:3128'.*http://") as caught:
        Endpoint(url="http://h/x", proxy="localhost:3128")
    assert caught.value.key == "proxy"
