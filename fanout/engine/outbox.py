"""Where finished chunks wait for whoever consumes them as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanout.types import Done


class Outbox:
    """An unbounded queue with an end. What bounds it is the feed's window: no chunk is taken without room for it."""

    def __init__(self) -> None:
        self._done: list[Done] = []
        self._something = asyncio.Event()
        self._closed = False

    def put(self, done: Done) -> None:
        """Add a chunk."""
        self._done.append(done)
        self._something.set()

    def close(self) -> None:
        """No other chunk will come."""
        self._closed = True
        self._something.set()

    async def take_all(self) -> list[Done]:
        """All that is there, at least one chunk; an empty list once the box is closed and empty."""
        await self._something.wait()
        done, self._done = self._done, []
        if not self._closed:
            self._something.clear()
        return done
