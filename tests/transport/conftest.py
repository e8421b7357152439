"""Every test of the transport is run both ways: on the fast path, and through aiohttp's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fanout.transport.fast_path import FastPath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.transport import Request
    from fanout.types import Response


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked ``one_way`` once: it sends nothing that could go either way."""
    if not metafunc.definition.get_closest_marker("one_way"):
        metafunc.parametrize("way", ["direct", "session"], indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The way that requests go. A test that never comes to the fork fails, unless it is marked ``one_way``."""
    way: str = getattr(request, "param", "")
    if way != "session":
        yield way
        return
    sent = []

    async def send(self: FastPath, request: Request) -> Response:
        sent.append(request)
        return await self._http.send(request)

    monkeypatch.setattr(FastPath, "send", send)
    yield way
    replaced = FastPath.send is not send  # by a test of the choice itself
    assert sent or replaced, "this test takes the same path twice: mark it one_way"
