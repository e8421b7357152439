"""Every test of the transport is run both ways: written straight to a connection, and through aiohttp's session."""

from __future__ import annotations

import pytest

from fanout.transport.direct import Direct


@pytest.fixture(params=["direct", "session"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "session":
        monkeypatch.setattr(Direct, "takes", lambda *_: False)
    way: str = request.param
    return way
