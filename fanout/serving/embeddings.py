"""The OpenAI shape of an embeddings API.

https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.serving.calling import call, require_finite, require_model
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer

if TYPE_CHECKING:
    from fanout.serving.models import Model
    from fanout.types import Array

MAX_INPUTS = 2048


def embeddings(model: Model, request: ServerRequest) -> ServerResponse:
    """``POST /v1/embeddings``: texts -> float32 vectors, as numbers or base64. ``usage`` counts words, not tokens."""
    body = request.json()
    if not isinstance(body, dict):
        raise StatusError(400, "the body must be a JSON object")
    require_model(model, _model_name(body))
    texts = _texts(body)
    as_text = _as_text(body)
    vectors = _shortened(_vectors(model, texts), body.get("dimensions"))
    data = [{"object": "embedding", "index": i, "embedding": as_text(v)} for i, v in enumerate(vectors)]
    words = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": words, "total_tokens": words}
    return json_answer({"object": "list", "data": data, "model": model.name, "usage": usage}, rows=len(texts))


def _model_name(body: dict[str, Any]) -> str:
    name = body.get("model")
    if not isinstance(name, str):
        raise StatusError(400, "you must provide a model", param="model")
    return name


def _texts(body: dict[str, Any]) -> list[str]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise StatusError(400, "input must be a text or a list of texts; token ids are not taken here", param="input")
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise StatusError(400, f"input must hold 1 to {MAX_INPUTS} texts, not {len(texts)}", param="input")
    if "" in texts:
        raise StatusError(400, f"input cannot hold an empty text: see position {texts.index('')}", param="input")
    return texts


def _as_text(body: dict[str, Any]) -> Any:
    """How one vector goes into the JSON: as it is, or as the base64 of its little-endian float32."""
    encoding = body.get("encoding_format", "float")
    if encoding == "float":
        return lambda vector: vector
    if encoding == "base64":
        return lambda vector: b64encode(vector.astype("<f4", copy=False)).decode()
    raise StatusError(400, f"encoding_format must be float or base64, not {encoding!r}", param="encoding_format")


def _vectors(model: Model, texts: list[str]) -> Array:
    """Shape (n, width), float32, contiguous."""
    if model.embed is None:
        takes = ", ".join(f"{tensor.name} of shape {list(tensor.shape)}" for tensor in model.inputs)
        message = f"model {model.name!r} does not embed texts: it takes {takes or 'other rows'}"
        raise StatusError(400, message, param="model")
    outputs = call(model, texts, len(texts), model.embed)
    require_finite(model, outputs)
    (vectors,) = outputs.values() if len(outputs) == 1 else (None,)
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "iuf":
        raise StatusError(500, f"model {model.name!r} must return one vector a text: a 2-D array of numbers")
    return np.ascontiguousarray(vectors, np.float32)


def _shortened(vectors: Array, dimensions: Any) -> Array:
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
