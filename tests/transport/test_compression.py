"""Request bodies in gzip: on both paths, once for all attempts, below recordings and signatures."""

from __future__ import annotations

import gzip
import zlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout import Auth, Client, ConfigError, Credentials, Endpoint, Hedge, Limits, RetryPolicy, RowsFailed
from fanout.errors import FanoutError
from fanout.serving.exchange import StatusError
from fanout.testing import FaultServer, MockEndpoint, Recorder, Replayer
from fanout.transport import compression
from tests.loopback import Line, Received, http, loopback
from tests.support import Plain

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.serving.exchange import ServerRequest
    from fanout.transport import Request

X = np.arange(3000.0).reshape(100, 30)
LARGE = np.random.default_rng(0).random((600, 30))
"""Rows whose body is beyond the size of the fast path and of what is compressed on the loop, also in gzip."""


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def zipped(url: str, **options: Any) -> Endpoint:
    return Endpoint(url=url, compress="gzip", **options)


def encoding_of(request: ServerRequest) -> str | None:
    return request.header("Content-Encoding")


@pytest.mark.parametrize("rows", [X, LARGE], ids=["small", "large"])
async def test_bodies_are_compressed_and_the_server_gets_the_rows(rows: np.ndarray) -> None:
    async with FaultServer(double) as server, Client(zipped(server.url(Plain)), codec=Plain, chunk_rows=600) as client:
        assert np.array_equal(await client.map(rows), rows * 2)
    (request,) = server.requests
    assert encoding_of(request) == "gzip"
    assert request.header("Content-Type") == "application/json"
    length = int(request.header("Content-Length") or 0)
    assert length < 0.6 * len(request.body)
    assert request.json() == {"instances": rows.tolist()}


async def test_small_bodies_are_sent_as_they_are() -> None:
    async with FaultServer(double) as server, Client(zipped(server.url(Plain)), codec=Plain) as client:
        await client.map(X[:2])
    assert [encoding_of(request) for request in server.requests] == [None]


async def test_bodies_that_do_not_shrink_are_sent_as_they_are() -> None:
    class Noise(Plain):
        def encode(self, rows: Any) -> Any:
            payload = super().encode(rows)
            payload.body = (np.random.default_rng(1).bytes(3000),)
            return payload

    async with FaultServer(double) as server:
        server.misbehave(lambda _: 400)
        async with Client(zipped(server.url(Plain)), codec=Noise) as client:
            with pytest.raises(FanoutError) as caught:
                await client.map(X[:1])
    assert {encoding_of(request) for request in server.requests} == {None}
    assert "gzip" not in str(caught.value)


@pytest.mark.parametrize("rows", [X, LARGE], ids=["small", "large"])
async def test_a_chunk_is_compressed_once_for_its_retries_and_hedges(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = []

    def counting(parts: Any, length: int) -> bytes:
        compressed.append(length)
        return gzip.compress(b"".join(parts), 1)

    monkeypatch.setattr(compression, "_compressed", counting)
    async with FaultServer(double) as server:
        server.script(503, "reset-before-headers", "drip:0.05", None)
        async with Client(
            zipped(server.url(Plain)),
            codec=Plain,
            chunk_rows=600,
            retry=RetryPolicy(initial_backoff=0.01),
            hedge=Hedge(share=1.0, delay=0.05),
        ) as client:
            assert np.array_equal(await client.map(rows), rows * 2)
        assert len(server.requests) >= 3
    assert {encoding_of(request) for request in server.requests} == {"gzip"}
    assert len(compressed) == 1


@pytest.mark.parametrize("status", [400, 415])
async def test_a_server_that_does_not_take_gzip_is_named_with_the_remedy(status: int) -> None:
    async def answer(request: Received, line: Line) -> None:
        is_zipped = request.headers.get("content-encoding") == "gzip"
        await line.send(
            http(b'{"error": "cannot parse"}', status=status) if is_zipped else http(b'{"predictions": [1]}')
        )

    async with loopback(answer) as server, Client(zipped(server.url), codec=Plain, chunk_rows=2) as client:
        with pytest.raises(FanoutError, match=r"sent in gzip.*remove endpoint\.compress"):
            await client.map(X.reshape(10, 300))


async def test_a_row_that_is_refused_later_is_not_blamed_on_gzip() -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if (x[:, 0] == X[60, 0]).any():
            raise StatusError(400, "a bad row")
        return x * 2

    async with (
        FaultServer(picky) as server,
        Client(zipped(server.url(Plain)), codec=Plain, chunk_rows=50, limits=Limits(concurrency=1)) as client,
    ):
        with pytest.raises(RowsFailed, match="a bad row") as caught:
            await client.map(X)
    assert "gzip" not in str(caught.value)


async def test_max_bytes_counts_bytes_before_compression() -> None:
    async with (
        FaultServer(double) as server,
        Client(zipped(server.url(Plain)), codec=Plain, chunk_rows=100, chunk_max_bytes=4000) as client,
    ):
        await client.map(X)
        assert client.statistics().bytes_sent == sum(len(request.body) for request in server.requests)
    assert len(server.requests) >= 4
    assert max(len(request.body) for request in server.requests) <= 4000
    assert {encoding_of(request) for request in server.requests} == {"gzip"}


async def test_a_body_that_the_codec_has_encoded_is_left_alone() -> None:
    class Zlib(Plain):
        def encode(self, rows: Any) -> Any:
            payload = super().encode(rows)
            payload.body, payload.headers = gzip.compress(bytes(payload.body)), {"Content-Encoding": "gzip"}
            return payload

    async with FaultServer(double) as server, Client(zipped(server.url(Plain)), codec=Zlib) as client:
        assert np.array_equal(await client.map(X), X * 2)


async def test_recordings_hold_the_body_as_the_codec_made_it(tmp_path: Path) -> None:
    cassette = tmp_path / "answers.jsonl"
    with Recorder(cassette) as recorder:
        async with (
            FaultServer(double) as server,
            Client(zipped(server.url(Plain)), codec=Plain, transport=recorder) as client,
        ):
            await client.map(X)
            url = server.url(Plain)
    assert encoding_of(server.requests[0]) == "gzip"
    # A replay compares bodies, so it tells a recording of compressed ones.
    for compress in ("gzip", None):
        endpoint = Endpoint(url=url, compress=compress)  # type: ignore[arg-type]
        async with Client(endpoint, codec=Plain, transport=Replayer(cassette)) as client:
            assert np.array_equal(await client.map(X), X * 2)


async def test_signatures_are_of_the_bytes_that_are_sent() -> None:
    class Signed(Auth):
        async def credentials(self) -> Credentials:
            return Credentials(sign=sign)

    def sign(request: Request) -> dict[str, str]:
        return {"X-Digest": sha256(request.joined()).hexdigest(), "X-Length": str(len(request.joined()))}

    async with (
        FaultServer(double) as server,
        Client(zipped(server.url(Plain)), codec=Plain, auth=Signed(), chunk_rows=100) as client,
    ):
        await client.map(X)
    (request,) = server.requests
    packer = zlib.compressobj(1, wbits=31)
    sent = packer.compress(request.body) + packer.flush()
    assert request.header("X-Length") == request.header("Content-Length")
    assert request.header("X-Digest") == sha256(sent).hexdigest()


@pytest.mark.one_way
async def test_a_mock_takes_compressed_bodies() -> None:
    with MockEndpoint(double) as mock:
        async with Client(zipped(mock.url(Plain)), codec=Plain) as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert orjson.loads(mock.requests[0].body) == {"instances": X[:64].tolist()}


@pytest.mark.one_way
def test_another_encoding_is_refused() -> None:
    with pytest.raises(ConfigError, match="compress must be left out or \"gzip\", not 'br'"):
        Endpoint(url="http://127.0.0.1:1/", compress="br")  # type: ignore[arg-type]
