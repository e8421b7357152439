"""Tokens of an OAuth 2.0 server on loopback: what it receives, and what becomes of its answers."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from fanout import Client, ConfigError, Limits, OAuth2Auth, RunStopped
from fanout.auth import authenticator
from tests.jobs import served

X = np.arange(12.0)
ONE = Limits(concurrency=1)
SECRET = "se/cret +%ü"


class Company:
    """A token server at ``/token``, and a model that doubles at ``/predict`` for the newest token."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.answers: list[web.Response] = []
        self.issued = 0
        self.lives = 10**9
        """Requests that a token lasts."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/predict":
            return await self.predict(request)
        form = dict(await request.post())
        self.requests.append({"authorization": request.headers.get("Authorization"), "path": request.path, **form})
        if self.answers:
            return self.answers.pop(0)
        self.issued += 1
        self.left = self.lives
        return web.json_response({"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": 3600})

    async def predict(self, request: web.Request) -> web.Response:
        self.left -= 1
        if self.left < 0 or request.headers.get("Authorization") != f"Bearer token-{self.issued}":
            return web.json_response({"error": f"not {request.headers.get('Authorization')}"}, status=401)
        rows = (await request.json())["instances"]
        return web.json_response({"predictions": [2 * row for row in rows]})


@pytest_asyncio.fixture
async def company(monkeypatch):
    """The server, in the loop of the test."""
    monkeypatch.setattr(authenticator, "_FIRST_WAIT", 0.01)
    company = Company()
    async with served(company.handle) as company.url:
        yield company


def auth_of(company: Company, **options: Any) -> OAuth2Auth:
    return OAuth2Auth(token_url=f"{company.url}/token", client_id="a client", client_secret=SECRET, **options)


async def run(company: Company, **options: Any) -> None:
    auth = auth_of(company, **options)
    async with Client(f"{company.url}/predict", codec="json", chunk_rows=2, auth=auth, limits=ONE) as client:
        assert np.array_equal(await client.map(X), X * 2)
        assert client.statistics().retries == 0


async def test_id_and_secret_are_encoded_as_in_a_form_and_sent_as_a_pair(company):
    await run(company, scope="models.read models.write")
    pair = b64encode(b"a+client:se%2Fcret+%2B%25%C3%BC").decode()
    assert company.requests == [
        {
            "authorization": f"Basic {pair}",
            "path": "/token",
            "grant_type": "client_credentials",
            "scope": "models.read models.write",
        }
    ]


async def test_id_and_secret_may_be_in_the_form(company):
    await run(company, client_auth="body", audience="https://models.example.com")
    assert company.requests == [
        {
            "authorization": None,
            "path": "/token",
            "grant_type": "client_credentials",
            "audience": "https://models.example.com",
            "client_id": "a client",
            "client_secret": SECRET,
        }
    ]


async def test_a_token_that_is_refused_is_renewed(company):
    company.lives = 2
    await run(company)
    assert company.issued >= 3


@pytest.mark.parametrize(
    ("stated", "lifetime"), [(3600, 3600.0), ("3600", 3600.0), (None, None), ("soon", None), (0, None), (-5, None)]
)
async def test_the_lifetime_is_that_of_the_answer(company, stated, lifetime):
    company.answers = [web.json_response({"access_token": "a-token", "expires_in": stated})]
    credentials = await auth_of(company).credentials()
    assert credentials.lifetime == lifetime
    assert dict(credentials.headers) == {"Authorization": "Bearer a-token"}


INVALID = {"error": "invalid_client", "error_description": "no such client"}
REFUSALS = {
    "refused": (web.json_response, {"data": INVALID, "status": 401}, "HTTP 401: invalid_client - no such client", 1),
    "a page": (web.Response, {"text": "<html>", "status": 404}, "answered HTTP 404", 1),
    "a redirect": (web.Response, {"status": 307, "headers": {"Location": "/elsewhere"}}, "answered HTTP 307", 1),
    "no token": (web.json_response, {"data": {"token": "x"}}, "answered without an access_token", 1),
    "too deep": (web.Response, {"text": '{"a":' * 100_000}, "answered without an access_token", 1),
    "no object": (web.json_response, {"data": [1]}, "answered without an access_token", 1),
    "an outage": (web.Response, {"status": 503}, "answered HTTP 503", 2),
    "too many": (web.Response, {"status": 429}, "answered HTTP 429", 2),
}


@pytest.mark.parametrize(("kind", "options", "message", "requests"), REFUSALS.values(), ids=REFUSALS)
async def test_without_a_token_the_run_stops_with_the_server_s_words(company, kind, options, message, requests):
    company.answers = [kind(**options) for _ in range(3)]
    with pytest.raises(RunStopped, match=message) as caught:
        await run(company)
    assert f"the token server {company.url}/token" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert [request["path"] for request in company.requests] == ["/token"] * requests


async def test_a_server_that_is_not_there_is_named(company):
    auth = OAuth2Auth(token_url="http://127.0.0.1:9/token", client_id="me", client_secret=SECRET)
    async with Client(f"{company.url}/predict", codec="json", auth=auth) as client:
        with pytest.raises(RunStopped, match=r"the token server http://127.0.0.1:9/token cannot be asked: .*refused"):
            await client.map(X)


async def test_words_of_the_server_show_no_secret(company):
    pair = b64encode(b"a+client:se%2Fcret+%2B%25%C3%BC").decode()
    words = {"error": "invalid_client", "error_description": f"the secret {SECRET} in {pair} is wrong\x1b[2J"}
    company.answers = [web.json_response(words, status=400)]
    with pytest.raises(RunStopped, match=r"the secret \*\*\* in \*\*\* is wrong") as caught:
        await run(company)
    assert "\x1b" not in str(caught.value)


MISTAKES = {
    "url": ({"token_url": "login.example.com"}, "token_url 'login.example.com' has no http"),
    "secret": ({"client_secret": ""}, "client_secret must be a text that is not empty"),
    "place": ({"client_auth": "header"}, 'client_auth must be "basic" or "body", not \'header\''),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_options_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        OAuth2Auth(**{"token_url": "https://h/t", "client_id": "me", "client_secret": "x", **options})
