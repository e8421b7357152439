"""The floor: the least cost with aiohttp and orjson, without retries, validation or statistics.

A fixed set of workers sends bytes from orjson and assigns the answers into the array.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import orjson
import yarl

from benchmarks.session import Session
from benchmarks.workloads import MODEL, QUERY, Array, Workload, slices

_TENSOR_OUT = {"name": "output", "parameters": {"binary_data": True}}


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open an aiohttp session with one connection per worker."""
    connector = aiohttp.TCPConnector(limit=workload.concurrency)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        url, encode, decode = yarl.URL(origin + workload.url_path), _ENCODE[workload.wire], _DECODE[workload.wire]()

        async def send(rows: Any) -> Array:
            out = workload.blank(len(rows))
            todo = iter(slices(rows, workload.chunk_rows))
            await asyncio.gather(*(worker(rows, out, todo) for _ in range(workload.concurrency)))
            return out

        async def worker(rows: Any, out: Array, todo: Iterator[slice]) -> None:
            for chunk in todo:
                body, headers = encode(rows[chunk])
                async with session.post(url, data=body, headers=headers) as response:
                    decode(await response.read(), response.headers, out[chunk])

        yield Session(send)


_JSON = {"Content-Type": "application/json"}


def _encode_predict(rows: Array) -> tuple[bytes, dict[str, str]]:
    return orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY), _JSON


def _encode_base64(rows: list[str]) -> tuple[bytes, dict[str, str]]:
    return orjson.dumps({"input": rows, "model": MODEL, "encoding_format": "base64"}), _JSON


def _encode_floats(rows: list[str]) -> tuple[bytes, dict[str, str]]:
    return orjson.dumps({"input": rows, "model": MODEL, "encoding_format": "float"}), _JSON


def _encode_chat(rows: list[str]) -> tuple[bytes, dict[str, str]]:
    return orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": rows[0]}]}), _JSON


def _encode_rerank(rows: list[str]) -> tuple[bytes, dict[str, str]]:
    return orjson.dumps({"query": QUERY, "texts": rows, "raw_scores": False}), _JSON


def _encode_tensor(rows: Array) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": rows.nbytes}
    tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "parameters": size}
    head = orjson.dumps({"inputs": [tensor], "outputs": [_TENSOR_OUT]})
    fields = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return b"".join((head, rows.data)), fields


Decode = Callable[[bytes, Any, Array], None]


def _decode_predict() -> Decode:
    def decode(body: bytes, headers: Any, out: Array) -> None:
        out[:] = orjson.loads(body)["predictions"]

    return decode


def _decode_base64() -> Decode:
    from pybase64 import b64decode  # the fastest decoder

    def decode(body: bytes, headers: Any, out: Array) -> None:
        for item in orjson.loads(body)["data"]:
            out[item["index"]] = np.frombuffer(b64decode(item["embedding"], validate=True), np.float32)

    return decode


def _decode_floats() -> Decode:
    def decode(body: bytes, headers: Any, out: Array) -> None:
        out[:] = [item["embedding"] for item in orjson.loads(body)["data"]]

    return decode


def _decode_chat() -> Decode:
    def decode(body: bytes, headers: Any, out: Array) -> None:
        out[0] = orjson.loads(body)["choices"][0]["message"]["content"]

    return decode


def _decode_rerank() -> Decode:
    def decode(body: bytes, headers: Any, out: Array) -> None:
        for item in orjson.loads(body):
            out[item["index"]] = item["score"]

    return decode


def _decode_tensor() -> Decode:
    def decode(body: bytes, headers: Any, out: Array) -> None:
        offset = int(headers["Inference-Header-Content-Length"])
        out[:] = np.frombuffer(body, np.float32, offset=offset)

    return decode


_ENCODE: dict[str, Callable[[Any], tuple[bytes, dict[str, str]]]] = {
    "predict": _encode_predict, "base64": _encode_base64, "floats": _encode_floats, "tensor": _encode_tensor,
    "chat": _encode_chat, "rerank": _encode_rerank,
}  # fmt: skip
_DECODE: dict[str, Callable[[], Decode]] = {
    "predict": _decode_predict, "base64": _decode_base64, "floats": _decode_floats, "tensor": _decode_tensor,
    "chat": _decode_chat, "rerank": _decode_rerank,
}  # fmt: skip
