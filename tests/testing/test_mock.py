"""The mock endpoint: a Python function behind every protocol, with no socket opened."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np
import pytest

import fanout
from fanout import Client, RunStopped
from fanout.serving.models import Model
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Tensor

pytestmark = pytest.mark.virtual_time
X = np.arange(60, dtype="f4").reshape(20, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


@pytest.mark.parametrize("codec", ["json", "v1", "oip", fanout.codec("oip", binary=False)])
async def test_a_function_is_the_model_behind_every_protocol(codec: Any) -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(codec), codec=codec, chunk_rows=8) as client:
            values = await client.map(X)
    assert np.array_equal(values, X * 2)
    assert len(mock.requests) == 3


async def test_texts_are_embedded_by_the_function() -> None:
    def lengths(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts], "f4")

    codec = fanout.codec("openai-embeddings", model="mock")
    with MockEndpoint(lengths) as mock:
        async with Client(mock.url(codec), codec=codec) as client:
            values = await client.map(["a", "bb", "ccc"])
    assert values.tolist() == [[1, 1], [2, 1], [3, 1]]


async def test_a_model_that_describes_itself_is_learnt_from() -> None:
    model = Model(
        name="described",
        function=double,
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 3)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 3)),),
        max_batch_size=6,
    )
    with MockEndpoint(model) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            assert np.array_equal(await client.map(X), X * 2)
    assert len(mock.requests) == 4


async def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    with MockEndpoint(double) as mock:
        async with Client(mock.url("v1"), codec="v1") as client:
            with monkeypatch.context() as patched:
                patched.setattr(socket.socket, "connect", refuse)
                patched.setattr(socket.socket, "connect_ex", refuse)
                assert np.array_equal(await client.map(X), X * 2)


async def test_scripted_steps_come_in_place_of_the_model() -> None:
    with MockEndpoint(double) as mock:
        mock.script(503, ConnectionResetError, Scripted(body=b"[]"), None, Scripted(status=429, body=b"slow down"))
        async with Client(mock.url("v1"), codec="v1", chunk_rows=20) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert np.array_equal(await client.map(X), X * 2)
    assert len(mock.requests) == 6


async def test_latency_times_and_requests_in_flight_are_recorded() -> None:
    with MockEndpoint(double, latency=2.0) as mock:
        async with Client(mock.url("v1"), codec="v1", chunk_rows=1, limits=fanout.Limits(concurrency=5)) as client:
            await client.map(X)
    assert mock.max_in_flight == 5
    assert mock.in_flight == 0
    assert sorted(set(mock.times)) == [0.0, 2.0, 4.0, 6.0]
    assert asyncio.get_running_loop().time() == 8.0


async def test_large_rows_and_answers_pass() -> None:
    wide = np.random.default_rng(0).standard_normal((3, 50_000))
    with MockEndpoint(double) as mock:
        async with Client(mock.url("v1"), codec="v1", chunk_rows=1) as client:
            assert np.array_equal(await client.map(wide), wide * 2)


async def test_requests_to_another_origin_fail() -> None:
    with MockEndpoint(double):
        async with Client("http://elsewhere.test/x", codec="v1") as client:
            with pytest.raises(RunStopped, match="elsewhere"):
                await client.map(X)
