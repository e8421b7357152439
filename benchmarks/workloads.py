"""The workloads: the rows to send, the static response of the server, and the right array."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MODEL = "bench"
WIDTH = 768
"""Length of an embedding."""

QUERY = "Which papers are about this?"
PROMPT = "Positive or negative? {}"
TENSOR = 1 << 20
"""Numbers in the tensor of W4: 4 MiB of float32."""

_SEED = 20240229


@dataclass(frozen=True, kw_only=True)
class Page:
    """One static response."""

    body: bytes = field(repr=False)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of request, sent many times.

    Unless ``right`` is given, every request has the same response, so that `check` cannot detect a contender that
    confuses requests. It checks that rows stay in order within a request, and that none is missing.
    """

    name: str
    title: str
    wire: Literal["predict", "base64", "floats", "tensor", "chat", "rerank"]
    base: str
    """Path under which the server offers this workload; clients append ``path`` to it."""

    path: str
    chunk_rows: int
    requests: int
    """Number in the timed part."""

    concurrency: int
    codec: str
    codec_options: Mapping[str, Any]
    answer: Array = field(repr=False)
    """The right answer to one request; first axis: its rows."""

    page: Page = field(repr=False)
    make_rows: Callable[[int], Any] = field(repr=False)
    others: Mapping[str, Page] = field(default_factory=dict, repr=False)
    """Other responses of the server, by path."""

    right: Callable[[int], Array] | None = field(default=None, repr=False)
    """Returns the right answers to so many rows, where they depend on the rows."""

    @property
    def url_path(self) -> str:
        """Path to which requests are posted."""
        return self.base + self.path

    def rows(self, requests: int) -> Any:
        """Return the input of so many requests: an array, or a list of texts."""
        return self.make_rows(requests * self.chunk_rows)

    def blank(self, n_rows: int) -> Array:
        """Return an uninitialized array for the answers to ``n_rows`` rows."""
        return np.empty((n_rows, *self.answer.shape[1:]), self.answer.dtype)

    def check(self, values: Array, requests: int) -> None:
        """Raise `ValueError` unless ``values`` are exactly the answers to that many requests."""
        wanted = (requests * self.chunk_rows, *self.answer.shape[1:])
        if values.shape != wanted or values.dtype != self.answer.dtype:
            raise ValueError(
                f"the answers are {values.dtype} {values.shape}, and {self.answer.dtype} {wanted} is right"
            )
        if self.right is not None:
            if not (values == self.right(len(values))).all():
                raise ValueError("the answers differ from the server's")
        elif not (values.reshape(requests, *self.answer.shape) == self.answer).all():
            raise ValueError("the answers differ from the server's")


def slices(rows: Sequence[Any] | Array, size: int) -> list[slice]:
    """Return the rows of each request."""
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _floats(*shape: int) -> Array:
    return np.random.default_rng(_SEED).standard_normal(shape).astype(np.float32)


def _texts(n: int) -> list[str]:
    return [f"text number {i} of a benchmark, about as long as the title of a paper" for i in range(n)]


def _predictions(answer: Array) -> Page:
    # Servers in Python write float32 like this: widened to float64, with all digits.
    return Page(body=json.dumps({"predictions": answer.tolist()}).encode())


def _embeddings(vectors: Sequence[Any]) -> Page:
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 1024, "total_tokens": 1024}
    return Page(body=json.dumps({"object": "list", "data": data, "model": MODEL, "usage": usage}).encode())


def _encoded(answer: Array) -> list[str]:
    return [base64.b64encode(vector.tobytes()).decode() for vector in answer]


def _tensor(answer: Array) -> Page:
    output = {
        "name": "output",
        "datatype": "FP32",
        "shape": list(answer.shape),
        "parameters": {"binary_data_size": answer.nbytes},
    }
    head = json.dumps({"model_name": MODEL, "model_version": "1", "outputs": [output]}).encode()
    fields = {"Inference-Header-Content-Length": str(len(head))}
    return Page(body=head + answer.tobytes(), content_type="application/octet-stream", headers=fields)


def _tensor_metadata() -> Page:
    tensors = {f"{kind}s": [{"name": kind, "datatype": "FP32", "shape": [-1, TENSOR]}] for kind in ("input", "output")}
    return Page(body=json.dumps({"name": MODEL, "versions": ["1"], "platform": "static", **tensors}).encode())


def _w1() -> Workload:
    answer = _floats(1, 10)
    return Workload(
        name="W1", title="1 row of 64 floats in, 10 floats out, JSON", wire="predict",
        base="/w1", path=f"/v1/models/{MODEL}:predict", chunk_rows=1, requests=3000, concurrency=16,
        codec="v1", codec_options={"dtype": "float32"},
        answer=answer, page=_predictions(answer), make_rows=lambda n: _floats(n, 64),
    )  # fmt: skip


def _w2() -> Workload:
    answer = _floats(64, WIDTH)
    return Workload(
        name="W2", title=f"64 texts in, 64 x {WIDTH} floats out in base64", wire="base64",
        base="/w2", path="/v1/embeddings", chunk_rows=64, requests=400, concurrency=16,
        codec="openai-embeddings", codec_options={"model": MODEL},
        answer=answer, page=_embeddings(_encoded(answer)), make_rows=_texts,
    )  # fmt: skip


def _w2f() -> Workload:
    answer = _floats(64, WIDTH)
    return Workload(
        name="W2f", title=f"64 texts in, 64 x {WIDTH} floats out in JSON", wire="floats",
        base="/w2f", path="/v1/embeddings", chunk_rows=64, requests=200, concurrency=16,
        codec="openai-embeddings", codec_options={"model": MODEL, "encoding_format": "float"},
        answer=answer, page=_embeddings(answer.tolist()), make_rows=_texts,
    )  # fmt: skip


def _w3() -> Workload:
    answer = _floats(64, WIDTH)
    return Workload(
        name="W3", title=f"64 x {WIDTH} floats in and out, JSON", wire="predict",
        base="/w3", path=f"/v1/models/{MODEL}:predict", chunk_rows=64, requests=100, concurrency=16,
        codec="v1", codec_options={"dtype": "float32"},
        answer=answer, page=_predictions(answer), make_rows=lambda n: _floats(n, WIDTH),
    )  # fmt: skip


def _w4() -> Workload:
    answer = _floats(1, TENSOR)
    return Workload(
        name="W4", title="a tensor of 4 MiB in and out, Open Inference Protocol, binary", wire="tensor",
        base="/w4", path=f"/v2/models/{MODEL}/infer", chunk_rows=1, requests=48, concurrency=8,
        codec="oip", codec_options={},
        # A view of one tensor, n times: the cost of the input does not belong to the workload.
        answer=answer, page=_tensor(answer), make_rows=lambda n: np.broadcast_to(answer, (n, TENSOR)),
        others={f"/w4/v2/models/{MODEL}": _tensor_metadata()},
    )  # fmt: skip


def _w5() -> Workload:
    choice = {"index": 0, "message": {"role": "assistant", "content": "positive"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 23, "completion_tokens": 1, "total_tokens": 24}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1796000000, "model": MODEL}
    page = Page(body=json.dumps({**head, "choices": [choice], "usage": usage}).encode())
    return Workload(
        name="W5", title="1 prompt in, 1 word out, a chat's JSON", wire="chat",
        base="/w5", path="/v1/chat/completions", chunk_rows=1, requests=3000, concurrency=16,
        codec="openai-chat", codec_options={"model": MODEL},
        answer=np.array(["positive"], np.dtypes.StringDType()), page=page, make_rows=_texts,
    )  # fmt: skip


def _w6() -> Workload:
    # float32 holds these scores exactly, and the best come first, as from every reranker.
    scores = np.random.default_rng(_SEED).permutation(32).astype(np.float32) / 32
    order = np.argsort(-scores)
    page = Page(body=json.dumps([{"index": int(i), "score": float(scores[i])} for i in order]).encode())
    request = {"query": QUERY, "texts": "{{rows}}", "raw_scores": False}
    return Workload(
        name="W6", title="32 documents of one query in, 32 scores out, JSON", wire="rerank",
        base="/w6", path="/rerank", chunk_rows=32, requests=1000, concurrency=16,
        codec="json", codec_options={
            "request": request, "answers": "@", "order": "index",
            "outputs": {"": {"path": "score", "type": "float32"}},
        },
        answer=scores, page=page, make_rows=_texts,
    )  # fmt: skip


def _j1() -> Workload:
    from benchmarks.servers.vectors import vectors  # which needs more than the other servers

    def right(n: int) -> Array:
        return vectors(np.arange(n))

    return Workload(
        name="J1", title="a whole job: Parquet in, embeddings of 64 floats, Parquet out", wire="floats",
        base="/j1", path="/v1/embeddings", chunk_rows=64, requests=200, concurrency=16,
        codec="openai-embeddings", codec_options={"model": MODEL, "encoding_format": "float"},
        answer=right(64), page=Page(body=b""), make_rows=_texts, right=right,
    )  # fmt: skip


_MAKERS = {"W1": _w1, "W2": _w2, "W2f": _w2f, "W3": _w3, "W4": _w4, "W5": _w5, "W6": _w6, "J1": _j1}
JOB = "J1"
NAMES = tuple(name for name in _MAKERS if name != JOB)
"""Workloads of single requests."""


@cache
def workload_named(name: str) -> Workload:
    """Return the workload of that name, with the same numbers every time."""
    return _MAKERS[name]()


@cache
def site() -> dict[str, Page]:
    """Return all responses of a static server, by path."""
    workloads = [workload_named(name) for name in NAMES]
    return {path: page for one in workloads for path, page in [(one.url_path, one.page), *one.others.items()]}
