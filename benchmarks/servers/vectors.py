"""A server of embeddings that depend on their texts, so that a row with the answer to another is detected.

It speaks OpenAI's API, for any number of texts in a request. The vector of a text begins with the number in the text.
``python -m benchmarks.servers.vectors SHARE`` gives a share of the requests a fault, evenly spread, each of `FAULTS` in
turn; it prints its port and runs until stdin is closed.
"""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from aiohttp import web

from benchmarks.place import ROOT, environment
from benchmarks.servers import NotStarted
from benchmarks.servers.static import Failing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.workloads import Array

WIDTH = 64
_REST = np.random.default_rng(20240229).integers(-64, 64, WIDTH - 1).astype(np.float32) / 64
_REST_JSON = orjson.dumps(_REST.tolist())[1:]
_NUMBER = re.compile(r"\d+")

FAULTS = (
    "503", "429", "the connection breaks off", "half of the JSON", "a vector is missing", "a null in a vector",
    "an HTML page with status 200",
)  # fmt: skip


def vectors(numbers: Array) -> Array:
    """Return the right answers to the texts with these numbers; shape (n, WIDTH), float32."""
    out = np.empty((len(numbers), WIDTH), np.float32)
    out[:, 0], out[:, 1:] = numbers, _REST
    return out


@contextmanager
def running(share: float) -> Iterator[str]:
    """Run the server as a child process and return its origin."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers.vectors", str(share)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        if not port:
            raise NotStarted("the server of vectors does not start; its error is above")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.wait()


class Vectors:
    """Answers requests, some of them with a fault."""

    def __init__(self, share: float) -> None:
        self._failing = Failing(share)
        self._faults = cycle(FAULTS)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        # The first requests of a client, of few rows, are those that look whether it works at all.
        fault = next(self._faults) if self._failing.next() else ""
        if fault in ("503", "429"):
            return web.Response(status=int(fault), headers={"Retry-After": "0"}, text="busy")
        if fault.startswith("an HTML page"):
            return web.Response(text="<html>the gateway is upgraded</html>", content_type="text/html")
        document = orjson.loads(body)
        items = [_item(i, text, document) for i, text in enumerate(document["input"])]
        if fault == "a vector is missing":
            del items[-1]
        if fault == "a null in a vector":
            items[0] = b'{"object":"embedding","index":0,"embedding":[null%b}' % (b",0.0" * (WIDTH - 1) + b"]")
        answer = b'{"object":"list","model":"bench","usage":{"prompt_tokens":1,"total_tokens":1},"data":[%b]}'
        answer %= b",".join(items)
        if fault == "half of the JSON":
            answer = answer[: len(answer) // 2]
        if fault == "the connection breaks off":
            broken = web.StreamResponse(headers={"Content-Length": str(len(answer))})
            await broken.prepare(request)
            await broken.write(answer[: len(answer) // 2])
            assert request.transport is not None
            request.transport.close()
            return broken
        return web.Response(body=answer, content_type="application/json")


def _item(index: int, text: str, document: Any) -> bytes:
    number = _NUMBER.search(text)
    assert number is not None
    if document.get("encoding_format") == "base64":
        data = vectors(np.array([int(number[0])]))[0].tobytes()
        return b'{"object":"embedding","index":%d,"embedding":"%b"}' % (index, base64.b64encode(data))
    return b'{"object":"embedding","index":%d,"embedding":[%b.0,%b}' % (index, number[0].encode(), _REST_JSON)


async def _serve(share: float) -> None:
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/{path:.*}", Vectors(share).handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.SockSite(runner, _listening())
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def _listening() -> Any:
    import socket

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    return listening


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
