"""Headers from a function, and the ids and keys of requests, in whole runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fanout import Client, ConfigError, Endpoint, Limits, RetryPolicy, RowsFailed, RunStopped, Timeouts
from fanout.mock import MockTransport
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Payload
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(300.0).reshape(100, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


class Tokens:
    """Gives a new token each time; the server takes only the newest that has been made valid."""

    def __init__(self) -> None:
        self.given = 0
        self.fail = False

    def __call__(self) -> dict[str, str]:
        if self.fail:
            raise LookupError("the vault is shut")
        self.given += 1
        return {"Authorization": f"Bearer token-{self.given}"}

    async def later(self) -> dict[str, str]:
        await asyncio.sleep(1)
        return self()


class Expiring(MockEndpoint):
    """Refuses every token but the one that is valid at the time."""

    valid = 1
    refusal: Any = 401

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, faults=self._refuse, **options)

    def _refuse(self, request: ServerRequest) -> Any:
        return None if request.header("Authorization") == f"Bearer token-{self.valid}" else self.refusal


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_the_function_is_called_once_and_again_after_a_refusal(kind: str) -> None:
    tokens = Tokens()
    with Expiring(double, latency=1.0) as mock:
        asyncio.get_running_loop().call_later(1.5, setattr, mock, "valid", 2)
        source = tokens if kind == "plain" else tokens.later
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, headers=source) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
    assert tokens.given == 2


EXPIRED = [
    Scripted(status=403, body=b'{"message": "The security token included in the request is expired"}'),
    Scripted(status=403, body=b'{"__type": "ExpiredTokenException"}'),
    Scripted(status=403, body=b"Signature Expired: 20261130T120000Z is now earlier than 20261130T121000Z"),
    Scripted(status=403, headers={"x-amzn-ErrorType": "ExpiredTokenException:http://internal.amazon.com/"}),
    Scripted(status=403, headers={"WWW-Authenticate": 'Bearer error="invalid_token", error_description="expired"'}),
]


@pytest.mark.parametrize("refusal", EXPIRED)
async def test_row_77_a_403_that_says_expired_renews_the_headers_as_a_401_does(refusal: Scripted) -> None:
    tokens = Tokens()
    with Expiring(double, latency=1.0) as mock:
        mock.refusal = refusal
        asyncio.get_running_loop().call_later(1.5, setattr, mock, "valid", 2)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, headers=tokens) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
    assert tokens.given == 2


@pytest.mark.parametrize("refusal", EXPIRED[:2])
@pytest.mark.parametrize("after", [0, 5])
async def test_row_77_credentials_that_stay_expired_stop_the_run_and_blame_no_row(
    refusal: Scripted, after: int
) -> None:
    tokens = Tokens()
    with MockEndpoint(double) as mock:
        mock.script(*[None] * after, *[refusal] * 100)
        limits = Limits(concurrency=1)
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=5, headers=tokens, limits=limits) as client:
            with pytest.raises(RunStopped, match=r"(?i)expired") as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert caught.value.result.failures == ()
    assert len(mock.requests) == after + 2
    assert tokens.given == 2


async def test_a_403_that_says_nothing_of_expiry_asks_for_no_headers() -> None:
    tokens = Tokens()
    with MockEndpoint(double) as mock:
        mock.script(*[403] * 1000)
        async with Client(mock.url(Plain), codec=Plain, headers=tokens) as client:
            with pytest.raises(RunStopped, match="HTTP 403"):
                await client.map(X)
    assert tokens.given == 1


async def test_headers_refused_twice_stop_the_run() -> None:
    tokens = Tokens()
    with Expiring(double, latency=1.0) as mock:
        mock.valid = 99
        async with Client(mock.url(Plain), codec=Plain, headers=tokens) as client:
            with pytest.raises(RunStopped, match="HTTP 401") as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert tokens.given == 2
    assert len(mock.requests) == 4


async def test_metadata_requests_renew_headers_too() -> None:
    tokens = Tokens()
    with MockEndpoint(double) as mock:
        mock.script_metadata(401)
        async with Client(mock.url("oip"), codec="oip", headers=tokens) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert tokens.given == 2


@pytest.mark.one_way
async def test_errors_of_the_function_are_raised() -> None:
    tokens = Tokens()
    tokens.fail = True
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain, headers=tokens) as client:
            with pytest.raises(LookupError, match="vault"):
                await client.map(X)
    assert not mock.requests


@pytest.mark.one_way
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: None, "headers must be a mapping, not NoneType"),
        (lambda: {"A": "x\ny"}, "control character"),
        ({"A": 3}, "header 'A' must be a text"),
        ([("A", "b")], "headers must be a mapping, not list"),
        ({"Content-Length": "3"}, "'Content-Length' frames the message"),
        (lambda: {"transfer-encoding": "chunked"}, "'transfer-encoding' frames the message"),
        (lambda: {"A b": "c"}, "'A b' is no valid name"),
    ],
)
async def test_headers_that_cannot_be_sent_are_named(source: Any, message: str) -> None:
    async def job() -> None:
        async with Client("http://h/x", codec=Plain, headers=source) as client:
            await client.map(X)

    with pytest.raises(ConfigError, match=message):
        await job()


@pytest.mark.one_way
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"headers": {"Connection": "close"}}, "'Connection' frames the message"),
        ({"headers": {"A\nB": "c"}}, "control character"),
        ({"content_type": "text/plain\r\nX: y"}, "'Content-Type' holds a line break"),
    ],
)
@pytest.mark.parametrize("by_transport", [False, True])
async def test_headers_of_a_codec_that_cannot_be_sent_are_named(extra: Any, message: str, by_transport: bool) -> None:
    class Framing(Plain):
        def encode(self, rows: Any) -> Any:
            return Payload(body=super().encode(rows).body, **extra)

    with MockEndpoint(double) as mock:
        url = mock.url(Plain)
        mocked = {"transport": MockTransport(Plain(), url, double)} if by_transport else {}
        async with Client(url, codec=Framing, **mocked) as client:
            with pytest.raises(ConfigError, match=message) as caught:
                await client.map(X)
        assert caught.value.key == "headers"
        assert not mock.requests


async def test_a_token_is_in_no_error_even_if_the_server_repeats_it() -> None:
    def model(x: np.ndarray) -> np.ndarray:
        raise StatusError(400, "you sent Bearer token-1, that is token-1, and key=open-sesame")

    with MockEndpoint(model) as mock:
        url = mock.url(Plain) + "?key=open-sesame"
        async with Client(url, codec=Plain, headers=Tokens()) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X)
    everything = str(caught.value) + repr(caught.value) + repr(caught.value.result.failures)
    assert "you sent ***, that is ***, and key=***" in everything
    assert "token-1" not in everything
    assert "sesame" not in everything


@pytest.mark.parametrize("length", [20, 295, 310, 900])
async def test_a_long_token_is_concealed_wherever_the_servers_words_are_cut(length: int) -> None:
    token = "".join(chr(97 + i * 7 % 26) for i in range(length))

    def model(x: np.ndarray) -> np.ndarray:
        raise StatusError(403, f"invalid token: {token}")

    for body in (None, b"invalid token: " + token.encode()):
        events: list[Any] = []
        with MockEndpoint(model) as mock:
            mock.script(*([] if body is None else [Scripted(body=body)] * 50))
            headers = {"Authorization": f"Bearer {token}"}
            async with Client(mock.url(Plain), codec=Plain, headers=headers, on_event=events.append) as client:
                with pytest.raises(RunStopped) as caught:
                    await client.map(X)
        shown = str(caught.value) + repr(caught.value.result) + repr(events)
        assert "invalid token: ***" in shown
        assert token[:8] not in shown


async def test_a_token_that_has_been_replaced_is_still_a_secret() -> None:
    tokens = Tokens()
    events: list[Any] = []

    def model(x: np.ndarray) -> np.ndarray:
        raise StatusError(500, "no: token-1")

    with MockEndpoint(model, latency=lambda n: 0.1 if n == 0 else 0.5) as mock:
        mock.script(401)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=50, headers=tokens, on_event=events.append
        ) as client:
            with pytest.raises(RunStopped):
                await client.map(X)
    assert tokens.given == 2
    assert "no: ***" in repr(events)
    assert "token-1" not in repr(events)


async def test_a_pause_for_metadata_shows_no_secret() -> None:
    events: list[Any] = []
    with MockEndpoint(double) as mock:
        mock.script_metadata(Scripted(status=503, body=b'{"message": "bad token-1"}', headers={"Retry-After": "1"}))
        async with Client(mock.url("oip"), codec="oip", headers=Tokens(), on_event=events.append) as client:
            await client.map(X)
    assert "bad ***" in repr(events)
    assert "token-1" not in repr(events)


async def test_all_attempts_of_a_chunk_carry_one_key_and_no_two_chunks_the_same() -> None:
    with MockEndpoint(double, latency=0.1) as mock:
        mock.script(503, None, 503, None)
        endpoint = Endpoint(url=mock.url(Plain), idempotency_header="Idempotency-Key")
        async with Client(endpoint, codec=Plain, chunk_rows=5, limits=Limits(concurrency=4)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    keys: dict[bytes, set[str | None]] = {}
    for request in mock.requests:
        keys.setdefault(request.body, set()).add(request.header("idempotency-key"))
    assert len(mock.requests) == 22
    assert all(len(values) == 1 for values in keys.values())
    assert len(set.union(*keys.values())) == len(keys) == 20


class Echoing(MockEndpoint):
    """Repeats the id of a request, or that of an earlier one."""

    off_by = 0

    async def answer(self, request: ServerRequest) -> ServerResponse:
        response = await super().answer(request)
        number = max(0, len(self.requests) - 1 - self.off_by)
        request_id = self.requests[number].header("x-request-id") or ""
        return replace(response, headers={**response.headers, "X-Request-Id": request_id})


async def test_an_answer_to_another_request_is_not_believed() -> None:
    with Echoing(double) as mock:
        endpoint = Endpoint(url=mock.url(Plain), request_id_header="X-Request-ID")
        limits, retry = Limits(concurrency=1), RetryPolicy(max_attempts=2)
        async with Client(endpoint, codec=Plain, chunk_rows=20, limits=limits, retry=retry) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
            mock.off_by = 1
            result = await client.map(X[:20], on_error="keep")
    ids = [request.header("x-request-id") for request in mock.requests]
    assert len(set(ids)) == len(ids) == 7
    assert not result.ok.any()
    assert "belongs to another request: its X-Request-ID" in result.failures[0].reason


@pytest.mark.parametrize("swallows", [False, True])
async def test_new_headers_that_do_not_come_cost_an_attempt_and_no_more(swallows: bool) -> None:
    """The vault hangs once, a token is due then: neither it nor a lock that it holds keeps a run from its end."""
    tokens = Tokens()
    hung = 0

    async def ask() -> dict[str, str]:
        nonlocal hung
        if tokens.given == 1 and hung < 1:
            hung += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise
        return tokens()

    reasons: list[str] = []
    with Expiring(double, latency=1.0) as mock:
        asyncio.get_running_loop().call_later(1.5, setattr, mock, "valid", 2)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=5, headers=ask, timeouts=Timeouts(attempt=20),
            on_event=lambda event: reasons.append(event.reason) if event.kind == "retry" else None,
        ) as client:  # fmt: skip
            assert np.array_equal(await client.map(X), X * 2)
    assert (tokens.given, hung) == (2, 1)
    assert any("headers= gave no new fields within the attempt timeout of 20 s, after HTTP 401" in r for r in reasons)


async def test_a_function_for_headers_that_hangs_stalls_the_run_with_its_name() -> None:
    tokens = Tokens()

    async def ask() -> dict[str, str]:
        if tokens.given:
            await asyncio.Event().wait()
        return tokens()

    with Expiring(double, latency=1.0) as mock:
        mock.valid = 99
        retry = RetryPolicy(stall=300)
        async with Client(
            mock.url(Plain), codec=Plain, headers=ask, retry=retry, timeouts=Timeouts(attempt=20)
        ) as client:
            with pytest.raises((RunStopped, RowsFailed), match=r"headers= gave no new fields"):
                await client.map(X)
