"""The APIs of the packaged presets, as their vendors document them (checked in November 2026)."""

from __future__ import annotations

from typing import Any

from tests.presets.mock_api import Api, Refused, score, shuffled, vector

NUMBER = float


def text_of(i: int) -> str:
    """Return the text of row i, with what JSON escapes and what templates expand."""
    return f'row {i}: naïve "text" {{{{row}}}} \\ {"x" * (i % 7)}'


def pair_of(i: int) -> dict[str, Any]:
    """Return a query with documents."""
    return {"query": f"query {i}", "documents": [f"document {i}.{n}" for n in range(1 + i % 5)]}


def scores_of(row: dict[str, Any]) -> list[float]:
    """Return the scores of the documents of a row, in the order of the documents."""
    return [score(row["query"], text) for text in row["documents"]]


def openai_error(status: int, words: str) -> Any:
    return {"error": {"message": words, "type": "server_error" if status >= 500 else "requests", "code": None}}


def message_error(status: int, words: str) -> Any:
    return {"message": words}


def detail_error(status: int, words: str) -> Any:
    return {"detail": words}


def embeddings(body: Any, **more: Any) -> Any:
    """Answer as OpenAI's embeddings do. The items come in another order than their indices."""
    if not all(body["input"]):
        raise Refused(400, "input cannot be an empty string")
    encoded = body.get("encoding_format") == "base64"
    items = [
        {"object": "embedding", "index": i, "embedding": as_base64(vector(text)) if encoded else vector(text)}
        for i, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "data": shuffled(items), "model": body.get("model", "m"), "usage": usage, **more}


def as_base64(numbers: list[float]) -> str:
    import base64
    import struct

    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def ranked(texts: list[str], query: str, name: str) -> list[dict[str, Any]]:
    """Return the scores of texts as rerankers do: best first, each with the index of its text."""
    items = [{"index": i, name: score(query, text)} for i, text in enumerate(texts)]
    return sorted(items, key=lambda item: -item[name])


def chat_answer(prompt: str) -> str:
    return f"answer to {prompt}"


def of_input(body: Any) -> int:
    return len(body["input"])


TEXTS = {"row": text_of, "expected": vector}
OPENAI = {"error": openai_error}

APIS = [
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
            "results": [
                {
                    "flagged": score("", text) > 0.5,
                    "categories": {"hate": False, "hate/threatening": score("", text) > 0.5},
                    "category_scores": {"hate": score("hate", text), "hate/threatening": score("", text)},
                }
                for text in body["input"]
            ],
        },
        expected=lambda row: {
            "flagged": score("", row) > 0.5,
            "categories": {"hate": False, "hate/threatening": score("", row) > 0.5},
            "category_scores": {"hate": score("hate", row), "hate/threatening": score("", row)},
        },
        n_rows=of_input,
        **OPENAI,
    ),
    Api(
        preset="azure-openai-embeddings",
        options={"deployment": "my embeddings", "dimensions": 4},
        path="/openai/deployments/my%20embeddings/embeddings?api-version=2024-10-21",
        header=("api-key", "{}"),
        required={"input": list},
        optional={"model": str, "dimensions": int, "encoding_format": ("base64", "float"), "user": str},
        answer=embeddings,
        n_rows=of_input,
        largest=2048,
        **TEXTS,
        **OPENAI,
    ),
    Api(
        preset="azure-openai-chat",
        options={"deployment": "gpt", "system": "Be brief.", "max_completion_tokens": 10},
        path="/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        header=("api-key", "{}"),
        required={"messages": list},
        optional={"model": str, "temperature": NUMBER, "max_completion_tokens": int, "response_format": dict},
        row=text_of,
        answer=lambda body: {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "gpt-4o",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "content_filter_results": {},
                    "message": {"role": "assistant", "content": chat_answer(body["messages"][-1]["content"])},
                }
            ],
            "usage": {"prompt_tokens": 33, "completion_tokens": 5, "total_tokens": 38},
        },
        expected=lambda row: {"text": chat_answer(row), "finish_reason": "stop"},
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
        error=message_error,
        n_rows=lambda body: len(body["texts"]),
        largest=96,
        unknown=422,
        **TEXTS,
    ),
    Api(
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
        error=message_error,
        unknown=422,
    ),
    Api(
        preset="cohere-rerank",
        options={"model": "rerank-v3.5", "query": "one query"},
        path="/v2/rerank",
        required={"model": str, "query": str, "documents": list},
        optional={"top_n": int, "max_tokens_per_doc": int},
        row=text_of,
        answer=lambda body: {"results": ranked(body["documents"], body["query"], "relevance_score"), "id": "1"},
        expected=lambda row: score("one query", row),
        error=message_error,
        n_rows=lambda body: len(body["documents"]),
        largest=1000,
    ),
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
        error=detail_error,
        n_rows=of_input,
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
        error=detail_error,
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
        error=detail_error,
        invalid=422,
        unknown=422,
        n_rows=of_input,
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
        n_rows=of_input,
        **TEXTS,
    ),
    Api(
        preset="nim-embed",
        options={"model": "nvidia/nv-embedqa-e5-v5", "input_type": "passage", "truncate": "END"},
        path="/v1/embeddings",
        required={"model": str, "input": list, "input_type": ("query", "passage")},
        optional={
            "truncate": ("NONE", "START", "END"),
            "dimensions": int,
            "encoding_format": ("float", "base64"),
            "user": str,
        },
        answer=embeddings,
        error=lambda status, words: {
            "object": "error",
            "message": words,
            "detail": {},
            "type": "invalid_request_error",
        },
        invalid=422,
        n_rows=of_input,
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
        n_rows=lambda body: len(body["requests"]),
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
        preset="tei-embed",
        options={"truncate": True},
        path="/embed",
        required={"inputs": list},
        optional={"normalize": bool, "truncate": bool, "prompt_name": str, "dimensions": int},
        answer=lambda body: [vector(text) for text in body["inputs"]],
        error=lambda status, words: {"error": words, "error_type": "overloaded" if status == 429 else "Validation"},
        unknown=0,
        invalid=422,
        busy=(429, 503),
        n_rows=lambda body: len(body["inputs"]),
        largest=32,
        too_many=413,
        **TEXTS,
    ),
    Api(
        preset="tei-rerank",
        options={"raw_scores": False},
        path="/rerank",
        required={"query": str, "texts": list},
        optional={"raw_scores": bool, "return_text": bool, "truncate": bool},
        row=pair_of,
        answer=lambda body: ranked(body["texts"], body["query"], "score"),
        expected=scores_of,
        error=lambda status, words: {"error": words, "error_type": "overloaded" if status == 429 else "Validation"},
        busy=(429, 503),
    ),
    Api(
        preset="tei-rerank",
        options={"query": "one query"},
        path="/rerank",
        required={"query": str, "texts": list},
        optional={"raw_scores": bool, "return_text": bool, "truncate": bool},
        row=text_of,
        answer=lambda body: ranked(body["texts"], body["query"], "score"),
        expected=lambda row: score("one query", row),
        error=lambda status, words: {"error": words, "error_type": "overloaded" if status == 429 else "Validation"},
        busy=(429, 503),
        n_rows=lambda body: len(body["texts"]),
        largest=32,
        too_many=413,
    ),
    Api(
        preset="ollama-embed",
        options={"model": "embeddinggemma", "options": {"num_ctx": 512}},
        path="/api/embed",
        required={"model": str, "input": list},
        optional={"truncate": bool, "dimensions": int, "options": dict, "keep_alive": str},
        answer=lambda body: {
            "model": body["model"],
            "embeddings": [vector(text) for text in body["input"]],
            "total_duration": 14143917,
            "load_duration": 1019500,
            "prompt_eval_count": 8,
        },
        error=lambda status, words: {"error": words},
        unknown=0,
        busy=(503,),
        n_rows=of_input,
        **TEXTS,
    ),
    Api(
        preset="ollama-chat",
        options={"model": "gemma3", "system": "Be brief.", "think": False},
        path="/api/chat",
        required={"model": str, "messages": list, "stream": (False,)},
        optional={"format": dict, "think": bool, "options": dict, "keep_alive": str},
        row=text_of,
        answer=lambda body: {
            "model": body["model"],
            "created_at": "2026-11-30T08:00:00Z",
            "message": {"role": "assistant", "content": chat_answer(body["messages"][1]["content"])},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 26,
            "eval_count": 282,
        },
        expected=lambda row: {"text": chat_answer(row), "done_reason": "stop"},
        error=lambda status, words: {"error": words},
        unknown=0,
        busy=(503,),
    ),
    Api(
        preset="vllm-score",
        options={"model": "BAAI/bge-reranker-v2-m3"},
        path="/score",
        required={"model": str, "text_1": list, "text_2": list},
        optional={"truncate_prompt_tokens": int},
        row=lambda i: {"text_1": f"query {i}", "text_2": text_of(i)},
        answer=lambda body: {
            "id": "score-1",
            "object": "list",
            "created": 693447,
            "model": body["model"],
            "data": shuffled(
                [
                    {"index": i, "object": "score", "score": score(*pair)}
                    for i, pair in enumerate(zip(body["text_1"], body["text_2"], strict=True))
                ]
            ),
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        },
        expected=lambda row: score(row["text_1"], row["text_2"]),
        n_rows=lambda body: len(body["text_1"]),
        **OPENAI,
    ),
    Api(
        preset="vllm-classify",
        options={"model": "jason9693/Qwen2.5-1.5B-apeach"},
        path="/classify",
        required={"model": str, "input": list},
        optional={"truncate_prompt_tokens": int},
        row=text_of,
        answer=lambda body: {
            "id": "classify-1",
            "object": "list",
            "created": 1745383065,
            "model": body["model"],
            "data": shuffled(
                [
                    {
                        "index": i,
                        "label": label_of(text),
                        "probs": [score("", text), 1 - score("", text)],
                        "num_classes": 2,
                    }
                    for i, text in enumerate(body["input"])
                ]
            ),
            "usage": {"prompt_tokens": 35, "total_tokens": 35, "completion_tokens": 0},
        },
        expected=lambda row: {"label": label_of(row), "probs": [score("", row), 1 - score("", row)]},
        n_rows=of_input,
        **OPENAI,
    ),
    Api(
        preset="mlflow",
        options={},
        path="/invocations",
        required={"dataframe_records": list},
        optional={"params": dict},
        row=lambda i: {"a": i, "b": i / 4, "c": f"c{i}"},
        answer=lambda body: {"predictions": [row["a"] + row["b"] + len(row["c"]) for row in body["dataframe_records"]]},
        expected=lambda row: row["a"] + row["b"] + len(row["c"]),
        error=lambda status, words: {"error_code": "BAD_REQUEST", "message": words},
        n_rows=lambda body: len(body["dataframe_records"]),
    ),
    Api(
        preset="databricks",
        options={"endpoint": "my-model", "field": "inputs", "params": {"top": 3}},
        path="/serving-endpoints/my-model/invocations",
        required={"inputs": list},
        optional={"params": dict},
        answer=lambda body: {"predictions": [vector(text) for text in body["inputs"]]},
        error=lambda status, words: {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": words},
        n_rows=lambda body: len(body["inputs"]),
        **TEXTS,
    ),
]


def label_of(text: str) -> str:
    return "Spoiled" if score("", text) < 0.5 else "Default"


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
