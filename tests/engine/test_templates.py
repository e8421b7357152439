"""Runs through templates, in virtual time: rows fail alone, rules decide, paths vary by row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fanout import Client, Limits, Response, RunStopped
from fanout.codecs import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
URL = "http://api.invalid/v1"
RULE = {"status": 400, "path": "error.code", "equals": "filtered"}


class Api:
    """A transport that answers with a function of the request's document."""

    def __init__(self, answer: Callable[[Any], tuple[int, Any]], **headers: str) -> None:
        self._answer = answer
        self._headers = headers
        self.requests: list[Request] = []
        self.times: list[float] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
        status, document = self._answer(orjson.loads(request.joined()))
        headers = self._headers if status >= 400 else {}
        return Response(status=status, headers=headers, body=orjson.dumps(document), url=request.url)


async def run(codec: Json, api: Api, rows: Any, **options: Any) -> Any:
    async with Client(
        URL, codec=codec, transport=api, chunk_rows=16, limits=Limits(concurrency=4), **options
    ) as client:
        return await client.map(rows, on_error="keep")


def scored(document: Any, **more: Any) -> tuple[int, Any]:
    return 200, {"r": [{"y": text, "index": i, **more} for i, text in enumerate(document["rows"])][::-1]}


def codec(**options: Any) -> Json:
    return Json(request={"rows": "{{rows}}"}, answers="r", outputs={"y": "y"}, **options)


async def test_a_refused_row_of_many_fails_alone_and_with_no_second_attempt() -> None:
    def answer(document: Any) -> tuple[int, Any]:
        status, body = scored(document)
        return status, {"r": [item | ({"blocked": "rude"} if item["y"] in (7, 8, 50) else {}) for item in body["r"]]}

    api = Api(answer)
    result = await run(codec(fail_when="blocked"), api, [*range(100)])
    assert [(f.start, f.stop, f.reason) for f in result.failures] == [
        (row, row + 1, "HTTP 200: rude") for row in (7, 8, 50)
    ]
    assert result.values[result.ok].tolist() == [i for i in range(100) if i not in (7, 8, 50)]
    alone = [request for request in api.requests if orjson.loads(request.joined())["rows"] in ([7], [8], [50])]
    assert len(alone) == 3


async def test_a_rule_that_fails_rows_splits_a_request_of_many() -> None:
    def answer(document: Any) -> tuple[int, Any]:
        if 20 in document["rows"]:
            return 400, {"error": {"code": "filtered", "message": "row is filtered"}}
        return scored(document)

    result = await run(codec(status_rules=[{**RULE, "then": "fail"}]), Api(answer), [*range(64)])
    (failure,) = result.failures
    assert (failure.start, failure.stop, failure.status) == (20, 21, 400)
    assert failure.reason == "HTTP 400: row is filtered"


async def test_a_rule_that_means_the_quota_stops_the_run_with_the_server_s_words() -> None:
    api = Api(lambda _: (400, {"error": {"code": "filtered", "message": "no credits left"}}))
    with pytest.raises(RunStopped, match="HTTP 400: no credits left") as caught:
        await run(codec(status_rules=[{**RULE, "then": "quota"}]), api, [*range(64)])
    assert caught.value.kind == "quota"
    assert len(api.requests) <= 4


async def test_a_rule_that_means_a_retry_keeps_the_server_s_wait() -> None:
    busy = [True, True]

    def answer(document: Any) -> tuple[int, Any]:
        return (400, {"error": {"code": "filtered"}}) if busy and busy.pop() else scored(document)

    api = Api(answer, **{"Retry-After": "7"})
    result = await run(codec(status_rules=[{**RULE, "then": "retry"}]), api, [*range(8)])
    assert result.ok.all()
    assert result.stats.retries == 2
    assert api.times[1] - api.times[0] >= 7


async def test_a_page_that_only_one_row_asks_for_fails_that_row() -> None:
    def answer(document: Any) -> tuple[int, Any]:
        return (404, {"error": "no such model"}) if document["x"] == 5 else (200, {"y": document["x"]})

    api = Api(answer)
    template = Json(request={"x": "{{x}}"}, path="/m/{{x}}", outputs={"y": "y"})
    result = await run(template, api, [{"x": i} for i in range(40)])
    assert [(f.start, f.status) for f in result.failures] == [(5, 404)]
    assert result.values[result.ok].tolist() == [i for i in range(40) if i != 5]
    assert {request.url for request in api.requests} == {f"{URL}/m/{i}" for i in range(40)}


async def test_a_page_that_no_row_has_stops_the_run() -> None:
    template = Json(request={"x": "{{x}}"}, path="/m/{{x}}", outputs={"y": "y"})
    api = Api(lambda _: (404, {"error": "no such page"}))
    with pytest.raises(RunStopped, match="no such page"):
        await run(template, api, [{"x": i} for i in range(400)])
    assert len(api.requests) < 40


async def test_rows_that_cannot_be_sent_fail_before_the_others_of_their_request_are_sent() -> None:
    template = Json(request={"rows": "{{rows}}"}, item="<{{t}}>", answers="r", outputs={"y": "y"})
    api = Api(scored)
    rows: list[dict[str, Any]] = [{"t": i} for i in range(16)]
    rows[3], rows[9] = {}, {"t": None}
    result = await run(template, api, rows)
    assert [(f.start, f.attempts) for f in result.failures] == [(3, 0), (9, 0)]
    (request,) = api.requests
    assert len(orjson.loads(request.joined())["rows"]) == 14
    assert result.values.tolist() == [f"<{i}>" if i not in (3, 9) else "" for i in range(16)]


async def test_usage_is_summed_up_and_bounds_the_tokens() -> None:
    def answer(document: Any) -> tuple[int, Any]:
        return 200, {"y": 1, "u": {"in": 100, "out": 20}}

    template = Json(
        request="{{row}}", outputs={"y": "y"}, usage={"prompt_tokens": "u.in", "completion_tokens": "u.out"}
    )
    api = Api(answer)
    async with Client(
        URL, codec=template, transport=api, limits=Limits(concurrency=1, tokens_per_second=120)
    ) as client:
        result = await client.map([*range(30)])
        assert client.statistics().usage == {"prompt_tokens": 3000, "completion_tokens": 600}
    assert result.tolist() == [1] * 30
    assert api.times[-1] - api.times[0] > 20
