"""The recipes of docs/services.md, driven as their frameworks drive them: start, requests, overload, end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer

from fanout import ClientStateError
from fanout.serving.models import load_model
from fanout.testing import FaultServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Ask = Callable[[Any], Awaitable[tuple[int, dict[str, str], Any]]]

ROOT = Path(__file__).absolute().parents[1]
PAGE = (ROOT / "docs" / "services.md").read_text("utf-8")
IMAGES = np.load(ROOT / "examples" / "digits.npz")["images"]
MODEL = "http://host:8000/v2/models/digits/infer"


def recipe(heading: str, url: str) -> str:
    """Return the first Python block under a heading, with the URL of the test's model and a short queue."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    block = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert MODEL in block[1]
    return block[1].replace(MODEL, url).replace("max_pending=500", "max_pending=3")


def names_of(heading: str, url: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(recipe(heading, url), "service.py", "exec", dont_inherit=True), names)
    return names


async def asgi(app: Any, body: Any) -> tuple[int, dict[str, str], Any]:
    """POST ``body`` to an ASGI application, as a server would."""
    sent: list[Any] = []
    scope = {
        "type": "http", "method": "POST", "path": "/digit", "raw_path": b"/digit", "query_string": b"", "headers":
        [(b"content-type", b"application/json")], "http_version": "1.1", "asgi": {"version": "3.0"}, "scheme": "http",
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, orjson.loads(b"".join(part.get("body", b"") for part in sent[1:]))


@asynccontextmanager
async def fastapi_service(url: str) -> AsyncIterator[tuple[Ask, Any]]:
    app = names_of("FastAPI", url)["app"]
    async with app.router.lifespan_context(app):
        yield (lambda body: asgi(app, body)), app.state.client


@asynccontextmanager
async def aiohttp_service(url: str) -> AsyncIterator[tuple[Ask, Any]]:
    names = names_of("aiohttp", url)
    app = await names["make_app"]()
    async with TestClient(TestServer(app)) as client:

        async def ask(body: Any) -> tuple[int, dict[str, str], Any]:
            async with client.post("/digit", json=body) as response:
                text = await response.read()
                return response.status, dict(response.headers), orjson.loads(text) if response.ok else text.decode()

        yield ask, app[names["CLIENT"]]


SERVICES = [fastapi_service, aiohttp_service]


@asynccontextmanager
async def model() -> AsyncIterator[FaultServer]:
    async with FaultServer(load_model("digits")) as server:
        yield server


def url_of(server: FaultServer) -> str:
    return f"{server.origin}/v2/models/digits/infer"


@pytest.mark.parametrize("service", SERVICES)
async def test_requests_of_a_service_share_requests_to_the_model(service: Any) -> None:
    async with model() as server, service(url_of(server)) as (ask, client):
        answers = await asyncio.gather(*(ask(image.tolist()) for image in IMAGES[:3]))
        assert [(status, set(body)) for status, _, body in answers] == [(200, {"digit"})] * 3
        assert len(server.requests) < 3
    with pytest.raises(ClientStateError, match="the client is closed"):
        await client.predict(IMAGES[0])


@pytest.mark.parametrize("service", SERVICES)
async def test_a_row_of_another_form_is_the_callers_fault(service: Any) -> None:
    async with model() as server, service(url_of(server)) as (ask, _):
        status, _, body = await ask([1.0, 2.0])
    assert status == 422
    assert "64" in str(body)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_model_that_refuses_is_a_bad_gateway(service: Any) -> None:
    async with model() as server, service(url_of(server)) as (ask, _):
        server.misbehave(lambda _: 401)
        status, _, body = await ask(IMAGES[0].tolist())
    assert status == 502
    assert "401" in str(body)


async def test_callers_beyond_the_queue_are_asked_to_come_back() -> None:
    async with model() as server, fastapi_service(url_of(server)) as (ask, client):
        await ask(IMAGES[0].tolist())  # metadata, before the model hangs
        server.misbehave(lambda _: "silence")
        waiting = [asyncio.create_task(client.predict(row)) for row in IMAGES[:3]]
        await server.arrived(2)
        status, headers, _ = await ask(IMAGES[0].tolist())
        for call in waiting:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert (status, headers["retry-after"]) == (503, "1")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
async def test_each_worker_of_gunicorn_has_a_client_of_its_own(tmp_path: Path) -> None:
    line = re.search(r"^gunicorn (service:make_app .*) --workers 4$", PAGE, re.MULTILINE)
    assert line is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with model() as server:
        (tmp_path / "service.py").write_text(recipe("aiohttp", url_of(server)), "utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gunicorn", *line[1].split(), "--workers", "2", "--bind", f"127.0.0.1:{port}",
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await until_both_workers_have_asked(server, port)
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = await asyncio.wait_for(process.communicate(), 20)
    assert log.count(b"Booting worker") == 2
    assert b"Traceback" not in log
    assert process.returncode == 0


async def until_both_workers_have_asked(server: FaultServer, port: int) -> None:
    """Send requests on connections of their own, until the model has one connection of each worker."""
    async with asyncio.timeout(20):
        while server.connections < 2:
            try:
                async with aiohttp.request("POST", f"http://127.0.0.1:{port}/digit", json=IMAGES[0].tolist()) as answer:
                    assert set(await answer.json()) == {"digit"}
            except aiohttp.ClientConnectionError:  # gunicorn is not ready yet
                await asyncio.sleep(0.1)
