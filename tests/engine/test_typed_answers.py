"""Runs with typed answers, in virtual time: invalid answers are asked for again, then fail with their text."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fanout
from fanout import Client, Limits, Response, RetryPolicy, RunStopped
from fanout.codecs import OpenAIChat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
URL = "http://api.invalid/v1/chat/completions"
SCHEMA = {
    "label": {"type": "str", "enum": ["good", "bad"]},
    "score": {"type": "float", "min": 0, "max": 1},
    "length": "int",
    "short": "bool",
    "words": {"type": "list", "items": "str"},
}
COUNTS = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def expected(review: str) -> dict[str, Any]:
    label = "good" if len(review) % 2 else "bad"
    score = len(review) % 10 / 10
    return {
        "label": label, "score": score, "length": len(review), "short": len(review) < 20, "words": review.split()[:2],
    }  # fmt: skip


def chat(content: str | None, reason: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": COUNTS}


class Server:
    """A chat server: ``answer`` gives the response to the messages of a request."""

    def __init__(self, answer: Callable[[list[Any]], Any]) -> None:
        self._answer = answer
        self.documents: list[Any] = []
        self.headers: list[Any] = []

    async def send(self, request: Request) -> Response:
        document = orjson.loads(request.joined())
        self.documents.append(document)
        self.headers.append(request.headers)
        await asyncio.sleep(0.1)
        answer = self._answer(document["messages"])
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return Response(status=status, headers={}, body=orjson.dumps(body), url=request.url)


async def run(server: Server, rows: list[Any], client: dict[str, Any] | None = None, **options: Any) -> Any:
    codec = OpenAIChat(**{"prompt": "Review: {{row}}", "schema": SCHEMA, **options})
    limits = {"limits": Limits(concurrency=8), **(client or {})}
    async with Client(URL, codec=codec, transport=server, **limits) as one:
        return await one.map(rows, on_error="keep")


def good(messages: list[Any]) -> dict[str, Any]:
    return chat(orjson.dumps(expected(messages[0]["content"].removeprefix("Review: "))).decode())


async def test_each_field_is_an_output_of_its_dtype_and_the_schema_is_sent() -> None:
    server = Server(good)
    result = await run(server, ["a b c", ""])
    assert result.values["label"].tolist() == ["good", "bad"]
    assert [(name, array.dtype.kind) for name, array in result.values.items()] == [
        ("label", "T"), ("score", "f"), ("length", "i"), ("short", "b"), ("words", "T"),
    ]  # fmt: skip
    assert result.values["words"].tolist() == ['["a","b"]', "[]"]
    form = server.documents[0]["response_format"]
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["properties"]["label"] == {"type": "string", "enum": ["good", "bad"]}


async def test_a_cache_serves_no_answer_that_another_validation_has_accepted(tmp_path: Path) -> None:
    def at_most(n: int) -> Callable[[Any], None]:
        def check(answer: dict[str, Any]) -> None:
            if answer["length"] > n:
                raise ValueError("it is too long")

        return check

    cache = {"cache": fanout.Cache(path=str(tmp_path / "c.sqlite"), sampled=True)}
    server = Server(good)
    for most, oks, requests in [(9, [True, True], 2), (9, [True, True], 2), (2, [True, False], 5)]:
        result = await run(server, ["a", "a b c"], cache, validate=at_most(most))
        assert result.ok.tolist() == oks
        assert len(server.documents) == requests


async def test_an_integer_of_any_size_in_an_invalid_answer_is_asked_for_again() -> None:
    """Some servers give the arguments of a tool as an object; the model chooses its numbers."""
    function = {"name": "answer", "arguments": {"length": 0}}
    document = chat(None, tool_calls=[{"id": "call_1", "type": "function", "function": function}])
    body = orjson.dumps(document).replace(b'"length":0', b'"length":' + b"7" * 30)
    server = Server(lambda _: orjson.Fragment(body))
    result = await run(server, ["a"], mode="tools")
    assert not result.ok.any()
    assert server.documents[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]["length"] == pytest.approx(
        int("7" * 30)
    )


async def test_an_invalid_answer_is_asked_for_again_with_its_fault() -> None:
    def answer(messages: list[Any]) -> Any:
        return chat('{"label": "so so"}') if len(messages) == 1 else good(messages)

    server = Server(answer)
    result = await run(server, ["a"])
    assert result.ok.all()
    again = server.documents[1]["messages"]
    assert [one["role"] for one in again] == ["user", "assistant", "user"]
    assert again[1]["content"] == '{"label": "so so"}'
    assert again[2]["content"] == (
        "The answer is invalid: Invalid enum value 'so so' - at `$.label`. Answer again, with one JSON object that is "
        "valid against the schema."
    )


@pytest.mark.parametrize("reasks", [0, 1, 3])
async def test_a_row_whose_answers_stay_invalid_fails_with_its_text_after_the_reasks(reasks: int) -> None:
    def answer(messages: list[Any]) -> Any:
        return chat('{"label": 7}') if "never" in messages[0]["content"] else good(messages)

    server = Server(answer)
    result = await run(server, ["a", "b", "never", "c"], reasks=reasks)
    assert result.ok.tolist() == [True, True, False, True]
    (failure,) = result.failures
    assert failure.reason == 'the answer is invalid: Expected `str`, got `int` - at `$.label`: {"label": 7}'
    assert (failure.attempts, failure.status) == (1 + reasks, 200)
    assert len(server.documents) == 4 + reasks


async def test_reasks_are_attempts_and_requests_of_the_run() -> None:
    server = Server(lambda messages: chat("no"))
    with pytest.raises(RunStopped, match="max_requests"):
        await run(server, ["a", "b"], {"limits": Limits(concurrency=1, max_requests=1)})
    assert len(server.documents) == 1
    server = Server(lambda messages: chat("no") if "1" in messages[0]["content"] else good(messages))
    result = await run(server, ["a", "1", "b"], {"retry": RetryPolicy(max_attempts=2)}, reasks=9)
    assert (result.failures[0].attempts, len(server.documents)) == (2, 4)


@pytest.mark.parametrize(("kind", "limits"), [
    ("max_requests", Limits(concurrency=4, max_requests=13)),
    ("cost", Limits(concurrency=4, max_cost=13.0)),
    ("max_requests", Limits(concurrency=4, max_requests=13, max_cost=15.0)),
    ("cost", Limits(concurrency=4, max_requests=15, max_cost=13.0)),
])  # fmt: skip
async def test_reasks_end_at_the_limits_of_requests_and_cost(kind: str, limits: Limits) -> None:
    server = Server(lambda messages: chat("no") if len(messages) == 1 else good(messages))
    options = {"limits": limits, "cost": fanout.Prices(per_request=1.0)}
    with pytest.raises(RunStopped) as caught:
        await run(server, [f"review {i}" for i in range(20)], options)
    result = caught.value.result
    assert caught.value.kind == kind
    assert len(server.documents) == result.stats.requests == result.stats.cost == 13
    # Each answer takes a request and a reask. A row whose reask the limit forbids is pending, and has not failed.
    reasks = sum(len(document["messages"]) > 1 for document in server.documents)
    assert (result.stats.ok, result.stats.failed) == (reasks, 0)
    assert 0 < sum(len(rows) for rows in result.pending) == 20 - reasks


async def test_a_reask_that_meets_an_error_is_repeated_as_it_is() -> None:
    statuses = iter([200, 503, 200])

    def answer(messages: list[Any]) -> Any:
        status = next(statuses)
        return (503, {"error": "busy"}) if status == 503 else chat("no") if len(messages) == 1 else good(messages)

    server = Server(answer)
    assert (await run(server, ["a"])).ok.all()
    assert server.documents[1] == server.documents[2] != server.documents[0]


async def test_a_reask_has_an_idempotency_key_of_its_own() -> None:
    server = Server(lambda messages: chat("no") if len(messages) == 1 else good(messages))
    endpoint = fanout.Endpoint(url=URL, idempotency_header="Idempotency-Key")
    codec = OpenAIChat(prompt="Review: {{row}}", schema=SCHEMA)
    async with Client(endpoint, codec=codec, transport=server) as client:
        await client.map(["a"])
    first, second = (headers["Idempotency-Key"] for headers in server.headers)
    assert first != second


async def test_a_server_that_heeds_no_schema_is_asked_for_two_rows_alone() -> None:
    server = Server(lambda messages: chat("I like it"))
    with pytest.raises(RunStopped, match=r"accepts no row at all.*I like it") as caught:
        await run(server, [f"{i}" for i in range(100)], {"limits": Limits(concurrency=1)})
    assert caught.value.kind == "rejected"
    assert len(server.documents) <= 6


async def test_a_hedged_answer_that_is_invalid_counts_as_one_reask() -> None:
    server = Server(lambda messages: chat("no") if "never" in messages[0]["content"] else good(messages))
    hedge = {"hedge": fanout.Hedge(share=1.0, delay=0.05), "limits": Limits(concurrency=4)}
    result = await run(server, ["a", "b", "c", "never", "d"], hedge)
    assert result.ok.tolist() == [True, True, True, False, True]
    assert result.failures[0].attempts == 2


def reviews(n: int) -> list[str]:
    """Reviews with quotes, line ends, JSON, empty texts and duplicates."""
    rng = random.Random(5)
    parts = [
        'He said "no"',
        "line\nend",
        "",
        "naïve — 好",
        '{"label": "bad"}',
        "back\\slash",
        "{{row}}",
        "```json\n{}```",
    ]
    return [" ".join(rng.choices(parts, k=rng.randrange(4))) + (str(i) if i % 3 else "") for i in range(n)]


@pytest.mark.parametrize("n", [300, pytest.param(5000, marks=pytest.mark.slow)])
async def test_every_review_is_right_or_failed_with_its_reason_in_typed_columns(n: int, tmp_path: Path) -> None:
    rows = reviews(n)
    texts = sorted(set(rows))
    random.Random(1).shuffle(texts)
    share = max(1, len(texts) // 100)
    malformed, hopeless = set(texts[: 2 * share]), set(texts[:share])
    refused, cut = set(texts[2 * share : 3 * share]), set(texts[3 * share : 4 * share])

    def answer(messages: list[Any]) -> Any:
        review = messages[0]["content"].removeprefix("Review: ")
        text = orjson.dumps(expected(review)).decode()
        if review in refused:
            return chat(None, refusal="I cannot judge that")
        if review in cut:
            return chat(text[:20], "length")
        if review in malformed and (len(messages) == 1 or review in hopeless):
            return chat(text.replace("}", ""))
        return chat(text)

    table = pa.table({"review": rows, "id": list(range(n))})
    pq.write_table(table, tmp_path / "reviews.parquet")
    codec = OpenAIChat(prompt="Review: {{review}}", schema=SCHEMA, model="m")
    source = fanout.open_source(tmp_path / "reviews.parquet", columns=["review"])
    server = Server(answer)
    async with Client(URL, codec=codec, transport=server, limits=Limits(concurrency=32)) as client:
        result = await client.run(source, fanout.open_sink(tmp_path / "answers.parquet"))
        usage = client.statistics().usage
    written = pq.read_table(tmp_path / "answers.parquet")
    reasons = {row: failure.reason for failure in result.failures for row in range(failure.start, failure.stop)}
    bad = hopeless | refused | cut
    assert sorted(reasons) == [i for i, review in enumerate(rows) if review in bad]
    for i, review in enumerate(rows):
        if review in refused:
            assert "the model gives no text: I cannot judge that" in reasons[i]
        elif review in cut:
            assert "cut off (finish_reason length)" in reasons[i]
        elif review in hopeless:
            assert "Input data was truncated" in reasons[i]
            assert '"label":"' in reasons[i]
    ok = np.array([review not in bad for review in rows])
    assert np.array_equal(result.ok, ok)
    kinds = {field.name: str(field.type) for field in written.schema}
    assert [kinds[name] for name in SCHEMA] == ["string", "double", "int64", "bool", "string"]
    columns = {name: written[name].to_pylist() for name in SCHEMA}
    for i in np.flatnonzero(ok).tolist():
        wanted = expected(rows[i])
        wanted["words"] = orjson.dumps(wanted["words"]).decode()
        assert {name: column[i] for name, column in columns.items()} == wanted
    asked_again = sum(review in malformed for review in rows)
    assert len(server.documents) == n + asked_again
    assert usage["total_tokens"] == 15 * len(server.documents)  # an invalid answer is billed, too
