"""Tokens of Google and Azure from their own libraries, against token servers on loopback."""

from __future__ import annotations

import base64
import json
import sys
import time

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from fanout import AzureAuth, Client, ConfigError, CredentialsError, GoogleAuth, Limits
from fanout.auth import authenticator
from tests.jobs import served

X = np.arange(6.0)
IDENTITY_EXPIRES = 4_000_000_000


def identity_token() -> str:
    """A token without a signature, which no client verifies."""
    parts = [{"alg": "none"}, {"sub": "fanout", "exp": IDENTITY_EXPIRES}, "signature"]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


class Cloud:
    """A token server of a cloud, and a model that doubles for the newest token."""

    def __init__(self) -> None:
        self.url = ""
        self.issued = 0
        self.left = 0
        self.status = 200
        self.last: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.Response:
        if request.path == "/predict":
            self.left -= 1
            self.last = dict(request.headers)
            if self.left < 0 or not self.last["Authorization"].endswith(f"token-{self.issued}"):
                return web.Response(status=401)
            return web.json_response({"predictions": [2 * row for row in (await request.json())["instances"]]})
        self.issued += 1
        self.left = 2
        answer = {"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": 3600}
        answer |= {"id_token": identity_token(), "expires_on": str(int(time.time()) + 3600), "resource": "x"}
        return web.json_response(answer if self.status == 200 else {"error": "invalid_grant"}, status=self.status)


@pytest_asyncio.fixture
async def cloud(monkeypatch):
    monkeypatch.setattr(authenticator, "_FIRST_WAIT", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    cloud = Cloud()
    async with served(cloud.handle) as cloud.url:
        yield cloud


@pytest.fixture
def google(cloud, monkeypatch, tmp_path):
    """The key of a service account whose token server is the one on loopback."""
    pytest.importorskip("google.auth")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {"type": "service_account", "client_email": "me@example.com", "token_uri": f"{cloud.url}/token"}
    account |= {"private_key": key.decode(), "private_key_id": "1", "project_id": "p"}
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    return GoogleAuth(quota_project="payer")


@pytest.fixture
def azure(cloud, monkeypatch):
    """A managed identity as a web app of Azure has it."""
    pytest.importorskip("azure.identity")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TOKEN_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{cloud.url}/identity")
    monkeypatch.setenv("IDENTITY_HEADER", "a-header")
    return AzureAuth()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["google", "azure"])
async def test_tokens_are_obtained_and_renewed_when_they_are_refused(cloud, name, request):
    auth = request.getfixturevalue(name)
    async with Client(
        f"{cloud.url}/predict", codec="json", chunk_rows=1, auth=auth, limits=Limits(concurrency=1)
    ) as client:
        assert np.array_equal(await client.map(X), X * 2)
        assert client.statistics().retries == 0
    assert cloud.issued == 3
    assert cloud.last.get("X-Goog-User-Project") == ("payer" if name == "google" else None)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["google", "azure"])
async def test_the_lifetime_is_that_of_the_token(cloud, name, request):
    credentials = await request.getfixturevalue(name).credentials()
    assert credentials.lifetime == pytest.approx(3600, abs=10)


@pytest.mark.filterwarnings("default")
async def test_google_s_refusal_is_an_error_of_the_credentials(cloud, google):
    cloud.status = 400
    with pytest.raises(CredentialsError, match=r"Google gives no token: .*invalid_grant") as caught:
        await google.credentials()
    assert not caught.value.retryable


@pytest.mark.filterwarnings("default")
async def test_an_audience_gets_an_identity_token(cloud, google):
    credentials = await GoogleAuth(audience="https://model.run.app").credentials()
    assert credentials.headers["Authorization"] == f"Bearer {identity_token()}"
    assert credentials.lifetime == pytest.approx(IDENTITY_EXPIRES - time.time(), abs=10)


@pytest.mark.parametrize(
    ("auth", "module", "extra"), [(GoogleAuth(), "google.auth", "google"), (AzureAuth(), "azure.identity", "azure")]
)
async def test_a_missing_library_is_an_error_that_names_the_extra(auth, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "azure.core.exceptions", None)
    with pytest.raises(ConfigError, match=rf"pip install 'fanout-ml\[{extra}\]'") as caught:
        await auth.credentials()
    assert caught.value.key == "auth.type"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GoogleAuth(scopes="x"), "scopes must be a list of texts"),
        (lambda: GoogleAuth(audience=""), "audience must be a text that is not empty"),
        (lambda: AzureAuth(scope=""), "scope must be a text that is not empty"),
    ],
)
def test_a_mistake_in_the_options_is_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
