"""The APIs of vendors of models: Anthropic, Cohere, Gemini, Jina, Mistral, OpenAI, Voyage."""

from __future__ import annotations

from typing import Any

from tests.presets.apis.common import (
    NUMBER,
    OPENAI,
    TEXTS,
    chat_answer,
    embeddings,
    error_in,
    label_of,
    of_one_query,
    pair_of,
    ranked,
    scores_of,
    size_of,
    text_of,
)  # fmt: skip
from tests.presets.mock_api import Api, Refused, score, vector


def gemini_text(request: Any) -> str:
    """Return the text of one of the requests of a batch. Raises `Refused` for fields that the API does not know."""
    if set(request) - {"model", "content", "taskType", "title", "outputDimensionality"}:
        raise Refused(400, f"Invalid JSON payload received. Unknown name in {sorted(request)}")
    if request["model"] != "models/gemini-embedding-001":
        raise Refused(400, "model: must be the same as in the URL")
    (part,) = request["content"]["parts"]
    return str(part["text"])


def gemini_prompt(body: Any) -> str:
    known = {"temperature", "maxOutputTokens", "thinkingConfig", "responseMimeType", "responseJsonSchema"}
    config = body["generationConfig"]
    if set(config) - known or config["responseMimeType"] != "application/json":
        raise Refused(400, f"Invalid JSON payload received. Unknown name in {sorted(config)}")
    (content,) = body["contents"]
    assert content["role"] == "user"
    (part,) = content["parts"]
    return str(part["text"])


def moderation_of(text: str) -> dict[str, Any]:
    return {
        "flagged": score("", text) > 0.5,
        "categories": {"hate": False, "hate/threatening": score("", text) > 0.5},
        "category_scores": {"hate": score("hate", text), "hate/threatening": score("", text)},
    }


COHERE_RERANK = Api(
    preset="cohere-rerank",
    options={"model": "rerank-v3.5"},
    path="/v2/rerank",
    required={"model": str, "query": str, "documents": list},
    optional={"top_n": int, "max_tokens_per_doc": int},
    row=pair_of,
    answer=lambda body: {
        "results": ranked(body["documents"], body["query"], "relevance_score"),
        "id": "1",
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    },
    expected=scores_of,
    error=error_in("message"),
    unknown=422,
)

JINA_RERANK = Api(
    preset="jina-rerank",
    options={"model": "jina-reranker-v2-base-multilingual"},
    path="/v1/rerank",
    required={"model": str, "query": str, "documents": list},
    optional={"top_n": int, "return_documents": bool},
    row=pair_of,
    answer=lambda body: {
        "model": body["model"],
        "usage": {"total_tokens": 15},
        "results": ranked(body["documents"], body["query"], "relevance_score"),
    },
    expected=scores_of,
    error=error_in("detail"),
    unknown=422,
)

VENDORS = [
    Api(
        preset="openai-responses",
        options={"model": "gpt-5-mini", "instructions": "Be brief.", "max_output_tokens": 100},
        path="/v1/responses",
        required={"model": str, "input": str},
        optional={
            "instructions": str,
            "temperature": NUMBER,
            "max_output_tokens": int,
            "reasoning": dict,
            "text": dict,
            "store": bool,
        },
        row=text_of,
        answer=lambda body: {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "model": body["model"],
            "output": [
                {"id": "rs_1", "type": "reasoning", "summary": []},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [
                        {"type": "output_text", "text": "answer to ", "annotations": []},
                        {"type": "output_text", "text": body["input"], "annotations": []},
                    ],
                },
            ],
            "usage": {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123},
        },
        expected=lambda row: {"text": chat_answer(row), "status": "completed"},
        **OPENAI,
    ),
    Api(
        preset="openai-moderations",
        options={},
        path="/v1/moderations",
        required={"input": list},
        optional={"model": str},
        row=text_of,
        answer=lambda body: {
            "id": "modr-1",
            "model": body["model"],
            "results": [moderation_of(text) for text in body["input"]],
        },
        expected=moderation_of,
        n_rows=size_of("input"),
        **OPENAI,
    ),
    Api(
        preset="cohere-embed",
        options={"model": "embed-v4.0", "input_type": "search_document"},
        path="/v2/embed",
        required={
            "model": str,
            "input_type": ("search_document", "search_query", "classification", "clustering"),
            "texts": list,
            "embedding_types": list,
        },
        optional={"output_dimension": int, "truncate": ("NONE", "START", "END")},
        answer=lambda body: {
            "id": "1",
            "texts": body["texts"],
            "embeddings": {"float": [vector(text) for text in body["texts"]]},
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}},
        },
        error=error_in("message"),
        n_rows=size_of("texts"),
        largest=96,
        unknown=422,
        **TEXTS,
    ),
    COHERE_RERANK,
    of_one_query(COHERE_RERANK, n_rows=size_of("documents"), largest=1000),
    Api(
        preset="voyage-embed",
        options={"model": "voyage-3.5", "input_type": "document"},
        path="/v1/embeddings",
        required={"input": list, "model": str},
        optional={
            "input_type": ("query", "document"),
            "truncation": bool,
            "output_dimension": int,
            "output_dtype": str,
            "encoding_format": ("base64",),
        },
        answer=embeddings,
        error=error_in("detail"),
        n_rows=size_of("input"),
        largest=1000,
        **TEXTS,
    ),
    Api(
        preset="voyage-rerank",
        options={"model": "rerank-2.5", "truncation": True},
        path="/v1/rerank",
        required={"model": str, "query": str, "documents": list},
        optional={"top_k": int, "return_documents": bool, "truncation": bool},
        row=pair_of,
        answer=lambda body: {
            "object": "list",
            "data": ranked(body["documents"], body["query"], "relevance_score"),
            "model": body["model"],
            "usage": {"total_tokens": 26},
        },
        expected=scores_of,
        error=error_in("detail"),
    ),
    Api(
        preset="jina-embed",
        options={"model": "jina-embeddings-v4", "task": "text-matching"},
        path="/v1/embeddings",
        required={"model": str, "input": list},
        optional={
            "task": str,
            "dimensions": int,
            "truncate": bool,
            "embedding_type": ("float", "base64", "binary", "ubinary"),
        },
        answer=embeddings,
        error=error_in("detail"),
        invalid=422,
        unknown=422,
        n_rows=size_of("input"),
        largest=512,
        **TEXTS,
    ),
    Api(
        preset="mistral-embed",
        options={},
        path="/v1/embeddings",
        required={"model": str, "input": list},
        optional={
            "output_dimension": int,
            "output_dtype": str,
            "encoding_format": ("float", "base64"),
            "metadata": dict,
        },
        answer=embeddings,
        error=lambda status, words: {"object": "error", "message": {"detail": [{"msg": words}]}, "type": "invalid"},
        invalid=422,
        unknown=422,
        n_rows=size_of("input"),
        **TEXTS,
    ),
    Api(
        preset="gemini-embed",
        options={"task_type": "RETRIEVAL_DOCUMENT", "output_dimensionality": 4},
        path="/v1beta/models/gemini-embedding-001:batchEmbedContents",
        header=("x-goog-api-key", "{}"),
        required={"requests": list},
        answer=lambda body: {"embeddings": [{"values": vector(gemini_text(one))} for one in body["requests"]]},
        error=lambda status, words: {"error": {"code": status, "message": words, "status": "INTERNAL"}},
        n_rows=size_of("requests"),
        largest=100,
        **TEXTS,
    ),
    Api(
        preset="gemini-generate",
        options={
            "model": "gemini-2.5-flash",
            "system": "Be brief.",
            "response_schema": {"type": "object"},
            "max_output_tokens": 99,
        },
        path="/v1beta/models/gemini-2.5-flash:generateContent",
        header=("x-goog-api-key", "{}"),
        required={"contents": list},
        optional={"generationConfig": dict, "systemInstruction": dict, "safetySettings": list},
        row=text_of,
        answer=lambda body: {
            "candidates": [
                {
                    "content": {
                        "role": "model",
                        "parts": [
                            {"text": "thinking of it", "thought": True},
                            {"text": chat_answer(gemini_prompt(body))},
                        ],
                    },
                    "finishReason": "STOP",
                    "index": 0,
                }
            ],
            "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 9, "totalTokenCount": 13},
            "modelVersion": "gemini-2.5-flash",
        },
        expected=lambda row: {"text": chat_answer(row), "finish_reason": "STOP"},
        # Errors may come as a list.
        error=lambda status, words: [{"error": {"code": status, "message": words, "status": "UNAVAILABLE"}}],
    ),
    Api(
        preset="anthropic-messages",
        options={"model": "claude-sonnet-4-5", "system": "Be brief.", "temperature": 0},
        path="/v1/messages",
        header=("x-api-key", "{}"),
        headers={"anthropic-version": "2023-06-01"},
        required={"model": str, "max_tokens": int, "messages": list},
        optional={"system": str, "temperature": NUMBER},
        row=text_of,
        answer=lambda body: {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": chat_answer(body["messages"][0]["content"])}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 12, "output_tokens": 6},
        },
        expected=lambda row: {"text": chat_answer(row), "stop_reason": "end_turn"},
        error=lambda status, words: {
            "type": "error",
            "error": {"type": "overloaded_error" if status == 529 else "api_error", "message": words},
        },
        busy=(429, 500, 529),
    ),
    Api(
        preset="cohere-classify",
        options={"model": "my-model-ft", "truncate": "END"},
        path="/v1/classify",
        required={"inputs": list},
        optional={"model": str, "examples": list, "truncate": ("NONE", "START", "END"), "preset": str},
        row=text_of,
        answer=lambda body: {
            "id": "1",
            "classifications": [
                {
                    "id": "2",
                    "input": text,
                    "predictions": [label_of(text)],
                    "confidences": [score("", text)],
                    "labels": {label_of(text): {"confidence": score("", text)}},
                    "classification_type": "single-label",
                }
                for text in body["inputs"]
            ],
            "meta": {"api_version": {"version": "1"}, "billed_units": {"classifications": len(body["inputs"])}},
        },
        expected=lambda row: {
            "prediction": label_of(row),
            "confidence": score("", row),
            "labels": {label_of(row): {"confidence": score("", row)}},
        },
        error=error_in("message"),
        unknown=422,
        n_rows=size_of("inputs"),
        largest=96,
    ),
    # With "Prefer: wait" a quick model's output is in the response to the POST; tests/job/test_polling.py has the GETs.
    Api(
        preset="replicate",
        options={"version": "owner/model", "input": {"prompt": "{{row}}", "seed": 7}, "prefer": "wait=5"},
        path="/v1/predictions",
        headers={"Prefer": "wait=5"},
        required={"version": str, "input": dict},
        unauthorized=(401, "You did not pass a valid authentication token"),
        row=text_of,
        answer=lambda body: {
            "id": "gm3qorzdhgbfurvjtvhg6dckhu",
            "model": "owner/model",
            "version": body["version"],
            "input": body["input"],
            "logs": "",
            "output": [chat_answer(body["input"]["prompt"])],
            "error": None,
            "status": "succeeded",
            "urls": {"get": "/v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu"},
        },
        expected=lambda row: [chat_answer(row)],
        error=lambda status, words: {"title": "Problem", "detail": words, "status": status},
        unknown=422,
        busy=(429, 500, 503),
    ),
    JINA_RERANK,
    of_one_query(JINA_RERANK, n_rows=size_of("documents")),
]
