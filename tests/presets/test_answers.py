"""Requests and responses as vendors document them, and answers that a preset refuses."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

import fanout
from fanout import Action, DecodedResponse
from fanout.classify import classify_response
from fanout.types import Response


def response(document: Any, status: int = 200) -> Response:
    return Response(status=status, headers={"Content-Type": "application/json"}, body=orjson.dumps(document))


def values_of(codec: fanout.Codec, document: Any, n_rows: int) -> Any:
    decoded = codec.decode(response(document), n_rows)
    values = decoded.values if isinstance(decoded, DecodedResponse) else decoded
    if not isinstance(values, dict):
        return values.tolist()
    outputs = {name: array.tolist() for name, array in values.items()}
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def usage_of(codec: fanout.Codec, document: Any, n_rows: int) -> dict[str, int]:
    return dict(codec.decode(response(document), n_rows).usage)


# The examples of the vendors' pages, in November 2026, with shorter vectors and texts.
DOCUMENTED = {
    "openai-responses": (
        {"model": "gpt-4.1"},
        ["Tell me a three sentence bedtime story about a unicorn."],
        {"model": "gpt-4.1", "input": "Tell me a three sentence bedtime story about a unicorn.", "store": False},
        {
            "id": "resp_67ccd2bed1ec8190b14f964abc054267", "object": "response", "created_at": 1741476542,
            "status": "completed", "error": None, "incomplete_details": None, "instructions": None,
            "output": [
                {
                    "type": "message", "id": "msg_67cc", "status": "completed", "role": "assistant",
                    "content": [{"type": "output_text", "text": "In a peaceful grove ...", "annotations": []}],
                }
            ],
            "usage": {"input_tokens": 36, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 87},
        },
        {"text": ["In a peaceful grove ..."], "status": ["completed"]},
        {"prompt_tokens": 36, "completion_tokens": 87, "cached_tokens": 0},
    ),
    "cohere-embed": (
        {"model": "embed-v4.0", "input_type": "classification"},
        ["hello", "goodbye"],
        {
            "model": "embed-v4.0", "texts": ["hello", "goodbye"], "input_type": "classification",
            "embedding_types": ["float"],
        },
        {
            "id": "da6e531f-54c5-4a73-bf92-f60566d8d753",
            "embeddings": {"float": [[0.5, -0.25], [0.125, 1]]},
            "texts": ["hello", "goodbye"],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}},
        },
        [[0.5, -0.25], [0.125, 1.0]],
        {"prompt_tokens": 2},
    ),
    "cohere-rerank": (
        {"model": "rerank-v3.5"},
        [{"query": "What is the capital of the United States?", "documents": ["Carson City", "Saipan", "Washington"]}],
        {
            "model": "rerank-v3.5", "query": "What is the capital of the United States?",
            "documents": ["Carson City", "Saipan", "Washington"],
        },
        {
            "results": [
                {"index": 2, "relevance_score": 0.999071}, {"index": 0, "relevance_score": 0.32713068},
                {"index": 1, "relevance_score": 0.1867867},
            ],
            "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf",
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        },
        ["[0.32713068,0.1867867,0.999071]"],
        {"search_units": 1},
    ),
    "gemini-embed": (
        {},
        ["What is life?", "How?"],
        {
            "requests": [
                {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "What is life?"}]}},
                {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "How?"}]}},
            ]
        },
        {"embeddings": [{"values": [-0.5, 0.25]}, {"values": [0.125, 2]}]},
        [[-0.5, 0.25], [0.125, 2.0]],
        None,
    ),
    "gemini-generate": (
        {"model": "gemini-2.5-flash", "thinking_budget": 0},
        ["Explain how AI works in a few words"],
        {
            "contents": [{"role": "user", "parts": [{"text": "Explain how AI works in a few words"}]}],
            "generationConfig": {"thinkingConfig": {"thinkingBudget": 0}},
        },
        {
            "candidates": [
                {"content": {"parts": [{"text": "AI learns patterns."}], "role": "model"}, "finishReason": "STOP"}
            ],
            "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 5, "totalTokenCount": 13},
        },
        {"text": ["AI learns patterns."], "finish_reason": ["STOP"]},
        {"prompt_tokens": 8, "completion_tokens": 5},
    ),
    "anthropic-messages": (
        {"model": "claude-sonnet-4-5"},
        ["Hello, Claude"],
        {"model": "claude-sonnet-4-5", "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello, Claude"}]},
        {
            "id": "msg_01XFDUDYJgAACzvnptvVoYEL", "type": "message", "role": "assistant",
            "content": [{"type": "text", "text": "Hello!"}], "model": "claude-sonnet-4-5",
            "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 12, "output_tokens": 6},
        },
        {"text": ["Hello!"], "stop_reason": ["end_turn"]},
        {"prompt_tokens": 12, "completion_tokens": 6},
    ),
    "ollama-chat": (
        {"model": "llama3.2"},
        ["why is the sky blue?"],
        {"model": "llama3.2", "messages": [{"role": "user", "content": "why is the sky blue?"}], "stream": False},
        {
            "model": "llama3.2", "created_at": "2023-12-12T14:13:43.416799Z",
            "message": {"role": "assistant", "content": "Hello! How are you today?"}, "done_reason": "stop",
            "done": True, "total_duration": 5191566416, "prompt_eval_count": 26, "eval_count": 298,
        },
        {"text": ["Hello! How are you today?"], "done_reason": ["stop"]},
        {"prompt_tokens": 26, "completion_tokens": 298},
    ),
    "tei-embed": (
        {}, ["What is Deep Learning?"], {"inputs": ["What is Deep Learning?"]}, [[0.5, 0.25]], [[0.5, 0.25]], None,
    ),
    "tei-rerank": (
        {},
        [{"query": "What is Deep Learning?", "documents": ["Deep Learning is not...", "Deep learning is..."]}],
        {"query": "What is Deep Learning?", "texts": ["Deep Learning is not...", "Deep learning is..."]},
        [{"index": 1, "score": 0.9975}, {"index": 0, "score": 0.8387}],
        ["[0.8387,0.9975]"],
        None,
    ),
    "vllm-score": (
        {"model": "BAAI/bge-reranker-v2-m3"},
        [
            {"text_1": "What is the capital of Brazil?", "text_2": "The capital of Brazil is Brasilia."},
            {"text_1": "What is the capital of France?", "text_2": "The capital of France is Paris."},
        ],
        {
            "model": "BAAI/bge-reranker-v2-m3",
            "text_1": ["What is the capital of Brazil?", "What is the capital of France?"],
            "text_2": ["The capital of Brazil is Brasilia.", "The capital of France is Paris."],
        },
        {
            "id": "score-request-id", "object": "list", "created": 693447, "model": "BAAI/bge-reranker-v2-m3",
            "data": [{"index": 0, "object": "score", "score": 1}, {"index": 1, "object": "score", "score": 0.5}],
            "usage": {},
        },
        [1.0, 0.5],
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_request_is_sent_and_the_documented_response_is_read(name):
    options, rows, request, document, values, usage = DOCUMENTED[name]
    codec = fanout.preset(name, **options).codec
    body = codec.encode(rows).body
    assert json.loads(body if isinstance(body, bytes) else b"".join(body)) == request
    assert values_of(codec, document, len(rows)) == values
    if usage is not None:
        assert usage_of(codec, document, len(rows)) == usage


BLOCKED = [
    (
        "anthropic-messages",
        {
            "content": [], "stop_reason": "refusal",
            "stop_details": {"type": "refusal", "category": "bio", "explanation": "This could enable harm."},
        },
        "This could enable harm.",
    ),
    (
        "bedrock-converse",
        {
            "output": {"message": {"role": "assistant", "content": [{"text": "I may not say."}]}},
            "stopReason": "guardrail_intervened",
        },
        "guardrail_intervened",
    ),
    (
        "gemini-generate",
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 8}},
        "PROHIBITED_CONTENT",
    ),
    ("gemini-generate", {"candidates": [{"finishReason": "SAFETY", "index": 0}]}, "SAFETY"),
    ("gemini-generate", {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]}, "MAX_TOKENS"),
    (
        "anthropic-messages",
        {"type": "message", "content": [], "stop_reason": "refusal", "usage": {"input_tokens": 1, "output_tokens": 0}},
        "refusal",
    ),
    (
        "openai-responses",
        {
            "status": "completed", "error": None,
            "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "I cannot help with that."}]}],
        },
        "I cannot help with that.",
    ),
    (
        "openai-responses",
        {"status": "failed", "error": {"code": "server_error", "message": "The model failed."}, "output": []},
        "The model failed.",
    ),
    (
        "openai-responses",
        {
            "status": "incomplete", "error": None, "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "reasoning", "summary": []}],
        },
        "max_output_tokens",
    ),
    *(
        ("openai-responses", {"status": status, "error": None, "output": []}, status)
        for status in ("failed", "cancelled", "queued", "in_progress", "completed")
    ),
    (
        "openai-responses",
        {
            "status": "incomplete", "incomplete_details": {"reason": "content_filter"},
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "It beg"}]}],
        },
        "content_filter",
    ),
    (
        "gemini-generate",
        {"candidates": [{"content": {"parts": [{"text": "It beg"}]}, "finishReason": "SAFETY"}]},
        "SAFETY",
    ),
    (
        "gemini-generate",
        {"candidates": [{"content": {"parts": [{"text": "I think", "thought": True}]}, "finishReason": "MAX_TOKENS"}]},
        "MAX_TOKENS",
    ),
    ("anthropic-messages", {"content": [{"type": "thinking"}], "stop_reason": "max_tokens"}, "max_tokens"),
    (
        "bedrock-converse",
        {"output": {"message": {"content": [{"reasoningContent": {}}]}}, "stopReason": "max_tokens"},
        "max_tokens",
    ),
    ("ollama-chat", {"message": {"content": ""}, "done": True, "done_reason": "load"}, "prompt is empty"),
    ("ollama-generate", {"response": "", "done": True, "done_reason": "load"}, "prompt is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "document", "words"), BLOCKED)
def test_an_answer_that_is_withheld_fails_its_row_at_once_with_the_server_s_words(name, document, words):
    codec = fanout.preset(name, model="m").codec
    verdict = codec.classify(response(document))
    assert isinstance(verdict, fanout.Verdict)
    assert verdict.action is Action.FAIL
    assert words in verdict.reason


@pytest.mark.parametrize("name", ["gemini-generate", "anthropic-messages", "openai-responses"])
def test_a_good_answer_is_not_refused(name):
    options, _, _, document, _, _ = DOCUMENTED[name]
    assert fanout.preset(name, **options).codec.classify(response(document)) is None


def test_comments_of_a_model_on_its_work_are_no_part_of_its_answer():
    codec = fanout.preset("openai-responses", model="m").codec
    phases = {"commentary": "I look at it. ", "final_answer": "42", None: "!"}
    messages = [
        {"type": "message", "phase": phase, "content": [{"type": "output_text", "text": text}]}
        for phase, text in phases.items()
    ]
    document = {"status": "completed", "output": messages}
    assert values_of(codec, document, 1) == {"text": ["42!"], "status": ["completed"]}


def test_the_embeddings_of_cohere_in_bedrock_may_be_a_list_or_a_table_by_type():
    codec = fanout.preset("bedrock-cohere-embed", model="m", input_type="search_query").codec
    for embeddings in ([[0.5, 1.0]], {"float": [[0.5, 1.0]]}):
        assert values_of(codec, {"embeddings": embeddings}, 1) == [[0.5, 1.0]]


@pytest.mark.parametrize(("original", "action"), [(400, Action.SPLIT), (500, Action.RETRY), (503, Action.RETRY)])
def test_an_error_of_a_sagemaker_container_has_the_container_s_own_status(original, action):
    codec = fanout.preset("sagemaker", endpoint="e").codec
    answer = response({"ErrorCode": "CLIENT_ERROR_FROM_MODEL", "OriginalStatusCode": original}, 424)
    meaning = codec.classify(answer)
    verdict = meaning if isinstance(meaning, fanout.Verdict) else classify_response(answer, meaning=meaning)
    assert verdict.action is action


def test_an_answer_cut_off_by_the_token_limit_keeps_its_text_and_says_so():
    codec = fanout.preset("openai-responses", model="m").codec
    document = {
        "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "The first half"}]}],
    }  # fmt: skip
    assert codec.classify(response(document)) is None
    assert values_of(codec, document, 1) == {"text": ["The first half"], "status": ["incomplete"]}


def test_a_prompt_may_have_columns_and_constant_text():
    codec = fanout.preset("ollama-chat", model="m", prompt="Translate into {{language}}: {{text}}").codec
    body = json.loads(codec.encode([{"language": "French", "text": "{{language}}"}]).body)
    assert body["messages"] == [{"role": "user", "content": "Translate into French: {{language}}"}]


def test_a_row_may_be_a_list_of_messages_and_a_system_message_comes_before():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    codec = fanout.preset("anthropic-messages", model="m", system="s", request={"messages": "{{row}}"}).codec
    body = json.loads(codec.encode([messages]).body)
    assert (body["system"], body["messages"]) == ("s", messages)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([1, 1], "no item with the index 0"), ([0, 2], "no item with the index 1"), ([0, None], "has no index at")],
)
def test_scores_whose_indices_are_no_order_are_no_answer(indices, message):
    codec = fanout.preset("cohere-rerank", model="m").codec
    results = [{"index": index, "relevance_score": 0.5} for index in indices]
    with pytest.raises(fanout.InvalidResponse, match=message):
        codec.decode(response({"results": results}), 1)


@pytest.mark.parametrize("name", ["cohere-rerank", "jina-rerank", "nim-rerank", "tei-rerank", "voyage-rerank"])
def test_a_score_that_is_null_is_no_answer(name):
    options = {} if name == "tei-rerank" else {"model": "m"}
    codec = fanout.preset(name, **options).codec
    scores = {"relevance_score": None, "logit": None, "score": None}
    items = [{"index": 1, "relevance_score": 0.5, "logit": 0.5, "score": 0.5}, {"index": 0} | scores]
    document = items if name == "tei-rerank" else dict.fromkeys(("results", "rankings", "data"), items)
    with pytest.raises(fanout.InvalidResponse, match=r"has nothing at .*for the index 0"):
        codec.decode(response(document), 1)


@pytest.mark.parametrize("token", [{"index": 7, "value": None}, {"index": None, "value": 0.5}, {"index": 7}])
def test_a_sparse_vector_with_a_null_is_no_answer(token):
    codec = fanout.preset("tei-sparse").codec
    whole = [{"index": 3, "value": 0.5}]
    with pytest.raises(fanout.InvalidResponse, match=r"row 1 of '(indices|values)' has nothing at .* in one of 2"):
        codec.decode(response([whole, [*whole, token]]), 2)


def test_one_vector_in_place_of_a_list_of_them_is_no_embedding():
    codec = fanout.preset("snowflake-embed", model="m").codec
    with pytest.raises(fanout.InvalidResponse):
        codec.decode(response({"data": [{"index": 0, "embedding": [0.5, 1.0]}]}), 1)


def test_no_documents_have_no_scores():
    codec = fanout.preset("cohere-rerank", model="m").codec
    assert values_of(codec, {"results": []}, 1) == ["[]"]


@pytest.mark.parametrize("name", ["anthropic-messages", "gemini-generate", "ollama-chat", "openai-responses"])
def test_a_row_without_a_prompt_fails_before_it_is_sent(name):
    codec = fanout.preset(name, model="m", prompt="{{text}}").codec
    with pytest.raises(fanout.EncodeError, match=r"has no value for \{\{text\}\}"):
        codec.encode([{"text": None}])
