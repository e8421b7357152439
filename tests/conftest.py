"""What all tests share: virtual time on request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fanout.testing import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """A test marked ``virtual_time`` runs on a clock that jumps to the next timer; the others in real time."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualClock}
    return {"real": asyncio.new_event_loop}
