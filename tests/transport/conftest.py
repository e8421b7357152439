"""Every test of the transport is run both ways: written straight to a connection, and through aiohttp's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fanout.transport.direct import Direct

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    at_the_fork = []

    def takes(*_: object) -> bool:
        at_the_fork.append(True)
        return False

    monkeypatch.setattr(Direct, "takes", takes)
    yield way
    replaced = Direct.takes is not takes  # by a test of the choice itself
    assert at_the_fork or replaced, "this test takes the same path twice: mark it one_way"
