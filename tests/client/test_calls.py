"""The options of one call: header fields of its own, and its priority beside other calls of the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout import (
    BearerAuth,
    Cache,
    Client,
    ConfigError,
    Endpoint,
    Limits,
    RowsFailed,
    RunStopped,
    SyncClient,
    codec,
    open_sink,
)
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Response
from tests.client.scene import X, double
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time

SECRET = "the-token-of-user-7"
FIELDS = {"X-Tenant": "acme", "Authorization": f"Bearer {SECRET}"}


async def mapped(client: Client, _: Path, **options: Any) -> Any:
    return await client.map(X[:8], **options)


async def streamed(client: Client, _: Path, **options: Any) -> Any:
    async with client.stream(X[:8], **options) as results:
        return [done async for done in results]


async def written(client: Client, folder: Path, **options: Any) -> Any:
    return await client.run(X[:8], open_sink(folder / "y.npy"), **options)


async def predicted(client: Client, _: Path, **options: Any) -> Any:
    return await asyncio.gather(*(client.predict(row, **options) for row in X[:8]))


class Asking(Plain):
    """Asks for the metadata of the model first."""

    def metadata_requests(self, url: str, responses: Any = ()) -> list[str]:
        return [url]


class Jobs:
    """An asynchronous API whose job is at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        if request.method == "POST":
            return Response(status=202, headers={"Location": self.url}, body=b"{}")
        return Response(status=200, headers={}, body=b'{"done": true, "predictions": [1, 2]}')


class RefusesFields:
    """Refuses the token of `FIELDS` after a second, with 401."""

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(1)
        if SECRET in request.headers.get("Authorization", ""):
            return Response(status=401, headers={}, body=b"")
        rows = np.array(orjson.loads(request.joined())["instances"]) if request.method == "POST" else X[:0]
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": (rows * 2).tolist()}))


CALLS: list[Any] = [mapped, streamed, written, predicted]


class TestHeaders:
    @pytest.mark.parametrize("call", CALLS)
    async def test_go_with_the_requests_of_their_call_only(self, call: Callable[..., Any], tmp_path: Path) -> None:
        with MockEndpoint(double) as mock:
            async with Client(
                mock.url(Plain), codec=Plain, chunk_rows=4, headers={"X-Tenant": "nobody", "X-Client": "one"}
            ) as client:
                await call(client, tmp_path, headers=FIELDS)
                own, mock.requests[:] = list(mock.requests), []
                await call(client, tmp_path)
        assert len(own) == len(mock.requests) == 2
        for request in own:
            sent = {name.lower(): value for name, value in request.headers.items()}
            assert sent["x-tenant"] == "acme"
            assert sent["authorization"] == f"Bearer {SECRET}"
            assert sent["x-client"] == "one"
            assert sent["content-type"] == "application/json"
        for request in mock.requests:
            assert "authorization" not in {name.lower() for name in request.headers}
            assert request.headers["X-Tenant"] == "nobody"

    async def test_rows_with_other_fields_share_no_request(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                tenants = ["a", "b", "a", "a", "b", None]
                answers = await asyncio.gather(
                    *(
                        client.predict(row, headers=None if tenant is None else {"X-Tenant": tenant})
                        for row, tenant in zip(X, tenants, strict=False)
                    )
                )
        assert np.array_equal(answers, X[:6] * 2)
        rows = {request.headers.get("X-Tenant"): len(request.json()["instances"]) for request in mock.requests}
        assert rows == {"a": 3, "b": 2, None: 1}

    async def test_the_parts_of_a_request_that_failed_keep_them(self) -> None:
        with MockEndpoint(double) as mock:
            mock.script(500)
            async with Client(mock.url(Plain), codec=Plain) as client:
                await asyncio.gather(*(client.predict(row, headers={"X-Tenant": "a"}) for row in X[:4]))
        assert len(mock.requests) == 3
        assert {request.headers["X-Tenant"] for request in mock.requests} == {"a"}

    @pytest.mark.parametrize(
        ("headers", "problem"),
        [
            ({"X-A": "1\n2"}, "holds a line break"),
            ({"Content-Length": "7"}, "frames the message"),
            ({"X-A": 1}, "must be a text, not int"),
            ([("X-A", "1")], "headers must be a mapping, not list"),
        ],
    )
    @pytest.mark.parametrize("call", CALLS)
    async def test_that_cannot_be_sent_are_refused_before_a_request(
        self, call: Callable[..., Any], headers: Any, problem: str, tmp_path: Path
    ) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                with pytest.raises(ConfigError, match=problem):
                    await call(client, tmp_path, headers=headers)
        assert not mock.requests

    async def test_beside_auth_for_the_same_field_are_refused(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain, auth=BearerAuth(token="sesame-street")) as client:
                with pytest.raises(ConfigError, match="Authorization is set by auth and in headers"):
                    await client.predict(X[0], headers=FIELDS)

    async def test_beside_credentials_in_the_url_are_refused(self) -> None:
        with MockEndpoint(double) as mock:
            url = mock.url(Plain).replace("://", "://anna:sesame-street@")
            async with Client(url, codec=Plain) as client:
                with pytest.raises(
                    ConfigError, match="credentials in the url and in an Authorization header"
                ) as caught:
                    await client.map(X, headers=FIELDS)
        assert "sesame" not in str(caught.value)

    async def test_refused_credentials_end_their_own_call_only_and_renew_none_of_the_client(self) -> None:
        calls = 0

        def headers() -> dict[str, str]:
            nonlocal calls
            calls += 1
            return {"X-Key": "good enough"}

        with MockEndpoint(double) as mock:
            mock.misbehave(lambda request: 401 if request.headers.get("X-User") == "mallory-the-user" else None)
            urls = [mock.url(Plain), mock.url(Plain) + "?b=1"]
            async with Client(Endpoint(urls=tuple(urls)), codec=Plain, headers=headers) as client:
                with pytest.raises(RunStopped) as caught:
                    await client.predict(X[0], headers={"X-User": "mallory-the-user", "X-Auth": "mallory"})
                assert caught.value.kind == "refused"
                assert len(mock.requests) == 1
                await client.map(X)
                assert [one.state for one in client.statistics().endpoints] == ["in use", "in use"]
        assert calls <= 2  # one for each endpoint

    @pytest.mark.parametrize(("job", "sent"), [("http://h/jobs/1", FIELDS), ("https://jobs.test/1", {})])
    async def test_go_to_no_other_origin(self, job: str, sent: dict[str, str]) -> None:
        poll: Any = {"url": "header:Location", "until": "done", "origins": ["https://jobs.test"]}
        jobs = codec("json", request={"texts": "{{rows}}"}, answers="predictions", poll=poll)
        async with Client("http://h/run", codec=jobs, transport=(transport := Jobs(job))) as client:
            await client.map(["a", "b"], headers=FIELDS)
        started, polled = transport.requests
        assert FIELDS.items() <= dict(started.headers).items()
        assert {name: value for name, value in polled.headers.items() if name in FIELDS} == sent

    @pytest.mark.parametrize("first", [FIELDS, None], ids=["refused first", "accepted first"])
    async def test_refused_for_metadata_they_end_their_own_call_only(self, first: dict[str, str] | None) -> None:
        """Calls that begin together share one request for metadata, but no refusal of another's credentials."""
        calls = [first, FIELDS if first is None else None]
        async with Client("http://h/m", codec=Asking, transport=RefusesFields()) as client:
            outcomes = await asyncio.gather(
                *(client.map(X[:2], headers=fields) for fields in calls), return_exceptions=True
            )
        accepted = outcomes[calls.index(None)]
        assert np.array_equal(accepted, X[:2] * 2), accepted

    async def test_refused_credentials_of_the_client_do_not_end_a_call_that_has_its_own(self) -> None:
        transport = RefusesFields()
        async with Client("http://h/m", codec=Asking, transport=transport, headers=FIELDS) as client:
            refused, accepted = await asyncio.gather(
                client.map(X[:2]), client.map(X[:2], headers={"Authorization": "Bearer good"}), return_exceptions=True
            )
        assert isinstance(refused, RunStopped)
        assert np.array_equal(accepted, X[:2] * 2), accepted

    async def test_an_idempotency_key_is_no_credential_so_that_the_clients_are_renewed(self) -> None:
        tokens = iter(["expired", "fresh"])
        with MockEndpoint(double) as mock:
            mock.script(401)
            async with Client(
                mock.url(Plain), codec=Plain, headers=lambda: {"Authorization": f"Bearer {next(tokens)}"}
            ) as client:
                answers = await client.map(X[:2], headers={"Idempotency-Key": "order-7"})
        assert np.array_equal(answers, X[:2] * 2)
        assert mock.requests[-1].headers["Authorization"] == "Bearer fresh"

    @pytest.mark.parametrize("call", CALLS)
    async def test_their_values_are_secrets(self, call: Callable[..., Any], tmp_path: Path) -> None:
        with MockEndpoint(double) as mock:
            mock.misbehave(
                lambda _: Scripted(status=400, body=f"no access with {SECRET} for acme-corporation".encode())
            )
            async with Client(mock.url(Plain), codec=Plain) as client:
                try:
                    outcome = await call(client, tmp_path, headers=FIELDS | {"X-Tenant": "acme-corporation"})
                except (RowsFailed, RunStopped) as error:
                    outcome = error
        shown = f"{outcome} {getattr(outcome, 'result', outcome)} {getattr(outcome, 'failures', '')}"
        assert SECRET not in shown
        assert "acme-corporation" not in shown

    async def test_many_calls_in_flight_keep_their_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Temporary secrets are forgotten, but not those of a request that is under way."""
        monkeypatch.setattr("fanout._redact._REMEMBERED", 20)
        with MockEndpoint(double, latency=lambda n: 100.0 if n == 0 else 0.01) as mock:
            mock.misbehave(lambda request: Scripted(status=400, body=f"no {request.headers['X-Token']}".encode()))
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=8)) as client:

                async def ask(number: int) -> str:
                    with pytest.raises(RowsFailed) as caught:
                        await client.predict(X[0], headers={"X-Token": f"token-number-{number}"})
                    return str(caught.value)

                texts = await asyncio.gather(*map(ask, range(60)))
        assert [number for number, text in enumerate(texts) if f"token-number-{number}" in text] == []

    async def test_that_may_change_answers_leave_the_duplicates_of_a_call_one_request(self) -> None:
        rows = X[[0, 1, 0, 1]]
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain, dedupe=True, chunk_rows=1) as client:
                answers = await client.map(rows, headers={"X-Model": "a"})
        assert np.array_equal(answers, 2 * rows)
        assert len(mock.requests) == 2

    async def test_that_may_change_answers_are_part_of_the_key_of_the_cache(self, tmp_path: Path) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain, cache=Cache(path=str(tmp_path / "cache"))) as client:
                for headers in ({"X-Model": "a"}, {"X-Model": "b"}, {"x-model": "a"}, {"X-Model": "a", **FIELDS}, None):
                    await client.map(X[:4], headers=headers)
                assert len(mock.requests) == 4  # the third finds the answers of the first
                # A token decides who asks, not what is answered.
                await client.map(X[:4], headers={"X-Model": "b", "Authorization": "Bearer of-someone-else"})
        assert len(mock.requests) == 4


class TestPriority:
    @pytest.mark.parametrize("chunk_rows", [1, 64])
    async def test_interactive_calls_hardly_wait_for_bulk_maps(self, chunk_rows: int) -> None:
        """Their 95th percentile is at most twice that without the maps, each of which fills the limit all the time."""
        rows = np.arange(3 * 64 * 400.0).reshape(-1, 3)

        async def latencies(*, beside_maps: bool) -> float:
            now = asyncio.get_running_loop().time
            with MockEndpoint(double, latency=lambda n: 0.05 + n * 7 % 11 / 200) as mock:
                async with Client(
                    mock.url(Plain), codec=Plain, chunk_rows=chunk_rows, limits=Limits(concurrency=8)
                ) as client:

                    async def ask(number: int) -> float:
                        await asyncio.sleep(number * 0.03)
                        began = now()
                        assert np.array_equal(await client.predict(X[number]), X[number] * 2)
                        return now() - began

                    n_rows = 200 * chunk_rows
                    bulk = [asyncio.create_task(client.map(rows[:n_rows])) for _ in range(3 if beside_maps else 0)]
                    waits = await asyncio.gather(*map(ask, range(200)))
                    for answers in bulk:
                        assert np.array_equal(await answers, rows[:n_rows] * 2)
                    return float(np.quantile(waits, 0.95))

        alone, beside = await latencies(beside_maps=False), await latencies(beside_maps=True)
        assert beside <= 2 * alone

    async def test_interactive_calls_go_before_bulk_ones_that_wait_for_a_rate(self) -> None:
        now = asyncio.get_running_loop().time
        with MockEndpoint(double) as mock:
            limits = Limits(concurrency=4, requests_per_second=2)
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits) as client:
                bulk = asyncio.create_task(client.map(X[:40]))
                await asyncio.sleep(3.1)
                began = now()
                await client.predict(X[0])
                waited = now() - began
                await bulk
        gaps = np.diff(mock.times)
        assert waited < 1.01  # one interval, or two where a bulk request was about to go
        assert gaps.min() > 0.499
        assert len(mock.times) == 41

    @pytest.mark.parametrize("concurrency", [1, 2, 5])
    async def test_a_trial_of_an_open_circuit_that_waits_for_a_rate_keeps_its_slot(self, concurrency: int) -> None:
        """The interactive requests that would get it wait for the outcome of the trial."""
        with MockEndpoint(double, latency=0.1) as mock:
            mock.script(*[503] * 16)
            limits = Limits(concurrency=concurrency, requests_per_second=0.5)
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=limits) as client:

                async def ask(number: int) -> None:
                    await asyncio.sleep(5 + number * 1.37)
                    assert np.array_equal(await client.predict(X[number]), X[number] * 2)

                async with asyncio.timeout(2000):
                    bulk = asyncio.create_task(client.map(X[:20]))
                    await asyncio.gather(*map(ask, range(40)))
                    assert np.array_equal(await bulk, X[:20] * 2)

    async def test_bulk_calls_get_their_share_beside_interactive_ones_without_end(self) -> None:
        with MockEndpoint(double, latency=0.1) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2)) as client:

                async def ask_for_ever() -> None:
                    while True:
                        await client.predict(X[0])

                callers = [asyncio.create_task(ask_for_ever()) for _ in range(20)]
                async with asyncio.timeout(10):
                    assert np.array_equal(await client.map(X[:20]), X[:20] * 2)
                for caller in callers:
                    caller.cancel()
                await asyncio.gather(*callers, return_exceptions=True)

    async def test_of_calls_can_be_chosen(self) -> None:
        order = []
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=1)) as client:

                async def call(name: str, **options: Any) -> None:
                    await client.map(X[:1], **options)
                    order.append(name)

                tasks = [asyncio.create_task(call(name)) for name in ("first", "bulk")]
                await asyncio.sleep(0.1)
                tasks.append(asyncio.create_task(call("interactive", priority="interactive")))
                await asyncio.gather(*tasks)
                assert order == ["first", "interactive", "bulk"]
                with pytest.raises(ConfigError, match='priority must be "interactive" or "bulk", not \'urgent\''):
                    await client.map(X, priority="urgent")  # type: ignore[call-overload]


def test_the_blocking_client_takes_the_same_options() -> None:
    with MockEndpoint(double) as mock, SyncClient(mock.url(Plain), codec=Plain) as client:
        options: Any = {"headers": {"X-Tenant": "a"}, "priority": "bulk"}
        client.map(X[:4], **options)
        client.predict(X[0], **options)
        assert sum(len(done.values) for done in client.stream(X[:4], **options)) == 4
    assert {request.headers.get("X-Tenant") for request in mock.requests} == {"a"}
