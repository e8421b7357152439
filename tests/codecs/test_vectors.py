"""Embeddings as raw bytes: the header field of the answer says which bytes are whose."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import OpenAIEmbeddings
from fanout.errors import ConfigError, InvalidResponse
from fanout.tensors import pack
from fanout.testing import CodecTests
from fanout.types import Response

VECTORS = np.array([[0.5, 1], [2, 3], [4, 5]], "f4")
CODEC = OpenAIEmbeddings(encoding_format="bytes")


class TestBytes(CodecTests):
    def codec(self) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(model="m", encoding_format="bytes", embed_dtype="float16")

    def rows(self, n: int) -> Any:
        return [f"text {i}" for i in range(n)]

    def model(self, rows: Any) -> Any:
        return np.array([[len(row), sum(row.encode()), 1] for row in rows], np.float32)

    def expected(self, rows: Any) -> Any:
        return self.model(rows).astype(np.float16)


def answer(vectors=VECTORS, kind="float32", raw=None, indices=None, **changes):
    datatype = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}.get(kind, "FP32")
    raw = bytes(pack(vectors.astype("f2" if kind == "float16" else "f4"), datatype)) if raw is None else raw
    size = len(raw) // len(vectors)
    items = [
        {"index": i if indices is None else indices[i], "embed_dtype": kind, "endianness": "native", "start": i * size,
         "end": (i + 1) * size, "shape": [vectors.shape[1]], **changes}
        for i in range(len(vectors))
    ]  # fmt: skip
    metadata = {"model": "m", "data": items, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    return Response(status=200, headers={"metadata": json.dumps(metadata)}, body=raw)


@pytest.mark.parametrize("kind", [None, "float32", "float16", "bfloat16"])
def test_the_request_asks_for_bytes(kind):
    codec = OpenAIEmbeddings(model="m", encoding_format="bytes", embed_dtype=kind)
    assert orjson.loads(codec.encode(["a"]).body) == {
        "input": ["a"], "model": "m", "encoding_format": "bytes", "embed_dtype": kind or "float32",
        "endianness": "little",
    }  # fmt: skip
    assert codec.max_rows == 256


@pytest.mark.parametrize(("kind", "dtype"), [("float32", "f4"), ("float16", "f2"), ("bfloat16", "f4")])
def test_bytes_become_vectors_with_usage_and_model(kind, dtype):
    codec = OpenAIEmbeddings(encoding_format="bytes", embed_dtype=kind)
    decoded = codec.decode(answer(kind=kind), 3)
    assert decoded.values.dtype == dtype
    assert decoded.values.tolist() == VECTORS.tolist()
    assert (decoded.usage, decoded.model) == ({"prompt_tokens": 7, "total_tokens": 7}, "m")
    assert codec.decodes_at_once(answer(kind=kind))


@given(st.permutations(range(3)))
def test_vectors_are_placed_by_their_index(order):
    decoded = CODEC.decode(answer(VECTORS[list(order)], indices=order), 3)
    assert decoded.values.tolist() == VECTORS.tolist()


def test_a_server_that_sends_json_all_the_same_is_understood():
    items = [{"index": i, "embedding": vector} for i, vector in enumerate(VECTORS.tolist())]
    decoded = CODEC.decode(Response(status=200, headers={}, body=orjson.dumps({"data": items})), 3)
    assert decoded.values.tolist() == VECTORS.tolist()


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (answer(raw=b"\0" * 23), "content"),
        (answer(raw=b"\0" * 27), "shape"),
        (answer(VECTORS[:2]), "rows"),
        (answer(kind="fp8_e4m3"), "dtype"),
        (answer(endianness="big"), "dtype"),
        (answer(shape=[3]), "shape"),
        (answer(shape=[2, 1]), "shape"),
        (answer(shape=["2"]), "shape"),
        (answer(start=0), "content"),
        (answer(index=0), "content"),
        (answer(index="0"), "content"),
        (Response(status=200, headers={"metadata": "{"}, body=b""), "content"),
        (Response(status=200, headers={"metadata": "[]"}, body=b""), "content"),
        (Response(status=200, headers={"metadata": '{"data": [1, 2, 3]}'}, body=b""), "content"),
        (Response(status=200, headers={"metadata": '{"data": [{}, {}, {}]}'}, body=b""), "content"),
        (Response(status=200, headers={"metadata": '{"data": []}'}, body=b""), "rows"),
    ],
)
def test_metadata_that_do_not_fit_the_bytes_are_invalid(response, kind):
    with pytest.raises(InvalidResponse) as caught:
        CODEC.decode(response, 3)
    assert caught.value.error_kind == kind


def test_an_invalid_answer_is_billed_too():
    with pytest.raises(InvalidResponse) as caught:
        CODEC.decode(answer(VECTORS[:2]), 3)
    assert caught.value.usage == {"prompt_tokens": 7, "total_tokens": 7}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"embed_dtype": "float16"}, "embed_dtype"),
        ({"embed_dtype": "float32", "encoding_format": "base64"}, "embed_dtype"),
        ({"embed_dtype": "int8", "encoding_format": "bytes"}, "embed_dtype"),
        ({"extra": {"endianness": "big"}, "encoding_format": "bytes"}, "extra"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options, key):
    with pytest.raises(ConfigError) as caught:
        OpenAIEmbeddings(**options)
    assert caught.value.key == key
