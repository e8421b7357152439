"""The fault matrix holds both ways: written straight to a connection, and, slowly, through aiohttp's session."""

from __future__ import annotations

import pytest

from fanout.transport import fast_path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked ``one_way`` once: both ways of the transport pass on the same thing."""
    if not metafunc.definition.get_closest_marker("one_way"):
        metafunc.parametrize("through", ["direct", pytest.param("session", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(autouse=True)
def through(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if getattr(request, "param", "direct") == "session":
        monkeypatch.setattr(fast_path, "SMALL", -1)
