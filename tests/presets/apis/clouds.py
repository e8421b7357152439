"""The APIs of models in clouds: Amazon, Azure, Databricks, Google, Hugging Face, Snowflake."""

from __future__ import annotations

from typing import Any

from tests.presets.apis.common import NUMBER, OPENAI, TEXTS, chat_answer, embeddings, error_in, size_of, text_of
from tests.presets.mock_api import Api, Refused, vector

SIGNED = r"AWS4-HMAC-SHA256 Credential={{}}/\d{{{{8}}}}/us-east-1/{}/aws4_request, SignedHeaders=.*"


def aws(service: str) -> dict[str, Any]:
    """Return what the APIs of AWS have in common."""
    return {
        "auth": 'region = "us-east-1"',
        "header": ("Authorization", SIGNED.format(service)),
        "unauthorized": (403, "The security token included in the request is invalid."),
        "error_type": {403: "UnrecognizedClientException", 429: "ThrottlingException:http://internal.amazon.com/"},
        "error": error_in("message"),
    }


def vertex_text(instance: Any) -> str:
    """Return the text of one instance. Raises `Refused` for fields that the API does not know."""
    if set(instance) - {"content", "task_type", "title"}:
        raise Refused(400, f"Invalid JSON payload received. Unknown name in {sorted(instance)}")
    return str(instance["content"])


CLOUDS = [
    Api(
        preset="azure-openai-embeddings",
        options={"deployment": "my embeddings", "dimensions": 4},
        path="/openai/deployments/my%20embeddings/embeddings?api-version=2024-10-21",
        header=("api-key", "{}"),
        required={"input": list},
        optional={"model": str, "dimensions": int, "encoding_format": ("base64", "float"), "user": str},
        answer=embeddings,
        n_rows=size_of("input"),
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
        preset="databricks",
        options={"endpoint": "my-model", "field": "inputs", "params": {"top": 3}},
        path="/serving-endpoints/my-model/invocations",
        required={"inputs": list},
        optional={"params": dict},
        answer=lambda body: {"predictions": [vector(text) for text in body["inputs"]]},
        error=lambda status, words: {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": words},
        n_rows=size_of("inputs"),
        **TEXTS,
    ),
    Api(
        preset="vertex-predict",
        options={"project": "p-1", "location": "us-central1", "task_type": "RETRIEVAL_DOCUMENT"},
        path="/v1/projects/p-1/locations/us-central1/publishers/google/models/gemini-embedding-001:predict",
        # In place of Google's own credentials, which no test has.
        auth='type = "bearer"\ntoken = "${TOKEN}"',
        required={"instances": list},
        optional={"parameters": dict},
        answer=lambda body: {
            "predictions": [
                {"embeddings": {"values": vector(vertex_text(one)), "statistics": {"token_count": 8}}}
                for one in body["instances"]
            ],
            "metadata": {"billableCharacterCount": 9},
        },
        error=lambda status, words: {"error": {"code": status, "message": words, "status": "UNAVAILABLE"}},
        n_rows=size_of("instances"),
        largest=250,
        **TEXTS,
    ),
    Api(
        preset="bedrock-titan-embed",
        options={"dimensions": 256, "normalize": True},
        path="/model/amazon.titan-embed-text-v2:0/invoke",
        required={"inputText": str},
        optional={"dimensions": (256, 512, 1024), "normalize": bool, "embeddingTypes": list},
        answer=lambda body: {
            "embedding": vector(body["inputText"]),
            "embeddingsByType": {"float": vector(body["inputText"])},
            "inputTextTokenCount": 5,
        },
        **aws("bedrock"),
        **TEXTS,
    ),
    Api(
        preset="bedrock-cohere-embed",
        options={"model": "cohere.embed-multilingual-v3", "input_type": "search_document", "truncate": "END"},
        path="/model/cohere.embed-multilingual-v3/invoke",
        required={
            "texts": list,
            "input_type": ("search_document", "search_query", "classification", "clustering"),
        },
        optional={
            "embedding_types": list,
            "truncate": ("NONE", "START", "END", "LEFT", "RIGHT"),
            "output_dimension": int,
        },
        answer=lambda body: {
            "id": "1",
            "texts": body["texts"],
            "response_type": "embeddings_by_type",
            "embeddings": {"float": [vector(text) for text in body["texts"]]},
        },
        n_rows=size_of("texts"),
        largest=96,
        **aws("bedrock"),
        **TEXTS,
    ),
    Api(
        preset="bedrock-converse",
        options={"model": "arn:aws:bedrock:us-east-1:1:inference-profile/m", "system": "Be brief.", "max_tokens": 99},
        path="/model/arn:aws:bedrock:us-east-1:1:inference-profile%2Fm/converse",
        required={"messages": list},
        optional={"system": list, "inferenceConfig": dict},
        row=text_of,
        answer=lambda body: {
            "output": {
                "message": {
                    "role": "assistant",
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "thinking of it"}}},
                        {"text": "answer to "},
                        {"text": body["messages"][0]["content"][0]["text"]},
                    ],
                }
            },
            "stopReason": "end_turn",
            "usage": {"inputTokens": 30, "outputTokens": 628, "totalTokens": 658},
            "metrics": {"latencyMs": 1275},
        },
        expected=lambda row: {"text": chat_answer(row), "stop_reason": "end_turn"},
        busy=(429, 408, 503),
        **aws("bedrock"),
    ),
    Api(
        preset="sagemaker",
        options={"endpoint": "my-endpoint", "target_model": "a.tar.gz"},
        own={"request": {"inputs": "{{row}}"}, "outputs": {"embedding": {"path": "vector", "type": "float32"}}},
        path="/endpoints/my-endpoint/invocations",
        headers={"X-Amzn-SageMaker-Target-Model": "a.tar.gz"},
        required={"inputs": str},
        answer=lambda body: {"vector": vector(body["inputs"])},
        busy=(424, 429, 503),
        **{
            **aws("sagemaker"),
            "error": lambda status, words: {
                "ErrorCode": "CLIENT_ERROR_FROM_MODEL",
                "OriginalStatusCode": 503,
                "OriginalMessage": words,
                "message": words,
            },
        },
        **TEXTS,
    ),
    Api(
        preset="snowflake-embed",
        options={"model": "snowflake-arctic-embed-l-v2.0", "token_type": "PROGRAMMATIC_ACCESS_TOKEN"},
        path="/api/v2/cortex/inference:embed",
        headers={"X-Snowflake-Authorization-Token-Type": "PROGRAMMATIC_ACCESS_TOKEN"},
        required={"model": str, "text": list},
        optional={"provisioned_throughput_id": str},
        answer=lambda body: {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": [vector(text)], "index": i} for i, text in enumerate(body["text"])
            ],
            "model": body["model"],
            "usage": {"total_tokens": 7},
        },
        error=lambda status, words: {"code": "390000", "message": words, "request_id": "1"},
        n_rows=size_of("text"),
        **TEXTS,
    ),
    Api(
        preset="hf-inference",
        options={"parameters": {"normalize": True}, "scale_up_timeout": "600"},
        path="",
        headers={"X-Scale-Up-Timeout": "600"},
        required={"inputs": list},
        optional={"parameters": dict},
        answer=lambda body: [vector(text) for text in body["inputs"]],
        error=lambda status, words: {"error": words, "estimated_time": 0.5} if status == 503 else {"error": words},
        busy=(429, 503),
        n_rows=size_of("inputs"),
        **TEXTS,
    ),
]
