"""The APIs of servers of one's own: MLflow, NIM, Ollama, TEI, TorchServe, Triton, vLLM."""

from __future__ import annotations

from typing import Any

from tests.presets.apis.common import (
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
from tests.presets.mock_api import Api, score, shuffled, vector


def tei_error(status: int, words: str) -> Any:
    return {"error": words, "error_type": "overloaded" if status == 429 else "Validation"}


def labels_of(text: str) -> list[dict[str, Any]]:
    """Return the labels of a text, the best first, as TEI does."""
    pair = [{"label": "joy", "score": score("", text)}, {"label": "anger", "score": score("anger", text)}]
    return sorted(pair, key=lambda one: -one["score"])


def sparse_of(text: str) -> list[float]:
    return vector(text, 1 + len(text) % 4)


def tokens_of(text: str) -> list[list[float]]:
    """Return a vector for each of several tokens: rows have different numbers of them."""
    return [vector(f"{text}{n}", 2) for n in range(1 + len(text) % 4)]


def class_of(text: str) -> dict[str, Any]:
    return {"label": label_of(text), "probs": [score("", text), 1 - score("", text)]}


def vllm_list(body: Any, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer of vLLM's APIs that are not OpenAI's. The items come in another order than their indices."""
    data = shuffled([{"index": i, **item} for i, item in enumerate(items)])
    usage = {"prompt_tokens": 35, "total_tokens": 35, "completion_tokens": 0}
    return {"id": "1", "object": "list", "created": 693447, "model": body["model"], "data": data, "usage": usage}


def ollama_done(body: Any) -> dict[str, Any]:
    """Return the fields that Ollama has beside the text of a model."""
    counts = {"prompt_eval_count": 26, "eval_count": 282}
    return {"model": body["model"], "created_at": "2026-11-30T08:00:00Z", "done": True, "done_reason": "stop", **counts}


OLLAMA: dict[str, Any] = {"error": error_in("error"), "unknown": 0, "busy": (503,)}
TEI: dict[str, Any] = {"error": tei_error, "busy": (424, 429)}
TEI_BATCH: dict[str, Any] = {**TEI, "unknown": 0, "n_rows": size_of("inputs"), "largest": 32, "too_many": 413}

TEI_RERANK = Api(
    preset="tei-rerank",
    options={"raw_scores": False},
    path="/rerank",
    required={"query": str, "texts": list},
    optional={"raw_scores": bool, "return_text": bool, "truncate": bool},
    row=pair_of,
    answer=lambda body: ranked(body["texts"], body["query"], "score"),
    expected=scores_of,
    **TEI,
)

NIM_RERANK = Api(
    preset="nim-rerank",
    options={"model": "nvidia/llama-nemotron-rerank-1b-v2", "truncate": "END"},
    path="/v1/ranking",
    required={"model": str, "query": dict, "passages": list},
    optional={"truncate": ("NONE", "END")},
    row=pair_of,
    answer=lambda body: {"rankings": ranked([one["text"] for one in body["passages"]], body["query"]["text"], "logit")},
    expected=scores_of,
    error=error_in("error"),
)

SERVERS = [
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
        n_rows=size_of("input"),
        **TEXTS,
    ),
    Api(
        preset="tei-embed",
        options={"truncate": True},
        path="/embed",
        required={"inputs": list},
        optional={"normalize": bool, "truncate": bool, "prompt_name": str, "dimensions": int},
        answer=lambda body: [vector(text) for text in body["inputs"]],
        invalid=422,
        **TEI_BATCH,
        **TEXTS,
    ),
    TEI_RERANK,
    of_one_query(TEI_RERANK, n_rows=size_of("texts"), largest=32, too_many=413),
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
        **OLLAMA,
        n_rows=size_of("input"),
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
            **ollama_done(body),
            "message": {"role": "assistant", "content": chat_answer(body["messages"][1]["content"])},
        },
        expected=lambda row: {"text": chat_answer(row), "done_reason": "stop"},
        **OLLAMA,
    ),
    Api(
        preset="vllm-score",
        options={"model": "BAAI/bge-reranker-v2-m3"},
        path="/score",
        required={"model": str, "text_1": list, "text_2": list},
        optional={"truncate_prompt_tokens": int},
        row=lambda i: {"text_1": f"query {i}", "text_2": text_of(i)},
        answer=lambda body: vllm_list(
            body,
            [{"object": "score", "score": score(*pair)} for pair in zip(body["text_1"], body["text_2"], strict=True)],
        ),
        expected=lambda row: score(row["text_1"], row["text_2"]),
        n_rows=size_of("text_1"),
        **OPENAI,
    ),
    Api(
        preset="vllm-classify",
        options={"model": "jason9693/Qwen2.5-1.5B-apeach"},
        path="/classify",
        required={"model": str, "input": list},
        optional={"truncate_prompt_tokens": int},
        row=text_of,
        answer=lambda body: vllm_list(body, [class_of(text) | {"num_classes": 2} for text in body["input"]]),
        expected=class_of,
        n_rows=size_of("input"),
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
        n_rows=size_of("dataframe_records"),
    ),
    NIM_RERANK,
    of_one_query(NIM_RERANK, n_rows=size_of("passages"), largest=512),
    Api(
        preset="tei-predict",
        options={"truncate": True},
        path="/predict",
        required={"inputs": list},
        optional={"raw_scores": bool, "truncate": bool},
        row=text_of,
        answer=lambda body: [labels_of(text) for (text,) in body["inputs"]],
        expected=lambda row: labels_of(row)[0],
        invalid=422,
        **TEI_BATCH,
    ),
    Api(
        preset="tei-sparse",
        options={"truncate": True},
        path="/embed_sparse",
        required={"inputs": list},
        optional={"truncate": bool, "prompt_name": str},
        row=text_of,
        answer=lambda body: [
            [{"index": 100 - i, "value": value} for i, value in enumerate(sparse_of(text))] for text in body["inputs"]
        ],
        expected=lambda row: {"indices": [100 - i for i in range(len(sparse_of(row)))], "values": sparse_of(row)},
        **TEI_BATCH,
    ),
    Api(
        preset="ollama-generate",
        options={"model": "gemma3", "system": "Be brief.", "options": {"num_ctx": 512}},
        path="/api/generate",
        required={"model": str, "prompt": str, "stream": (False,)},
        optional={"system": str, "raw": bool, "format": dict, "think": bool, "options": dict, "keep_alive": str},
        row=text_of,
        answer=lambda body: {
            **ollama_done(body),
            "response": chat_answer(body["prompt"]),
        },
        expected=lambda row: {"text": chat_answer(row), "done_reason": "stop"},
        **OLLAMA,
    ),
    Api(
        preset="vllm-pooling",
        options={"model": "internlm/internlm2-1_8b-reward", "task": "token_classify"},
        path="/pooling",
        required={"model": str, "input": list},
        optional={"task": str, "truncate_prompt_tokens": int},
        row=text_of,
        answer=lambda body: vllm_list(body, [{"object": "pooling", "data": tokens_of(text)} for text in body["input"]]),
        expected=tokens_of,
        n_rows=size_of("input"),
        **OPENAI,
    ),
    Api(
        preset="triton-generate",
        options={"model": "ensemble", "parameters": {"temperature": 0}},
        path="/v2/models/ensemble/generate",
        required={"text_input": str},
        optional={"parameters": dict},
        row=text_of,
        answer=lambda body: {
            "model_name": "ensemble",
            "model_version": "1",
            "text_output": chat_answer(body["text_input"]),
        },
        expected=chat_answer,
        error=error_in("error"),
        busy=(503,),
    ),
    Api(
        preset="torchserve",
        options={"model": "my-model"},
        path="/predictions/my-model",
        required={"data": str},
        row=lambda i: {"data": text_of(i)},
        answer=lambda body: vector(body["data"]),
        expected=lambda row: vector(row["data"]),
        error=lambda status, words: {"code": status, "type": "ServiceUnavailableException", "message": words},
        busy=(503,),
    ),
]
