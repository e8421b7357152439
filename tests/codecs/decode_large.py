"""Decode answers of a given size, each shape in turn, and print the outcome and the cost of each as JSON.

``python -m tests.codecs.decode_large BYTES [hidden]``; with ``hidden`` simdjson cannot be imported.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

if "hidden" in sys.argv:
    sys.modules["simdjson"] = None  # type: ignore[assignment]

from fanout import InvalidResponse, Response, codec

_VECTOR = b"%s" % base64.b64encode(bytes(range(256)) * 12)
_FLOATS = b",".join([b"0.123456789"] * 768)
_PREDICTIONS = (b'{"predictions":[', b"]}")
_DATA = (b'{"object":"list","data":[', b'],"model":"m","usage":{"total_tokens":1}}')

# Name -> codec, one row, the text before the rows and the text behind them. A # in it becomes the number of rows.
HONEST: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "pairs": ("json", b"[1,2]", *_PREDICTIONS),
    "pairs of floats": ("json", b"[0.25,0.75]", *_PREDICTIONS),
    "labels": ("json", b'"a"', *_PREDICTIONS),
    "labels beyond ASCII": ("v1", '"éé"'.encode(), *_PREDICTIONS),
    "long labels": ("json", b'"%s"' % (b"x" * 60), *_PREDICTIONS),
    "numbers": ("json", b"0", *_PREDICTIONS),
    "booleans": ("json", b"true", *_PREDICTIONS),
    "objects": ("json", b'{"label":"a","score":0.5}', *_PREDICTIONS),
    "vectors": ("json", b"[%s]" % _FLOATS, *_PREDICTIONS),
    "one long row": ("json", b"0.123456789", b'{"predictions":[[', b"]]}"),
    "one image": ("json", b"[%s]" % _FLOATS, b'{"predictions":[[', b"]]}"),
    "embeddings": ("openai-embeddings", b'{"object":"embedding","embedding":"%s"}' % _VECTOR, *_DATA),
    "embeddings of floats": ("openai-embeddings", b'{"object":"embedding","embedding":[%s]}' % _FLOATS, *_DATA),
    "a tensor": ("oip", b"0.5", b'{"outputs":[{"name":"y","datatype":"FP32","shape":[#],"data":[', b"]}]}"),
    "a tensor of texts": ("oip", b'"a"', b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[#],"data":[', b"]}]}"),
    "a chat": (
        "openai-chat",
        b"some words " * 99,
        b'{"choices":[{"message":{"content":"',
        b'"},"finish_reason":"stop"}]}',
    ),
}
HOSTILE: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "empty objects": ("json", b"{}", *_PREDICTIONS),
    "empty objects without a name": ("json", b"{}", b"[", b"]"),
    "empty objects behind the rows": ("json", b"{}", b'{"predictions":[1],"more":[', b"]}"),
    "empty lists": ("json", b"[]", *_PREDICTIONS),
    "nested lists": ("json", b"[[[[[[1]]]]]]", *_PREDICTIONS),
    "an open list": ("json", b"[[[[[[[", *_PREDICTIONS),
    "columns": ("json", b'"a":[1]', b'{"predictions":{', b"}}"),
    "empty embeddings": ("openai-embeddings", b'{"embedding":""}', *_DATA),
    "empty objects as embeddings": ("openai-embeddings", b"{}", *_DATA),
    "names beside the rows": ("json", b'"nnnnnnnn":1', b'{"predictions":[1],"usage":{', b"}}"),
    "names in the answers of a chat": (
        "openai-chat",
        b'"nnnnnnnn":1',
        b'{"choices":[{"message":{"content":"x"}}],"usage":{',
        b"}}",
    ),
    "names in the usage": ("openai-embeddings", b'"n":{}', b'{"data":[],"usage":{', b"}}"),
    "empty outputs": ("oip", b"{}", b'{"outputs":[', b"]}"),
    "a long shape": ("oip", b"1", b'{"outputs":[{"name":"y","datatype":"FP32","data":[1],"shape":[', b"]}]}"),
    "empty choices": ("openai-chat", b"{}", b'{"choices":[', b"]}"),
    "digits": ("json", b"1" * 5000, *_PREDICTIONS),
}


def body_of(size: int, row: bytes, before: bytes, after: bytes) -> tuple[bytearray, int]:
    """An answer, made without a copy, and the number of its rows."""
    n = (size - len(before) - len(after) - 100) // (len(row) + 1)
    body = bytearray(before.replace(b"#", b"%d" % n))
    left = n - 1
    while left:
        part = min(left, max(1, 2**20 // len(row)))
        body += (row + b",") * part
        left -= part
    body += row + after
    return body, n


def measured(size: int, name: str, row: bytes, before: bytes, after: bytes) -> dict[str, Any]:
    body, n = body_of(size, row, before, after)
    one = 1 if name == "openai-chat" or b"[[" in before else n
    response = Response(status=200, headers={}, body=bytes(body) if name == "openai-chat" else body, url="http://h/x")  # type: ignore[arg-type]
    length = len(body)
    del body
    result = codec(name, input="x") if name == "oip" else codec(name)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before_it = memory("VmRSS") - length
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.extend(decoded(result, response, one)))
    held, last = 0.0, others()
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        now = others()
        held, last = max(held, now - last), now
    return {
        "bytes": length,
        "outcome": outcome[0],
        "cpu": outcome[1],
        "peak": memory("VmHWM") - before_it,
        "held": held,
    }


def decoded(result: Any, response: Response, n: int) -> tuple[str, float]:
    started = time.thread_time()
    try:
        result.decode(response, n)
    except InvalidResponse as error:
        return str(error)[:200], time.thread_time() - started
    return "ok", time.thread_time() - started


def others() -> float:
    """Seconds of CPU that other threads have had: between two looks, while this one waited for the interpreter."""
    return time.process_time() - time.thread_time()


def memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    costs = {name: measured(int(sys.argv[1]), *shape) for name, shape in (HONEST | HOSTILE).items()}
    sys.stdout.write(json.dumps(costs))
