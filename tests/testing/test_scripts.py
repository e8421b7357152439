"""A script that cannot be played fails the test that wrote it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest

from fanout import Client, ConfigError, RunStopped
from fanout.serving.exchange import ServerResponse
from fanout.testing import FaultServer, FaultServerError, MockEndpoint, Scripted

X = np.zeros((3, 2))


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


NO_STEPS = [object(), 3.5, b"503", ("drip", 0.1), True, ConnectionResetError, KeyboardInterrupt, lambda _: 503]
NO_ANSWERS = [
    ServerResponse(status="200", headers={}, body=b""),  # type: ignore[arg-type]
    ServerResponse(status=200, headers={}, body="x"),  # type: ignore[arg-type]
    ServerResponse(status=200, headers=None, body=b"x"),  # type: ignore[arg-type]
    ServerResponse(status=200, headers={"A": "世"}, body=b"x"),
]
NO_PARAMETERS = [
    "429-retry-after:世", "429-retry-after:1\r\nX: y", "redirect:世", "429-date:1e300", "huge-header:99999999999999999",
    "gzip-bomb:99999999999999999", "echo:99", "echo:99999", "slow:nan", "slow:1e300", "refused:-1", "drip:much",
]  # fmt: skip


def _shown(step: object) -> str:
    """An id without an address, so that all workers of pytest-xdist collect the same tests."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(step))


@pytest.mark.parametrize("step", [*NO_STEPS, *NO_ANSWERS, *NO_PARAMETERS], ids=_shown)
async def test_a_fault_server_refuses_a_step_that_it_cannot_play(step: Any) -> None:
    async with FaultServer(double) as server:
        with pytest.raises(ConfigError):
            server.script(None, step)
        with pytest.raises(ConfigError):
            server.script_metadata(step)
        async with Client(server.url("v1"), codec="v1") as client:
            await client.map(X)
    assert len(server.requests) == 1


def of_faults(ending: Any) -> FaultServer:
    def faults(_: Any) -> Any:
        if isinstance(ending, type):
            raise ending
        return ending

    return FaultServer(double, faults=faults)


def of_model(ending: Any) -> FaultServer:
    calls = iter([True])

    def model(x: np.ndarray) -> np.ndarray:
        if next(calls, False):
            raise ending
        return x * 2

    return FaultServer(model)


@pytest.mark.parametrize(
    ("server", "named"),
    [
        (of_faults(object()), "a step is a fault's name"),
        (of_faults(LookupError), "LookupError"),
        (of_faults(asyncio.CancelledError), "CancelledError"),
        (of_model(asyncio.CancelledError), "CancelledError"),
    ],
    ids=["step", "exception", "cancelled", "model"],
)
async def test_a_fault_server_that_breaks_fails_the_test(server: FaultServer, named: str) -> None:
    async def test() -> None:
        async with server, Client(server.url("v1"), codec="v1") as client:
            server.script(503)
            try:
                await client.map(X)
            except Exception:  # noqa: BLE001 - a test may expect that
                return

    with pytest.raises(FaultServerError, match=named):
        await test()


async def test_a_fault_server_that_breaks_does_not_hide_the_error_of_the_test() -> None:
    async def test() -> None:
        async with of_faults(LookupError) as server, Client(server.url("v1"), codec="v1") as client:
            await client.map(X)

    with pytest.raises(RunStopped) as caught:
        await test()
    assert caught.value.__notes__ == ["the server broke as it answered: LookupError: "]


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "step",
    [
        "503", 3.5, b"x", True, 99, 10_000, object(), asyncio.CancelledError, KeyboardInterrupt(),
        Scripted(status="200"), Scripted(body="x"), Scripted(headers={"A": 3}), Scripted(headers=None),  # type: ignore[arg-type, dict-item]
    ],
    ids=_shown,
)  # fmt: skip
async def test_a_mock_refuses_a_step_that_it_cannot_play(step: Any) -> None:
    with MockEndpoint(double) as mock:
        with pytest.raises(ConfigError):
            mock.script(None, step)
        with pytest.raises(ConfigError):
            mock.script_metadata(step)
        async with Client(mock.url("v1"), codec="v1") as client:
            await client.map(X)
    assert len(mock.requests) == 1
