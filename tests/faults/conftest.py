"""The fault matrix holds both ways: written straight to a connection, and, slowly, through aiohttp's session."""

from __future__ import annotations

import pytest

from fanout.transport.direct import Direct


@pytest.fixture(params=["direct", pytest.param("session", marks=pytest.mark.slow)], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "session":
        monkeypatch.setattr(Direct, "takes", lambda *_: False)
