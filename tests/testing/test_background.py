"""Servers on a thread of their own, for code that is not async."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

import fanout
from fanout.testing import Background, FaultServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def test_a_server_serves_code_that_is_not_async() -> None:
    threads = threading.active_count()
    with Background(FaultServer(lambda x: x * 2)) as server:
        server.script(503)
        assert fanout.map([1.0, 2.0], server.url("v1"), codec="v1").tolist() == [2, 4]
        assert server.received == 2
    assert threading.active_count() == threads


async def test_a_server_serves_async_code_too() -> None:
    with Background(FaultServer(lambda x: x)) as server:
        async with fanout.Client(server.url("v1"), codec="v1") as client:
            assert np.array_equal(await client.map(np.ones(3)), np.ones(3))


@pytest.mark.parametrize("enters", [True, False])
def test_errors_on_the_thread_are_raised_here(enters: bool) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        if enters:
            yield
        raise ConnectionError("broken")

    with pytest.raises(ConnectionError, match="broken"), Background(broken()):
        assert enters
