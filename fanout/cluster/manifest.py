"""The attempts that count, in the manifest on the disk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.io.parts import Manifest, PartsFolder, Ranges


class ManifestWriter:
    """Keeps the manifest on the disk up to date.

    Args:
        folder: of the parts.
        manifest: lists no attempt yet.
    """

    def __init__(self, folder: PartsFolder, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        # Attempts begin while others are taken in.
        self._lock = asyncio.Lock()

    @property
    def attempts(self) -> Mapping[int, Ranges]:
        """Number of each attempt that counts -> its rows."""
        return self._manifest.attempts

    @property
    def next_number(self) -> int:
        """The number of the next attempt."""
        return self._manifest.last + 1

    async def add(self, number: int, ranges: Ranges) -> None:
        """Let an attempt count, durably. Raises `OSError`."""
        await self._write({**self.attempts, number: ranges}, number)

    async def remove(self, number: int) -> None:
        """Let an attempt count no longer, durably, and remove its part. Raises `OSError`."""
        attempts = {one: ranges for one, ranges in self.attempts.items() if one != number}
        await self._write(attempts, self._manifest.last)
        await on_thread(self.folder.remove_part, number)

    async def _write(self, attempts: dict[int, Ranges], last: int) -> None:
        self._manifest = replace(self._manifest, attempts=attempts, last=last)
        async with self._lock:
            await on_thread(self.folder.write_manifest, self._manifest)
