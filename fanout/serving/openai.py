"""OpenAI's APIs for embeddings and chat.

https://platform.openai.com/docs/api-reference/embeddings/create
https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer
from fanout.serving.models import call, jsonable, require_finite, require_model, takes
from fanout.tensors import pack

if TYPE_CHECKING:
    from fanout.serving.models import Model
    from fanout.types import Array

MAX_INPUTS = 2048
_EMBED_DTYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}


def embeddings(model: Model, request: ServerRequest) -> ServerResponse:
    """``POST /v1/embeddings``: texts -> float32 vectors, as numbers or base64. ``usage`` counts words, not tokens."""
    body = request.json_object()
    if not isinstance(name := body.get("model"), str):
        raise StatusError(400, "you must provide a model", param="model")
    require_model(model, name)
    texts = _input_texts(body)
    as_text = None if body.get("encoding_format") == "bytes" else _vector_encoder(body)
    vectors = _truncated(_vectors(model, texts), body.get("dimensions"))
    # The packaged models have no tokenizer; a client only needs numbers that add up.
    words = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": words, "total_tokens": words}
    if as_text is None:
        return _in_bytes(vectors, body, {"model": model.name, "usage": usage})
    data = [{"object": "embedding", "index": i, "embedding": as_text(v)} for i, v in enumerate(vectors)]
    return json_answer({"object": "list", "data": data, "model": model.name, "usage": usage}, rows=len(texts))


def _input_texts(body: dict[str, Any]) -> list[str]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise StatusError(400, "input must be a text or a list of texts; token ids are not taken here", param="input")
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise StatusError(400, f"input must hold 1 to {MAX_INPUTS} texts, not {len(texts)}", param="input")
    # OpenAI refuses an empty text with 400 as well.
    if "" in texts:
        raise StatusError(400, f"input cannot hold an empty text: see position {texts.index('')}", param="input")
    return texts


def _vector_encoder(body: dict[str, Any]) -> Any:
    """A function that prepares one vector for the JSON: unchanged, or as the base64 of its little-endian float32."""
    encoding = body.get("encoding_format", "float")
    if encoding == "float":
        return lambda vector: vector
    if encoding == "base64":
        return lambda vector: b64encode(vector.astype("<f4", copy=False)).decode()
    raise StatusError(400, f"encoding_format must be float or base64, not {encoding!r}", param="encoding_format")


def _in_bytes(vectors: Array, body: dict[str, Any], metadata: dict[str, Any]) -> ServerResponse:
    """The vectors as vLLM sends them for the encoding format "bytes": raw, with their places in a header field."""
    kind = body.get("embed_dtype", "float32")
    if kind not in _EMBED_DTYPES:
        raise StatusError(400, f"embed_dtype must be one of {', '.join(_EMBED_DTYPES)}", param="embed_dtype")
    # bfloat16 is no dtype of numpy's: `pack` rounds float32 to it.
    raw = bytes(pack(vectors.astype(np.float16 if kind == "float16" else np.float32), _EMBED_DTYPES[kind]))
    size, shape = len(raw) // len(vectors), [vectors.shape[1]]
    items = [
        {"index": i, "embed_dtype": kind, "endianness": "little", "start": i * size, "end": (i + 1) * size,
         "shape": shape}
        for i in range(len(vectors))
    ]  # fmt: skip
    headers = {"Content-Type": "application/octet-stream", "metadata": json.dumps({**metadata, "data": items})}
    return ServerResponse(status=200, headers=headers, body=raw, rows=len(vectors))


def _vectors(model: Model, texts: list[str]) -> Array:
    """Shape (n, width), float32, contiguous."""
    if model.embed is None:
        raise StatusError(400, f"model {model.name!r} does not embed texts: it takes {takes(model)}", param="model")
    outputs = call(model, texts, len(texts), model.embed)
    require_finite(model, outputs)
    (vectors,) = outputs.values() if len(outputs) == 1 else (None,)
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "iuf":
        raise StatusError(500, f"model {model.name!r} must return one vector a text: a 2-D array of numbers")
    return np.ascontiguousarray(vectors, np.float32)


def _truncated(vectors: Array, dimensions: Any) -> Array:
    """The first ``dimensions`` of each vector, of unit length again, as OpenAI shortens its embeddings.

    https://platform.openai.com/docs/guides/embeddings#reducing-embedding-dimensions
    """
    width = vectors.shape[1]
    if dimensions is None:
        return vectors
    if type(dimensions) is not int or not 1 <= dimensions <= width:
        raise StatusError(400, f"dimensions must be 1 to {width}, not {dimensions!r}", param="dimensions")
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    # A vector that is zero in all that is left has no direction, and stays zero.
    return np.ascontiguousarray(np.divide(cut, norms, out=np.zeros_like(cut), where=norms > 0))


def chat(model: Model, request: ServerRequest) -> ServerResponse:
    """``POST /v1/chat/completions``: the model's text for the last message of the user.

    ``usage`` counts words, not tokens; ``max_tokens`` cuts the answer, which then ends with finish_reason "length".
    """
    body = request.json_object()
    # The only model that there is, where none is named, as most servers have it.
    if not isinstance(name := body.get("model", model.name), str):
        raise StatusError(400, f"model must be a text, not {name!r}", param="model")
    require_model(model, name)
    # A client that asks for several answers, or for parts of one, must not take this one for them.
    for field, only in (("stream", False), ("n", 1)):
        if body.get(field, only) != only:
            raise StatusError(400, f"{field} must be {only!r}: this server gives one whole answer", param=field)
    contents = [_content(message) for message in _messages(body)]
    text, reason = _cut(
        _answer_text(model, _prompt(body, contents)), body.get("max_completion_tokens", body.get("max_tokens"))
    )
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    prompt, completion = sum(len(words.split()) for words in contents), len(text.split())
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": model.name, "choices": [choice]}
    return json_answer({**answer, "usage": usage}, rows=1)


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise StatusError(400, "messages must be a list with at least one message", param="messages")
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise StatusError(400, "a message must be an object with a role", param="messages")
    return given


def _prompt(body: dict[str, Any], contents: list[str]) -> str:
    """The last message of the user."""
    for message, text in zip(reversed(body["messages"]), reversed(contents), strict=True):
        if message["role"] == "user":
            return text
    raise StatusError(400, "there is no message of the user", param="messages")


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is None and message["role"] == "assistant":  # it called a tool
        return ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(p, dict) and _is_part(p) for p in parts):
        raise StatusError(400, "content must be a text, or a list of parts: texts, images, audio", param="messages")
    return "".join(part.get("text", "") for part in parts)


def _is_part(part: dict[str, Any]) -> bool:
    """True for a text, or for a part that the packaged models, which read texts alone, pass over."""
    kind = part.get("type", "text")
    return isinstance(part.get("text"), str) if kind == "text" else isinstance(part.get(kind), dict)


def _answer_text(model: Model, prompt: str) -> str:
    if model.embed is None:
        raise StatusError(400, f"model {model.name!r} does not chat: it takes {takes(model)}", param="model")
    outputs = call(model, [prompt], 1)
    texts = [jsonable(column)[0] for column in outputs.values()]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise StatusError(500, f"model {model.name!r} must return one text for each text")
    return texts[0]


def _cut(text: str, max_tokens: Any) -> tuple[str, str]:
    """The first ``max_tokens`` words, and the finish_reason."""
    if max_tokens is None:
        return text, "stop"
    if type(max_tokens) is not int or max_tokens < 1:
        raise StatusError(400, f"max_tokens must be a whole number, 1 or more, not {max_tokens!r}", param="max_tokens")
    words = text.split()
    return (text, "stop") if len(words) <= max_tokens else (" ".join(words[:max_tokens]), "length")
