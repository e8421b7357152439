"""Credentials that are obtained and renewed: once for all requests that wait, in time, and at the cost of no row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import (
    Auth,
    Client,
    ConfigError,
    Credentials,
    CredentialsError,
    Hedge,
    Limits,
    RetryPolicy,
    RunControl,
    RunStopped,
    Timeouts,
)
from fanout.testing import MockEndpoint, MockTransport, Recorder, Replayer, Scripted
from tests.support import Plain

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.serving.exchange import ServerRequest
    from fanout.transport import Request
    from fanout.types import Response

pytestmark = pytest.mark.virtual_time
X = np.arange(300.0).reshape(100, 3)


class Tokens(Auth):
    """Gives tokens that name the time at which they were issued.

    Args:
        takes: seconds until a token is there.
        lifetime: of the tokens, as the credentials state it.
        errors: raised by the first calls.
    """

    def __init__(self, takes: float = 0.0, lifetime: float | None = None, errors: Any = ()) -> None:
        self.takes, self.lifetime, self.errors = takes, lifetime, list(errors)
        self.calls: list[float] = []
        self.running = 0

    async def credentials(self) -> Credentials:
        self.calls.append(asyncio.get_running_loop().time())
        assert self.running == 0, "one call at a time"
        self.running += 1
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.running -= 1
        if self.errors:
            raise self.errors.pop(0)
        issued = asyncio.get_running_loop().time()
        return Credentials(headers={"Authorization": f"Bearer issued-at-{issued}"}, lifetime=self.lifetime)


class Expiring(MockEndpoint):
    """Refuses tokens that are older than ``life`` seconds, and rows with a 126."""

    def __init__(self, life: float, **options: Any) -> None:
        super().__init__(lambda x: x * 2, faults=self._check, **options)
        self.life = life
        self.refused = 0

    def _check(self, request: ServerRequest) -> Any:
        issued = float(request.header("Authorization").rpartition("-")[2])
        if asyncio.get_running_loop().time() - issued > self.life:
            self.refused += 1
            return 401
        return 422 if b"[126.0," in request.body else None


TROUBLE = [None, 503, Scripted(status=429, headers={"Retry-After": "5"}), None, "reset-mid-body", None, None, 500, 503]
TROUBLE += [None, Scripted(status=429, headers={"Retry-After": "2"}), *[None] * 9, 503, "reset-mid-body"]


@pytest.mark.parametrize("lifetime", [0.7, None], ids=["stated", "unknown"])
@pytest.mark.parametrize("takes", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hedge": Hedge(share=0.5, delay=0.2)},
        {"limits": Limits(concurrency=4, requests_per_second=1)},
        {"limits": Limits(concurrency=16, requests_per_second=0.5)},
    ],
    ids=["plain", "hedged", "slower than the lifetime", "much slower"],
)
async def test_a_token_that_expires_every_700_ms_costs_no_row(lifetime, takes, options):
    auth = Tokens(takes, lifetime)
    with Expiring(0.7, latency=lambda number: 0.5 if number % 5 == 0 else 0.05) as mock:
        mock.script(*TROUBLE)
        settings: dict[str, Any] = {"chunk_rows": 2, "limits": Limits(concurrency=4), **options}
        async with Client(mock.url(Plain), codec=Plain, auth=auth, **settings) as client:
            result = await client.map(X, on_error="keep")
            retries = client.statistics().retries
    assert np.flatnonzero(~result.ok).tolist() == [42]
    assert np.array_equal(result.values[result.ok], X[result.ok] * 2)
    assert len(auth.calls) >= 3
    assert retries <= 12, "a refusal of expired credentials is no retry"


@pytest.mark.parametrize("several", [False, True])
async def test_one_call_serves_all_requests_that_wait(several):
    auth = Tokens(takes=2.0)
    with MockEndpoint(lambda x: x * 2, latency=1.0) as mock:
        urls = [mock.url(Plain), f"{mock.url(Plain)}?replica=2"] if several else mock.url(Plain)
        async with Client(urls, codec=Plain, chunk_rows=5, auth=auth, limits=Limits(concurrency=16)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(auth.calls) == 1
    assert asyncio.get_running_loop().time() == pytest.approx(4, abs=0.5)


async def test_one_renewal_serves_all_requests_that_are_refused():
    auth = Tokens(takes=1.0)
    with Expiring(1e9, latency=1.0) as mock:
        mock.script(*[None] * 4, *[401] * 4)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=5, auth=auth, limits=Limits(concurrency=4)
        ) as client:
            assert np.array_equal((await client.map(X[:40])), X[:40] * 2)
            assert client.statistics().retries == 0
    assert len(auth.calls) == 2
    assert len(mock.requests) == 12


async def test_they_are_renewed_before_they_expire():
    auth = Tokens(lifetime=600)
    with Expiring(600, latency=50.0) as mock:
        options: dict[str, Any] = {"limits": Limits(concurrency=2)}
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=2, auth=auth, **options) as client:
            await client.map(X, on_error="keep")
    assert mock.refused == 0
    assert auth.calls == pytest.approx([0, 550, 1100], abs=50)


async def test_the_wait_for_credentials_counts_for_no_attempt():
    auth = Tokens(takes=20.0)
    with MockEndpoint(lambda x: x * 2) as mock:
        options: dict[str, Any] = {"timeouts": Timeouts(attempt=1.0), "retry": RetryPolicy(max_attempts=1)}
        async with Client(mock.url(Plain), codec=Plain, auth=auth, **options) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 0
            assert client.statistics().requests == 2


OUTAGE = CredentialsError("the vault is shut")


@pytest.mark.parametrize("errors", [[OUTAGE], [OSError("no route")]], ids=["own", "any"])
async def test_a_first_failure_is_tried_again(errors):
    auth = Tokens(errors=errors)
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=auth) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(auth.calls) == 2


async def test_an_outage_during_a_run_is_survived_for_some_seconds():
    auth = Tokens(lifetime=10.0)
    with Expiring(10.0, latency=1.0) as mock:
        asyncio.get_running_loop().call_later(1.5, auth.errors.extend, [OUTAGE] * 5)
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=2, auth=auth, limits=Limits(concurrency=2)
        ) as client:
            assert np.array_equal(await client.map(X[:40]), X[:40] * 2)
    assert len(auth.calls) >= 7


FINAL = {
    "tried in vain": ([OUTAGE] * 99, "the vault is shut", 2),
    "final": ([CredentialsError("no such role", retryable=False)], "no such role", 1),
    "another exception": ([KeyError("role")] * 99, r"no credentials could be obtained \(KeyError: 'role'\)", 2),
}


@pytest.mark.parametrize(("errors", "message", "calls"), FINAL.values(), ids=FINAL)
async def test_without_credentials_the_run_stops_and_blames_no_row(errors, message, calls):
    auth = Tokens(errors=errors)
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=auth) as client:
            with pytest.raises(RunStopped, match=message) as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert caught.value.result.failures == ()
    assert not mock.requests
    assert len(auth.calls) == calls


async def test_a_run_that_stopped_for_want_of_credentials_can_be_followed_by_another():
    auth = Tokens(errors=[OUTAGE] * 2)
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=auth) as client:
            with pytest.raises(RunStopped, match="vault"):
                await client.map(X)
            assert np.array_equal(await client.map(X), X * 2)


async def test_a_call_may_take_30_s():
    auth = Tokens(takes=31.0)
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=auth) as client:
            with pytest.raises(RunStopped, match="no credentials were obtained within 30 s"):
                await client.map(X)
    assert asyncio.get_running_loop().time() < 70


async def test_a_configuration_error_is_raised_at_once():
    auth = Tokens(errors=[ConfigError("there is no such profile", key="auth.profile")])
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=auth) as client:
            with pytest.raises(ConfigError, match="no such profile"):
                await client.map(X)
    assert len(auth.calls) == 1


@pytest.mark.parametrize("error", [asyncio.CancelledError(), StopAsyncIteration(), SystemExit(3)], ids=repr)
async def test_whatever_else_it_raises_is_an_error_of_the_run(error):
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=Tokens(errors=[error])) as client:
            with pytest.raises(RunStopped, match=f"auth raised {type(error).__name__}") as caught:
                await client.map(X)
    assert caught.value.kind == "error"


async def test_new_credentials_that_are_refused_at_once_stop_the_run():
    auth = Tokens()
    with Expiring(-1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=auth, limits=Limits(concurrency=1)) as client:
            with pytest.raises(RunStopped, match="HTTP 401") as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert len(auth.calls) == len(mock.requests) == 2


async def test_a_status_of_success_may_refuse_credentials_too():
    auth = Tokens()
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(None, Scripted(body=b'{"error": {"code": 401, "message": "token expired"}}'))
        async with Client(
            mock.url(Plain), codec=Plain, chunk_rows=50, auth=auth, limits=Limits(concurrency=1)
        ) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(auth.calls) == 2


@pytest.mark.parametrize("end", ["close", "drain", "cut", "cancel", "timeout"])
async def test_a_run_ends_at_once_while_it_waits_for_credentials(end):
    auth, control = Tokens(takes=25.0), RunControl()
    with MockEndpoint(lambda x: x) as mock:
        client = Client(mock.url(Plain), codec=Plain, auth=auth)
        await client.open()
        running = asyncio.create_task(client.map(X, control=control, timeout=5.0 if end == "timeout" else None))
        await asyncio.sleep(5)
        ends = {"drain": control.drain, "cut": control.cut, "cancel": running.cancel, "timeout": lambda: None}
        await client.close() if end == "close" else ends[end]()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else RunStopped):
            await running
        assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.1)
        await client.close()
    assert len(asyncio.all_tasks()) == 1
    assert auth.running == 0


@pytest.mark.parametrize("place", ["headers", "url"])
async def test_a_field_is_set_in_one_place_only(place):
    with MockEndpoint(lambda x: x) as mock:
        url, options = mock.url(Plain), {}
        if place == "url":
            url = url.replace("http://", "http://me:secret@")
        else:
            options = {"headers": {"authorization": "Basic x"}}
        async with Client(url, codec=Plain, auth=Tokens(), **options) as client:
            with pytest.raises(ConfigError, match="the field Authorization is set by auth and in headers"):
                await client.map(X)
    assert not mock.requests


class Signing(Auth):
    """Signs every part of a request."""

    async def credentials(self) -> Credentials:
        def sign(request: Request) -> dict[str, str]:
            signed = request.method, request.url, request.headers["X-Key"], request.joined()
            return {"X-Signature": repr(signed)}

        return Credentials(headers={"X-Key": "a-key-id"}, sign=sign)


async def test_sign_sees_the_whole_request():
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=50, auth=Signing()) as client:
            assert np.array_equal(await client.map(X), X * 2)
    for request in mock.requests:
        assert request.header("X-Key") == "a-key-id"
        assert request.header("X-Signature") == repr(("POST", mock.url(Plain), "a-key-id", request.body))


async def test_metadata_are_requested_with_credentials_too():
    auth = Tokens()
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script_metadata(401)
        async with Client(mock.url("oip"), codec="oip", auth=auth) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(auth.calls) == 2


async def test_a_transport_of_the_users_own_gets_credentials():
    sent: list[str] = []

    class Own:
        def __init__(self, mock: MockTransport) -> None:
            self.mock = mock

        async def send(self, request: Request) -> Response:
            sent.append(request.headers["Authorization"])
            return await self.mock.send(request)

    url = "http://h/v1/models/m:predict"
    mock = MockTransport(Plain(), url, lambda x: x * 2)
    async with Client(url, codec=Plain, auth=Tokens(), transport=Own(mock)) as client:
        assert np.array_equal(await client.map(X), X * 2)
    assert set(sent) == {"Bearer issued-at-0.0"}


async def test_a_recording_has_no_credentials_and_its_replay_obtains_none(tmp_path: Path):
    auth, path = Tokens(), tmp_path / "run.recording"

    class Echo(Expiring):
        def _check(self, request: ServerRequest) -> Any:
            refused = super()._check(request)
            return refused and Scripted(status=401, body=request.header("Authorization").encode())

    with Echo(0.7, latency=0.3) as mock, Recorder(path) as recorder:
        options: dict[str, Any] = {"chunk_rows": 5, "limits": Limits(concurrency=1)}
        async with Client(mock.url(Plain), codec=Plain, auth=auth, transport=recorder, **options) as client:
            assert np.array_equal(await client.map(X[:40]), X[:40] * 2)
        assert mock.refused >= 3
        assert b"issued-at" not in path.read_bytes()
        assert b"*" * 10 in path.read_bytes()
        none = Tokens(errors=[AssertionError])
        async with Client(mock.url(Plain), codec=Plain, auth=none, transport=Replayer(path), **options) as client:
            assert np.array_equal(await client.map(X[:40]), X[:40] * 2)
    assert none.calls == []


@pytest.mark.parametrize("lifetime", [-1, float("nan"), "60"])
def test_a_lifetime_is_a_number_of_seconds(lifetime):
    with pytest.raises(ConfigError, match="lifetime must be a number of seconds, 0 or more"):
        Credentials(lifetime=lifetime)


@pytest.mark.parametrize("headers", [{"Authorization": "a\nb"}, {"Content-Length": "3"}])
async def test_fields_that_cannot_be_sent_end_the_run(headers):
    class Wrong(Auth):
        async def credentials(self) -> Credentials:
            return Credentials(headers=headers)

    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=Wrong()) as client:
            with pytest.raises(ConfigError, match="header"):
                await client.map(X)


async def test_something_else_than_credentials_is_a_configuration_error():
    class Wrong(Auth):
        async def credentials(self) -> Any:
            return {"Authorization": "Bearer x"}

    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=Wrong()) as client:
            with pytest.raises(ConfigError, match=r"must return a fanout.Credentials, not dict"):
                await client.map(X)


@pytest.mark.parametrize("several", [False, True])
async def test_metadata_without_credentials_stop_the_run(several):
    with MockEndpoint(lambda x: x) as mock:
        url = mock.url("oip")
        urls = [url, f"{url}?replica=2"] if several else url
        async with Client(urls, codec="oip", auth=Tokens(errors=[OUTAGE] * 99)) as client:
            with pytest.raises(RunStopped, match="the vault is shut"):
                await client.map(X)
    assert not mock.requests
