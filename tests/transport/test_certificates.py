"""Certificates: a wrong one is an error that names the host."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import pytest
import trustme

from fanout.errors import CertificateError, ConnectError
from tests.loopback import http, loopback
from tests.transport.exchanges import PAYLOAD, transport_to


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
