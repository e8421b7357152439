"""Chats through the client: a real local server, the mock, and a server that misbehaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanout
from fanout import Client, Limits, RetryPolicy, RunStopped
from fanout.serving.exchange import json_answer
from fanout.testing import FaultServer, MockEndpoint

PROMPTS = [f"prompt {i} é\0\u2028" for i in range(20)]
QUICK = RetryPolicy(max_attempts=4, initial_backoff=0.01, max_backoff=0.05)


def shout(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def too_long(status: int = 400) -> Any:
    return json_answer({"error": {"code": "context_length_exceeded", "message": "8 tokens at most"}}, status=status)


@pytest.mark.usefixtures("shared_local")
async def test_prompts_and_conversations_go_through_a_local_server() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    codec = fanout.codec("openai-chat", model="echo", system="be brief", extra={"max_tokens": 3})
    async with Client("local://echo", codec=codec, limits=Limits(concurrency=4)) as client:
        result = await client.map([*PROMPTS, "one two three four", talk, "", [{"content": "x"}]], on_error="keep")
        one = await client.predict("hello")
        usage = client.statistics().usage
    assert result.values["text"].tolist() == [*PROMPTS, "one two three", "c", "", ""]
    assert result.values["finish_reason"].tolist() == [*["stop"] * 20, "length", "stop", "", ""]
    assert [failure.start for failure in result.failures] == [22, 23]
    assert result.stats.requests == 22
    words = 20 * 3 + 4 + 3 + 22 * 2
    assert result.stats.usage == {"prompt_tokens": words, "completion_tokens": 64, "total_tokens": words + 64}
    assert usage["total_tokens"] == words + 64 + 3 + 1
    assert (str(one["text"]), str(one["finish_reason"])) == ("hello", "stop")


async def test_a_function_on_texts_chats_at_a_mock() -> None:
    with MockEndpoint(shout) as mock:
        async with Client(mock.url("openai-chat"), codec="openai-chat") as client:
            values = await client.map(PROMPTS)
    assert values["text"].tolist() == shout(PROMPTS)
    assert len(mock.requests) == len(PROMPTS)


async def test_a_row_that_is_too_long_fails_alone_and_is_not_asked_again() -> None:
    async with (
        FaultServer(shout, faults=lambda request: too_long() if b"prompt 7 " in request.body else None) as server,
        Client(server.url("openai-chat"), codec="openai-chat") as client,
    ):
        result = await client.map(PROMPTS, on_error="keep")
    assert [(f.start, f.status, f.attempts, f.reason) for f in result.failures] == [
        (7, 400, 1, "HTTP 400: 8 tokens at most")
    ]
    assert server.received == len(PROMPTS)


BLOCKED = [
    {"choices": [{"message": {"content": None, "refusal": "I cannot help"}, "finish_reason": "stop"}]},
    {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]},
    {"choices": [{"message": {"content": None}, "finish_reason": "SAFETY"}]},
    {"choices": [{"message": {"content": "The first step is"}, "finish_reason": "content_filter"}]},
    {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"], "flagged_input": "..."}}},
]


@pytest.mark.parametrize("document", BLOCKED)
async def test_row_73_a_blocked_answer_fails_its_row_at_once_and_is_not_asked_for_again(document: Any) -> None:
    blocked = json_answer({**document, "usage": {"total_tokens": 7}})
    async with (
        FaultServer(shout, faults=lambda request: blocked if b"prompt 7 " in request.body else None) as server,
        Client(server.url("openai-chat"), codec="openai-chat") as client,
    ):
        result = await client.map(PROMPTS, on_error="keep")
    assert [(failure.start, failure.attempts) for failure in result.failures] == [(7, 1)]
    assert server.received == len(PROMPTS)


@pytest.mark.parametrize("content", ["", None, "half"])
async def test_row_70_an_error_beside_an_empty_text_is_waited_for_and_merges_nothing(content: str | None) -> None:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    error = {"message": "Provider returned error", "code": 429, "metadata": {"raw": "error code: 1015"}}
    async with FaultServer(shout) as server:
        server.script(None, json_answer({"choices": [choice], "error": error}))
        async with Client(
            server.url("openai-chat"), codec="openai-chat", limits=Limits(concurrency=1), retry=QUICK
        ) as client:
            values = await client.map(PROMPTS)
    assert values["text"].tolist() == shout(PROMPTS)
    assert server.received == len(PROMPTS) + 1


async def test_rows_that_are_all_blocked_fail_without_stopping_the_run() -> None:
    prompts = [f"prompt {i}" for i in range(100)]
    async with (
        FaultServer(shout, faults=lambda _: json_answer(BLOCKED[0])) as server,
        Client(server.url("openai-chat"), codec="openai-chat") as client,
    ):
        result = await client.map(prompts, on_error="keep")
    assert (len(result.failures), server.received) == (100, 100)


async def test_rows_that_are_all_too_long_fail_without_stopping_the_run() -> None:
    async with (
        FaultServer(shout, faults=lambda _: too_long()) as server,
        Client(server.url("openai-chat"), codec="openai-chat") as client,
    ):
        result = await client.map(PROMPTS, on_error="keep")
    assert (len(result.failures), server.received) == (20, 20)


async def test_a_request_that_no_row_can_mend_stops_the_run_with_the_servers_words() -> None:
    codec = fanout.codec("openai-chat", extra={"max_tokens": -1})
    async with FaultServer(shout) as server, Client(server.url(codec.name), codec=codec) as client:
        with pytest.raises(RunStopped, match="max_tokens must be a whole number"):
            await client.map(PROMPTS)
    assert server.received <= 2 * 16 + 4


@pytest.mark.parametrize(
    "fault", ["row-missing", "row-extra", "one-row", "null", "nan", "huge-integer", "ragged", "truncated-json", "html"]
)
async def test_answers_that_are_spoiled_are_asked_for_again(fault: str) -> None:
    """One row is all that a chat has, so that only "one-row" leaves it as it was."""
    async with FaultServer(shout) as server:
        server.script(None, fault, None, fault)
        async with Client(
            server.url("openai-chat"), codec="openai-chat", limits=Limits(concurrency=1), retry=QUICK
        ) as client:
            values = await client.map(PROMPTS)
    assert values["text"].tolist() == shout(PROMPTS)
    assert server.hits[fault] == 2
    assert server.received == len(PROMPTS) + (0 if fault == "one-row" else 2)


async def test_texts_are_merged_by_row_whatever_the_order_of_completion() -> None:
    with MockEndpoint(shout, latency=lambda number: (number * 7 % 5) / 500) as mock:
        async with Client(mock.url("openai-chat"), codec="openai-chat") as client:
            values = await client.map(np.array(PROMPTS))
    assert values["text"].tolist() == shout([prompt.rstrip("\0") for prompt in PROMPTS])
