"""Embeddings as raw bytes, as vLLM sends them for ``encoding_format = "bytes"``, with a header field ``metadata``.

https://docs.vllm.ai/en/latest/models/pooling_models/
https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/pooling/utils.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from fanout.codecs._paths import order_of
from fanout.codecs._values import Unfit
from fanout.tensors import unpack

if TYPE_CHECKING:
    from fanout.types import Array, Response

HEADER = "metadata"
"""The header field of an answer in bytes. JSON answers have none."""

DATATYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}
"""``embed_dtype`` -> datatype of `fanout.tensors`."""

MOST_ROWS = 256
"""Each row has about 120 bytes in the header field, and a header has 64 KiB at most by default."""


def metadata_of(response: Response) -> dict[str, Any]:
    """The metadata of an answer in bytes. Raises `Unfit` if that is no JSON object."""
    try:
        metadata = orjson.loads(response.headers[HEADER])
    except orjson.JSONDecodeError as error:
        raise Unfit(f"has a header field {HEADER} that is not JSON ({error})") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("data"), list):
        raise Unfit(f"has no list 'data' in the header field {HEADER}")
    return metadata


def vectors_in(response: Response, metadata: dict[str, Any], n_rows: int) -> Array:
    """The vectors in row order, shape (n_rows, width). Raises `Unfit` where metadata and bytes disagree."""
    items = metadata["data"]
    if len(items) != n_rows:
        raise Unfit(f"has {len(items)} embeddings for {n_rows} texts", error_kind="rows")
    try:
        indices = [item["index"] for item in items]
        kinds = {(item["embed_dtype"], item["endianness"], *item["shape"]) for item in items}
        spans = [(item["start"], item["end"]) for item in items]
    except (TypeError, KeyError):
        raise Unfit(f"lacks a part of the header field {HEADER}") from None
    (kind, endianness, *shape), *others = kinds
    if others or len(shape) != 1:
        raise Unfit("has embeddings of several shapes or dtypes, not one vector a text", error_kind="shape")
    if kind not in DATATYPES or endianness == "big":
        raise Unfit(f"has embeddings of dtype {kind!r} ({endianness}-endian), which cannot be read", error_kind="dtype")
    size, rest = divmod(len(response.body), n_rows)
    if rest or spans != [(i * size, (i + 1) * size) for i in range(n_rows)]:
        raise Unfit(f"has {len(response.body):,} bytes, which are not those of its header field {HEADER}")
    try:
        vectors = unpack(response.body, DATATYPES[kind], (n_rows, *shape))
    except (TypeError, ValueError):
        raise Unfit(
            f"has {size} bytes a row, which are no {kind} vector of shape {shape}", error_kind="shape"
        ) from None
    places = order_of(indices)
    return vectors if places is None else vectors[places]
