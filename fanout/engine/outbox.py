"""Where finished chunks wait for whoever consumes them as they come."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanout.types import ChunkResult


class Outbox:
    """An unbounded queue with an end. What bounds it is the feed's window: no chunk is taken without room for it."""

    def __init__(self) -> None:
        self._done: list[ChunkResult] = []
        self._something = asyncio.Event()
        self._enough = asyncio.Event()
        self._wanted = 1
        self._closed = False

    def put(self, done: ChunkResult) -> None:
        """Add a chunk."""
        self._done.append(done)
        self._something.set()
        if len(self._done) >= self._wanted:
            self._enough.set()

    def close(self) -> None:
        """No other chunk will come."""
        self._closed = True
        self._something.set()
        self._enough.set()

    async def take_all(self, *, wanted: int = 1, within: float = 0.0) -> list[ChunkResult]:
        """All that is there, at least one chunk; an empty list once the box is closed and empty.

        After the first chunk it waits for more, until there are ``wanted`` or ``within`` seconds have passed.
        """
        self._wanted = wanted
        await self._something.wait()
        if len(self._done) < wanted and not self._closed:
            self._enough.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._enough.wait()
        done, self._done = self._done, []
        if not self._closed:
            self._something.clear()
        return done
