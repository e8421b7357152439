"""Signatures of AWS requests: against AWS's published examples, against botocore, and as an endpoint checks them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

import fanout.auth.clouds
from fanout import Client, ConfigError, Hedge, Limits, RunStopped, SigV4Auth
from fanout.auth.clouds import Scope, sign
from fanout.testing import MockEndpoint, Scripted
from fanout.transport import Request
from tests.auth.scene import SignatureError, SignedEndpoint, Verifier, signature
from tests.jobs import served
from tests.support import Plain

if TYPE_CHECKING:
    from fanout.types import Payload

X = np.arange(300.0).reshape(100, 3)
ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
DATE = "20150830T123600Z"
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()
FORM = "application/x-www-form-urlencoded"
DATED = [("host", "example.amazonaws.com"), ("x-amz-date", DATE)]

# The test suite of AWS for version 4 (aws-sig-v4-test-suite), and the example of its documentation.
PUBLISHED = {
    "get-vanilla": ("GET", "/", DATED, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-vanilla-query-order-key-case": (
        "GET", "/?Param2=value2&Param1=value1", DATED, b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-vanilla": ("POST", "/", DATED, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "post-x-www-form-urlencoded": (
        "POST", "/", [("content-type", FORM), *DATED], b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("method", "target", "headers", "body", "published"), PUBLISHED.values(), ids=PUBLISHED)
def test_the_verifier_computes_the_published_signatures(method, target, headers, body, published):
    digest = hashlib.sha256(body).hexdigest()
    scope = "20150830/us-east-1/service/aws4_request"
    assert signature(SECRET, scope, DATE, method, target, headers, digest) == published


def test_the_verifier_computes_the_signature_of_the_documentation():
    headers = [("content-type", f"{FORM}; charset=utf-8"), ("host", "iam.amazonaws.com"), ("x-amz-date", DATE)]
    computed = signature(
        SECRET, "20150830/us-east-1/iam/aws4_request", DATE, "GET", "/?Action=ListUsers&Version=2010-05-08", headers,
        hashlib.sha256(b"").hexdigest(),
    )  # fmt: skip
    assert computed == "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"


def signed(url: str, body: tuple[bytes, ...] = (b"{}",), token: str | None = None, **fields: str) -> dict[str, str]:
    """The header fields of a POST, with those that sign it."""
    headers = {"Content-Type": "application/json", **fields}
    scope = Scope(ACCESS, SECRET, token, "us-east-1", "bedrock")
    return {"Host": URL(url).raw_authority, **headers, **sign(scope, Request("POST", url, headers, body), DATE)}


URLS = [
    "https://bedrock-runtime.us-east-1.amazonaws.com/model/cohere.embed-english-v3/invoke",
    "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
    "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Abedrock%2Fx/invoke",
    "http://localhost:8000/a%20b/%C3%BC?b=2&a=1&a=%2F&empty=&flag",
    "https://[::1]:8443/~x/(y)",
    "https://example.com",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("token", [None, "a-session-token"])
def test_a_signature_is_valid_for_the_url_as_it_is_sent(url, token):
    url = str(URL(url))
    headers = signed(url, (b'{"a"', b": 1}"), token)
    verifier = Verifier({ACCESS: (SECRET, token)}, lambda: NOW)
    verifier.verify("POST", URL(url).raw_path_qs, headers, b'{"a": 1}')


@given(
    path=st.text(max_size=12),
    query=st.lists(st.tuples(st.text(min_size=1, max_size=4), st.text(max_size=4)), max_size=3),
    body=st.binary(max_size=40),
)
def test_every_url_and_body_gets_the_signature_of_botocore(path, query, body):
    auth, awsrequest = pytest.importorskip("botocore.auth"), pytest.importorskip("botocore.awsrequest")
    credentials = pytest.importorskip("botocore.credentials")
    pairs = sorted(query)
    url = URL("https://example.com/") / path.replace("/", "") if path.strip("/.") else URL("https://example.com/")
    url = url.with_query(pairs)
    headers = signed(str(url), (body,))
    request = awsrequest.AWSRequest("POST", str(url), data=body)
    for name in ("Host", "Content-Type", "X-Amz-Date", "X-Amz-Content-SHA256"):
        request.headers[name] = headers[name]
    request.context["timestamp"] = DATE
    other = auth.SigV4Auth(credentials.Credentials(ACCESS, SECRET), "bedrock", "us-east-1")
    expected = other.signature(other.string_to_sign(request, other.canonical_request(request)), request)
    # botocore signs a query as it is, and expects it to be encoded as the scheme wants it.
    if "+" not in url.raw_query_string and all(c.isalnum() or c in "=&%-_.~" for c in url.raw_query_string):
        assert headers["Authorization"].endswith(f"Signature={expected}")
    Verifier({ACCESS: (SECRET, None)}, lambda: NOW).verify("POST", url.raw_path_qs, headers, body)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b"{ }"}, "digest"),
        ({"method": "PUT"}, "does not match"),
        ({"target": "/other"}, "does not match"),
        ({"headers": {"Content-Type": "text/plain"}}, "does not match"),
        ({"secret": "another"}, "does not match"),
        ({"age": 2.5}, "expired"),
        ({"headers": {"X-Amz-Security-Token": "x"}}, "token included"),
    ],
)
def test_the_verifier_refuses_everything_else(change: dict[str, Any], reason):
    verifier = Verifier({ACCESS: (change.get("secret", SECRET), None)}, lambda: NOW + change.get("age", 0))
    headers = signed("https://example.com/x") | change.get("headers", {})
    with pytest.raises(SignatureError, match=reason):
        verifier.verify(change.get("method", "POST"), change.get("target", "/x"), headers, change.get("body", b"{}"))


# From here on, a whole client against an endpoint that verifies, in virtual time.


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """Keys in the environment, where nothing else of this machine counts."""
    pytest.importorskip("botocore")
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return monkeypatch


def on_the_loop_clock(monkeypatch) -> Verifier:
    """Let the signer read the clock of the loop, and verify by the same clock."""
    loop = asyncio.get_running_loop()

    def now() -> float:
        return NOW + loop.time()

    clock = SimpleNamespace(time=now, gmtime=time.gmtime, strftime=time.strftime)
    monkeypatch.setattr(fanout.auth.clouds, "time", clock)
    return Verifier({ACCESS: (SECRET, None)}, now)


SIGNED = SigV4Auth(service="bedrock", region="us-east-1")
BUSY = Scripted(status=429, headers={"Retry-After": "90"})


@pytest.mark.virtual_time
@pytest.mark.parametrize("latency", [0.0, 0.9])
async def test_signatures_are_fresh_through_pauses_and_retries(keys, latency):
    with SignedEndpoint(lambda x: x * 2, on_the_loop_clock(keys), latency=latency) as mock:
        mock.script(None, 503, BUSY, "reset-mid-body", None, 500, None, BUSY, "reset-mid-body", 503)
        options: dict[str, Any] = {"limits": Limits(concurrency=4, requests_per_second=0.4), "chunk_rows": 2}
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED, **options) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries >= 5
    assert mock.refusals == []
    assert asyncio.get_running_loop().time() > 300


@pytest.mark.virtual_time
async def test_signatures_are_fresh_in_hedged_requests(keys):
    verifier = on_the_loop_clock(keys)

    def latency(number: int) -> float:
        return 0.9 if number % 7 == 3 else 0.1

    with SignedEndpoint(lambda x: x * 2, verifier, latency=latency) as mock:
        options: dict[str, Any] = {"hedge": Hedge(share=0.5, delay=0.3), "chunk_rows": 2}
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED, **options) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().hedges >= 3
    assert mock.refusals == []


@pytest.mark.virtual_time
async def test_signatures_are_those_of_the_halves_when_a_chunk_is_split(keys):
    class Strict(SignedEndpoint):
        def _verify(self, request: Any) -> Any:
            return super()._verify(request) or (422 if b"[126.0," in request.body else None)

    with Strict(lambda x: x * 2, on_the_loop_clock(keys), latency=0.9) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED, chunk_rows=25) as client:
            result = await client.map(X, on_error="keep")
            assert client.statistics().splits >= 3
    assert np.flatnonzero(~result.ok).tolist() == [42]
    assert mock.refusals == []


@pytest.mark.virtual_time
async def test_a_wrong_secret_stops_the_run(keys):
    keys.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-key")
    with SignedEndpoint(lambda x: x, on_the_loop_clock(keys)) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED, limits=Limits(concurrency=1)) as client:
            with pytest.raises(RunStopped, match="does not match the signature") as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert caught.value.result.failures == ()
    assert len(mock.refusals) == len(mock.requests)


@pytest.mark.virtual_time
async def test_a_signature_that_comes_too_late_is_made_anew(keys):
    """A slow connection: the first request arrives 5 s after it was signed."""
    verifier = on_the_loop_clock(keys)
    with SignedEndpoint(lambda x: x * 2, verifier, latency=lambda number: 5.0 if number == 1 else 0.1) as mock:
        options: dict[str, Any] = {"limits": Limits(concurrency=1), "chunk_rows": 50}
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED, **options) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
    assert [reason[:17] for reason in mock.refusals] == ["Signature expired"]


@pytest.mark.virtual_time
async def test_keys_that_were_replaced_are_read_again_when_they_are_refused(keys, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        keys.delenv(name)
    file = tmp_path / "AWS_SHARED_CREDENTIALS_FILE"

    def write(access: str, token: str) -> None:
        file.write_text(
            f"[work]\naws_access_key_id={access}\naws_secret_access_key={SECRET}\naws_session_token={token}\n"
        )

    write("AKIDFIRST", "first-token")
    verifier = on_the_loop_clock(keys)
    verifier.keys = {"AKIDFIRST": (SECRET, "first-token")}

    def replace_keys() -> None:
        write("AKIDSECOND", "second-token")
        verifier.keys = {"AKIDSECOND": (SECRET, "second-token")}

    class Expired(SignedEndpoint):
        def _verify(self, request: Any) -> Any:
            refusal = super()._verify(request)
            return refusal and Scripted(status=403, headers={"x-amzn-ErrorType": "ExpiredTokenException"})

    with Expired(lambda x: x * 2, verifier, latency=1.0) as mock:
        asyncio.get_running_loop().call_later(2.5, replace_keys)
        auth = SigV4Auth(service="bedrock", region="us-east-1", profile="work")
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=5, auth=auth, limits=Limits(concurrency=4)
        ) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
    assert len(mock.refusals) == 4


@pytest.mark.virtual_time
@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
async def test_the_region_may_come_from_the_environment(keys, variable):
    keys.setenv(variable, "eu-west-1")
    verifier = on_the_loop_clock(keys)
    verifier.region = "eu-west-1"
    with SignedEndpoint(lambda x: x * 2, verifier) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=SigV4Auth(service="bedrock")) as client:
            assert np.array_equal(await client.map(X), X * 2)


MISTAKES = {
    "no region": ({}, {}, "region is missing"),
    "no keys": ({"AWS_ACCESS_KEY_ID": ""}, {"region": "x-east-1"}, "there are no AWS credentials"),
    "no profile": ({}, {"region": "x-east-1", "profile": "wrok"}, r"profile \(wrok\) could not be found"),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize(("environment", "options", "message"), MISTAKES.values(), ids=MISTAKES)
async def test_what_is_missing_is_named_before_a_request_is_sent(keys, environment, options, message):
    for name, value in environment.items():
        keys.setenv(name, value)
    with MockEndpoint(lambda x: x) as mock:
        auth = SigV4Auth(service="bedrock", **options)
        async with Client(mock.url(Plain), codec=Plain, auth=auth) as client:
            with pytest.raises(ConfigError, match=message):
                await client.map(X)
    assert not mock.requests


@pytest.mark.virtual_time
async def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "botocore", None)
    monkeypatch.delitem(__import__("sys").modules, "botocore.exceptions", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "botocore.session", raising=False)
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED) as client:
            with pytest.raises(ConfigError, match=r"pip install 'fanout-ml\[aws\]'"):
                await client.map(X)


def test_neither_the_repr_nor_the_log_of_botocore_shows_a_key(keys, caplog):
    caplog.set_level("DEBUG")
    keys.setenv("AWS_SESSION_TOKEN", "a-session-token")
    credentials = asyncio.run(SIGNED.credentials())
    headers = {"Content-Type": "application/json"}
    assert credentials.sign is not None
    fields = credentials.sign(Request("POST", "https://example.com/x", headers, (b"{}",)))
    assert fields["X-Amz-Security-Token"] == "a-session-token"
    shown = repr(credentials) + repr(SIGNED) + caplog.text
    for secret in (SECRET, "a-session-token", fields["Authorization"].rpartition("=")[2]):
        assert secret not in shown


class Routed(Plain):
    """A codec whose rows choose a part of the path."""

    path = ""

    def encode(self, rows: Any) -> Payload:
        return replace(super().encode(rows), path="/model/v1%3A0/\u00fc x?b=2&a=1:2")


@pytest.mark.virtual_time
async def test_the_url_is_signed_as_it_is_sent(keys):
    class Answering(SignedEndpoint):
        def _verify(self, request: Any) -> Any:
            return super()._verify(request) or Scripted(body=b'{"predictions": [[1.0]]}')

    with Answering(lambda x: x, on_the_loop_clock(keys)) as mock:
        async with Client(mock.origin, codec=Routed, auth=SIGNED) as client:
            assert (await client.map(X[:1])).tolist() == [[1.0]]
    assert mock.refusals == []
    assert "/model/v1" in mock.requests[0].path


@pytest.mark.virtual_time
async def test_a_refusal_that_repeats_the_request_shows_no_secret(keys):
    keys.setenv("AWS_SESSION_TOKEN", "a-session-token")
    sent: list[str] = []

    def repeat(request: Any) -> Scripted:
        sent.append(request.header("Authorization"))
        words = f"{sent[-1].rpartition('=')[2]} {request.header('X-Amz-Security-Token')} {sent[-1]} {ACCESS} {SECRET}"
        return Scripted(status=403, body=json.dumps({"message": words}).encode())

    on_the_loop_clock(keys)
    events: list[str] = []
    with MockEndpoint(lambda x: x, faults=repeat) as mock:
        options: dict[str, Any] = {"on_event": lambda event: events.append(repr(event))}
        async with Client(mock.url(Plain), codec=Plain, auth=SIGNED, **options) as client:
            with pytest.raises(RunStopped, match=r"\*\*\*") as caught:
                await client.map(X)
    shown = str(caught.value) + "".join(events)
    for secret in (ACCESS, SECRET, "a-session-token", *(one.rpartition("=")[2] for one in sent)):
        assert secret not in shown


async def test_the_lifetime_is_that_of_the_keys(keys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        keys.delenv(name)

    async def container(request: web.Request) -> web.Response:
        expires = datetime.fromtimestamp(time.time() + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        given = {"AccessKeyId": ACCESS, "SecretAccessKey": SECRET, "Token": "a-session-token", "Expiration": expires}
        return web.json_response(given)

    async with served(container) as url:
        keys.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/keys")
        credentials = await SIGNED.credentials()
    assert credentials.lifetime == pytest.approx(3600, abs=10)
    assert "a-session-token" in credentials.secrets


@pytest.mark.parametrize("rows", [5, 5000], ids=["small bodies", "large bodies"])
async def test_a_signature_is_valid_on_the_wire(keys, rows):
    """The field Host, the path and the body as a socket carries them, on the quick path and through the session."""
    verifier = Verifier({ACCESS: (SECRET, None)}, time.time, oldest=60)
    refusals: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        try:
            verifier.verify(request.method, request.raw_path, request.headers, await request.read())
        except SignatureError as error:
            refusals.append(str(error))
            return web.Response(status=403, text=str(error))
        return web.json_response({"predictions": [2 * row for row in (await request.json())["instances"]]})

    numbers = np.arange(4.0 * rows) + 0.123456789
    async with served(handle) as url:
        target = f"{url}/model/a%20model:0/invoke?v=1&b=%2F"
        async with Client(target, codec="json", chunk_rows=rows, auth=SIGNED) as client:
            assert np.array_equal(await client.map(numbers), numbers * 2)
    assert refusals == []
