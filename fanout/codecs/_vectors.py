"""Embeddings that are no JSON numbers: base64, and the raw bytes that vLLM sends for ``encoding_format = "bytes"``.

vLLM describes the bytes in a header field ``metadata``:

https://docs.vllm.ai/en/latest/models/pooling_models/
https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/pooling/utils.py
"""

from __future__ import annotations

from os import urandom
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from pybase64 import b64decode

from fanout.codecs._paths import order_of
from fanout.codecs._values import Unfit
from fanout.tensors import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Array, Buffer, Response

# The bytes of the official API are little-endian floats of four bytes, whatever the machine has.
_BASE64 = np.dtype("<f4")

HEADER = "metadata"
"""The header field of an answer in bytes. JSON answers have none."""

DATATYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}
"""``embed_dtype`` -> datatype of `fanout.tensors`."""

# The two ways in which servers write the key of a vector in base64, and bytes in which the first one comes.
_KEYS = (b'"embedding":"', b'"embedding": "')
_FIRST_KEY = 4096
# Stands for a vector that was cut out. It is drawn at random, so that no server can put it into an answer by itself:
# an item with its key twice would then pass for one whose vector was cut out.
_CUT = urandom(16).hex()

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


def parsed_apart(body: bytes, n_rows: int) -> Any:
    """Parse an answer with vectors in base64 without a copy of each: its items have views of ``body`` instead of texts.

    The vectors are cut out before the rest is parsed. Return None unless ``n_rows`` of one length could be cut out.
    """
    key = next((key for key in _KEYS if body.find(key, 0, _FIRST_KEY) >= 0), None)
    if key is None:
        return None
    start = body.find(key, 0, _FIRST_KEY) + len(key)
    length = body.find(b'"', start) - start
    view, end = memoryview(body), 0
    rest: list[Buffer] = []
    vectors: list[memoryview] = []
    while len(vectors) < n_rows and (place := body.find(key, end)) >= 0:
        start = place + len(key)
        rest += (view[end:start], _CUT.encode())
        end = start + length
        vectors.append(view[start:end])
    rest.append(view[end:])
    try:
        document = orjson.loads(b"".join(rest))
        items = document["data"]
        # As many cuts as items, and one in each: the cuts are the vectors of the items, in their order.
        if len(vectors) != n_rows or [item["embedding"] for item in items] != [_CUT] * n_rows:
            return None
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    for item, vector in zip(items, vectors, strict=True):
        item["embedding"] = vector
    return document


def from_base64(vectors: Sequence[str | memoryview]) -> Array:
    """Return the vectors in base64 texts: shape (n, width), a read-only view of float32. Raises `Unfit`."""
    data = _joined(vectors)
    if data is None:
        data = b"".join(_each(vectors))
    size = len(data) // len(vectors)
    width, rest = divmod(size, _BASE64.itemsize)
    if rest or not width:
        raise Unfit(f"has {size} bytes, which are no float32 numbers", row=0, error_kind="shape")
    return np.frombuffer(data, _BASE64).reshape(len(vectors), width)


def _joined(vectors: Sequence[Any]) -> bytes | None:
    """The bytes of all vectors, decoded at once; None if not all have one length in whole groups of four characters."""
    try:
        if len(set(map(len, vectors))) > 1 or len(vectors[0]) % 4:
            return None
        # One call for all vectors is several times quicker than one for each.
        text = "".join(vectors) if isinstance(vectors[0], str) else b"".join(vectors)
        data = b64decode(text, validate=True)
    except (ValueError, TypeError):  # padding within the joined text, or no base64
        return None
    return data if 4 * len(data) == 3 * len(text) else None


def _each(vectors: Sequence[Any]) -> list[bytes]:
    rows: list[bytes] = []
    for i, text in enumerate(vectors):
        try:
            rows.append(b64decode(text, validate=True))
        except (ValueError, TypeError):
            raise Unfit("is no base64, as others are", row=i) from None
        if len(rows[i]) != len(rows[0]):
            raise Unfit(f"has {len(rows[i])} bytes where row 0 has {len(rows[0])}", row=i, error_kind="shape")
    return rows
