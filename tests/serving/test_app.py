"""The aiohttp application over a real loopback socket."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from io import BytesIO
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from fanout.errors import ConfigError
from fanout.serving.app import _url, create_app, serve
from fanout.serving.models import Model


@asynccontextmanager
async def session_of(model, latency=0.0):
    """A client session whose base URL is a server of ``model``."""
    runner = web.AppRunner(create_app(model, latency=latency))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


async def get(session, path):
    async with session.get(path) as response:
        assert response.status == 200
        return await response.json()


async def post(session, rows, url="/"):
    async with session.post(url, json=rows) as response:
        return response.status, await response.json()


@asynccontextmanager
async def served(name, **options):
    """The URL of `serve`, which is cancelled at the end."""
    ready = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(name, port=0, on_ready=ready.set_result, **options))
    await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield ready.result()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_serve_speaks_every_protocol(examples):
    """JSON, binary tensors and errors, with their status and headers."""
    images, _ = examples
    raw = images.tobytes()
    shape = [1797, 64]
    head = (
        b'{"inputs": [{"name": "images", "shape": %a, "datatype": "FP32", "parameters": {"binary_data_size": %d}}]'
        b', "parameters": {"binary_data_output": true}}' % (shape, len(raw))
    )
    async with served("digits") as url, aiohttp.ClientSession(url) as session:
        assert (await get(session, "/v2/models/digits"))["platform"] == "fanout"
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        async with session.post("/v2/models/digits/infer", data=head + raw, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "application/octet-stream"
            length = int(response.headers["Inference-Header-Content-Length"])
            probabilities = np.frombuffer((await response.read())[length:], "<f4").reshape(-1, 10)
        # More than the 1 MiB that aiohttp accepts by default.
        labels = await labels_by_json(session, np.concatenate([images] * 3))
        assert np.array_equal(labels, np.tile(probabilities.argmax(1), 3))
        async with session.post("/v1/models/nobody:predict", json={}) as response:
            assert response.status == 404
            assert "'digits'" in (await response.json())["error"]


async def labels_by_json(session, images):
    async with session.post("/", data=BytesIO(json.dumps(images.tolist()).encode())) as response:
        assert response.status == 200
        return np.array(await response.json()).argmax(1)


async def test_health_answers_while_the_function_works_one_request_at_a_time():
    """The loop stays free, and user code need not be thread-safe."""
    entered, leave, running = threading.Event(), threading.Event(), []

    def slow(rows):
        running.append(1)
        entered.set()
        assert leave.wait(10)
        assert len(running) == 1
        running.pop()
        return rows

    async with session_of(Model(name="m", function=slow)) as session:
        posts = [asyncio.create_task(post(session, [1, 2])) for _ in range(3)]
        assert await asyncio.to_thread(entered.wait, 10)
        assert (await get(session, "/healthz"))["status"] == "ok"
        while (await get(session, "/stats"))["in_flight"] < 3:
            pass
        leave.set()
        assert await asyncio.gather(*posts) == [(200, [1, 2])] * 3
        assert await get(session, "/stats") == {"requests": 3, "in_flight": 0, "max_in_flight": 3, "rows": 6}


async def test_failed_requests_count_no_rows():
    """`rows` are those that were answered."""
    async with session_of(Model(name="m", function=lambda rows: rows[:1])) as session:
        assert (await post(session, [1, 2]))[0] == 500
        assert await get(session, "/stats") == {"requests": 1, "in_flight": 0, "max_in_flight": 1, "rows": 0}


async def test_latency_delays_posts_side_by_side():
    """A distant server, not a slow one: the waits overlap."""
    async with session_of(Model(name="m", function=lambda rows: rows), latency=0.5) as session:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(post(session, [1]) for _ in range(8)))
        assert loop.time() - began >= 0.5
        assert (await get(session, "/stats"))["max_in_flight"] == 8


async def test_health_does_not_wait_for_the_latency():
    async with session_of(Model(name="m", function=lambda rows: rows), latency=1000) as session:
        assert (await get(session, "/healthz"))["status"] == "ok"


async def test_a_port_in_use_is_a_config_error():
    """The message has the address and the remedy."""
    async with served("echo") as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .*; choose another port"):
            await serve("echo", port=port)
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:65536"):
        await serve("echo", port=65536)


async def test_an_unknown_model_is_a_config_error():
    """Before anything listens."""
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        await serve("digit", port=0)


async def test_serve_without_a_callback_ends_when_cancelled():
    """`on_ready` is optional."""
    task = asyncio.create_task(serve("echo", port=0))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_lets_a_request_in_flight_end():
    """Graceful: the answer still comes."""
    async with aiohttp.ClientSession() as session:
        async with served("echo", latency=0.3) as url:
            under_way = asyncio.create_task(post(session, [1], url))
            while (await get(session, f"{url}/stats"))["in_flight"] < 1:
                pass
        assert await under_way == (200, [1])


def test_ipv6_addresses_are_bracketed():
    """RFC 3986, section 3.2.2."""
    assert _url(SimpleNamespace(addresses=[("::1", 80, 0, 0)]), "::1") == "http://[::1]:80"
