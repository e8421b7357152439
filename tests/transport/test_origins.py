"""Proxies of the environment, which are used where the settings say so."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from yarl import URL

from fanout import Client, ConfigError, Endpoint, OAuth2Auth
from fanout.testing import FaultServer
from fanout.transport.origins import proxy_for
from tests.loopback import Line, Received, http, loopback
from tests.support import Plain

X = np.arange(30.0).reshape(10, 3)
VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.one_way
@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://api/x", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "http://api/x", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://api/x", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://api/x", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://api/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".corp,api"}, "https://api/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".corp"}, "https://m.corp:8000/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "m.corp:9000"}, "https://m.corp:8000/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://api/x", None),
        ({}, "https://api/x", None),
    ],
)
def test_the_environment_names_the_proxy(
    variables: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("env", URL(url)) == proxy
    assert proxy_for(None, URL(url)) is None


@pytest.mark.one_way
def test_a_proxy_that_cannot_be_used_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://anna:sesame-street@p:1")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY .*has no http.*endpoint\.proxy is 'env'") as caught:
        proxy_for("env", URL("https://api/x"))
    assert "sesame" not in str(caught.value)


def forward(seen: list[str], answer: bytes) -> Any:
    async def handle(request: Received, line: Line) -> None:
        seen.append(request.line)
        await line.send(http(answer))

    return handle


@pytest.mark.one_way
async def test_requests_go_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    async with loopback(forward(seen, b'{"predictions":[1,2]}')) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.rstrip("/").replace("://", "://anna:sesame-street@"))
        async with Client(Endpoint(url="http://model.invalid/x", proxy="env"), codec=Plain) as client:
            assert (await client.map(np.zeros(2))).tolist() == [1, 2]
    assert seen == ["POST http://model.invalid/x HTTP/1.1"]


async def test_without_the_setting_and_for_hosts_of_no_proxy_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with FaultServer(lambda x: x * 2) as server:
        async with Client(server.url(Plain), codec=Plain) as client:
            assert np.array_equal(await client.map(X), X * 2)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with Client(Endpoint(url=server.url(Plain), proxy="env"), codec=Plain) as client:
            assert np.array_equal(await client.map(X), X * 2)


@pytest.mark.one_way
async def test_a_local_server_is_never_asked_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with Client(Endpoint(url="local://echo", proxy="env"), codec="v1") as client:
        assert np.array_equal(await client.map(X), X)


@pytest.mark.one_way
async def test_tokens_of_oauth2_are_requested_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    async with loopback(forward(seen, b'{"access_token": "fresh"}')) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.rstrip("/"))
        options: Any = {"token_url": "http://login.invalid/t", "client_id": "me", "client_secret": "sesame-street"}
        credentials = await asyncio.wait_for(OAuth2Auth(**options, proxy="env").credentials(), 10)
        assert credentials.headers == {"Authorization": "Bearer fresh"}
        await asyncio.wait_for(OAuth2Auth(**options, proxy=proxy.url.rstrip("/")).credentials(), 10)
    assert seen == ["POST http://login.invalid/t HTTP/1.1"] * 2
