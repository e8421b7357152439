"""Rows 70 to 73 of the fault matrix: errors with status 200, waits in every form, exhausted money, single refusals."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Limits, RunStopped
from fanout.serving.exchange import ServerResponse, json_answer
from fanout.testing import FaultServer
from tests.faults.scene import CHUNKS, X, assert_failed, assert_whole, client, double, when_asked_for
from tests.loopback import Line, Received, http, loopback

pytestmark = pytest.mark.one_way
TEXTS = [f"text {i}" for i in range(40)]
CODECS = ["v1", "oip", "openai-embeddings", "openai-chat"]


def model_of(codec: str) -> Any:
    if codec == "openai-chat":
        return lambda texts: [text.upper() for text in texts]
    return double if codec in ("v1", "oip") else lambda texts: np.array([[len(text), 1.0] for text in texts])


def codec_of(name: str) -> Any:
    return fanout.codec(name, model="faulty") if name == "openai-embeddings" else name


def rows_of(codec: str) -> Any:
    return X if codec in ("v1", "oip") else TEXTS


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "error",
    [{"error": {"code": 429, "message": "slow down"}}, {"error": {"status": "UNAVAILABLE"}}, {"code": "503"}],
)
async def test_row_70_a_200_that_says_429_or_503_is_waited_for_as_one(codec: str, error: dict[str, Any]) -> None:
    async with FaultServer(model_of(codec)) as server:
        answer = json_answer(error)
        server.script(
            None, ServerResponse(status=200, headers={**answer.headers, "Retry-After": "0.3"}, body=answer.body)
        )
        async with client(server, codec=codec_of(codec), chunk_rows=20) as c:
            result = await c.map(rows_of(codec), on_error="keep")
    assert result.ok.all()
    assert result.stats.seconds >= 0.3
    assert (result.stats.retries, result.stats.splits) == (1, 0)


@pytest.mark.parametrize("codec", CODECS)
async def test_row_70_a_200_that_says_402_stops_the_run(codec: str) -> None:
    async with FaultServer(model_of(codec)) as server:
        server.script(None, None, *[json_answer({"error": {"code": 402, "message": "Insufficient credits"}})] * 99)
        async with client(server, codec=codec_of(codec), chunk_rows=10) as c:
            with pytest.raises(RunStopped, match="Insufficient credits") as caught:
                await c.map(rows_of(codec))
    assert caught.value.kind == "quota"
    assert caught.value.result.failures == ()
    assert server.received == 3


def soon(form: str, seconds: float = 2.0) -> str:
    """A time of day a little later, by a clock that is a day late, as its ``Date`` shows."""
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1) + timedelta(seconds=seconds)
    return {
        "unix": f"{then.timestamp():.0f}",
        "unix ms": f"{then.timestamp() * 1000:.0f}",
        "iso": then.isoformat().replace("+00:00", "Z"),
    }[form]


def late_date() -> str:
    return (datetime.now(UTC) - timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")


WAITS = [
    ([("Retry-After", "0.1, 0.5")], b""),
    ([("Retry-After", "0.1"), ("Retry-After", "0.5"), ("Retry-After", "0.2")], b""),
    ([("Retry-After", "500ms")], b""),
    ([("llm_provider-retry-after", "0.5")], b""),
    ([("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "0.5s")], b""),
    ([], b'{"error": {"message": "Please try again in 0.5s."}}'),
    ([], b'[{"error": {"code": 429, "details": [{"retryDelay": "0.5s"}]}}]'),
]


@pytest.mark.parametrize(
    ("fields", "body"), [WAITS[0], *(pytest.param(*wait, marks=pytest.mark.slow) for wait in WAITS[1:])]
)
async def test_row_71_waits_in_every_form_are_obeyed_by_every_request(
    fields: list[tuple[str, str]], body: bytes
) -> None:
    await assert_obeyed(fields, body, 0.5)


PLAINEST = ("X-RateLimit-Reset", "iso")
"""Every form takes two seconds of real time: this one is in the fast suite, and virtual time has them all."""


@pytest.mark.parametrize(
    ("field", "form"),
    [
        pytest.param(field, form, marks=[] if (field, form) == PLAINEST else pytest.mark.slow)
        for field in ("Retry-After", "X-RateLimit-Reset", "X-Rate-Limit-Reset")
        for form in ("unix", "unix ms", "iso")
    ],
)
async def test_row_71_times_of_day_are_measured_by_the_servers_clock(field: str, form: str) -> None:
    await assert_obeyed([("Date", late_date()), (field, soon(form))], b"", 0.9)


async def assert_obeyed(fields: list[tuple[str, str]], body: bytes, seconds: float) -> None:
    """After a 429 with these fields and this body, nothing is sent for so many seconds."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    refused_at = 0.0

    async def answer(received: Received, line: Line) -> None:
        nonlocal refused_at
        times.append(loop.time())
        if len(times) == 4:
            head = "".join(f"{name}: {value}\r\n" for name, value in fields)
            refused_at = loop.time()
            await line.send(f"HTTP/1.1 429 No\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return
        rows = orjson.loads(received.body)["instances"]
        await asyncio.sleep(0.02)
        await line.send(http(orjson.dumps({"predictions": (np.array(rows) * 2).tolist()})))

    async with (
        loopback(answer) as server,
        client(server.url, codec="v1", chunk_rows=16, limits=Limits(concurrency=3)) as c,
    ):
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    late = [time for time in times if time > refused_at + 0.015]
    assert min(late) - refused_at >= seconds - 0.015


MONEY = [
    (429, {"error": {"code": "insufficient_quota", "message": "no money"}}),
    (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low: no money"}}),
    (429, [{"error": {"message": "no money", "details": [{"violations": [{"quotaId": "RequestsPerDayPerModel"}]}]}}]),
    (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month. no money"}),
    (402, {"error": {"message": "no money"}}),
    (400, {"__type": "ServiceQuotaExceededException", "message": "no money"}),
]


@pytest.mark.parametrize(("status", "body"), MONEY)
async def test_row_72_exhausted_money_stops_the_run_and_nothing_is_sent_after_the_answer(
    status: int, body: Any
) -> None:
    async with FaultServer(double) as server:
        server.script(*[None] * 5, *[json_answer(body, status=status)] * 99)
        async with client(server, chunk_rows=4, limits=Limits(concurrency=4)) as c:
            with pytest.raises(RunStopped, match="no money") as caught:
                await c.map(X)
    result = caught.value.result
    assert caught.value.kind == "quota"
    assert server.received <= 5 + 4
    assert result.failures == ()
    assert result.ok.sum() == 5 * 4


async def test_row_72_the_same_unknown_refusal_of_every_row_stops_the_run() -> None:
    refusal = json_answer({"error": {"message": "BudgetAccount 17 is on hold"}}, status=400)
    async with FaultServer(double) as server:
        server.script(*[None] * 5, *[refusal] * 9999)
        async with client(server, chunk_rows=4, limits=Limits(concurrency=4)) as c:
            with pytest.raises(RunStopped, match="BudgetAccount 17 is on hold") as caught:
                await c.map(X)
    assert caught.value.kind == "rejected"
    assert 20 <= sum(f.stop - f.start for f in caught.value.result.failures) <= 20 + 4 * 4
    assert server.received <= 5 + 20 * (2 * 2 + 2) + 2 * 4


@pytest.mark.parametrize("row", [0, pytest.param(63, marks=pytest.mark.slow), 130])
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_row_73_one_forbidden_row_fails_alone(row: int, concurrency: int) -> None:
    limits = Limits(concurrency=concurrency)
    async with FaultServer(double, faults=when_asked_for(row, 403)) as server, client(server, limits=limits) as c:
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(row, row + 1))
    assert result.failures[0].status == 403
    assert server.received <= CHUNKS + 2 * 6 + 2
