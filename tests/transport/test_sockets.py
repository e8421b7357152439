"""Endpoints behind a Unix socket: real servers that listen in a temporary folder."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web

from fanout import Cache, Client, ConfigError, Endpoint, Limits, RetryPolicy, RunStopped, codec
from fanout._url import redact_url, require_url, with_path
from fanout.errors import FanoutError
from fanout.serving.app import create_app
from fanout.serving.models import Model
from fanout.testing import FaultServer, Recorder, Replayer
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

X = np.arange(300.0).reshape(100, 3)
LARGE = np.arange(60_000.0).reshape(200, 300)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


@asynccontextmanager
async def served(path: Path, heads: list[Any] | None = None) -> AsyncIterator[str]:
    """A model server on a Unix socket; the URL of its model, with the target behind a colon."""
    app = create_app(Model(name="m", function=double, embed=lambda texts: np.ones((len(texts), 4))))

    @web.middleware
    async def recorded(request: web.Request, handler: Any) -> Any:
        if heads is not None:
            heads.append((request.method, request.headers["Host"], request.path_qs))
        return await handler(request)

    app.middlewares.append(recorded)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(path)).start()
        yield f"unix://{path}:/v1/models/m:predict"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("rows", [X, LARGE], ids=["small", "large"])
async def test_rows_go_over_the_socket(rows: np.ndarray, tmp_path: Path) -> None:
    heads: list[Any] = []
    async with served(tmp_path / "m.sock", heads) as url, Client(url + "?key=a", codec=Plain, chunk_rows=50) as client:
        assert np.array_equal(await client.map(rows), rows * 2)
        assert np.array_equal(await client.predict(rows[0]), rows[0] * 2)
        (endpoint,) = client.statistics().endpoints
    assert set(heads) == {("POST", "localhost", "/v1/models/m:predict?key=a")}
    assert endpoint.url == url + "?key=***"


async def test_a_bare_socket_gets_the_path_of_the_codec(tmp_path: Path) -> None:
    heads: list[Any] = []
    async with served(tmp_path / "m.sock", heads) as url:
        bare = url.partition(":/v1")[0]
        embeddings: Any = codec("openai-embeddings", model="m")
        async with Client(bare, codec=embeddings) as client:
            assert len(await client.map(["a", "b"])) == 2  # type: ignore[arg-type]
        with pytest.raises(
            ConfigError, match=r"names no model; write it whole, like unix:///.*m\.sock:/v1/models/NAME"
        ):
            async with Client(bare, codec=Plain):
                pass
    assert heads[0][2] == "/v1/embeddings"


async def test_metadata_comes_over_the_socket_too(tmp_path: Path) -> None:
    heads: list[Any] = []
    async with (
        served(tmp_path / "m.sock", heads) as url,
        Client(url.partition(":/v1")[0] + ":/v2/models/m/infer", codec="oip") as client,
    ):
        assert np.array_equal(await client.map(X.astype("f4")), X.astype("f4") * 2)
    assert heads[0][0] == "GET"


async def test_sockets_and_hosts_serve_one_client_together(tmp_path: Path) -> None:
    async with (
        served(tmp_path / "a.sock") as first,
        served(tmp_path / "b.sock") as second,
        FaultServer(double) as server,
    ):
        urls = (first, second, server.url(Plain))
        async with Client(Endpoint(urls=urls), codec=Plain, chunk_rows=2, limits=Limits(concurrency=6)) as client:
            assert np.array_equal(await client.map(X), X * 2)
            statistics = client.statistics().endpoints
    assert [one.url for one in statistics] == list(urls)
    assert all(one.requests for one in statistics)


async def test_errors_name_the_socket(tmp_path: Path) -> None:
    socket = tmp_path / "none.sock"
    retry = RetryPolicy(max_attempts=2, initial_backoff=0.01)
    async with Client(f"unix://{socket}:/x?token=sesame-street", codec=Plain, retry=retry) as client:
        with pytest.raises(RunStopped) as caught:
            await client.map(X)
    assert caught.value.kind == "unreachable"
    assert f"cannot connect to unix://{socket}:/x?token=***: No such file or directory" in str(caught.value)
    async with served(tmp_path / "m.sock") as url, Client(url.replace("/m:", "/n:"), codec=Plain) as client:
        with pytest.raises(FanoutError, match=r"HTTP 404.*unix:///.*m\.sock:/v1/models/n:predict"):
            await client.map(X)


async def test_a_server_that_comes_back_is_found_again(tmp_path: Path) -> None:
    async with served(tmp_path / "m.sock") as url, Client(url, codec=Plain) as client:
        await client.map(X)
        await asyncio.sleep(0)
    async with Client(url, codec=Plain, retry=RetryPolicy(initial_backoff=0.05)) as client:
        mapped = asyncio.create_task(client.map(X))
        await asyncio.sleep(0)
        async with served(tmp_path / "m.sock"):
            assert np.array_equal(await mapped, X * 2)


async def test_recordings_and_caches_know_the_socket(tmp_path: Path) -> None:
    cassette, cache = tmp_path / "c.jsonl", Cache(path=str(tmp_path / "cache"))
    heads: list[Any] = []
    async with served(tmp_path / "m.sock", heads) as url:
        with Recorder(cassette) as recorder:
            async with Client(url, codec=Plain, transport=recorder, cache=cache) as client:
                await client.map(X)
        n_requests = len(heads)
        async with Client(url, codec=Plain, cache=cache) as client:
            assert np.array_equal(await client.map(X), X * 2)
        assert len(heads) == n_requests
    async with served(tmp_path / "other.sock", heads) as other:
        async with Client(other, codec=Plain, cache=cache) as client:
            await client.map(X)
        assert len(heads) > n_requests
    async with Client(url, codec=Plain, transport=Replayer(cassette)) as client:
        assert np.array_equal(await client.map(X), X * 2)


@pytest.mark.one_way
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("unix://m.sock", "has no absolute path; write three slashes"),
        ("unix:///", "has no absolute path"),
        ("unix:///" + "x" * 200, "has a path of 201 bytes, and systems take 103 for a socket"),
        ("unix:///a\0b", "holds a NUL"),
    ],
)
def test_urls_that_name_no_socket_are_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        require_url(url, "url")


@pytest.mark.one_way
def test_a_proxy_cannot_be_used_for_a_socket() -> None:
    with pytest.raises(ConfigError, match=r"proxy must be left out for a Unix socket \(unix:///m\.sock\)"):
        Endpoint(url="unix:///m.sock", proxy="http://proxy:3128")


@pytest.mark.one_way
def test_secrets_in_the_query_are_redacted_and_the_path_of_a_socket_is_shown() -> None:
    assert redact_url("unix:///run/a@b.sock:/v1?key=secret&b=2") == "unix:///run/a@b.sock:/v1?key=***&b=***"
    assert redact_url("unix:///run/m.sock") == "unix:///run/m.sock"


@pytest.mark.one_way
def test_the_path_of_a_preset_is_appended_to_the_target() -> None:
    assert with_path("unix:///m.sock", "/v1/embeddings") == "unix:///m.sock:/v1/embeddings"
    assert with_path("unix:///m.sock:/v1", "/v1/embeddings?a=1") == "unix:///m.sock:/v1/embeddings?a=1"


@pytest.mark.one_way
def test_a_socket_is_a_place_like_a_host_and_no_part_of_the_identity_of_a_run() -> None:
    first, moved, other = (
        Client(url, codec=Plain).identity(X)
        for url in ("unix:///a.sock:/v1/x?b=1", "unix:///run/b.sock:/v1/x?b=1", "unix:///a.sock:/v1/y?b=1")
    )
    assert first == moved == Client("http://host/v1/x?b=1", codec=Plain).identity(X)
    assert first != other
