"""Errors of the transport show no secret."""

from __future__ import annotations

import html
from urllib.parse import quote_plus

import orjson
import pytest

from fanout.errors import ConfigError, ConnectError, TransportError
from tests.loopback import http, loopback
from tests.transport.exchanges import BROKEN, PAYLOAD, closed_port, encoded, transport_to


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
