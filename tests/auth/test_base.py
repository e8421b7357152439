"""Credentials that never change: the header fields that a server receives, and the mistakes in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanout import ApiKeyAuth, BasicAuth, BearerAuth, Client, ConfigError, Endpoint, RunStopped, StaticAuth
from fanout.testing import MockEndpoint
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(12.0).reshape(4, 3)

# The pair of RFC 7617, section 2.
TYPES = {
    "bearer": (BearerAuth(token="a-token"), ("Authorization", "Bearer a-token")),
    "api key": (ApiKeyAuth(token="a-key", header="x-goog-api-key"), ("x-goog-api-key", "a-key")),
    "api key by default": (ApiKeyAuth(token="a-key"), ("x-api-key", "a-key")),
    "basic": (
        BasicAuth(username="Aladdin", password="open sesame"), ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    ),
    "basic without a password": (BasicAuth(username="key"), ("Authorization", "Basic a2V5Og==")),
}  # fmt: skip


@pytest.mark.parametrize(("auth", "sent"), TYPES.values(), ids=TYPES)
async def test_every_request_has_the_field(auth: StaticAuth, sent: tuple[str, str]) -> None:
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, headers={"X-Team": "a"}, auth=auth) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert [request.header(sent[0]) for request in mock.requests] == [sent[1]] * 4
    assert {request.header("X-Team") for request in mock.requests} == {"a"}


@pytest.mark.parametrize(("auth", "sent"), TYPES.values(), ids=TYPES)
def test_the_repr_shows_no_secret(auth: StaticAuth, sent: tuple[str, str]) -> None:
    for secret in auth.secrets:
        assert secret not in repr(auth)
    assert sent[1] in auth.secrets or len(sent[1]) < 6


async def test_a_refusal_stops_the_run_at_once() -> None:
    with MockEndpoint(lambda x: x) as mock:
        mock.script(*[401] * 9)
        async with Client(mock.url(Plain), codec=Plain, auth=BearerAuth(token="a-token")) as client:
            with pytest.raises(RunStopped, match="HTTP 401") as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert len(mock.requests) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BearerAuth(token=""), r"^token must be a text that is not empty, not an empty one$"),
        (lambda: BearerAuth(token=None), r"^token must be a text that is not empty, not NoneType$"),
        (lambda: BearerAuth(token="a-secret\n"), r"^token holds a line break or another control character$"),
        (lambda: ApiKeyAuth(token=" "), r"^token must be"),
        (lambda: ApiKeyAuth(token="a-key", header="x key"), r"^header 'x key' is no valid name"),
        (lambda: BasicAuth(username="a:b", password="c"), r"^username must not hold a colon"),
        (lambda: BasicAuth(username="a", password=None), r"^password must be a text, not NoneType"),
    ],
)
def test_a_mistake_is_named_without_the_secret(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "a-secret" not in str(caught.value)


def test_auth_must_be_an_auth() -> None:
    with pytest.raises(ConfigError, match=r"auth must be a fanout.Auth, such as fanout.BearerAuth\(...\), not str"):
        Client("http://h/x", codec="json", auth="a-token")


@pytest.mark.parametrize("headers", ["endpoint", "mapping", "function"])
async def test_a_field_is_set_in_one_place_only(headers: str) -> None:
    fields = {"authorization": "Bearer other"}
    options: dict[str, Any] = {"endpoint": {}, "mapping": {"headers": fields}, "function": {"headers": lambda: fields}}
    with MockEndpoint(lambda x: x) as mock:
        endpoint = Endpoint(url=mock.url(Plain), headers=fields if headers == "endpoint" else {})
        client = Client(endpoint, codec=Plain, auth=BearerAuth(token="a-token"), **options[headers])
        with pytest.raises(ConfigError, match="the field Authorization is set by auth and in headers"):
            async with client:
                await client.map(X)
    assert not mock.requests


async def test_credentials_in_the_url_and_in_auth_contradict_each_other() -> None:
    client = Client("http://me:secret@127.0.0.1:9/x", codec=Plain, auth=BearerAuth(token="a-token"))
    with pytest.raises(ConfigError, match="credentials in the url and in an Authorization header"):
        await client.open()


def test_the_identity_of_a_run_does_not_depend_on_credentials() -> None:
    clients = [Client("http://h/x", codec="json", auth=auth) for auth in (None, BearerAuth(token="one"))]
    assert clients[0].identity(X) == clients[1].identity(X)
