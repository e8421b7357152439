"""The usual hand-written program: gather, a semaphore and json, with or without tenacity."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

from benchmarks.contenders import _chat
from benchmarks.session import Session
from benchmarks.workloads import MODEL, QUERY, Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def opened(workload: Workload, origin: str, *, tenacity: bool = False) -> AsyncIterator[Session]:
    """Open an aiohttp session and a semaphore."""
    semaphore = asyncio.Semaphore(workload.concurrency)
    request, answer = request_of(workload.wire), answer_of(workload.wire)
    async with aiohttp.ClientSession() as session:

        async def post(body: dict[str, Any]) -> Array:
            async with session.post(origin + workload.url_path, json=body) as response:
                response.raise_for_status()
                return answer(await response.json())

        attempt = retried(post) if tenacity else post

        async def one(rows: Any) -> Array:
            async with semaphore:
                return await attempt(request(rows))

        async def send(rows: Any) -> Array:
            return np.concatenate(
                await asyncio.gather(*(one(rows[chunk]) for chunk in slices(rows, workload.chunk_rows)))
            )

        yield Session(send)


def retried(post: Callable[[dict[str, Any]], Awaitable[Array]]) -> Callable[[dict[str, Any]], Awaitable[Array]]:
    from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    return retry(
        retry=retry_if_exception_type((aiohttp.ClientError, TimeoutError)),
        stop=stop_after_attempt(5),
        wait=wait_random_exponential(0.2, max=30),
        reraise=True,
    )(post)


def instances(rows: Array) -> dict[str, Any]:
    """Return the body of a request to predict."""
    return {"instances": rows.tolist()}


def predictions(document: Any) -> Array:
    """Return the array in its response."""
    return np.array(document["predictions"], np.float32)


def _texts(rows: list[str]) -> dict[str, Any]:
    return {"input": rows, "model": MODEL, "encoding_format": "base64"}


def _vectors(document: Any) -> Array:
    items = sorted(document["data"], key=lambda item: item["index"])
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), np.float32) for item in items])


def _floats(rows: list[str]) -> dict[str, Any]:
    return {"input": rows, "model": MODEL, "encoding_format": "float"}


def _lists(document: Any) -> Array:
    items = sorted(document["data"], key=lambda item: item["index"])
    return np.array([item["embedding"] for item in items], np.float32)


def _documents(rows: list[str]) -> dict[str, Any]:
    return {"query": QUERY, "texts": rows, "raw_scores": False}


def _scores(items: Any) -> Array:
    return np.array([item["score"] for item in sorted(items, key=lambda item: item["index"])], np.float32)


_REQUEST: dict[str, Callable[[Any], dict[str, Any]]] = {
    "predict": instances, "base64": _texts, "floats": _floats, "rerank": _documents,
    "chat": lambda rows: _chat.request(rows[0]),
}  # fmt: skip
_ANSWER: dict[str, Callable[[Any], Array]] = {
    "predict": predictions, "base64": _vectors, "floats": _lists, "rerank": _scores,
    "chat": lambda document: _chat.array([_chat.text(document)]),
}  # fmt: skip


def request_of(wire: str) -> Callable[[Any], dict[str, Any]]:
    """Return the function that makes the body of a request from its rows."""
    return _REQUEST[wire]


def answer_of(wire: str) -> Callable[[Any], Array]:
    """Return the function that reads the rows of a response."""
    return _ANSWER[wire]
