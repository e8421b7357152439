"""The chat API: a prompt or messages out, a text and why it ended back."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.classify import classify_invalid
from fanout.codecs import OpenAIChat
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.types import Action, TensorSpec

TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
STRING = np.dtypes.StringDType()


def body(row, **options):
    return orjson.loads(OpenAIChat(**options).encode([row]).body)


def chat_answer(content, reason="stop", **more):
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def decoded(document):
    return {name: column.tolist() for name, column in OpenAIChat().decode(document, 1).values.items()}


def test_a_prompt_becomes_a_message_of_the_user():
    assert body("é") == {"messages": [{"role": "user", "content": "é"}]}


@pytest.mark.parametrize("row", [TALK, tuple(TALK), np.array(TALK, object)])
def test_messages_are_sent_as_they_are(row):
    assert body(row) == {"messages": TALK}


def test_messages_are_sent_unchanged():
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    row = [{"role": "user", "content": parts}, {"role": "assistant", "content": None, "tool_calls": []}]
    assert body(row) == {"messages": row}


def test_the_options_are_fields_and_the_first_message():
    result = body("a", model="m", system="be short", extra={"temperature": 0, "stream": False, "n": 1})
    assert result == {
        "model": "m",
        "temperature": 0,
        "stream": False,
        "n": 1,
        "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "a"}],
    }
    assert body(TALK, system="be short")["messages"][1:] == TALK


@pytest.mark.parametrize("dtype", ["U", "S", STRING, object])
def test_arrays_of_texts_are_prompts(dtype):
    result = orjson.loads(OpenAIChat().encode(np.array(["a"], dtype)).body)
    assert result["messages"][0]["content"] == "a"


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ("", "empty prompt"),
        (None, "missing"),
        (float("nan"), "missing"),
        (b"\xff", "UTF-8"),
        ("\ud800", "JSON"),
        (7, "a text or a list of messages, not int"),
        (TALK[0], "one message, which belongs into a list"),
        ([], "without messages"),
        (["a"], "not a dict with a role"),
        ([{"content": "a"}], "not a dict with a role"),
        ([{"role": "", "content": "a"}], "not a dict with a role"),
        ([{"role": None, "content": "a"}], "not a dict with a role"),
        ([{"role": "user", "content": float("nan")}], "NaN"),
        ([{"role": "user", "content": {1}}], "JSON"),
    ],
)
def test_rows_that_are_no_conversation_fail_alone_by_their_number(bad, match):
    with pytest.raises(EncodeError, match=match) as caught:
        OpenAIChat().encode(["a", bad, "b", bad])
    assert caught.value.rows == (1, 3)


@pytest.mark.parametrize("rows", [{"a": np.array(["x"])}, np.ones((1, 3)), np.ones(1), np.array([["a"]]), ["a", "b"]])
def test_input_that_holds_no_single_conversations_is_an_input_error(rows):
    with pytest.raises(InputError, match="chat"):
        OpenAIChat().encode(rows)


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("model", "", "must be a text"),
        ("system", 1, "must be a text"),
        ("extra", [], "a table"),
        ("extra", {"stream": True}, "stream"),
        ("extra", {"n": 2}, "n = 2"),
        ("extra", {"messages": []}, "the rows go there"),
        ("extra", {"model": "m"}, "an option of its own"),
    ],
)
def test_a_wrong_option_is_named(option, value, match):
    with pytest.raises(ConfigError, match=match) as caught:
        OpenAIChat(**{option: value})
    assert caught.value.key == option


def test_the_form_of_answers_and_the_limits_are_known():
    text = TensorSpec(dtype=STRING, shape=())
    assert OpenAIChat().spec == {"text": text, "finish_reason": text}
    assert (OpenAIChat().max_rows, OpenAIChat.path) == (1, "/v1/chat/completions")


def test_an_answer_is_its_text_and_why_it_ended(response):
    assert decoded(response(chat_answer("hello", "length"))) == {"text": ["hello"], "finish_reason": ["length"]}


@pytest.mark.parametrize(
    ("content", "text"),
    [("", ""), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab")],
)
def test_a_text_may_be_empty_or_in_parts(response, content, text):
    assert decoded(response(chat_answer(content)))["text"] == [text]


@pytest.mark.parametrize("reason", [None, 7])
def test_the_finish_reason_may_be_missing(response, reason):
    assert decoded(response(chat_answer("a", reason)))["finish_reason"] == [""]


def test_other_fields_of_an_answer_are_ignored(response):
    assert decoded(response(b'{"choices": [{"message": {"content": "a"}, "logprobs": {"x": -Infinity}}]}'))["text"] == [
        "a"
    ]


def test_the_usage_has_its_details_and_nothing_but_counts(response):
    usage = {
        "prompt_tokens": 3,
        "total_tokens": 5,
        "queue_time": 0.5,
        "cached": True,
        "bad": -1,
        "completion_tokens_details": {"reasoning_tokens": 2, "kind": "x", "deeper": {"a": 1}},
    }
    result = OpenAIChat().decode(response({**chat_answer("a"), "usage": usage}), 1)
    counts = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens_details.reasoning_tokens": 2}
    assert result.usage == counts


def test_of_very_many_counts_the_first_are_read_and_of_a_long_name_none(response):
    many = {"total_tokens": 1, "n" * 101: 2, "details": {f"d{i}": i for i in range(400_000)}}
    many |= {f"n{i}": i for i in range(400_000)}
    usage = OpenAIChat().decode(response({**chat_answer("a"), "usage": many}), 1).usage
    assert (usage["total_tokens"], usage["details.d1"]) == (1, 1)
    assert len(usage) == 1 + 61 + 64
    assert OpenAIChat().decode(response({**chat_answer("a"), "model": "m" * 101}), 1).model is None


@pytest.mark.parametrize("usage", [None, [], "many"])
def test_an_answer_without_usage_is_one(response, usage):
    assert OpenAIChat().decode(response({**chat_answer("a"), "usage": usage}), 1).usage == {}


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ([], "no list 'choices'"),
        ({"error": {"message": "overloaded"}}, "overloaded"),
        ({"choices": []}, "with an answer in it"),
        ({"choices": [None]}, "without a text"),
        ({"choices": [{"message": "a"}]}, "without a text"),
        ({"choices": chat_answer("a")["choices"] * 2}, "2 choices"),
        (chat_answer(None), "without a text"),
        (chat_answer(7), "without a text"),
        (chat_answer([]), "without a text"),
        (chat_answer([{"type": "text", "text": "a"}, {"type": "image_url"}]), "without a text"),
        (chat_answer([{"type": "text", "text": None}]), "without a text"),
        (chat_answer("half", "error"), "broke off"),
        ({"choices": [{**chat_answer("half")["choices"][0], "error": {"code": 502}}]}, "broke off"),
    ],
)
def test_an_invalid_answer_still_reports_its_usage(response, document, match):
    if isinstance(document, dict):
        document = {**document, "usage": {"total_tokens": 9}}
    with pytest.raises(InvalidResponse, match=match) as caught:
        OpenAIChat().decode(response(document), 1)
    assert caught.value.usage == ({"total_tokens": 9} if document else {})


FLAGGED = {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["hate"], "flagged_input": "x"}}}


@pytest.mark.parametrize("content", ["", None, [], [{"type": "refusal", "refusal": "no"}], "a part"])
def test_a_blocked_answer_is_no_empty_text_and_no_part_of_one(response, content):
    with pytest.raises(InvalidResponse):
        OpenAIChat().decode(response(chat_answer(content, "content_filter")), 1)


@pytest.mark.parametrize("content", ["half", "", None])
@pytest.mark.parametrize("of_choice", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "stop"),
    [
        ({"code": 429, "message": "slow down"}, 429, None),
        ({"code": "rate_limit_exceeded", "message": "slow down"}, 429, None),
        ({"code": 402, "message": "no money"}, 402, "quota"),
        ({"code": "insufficient_quota", "message": "no money"}, 200, "quota"),
    ],
)
def test_an_error_beside_a_text_or_in_its_choice_counts_as_the_status_that_it_names(
    response, content, of_choice, error, status, stop
):
    for reason in ("error", "stop", "length", "content_filter"):
        document = chat_answer(content, reason)
        (document["choices"][0] if of_choice else document)["error"] = error
        broken = response(document)
        with pytest.raises(InvalidResponse) as caught:
            OpenAIChat().decode(broken, 1)
        assert OpenAIChat().classify(broken) is None
        verdict = classify_invalid(broken, caught.value)
        assert verdict.status == status
        assert error["message"] in verdict.reason
        assert (verdict.stop if verdict.action is Action.STOP else None) == stop


def test_an_odd_error_in_a_choice_is_an_invalid_answer(response):
    broken = chat_answer("half", "error")
    broken["choices"][0]["error"] = {"code": "odd"}
    assert OpenAIChat().classify(response(broken)) is None


@pytest.mark.parametrize(
    ("status", "document", "reason"),
    [
        (400, {"error": {"code": "context_length_exceeded", "message": "too\nlong"}}, "HTTP 400: too long"),
        (400, {"error": {"code": "content_filter"}}, "HTTP 400: content_filter, None"),
        (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "n_ctx"}}, "n_ctx"),
        (400, {"object": "error", "message": "This model's maximum context length is 8 tokens"}, "is 8 tokens"),
        (200, chat_answer(None, refusal="I cannot help with that"), "no text: I cannot help with that"),
        (200, chat_answer(None, tool_calls=[{"id": "1"}]), "no text: tool_calls"),
        (200, chat_answer(None, "length"), "no text: length"),
        (200, chat_answer(None, "content_filter"), "no text: content_filter"),
        (200, chat_answer("", "content_filter"), "no text: content_filter"),
        (200, chat_answer("", "SAFETY"), "no text: SAFETY"),
        (200, chat_answer("a part", "content_filter"), "text is cut off: content_filter"),
        (200, chat_answer("a part", "content_filter: RECITATION"), "text is cut off: content_filter: RECITATION"),
        (200, chat_answer(None, "prohibited_content"), "no text: prohibited_content"),
        (200, chat_answer("", refusal="I cannot help with that"), "no text: I cannot help with that"),
        (200, chat_answer([{"type": "refusal", "refusal": "I will not"}]), "no text: I will not"),
        (200, {"error": {"code": "content_filter", "message": "filtered"}}, "HTTP 200: filtered"),
        (400, {"error": {"code": "content_policy_violation", "message": "policy"}}, "HTTP 400: policy"),
        (400, {"error": {"code": "data_inspection_failed", "message": "inspected"}}, "HTTP 400: inspected"),
        (403, FLAGGED, "HTTP 403: flagged"),
        (200, FLAGGED, "HTTP 200: flagged"),
    ],
)
def test_a_row_that_would_cost_the_same_again_fails_at_once(response, status, document, reason):
    verdict = OpenAIChat().classify(response(document, status=status))
    assert (verdict.action, verdict.status) == (Action.FAIL, status)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (400, {"error": {"code": "invalid_value", "message": "temperature"}}),
        (400, {"error": "no"}),
        (400, b"no"),
        (400, []),
        (429, {"error": {"message": "maximum context length of your tier, a minute"}}),
        (500, {"error": {"code": "context_length_exceeded"}}),
        (403, {"error": {"code": 403, "message": "no such key"}}),
        (403, {"error": {"code": 403, "message": "no", "metadata": {"reasons": []}}}),
        (200, chat_answer(None)),
        (200, chat_answer("")),
        (200, chat_answer("half", "error")),
        (200, {"choices": []}),
        (200, {"choices": [{"message": None}]}),
        (200, {"choices": [None]}),
    ],
)
def test_all_other_answers_are_left_to_the_general_policy(response, status, document):
    assert OpenAIChat().classify(response(document, status=status)) is None


@given(st.text(), st.text())
def test_texts_come_back_as_they_were(response, prompt, answer):
    if prompt:
        assert body(prompt)["messages"] == [{"role": "user", "content": prompt}]
    assert decoded(response(chat_answer(answer, prompt))) == {"text": [answer], "finish_reason": [prompt]}


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "reasoning"])
def test_thinking_beside_the_text_is_left_out(response, kind):
    thinking = {"type": kind, "thinking": [{"type": "text", "text": "hm"}], "text": "hm"}
    parts = [thinking, {"type": "text", "text": "4"}, thinking, {"type": "text", "text": "2"}]
    assert decoded(response(chat_answer(parts)))["text"] == ["42"]


@pytest.mark.parametrize(
    "other", [{"type": "image_url"}, {"type": "refusal", "refusal": "no"}, {"text": "x"}, "x", None]
)
def test_parts_of_other_kinds_beside_the_text_make_it_invalid(response, other):
    with pytest.raises(InvalidResponse, match="without a text"):
        decoded(response(chat_answer([{"type": "text", "text": "42"}, other])))


def test_a_row_without_tokens_left_for_a_text_fails_at_once(response):
    document = chat_answer([{"type": "thinking", "thinking": "hm"}], "length")
    with pytest.raises(InvalidResponse):
        decoded(response(document))
    verdict = OpenAIChat().classify(response(document))
    assert (verdict.action, "length" in verdict.reason) == (Action.FAIL, True)
    assert OpenAIChat().classify(response(chat_answer([{"type": "thinking", "thinking": "hm"}], "stop"))) is None


def test_a_byte_order_mark_does_no_harm(response):
    marked = response(b"\xef\xbb\xbf" + orjson.dumps(chat_answer("42")))
    assert decoded(marked)["text"] == ["42"]
