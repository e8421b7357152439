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
