"""llama.cpp's own OpenAI-compatible server, with a tiny model. Not in CI: its first start compiles for ten minutes.

scripts/servers/llama/run.sh 8020 &
FANOUT_LLAMA_URL=http://127.0.0.1:8020 python -m pytest tests/real_chat
"""

from __future__ import annotations

import os
from typing import Any
from urllib.request import Request, urlopen

import orjson
import pytest

import fanout
from fanout import Client, Limits, RunStopped

URL = os.environ.get("FANOUT_LLAMA_URL", "")
EXTRA = {"temperature": 0, "max_tokens": 8}
ROWS: list[Any] = [f"say something about {subject}" for subject in ("tea", "été", "雪", "🙂 and\n\0", "a" * 50)] + [
    [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
]

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not URL, reason="FANOUT_LLAMA_URL names no server: see scripts/servers/llama/run.sh"),
]


def asked(row: Any) -> dict[str, Any]:
    """The server's answer to one row, without fanout."""
    messages = [{"role": "user", "content": row}] if isinstance(row, str) else row
    system = {"role": "system", "content": "be brief"}
    body = orjson.dumps({"messages": [system, *messages], **EXTRA})
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{URL}/v1/chat/completions", body, headers), timeout=30) as answer:
        return orjson.loads(answer.read())


async def test_texts_reasons_and_usage_are_the_servers_own_for_every_row() -> None:
    expected = [asked(row) for row in ROWS]
    codec = fanout.codec("openai-chat", model="tiny", system="be brief", extra=EXTRA)
    async with Client(URL, codec=codec, limits=Limits(concurrency=4)) as client:
        result = await client.map(ROWS, on_error="keep")
    assert result.failures == ()
    choices = [answer["choices"][0] for answer in expected]
    assert result.values["text"].tolist() == [choice["message"]["content"] for choice in choices]
    assert result.values["finish_reason"].tolist() == [choice["finish_reason"] for choice in choices]
    assert result.stats.usage["total_tokens"] == sum(answer["usage"]["total_tokens"] for answer in expected)


async def test_a_row_beyond_the_context_fails_alone_with_the_servers_words_after_one_request() -> None:
    codec = fanout.codec("openai-chat", extra=EXTRA)
    async with Client(URL, codec=codec) as client:
        result = await client.map([*ROWS, "long " * 500], on_error="keep")
    (failure,) = result.failures
    assert (failure.start, failure.status, failure.attempts) == (len(ROWS), 400, 1)
    assert "maximum context length is 512 tokens" in failure.reason
    assert result.stats.requests == len(ROWS) + 1


async def test_a_field_of_the_wrong_type_stops_the_run_and_quotes_the_server() -> None:
    codec = fanout.codec("openai-chat", extra={"max_tokens": "many"})
    async with Client(URL, codec=codec, retry=fanout.RetryPolicy(max_attempts=2, initial_backoff=0.01)) as client:
        with pytest.raises(RunStopped, match="max_tokens"):
            await client.map(ROWS)


# Quotes in an enum end the server (llama-cpp-python 0.3.36), and it leaves the bounds of numbers out of its grammar.
FIELDS: dict[str, Any] = {
    "label": {"type": "str", "enum": ["good", "bad", "fair enough"]},
    "sure": {"type": "bool"},
    "stars": {"type": "int", "enum": [1, 2, 3, 4, 5]},
    "parts": {"type": "list", "items": {"type": "str", "enum": ["a", "b"]}, "min_items": 1, "max_items": 3},
}
REVIEWS = [f"review {number}: {text}" for number in range(4) for text in ROWS[:5]]


def typed(schema: dict[str, Any], mode: str, **extra: Any) -> Any:
    return fanout.codec("openai-chat", model="tiny", schema=schema, mode=mode, extra={"max_tokens": 100} | extra)


async def test_typed_answers_of_random_weights_are_valid_in_every_row() -> None:
    """The server makes the model write what the schema allows; only that is certain of random weights."""
    async with Client(URL, codec=typed(FIELDS, "tools"), limits=Limits(concurrency=4)) as client:
        result = await client.map(REVIEWS, on_error="keep")
    assert result.failures == ()
    assert set(result.values["label"].tolist()) <= set(FIELDS["label"]["enum"])
    assert (result.values["sure"].dtype, result.values["stars"].dtype) == ("bool", "int64")
    assert set(result.values["stars"].tolist()) <= {1, 2, 3, 4, 5}
    parts = list(map(orjson.loads, result.values["parts"].tolist()))
    assert all(1 <= len(part) <= 3 and set(part) <= {"a", "b"} for part in parts)


async def test_a_number_beyond_its_bounds_is_asked_for_again_and_then_fails_its_row() -> None:
    schema = {"score": {"type": "int", "min": 0, "max": 10_000_000}}
    async with Client(URL, codec=typed(schema, "tools"), limits=Limits(concurrency=4)) as client:
        result = await client.map(REVIEWS, on_error="keep")
    scores = result.values[result.ok]
    assert ((scores >= 0) & (scores <= 10_000_000)).all()
    assert all("score" in failure.reason and failure.attempts == 2 for failure in result.failures)
    assert result.stats.requests > len(REVIEWS), "not all of the numbers are right at once"


@pytest.mark.parametrize("mode", ["json_object", "prompt"])
async def test_an_answer_that_is_not_of_the_schema_fails_its_row_with_its_text(mode: str) -> None:
    """Neither mode binds the model to the schema, and random weights do not know it."""
    async with Client(URL, codec=typed({"label": FIELDS["label"]}, mode)) as client:
        result = await client.map(REVIEWS[:5], on_error="keep")
    assert not result.ok.any()
    assert [(failure.start, failure.stop) for failure in result.failures] == [(row, row + 1) for row in range(5)]


async def test_a_mode_that_the_server_lacks_stops_the_run_and_quotes_the_server() -> None:
    retry = fanout.RetryPolicy(max_attempts=2, initial_backoff=0.01)
    async with Client(URL, codec=typed(FIELDS, "json_schema"), retry=retry) as client:
        with pytest.raises(RunStopped, match="response_format"):
            await client.map(REVIEWS)
