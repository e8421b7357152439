"""The files in the folder of the parts that the driver keeps: its orders to the workers, and the manifest.

The progress of the workers is read there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fanout.cluster.measurements import finished
from fanout.io.parts import Orders
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.io.parts import Manifest, PartsFolder, Ranges, StopOrder

_BEAT_SECONDS = 0.5

# A worker publishes its progress every half second. One that is silent for this long counts as lost: a machine may be
# cut off, or an engine may have given up without saying so. A stop waits less, and a second Ctrl-C less again.
_SILENCE_SECONDS: dict[StopOrder | None, float] = {None: 60.0, "drain": 15.0, "cut": 5.0}


class Overseer:
    """Writes the orders, reads the progress of every attempt under way, and cancels attempts that are lost.

    Args:
        folder: of the parts.
        run: name of the driver's process.

    Attributes:
        measured: number of each attempt -> its measurements.
    """

    def __init__(self, folder: PartsFolder, run: str) -> None:
        self._folder = folder
        self._run = run
        self._order: StopOrder | None = None
        self._changed = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[str]] = {}
        self._handing_over: set[int] = set()
        self._last = 0
        self._began: dict[int, float] = {}
        # The last progress of each attempt, and the time since which it is the last.
        self._heard: dict[int, tuple[object, float]] = {}
        self.measured: dict[int, dict[str, Any]] = {}

    def add(self, attempt: int, task: asyncio.Task[str]) -> None:
        """Let an attempt run."""
        self._tasks[attempt], self._last = task, attempt
        self._changed.set()

    def remove(self, attempt: int) -> None:
        """Fence an attempt: should it run on, it stops."""
        for known in (self._tasks, self._heard, self._began):
            known.pop(attempt, None)
        self._handing_over.discard(attempt)
        self._changed.set()

    def hand_over(self, attempt: int) -> None:
        """Order an attempt to end early, with its rows in flight done."""
        self._handing_over.add(attempt)
        self._changed.set()

    def is_handing_over(self, attempt: int | None = None) -> bool:
        """Return True if ``attempt``, or any if it is None, was ordered to end early and has not ended."""
        return bool(self._handing_over) if attempt is None else attempt in self._handing_over

    def rows_left(self, attempt: int, n_rows: int) -> tuple[int, float]:
        """Return how many of an attempt's rows are left, and an estimate of the seconds for them (0 if unknown)."""
        measured = self.measured.get(attempt, {})
        done = measured.get("ok", 0) + measured.get("failed", 0)
        if not done or attempt not in self._began:
            return n_rows, 0.0
        seconds = asyncio.get_running_loop().time() - self._began[attempt]
        return n_rows - done, (n_rows - done) * seconds / done

    def settle(self, attempt: int, measured: dict[str, Any], ok: int, failed: int) -> None:
        """Take in the last measurements of an attempt; the rows are those that its part has added."""
        last = measured or self.measured.get(attempt, {})
        self.measured[attempt] = {**finished(last), "ok": ok, "failed": failed}

    def stop(self, order: StopOrder) -> None:
        """Order all workers to stop. An order to abandon requests stays."""
        self._order = "cut" if "cut" in (order, self._order) else order
        self._changed.set()

    async def run(self) -> None:
        """Oversee until cancelled."""
        beat = 0
        while True:
            self._changed.clear()
            beat += 1
            orders = Orders(
                run=self._run,
                beat=beat,
                stop=self._order,
                active=list(self._tasks),
                handing_over=list(self._handing_over),
                last=self._last,
            )
            # Both are tried again; a disk that stays full or away stops the run elsewhere.
            with suppress(OSError):
                await on_thread(self._folder.write_orders, orders)
            with suppress(OSError):
                for attempt in list(self._tasks):
                    progress = await on_thread(self._folder.read_progress, attempt)
                    is_claimed = await on_thread(self._folder.is_claimed, attempt)
                    if attempt in self._tasks:
                        self._hear(attempt, progress, is_claimed=is_claimed)
            # `wait_for` of Python 3.11 can lose a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self._changed.wait()

    def _hear(self, attempt: int, progress: dict[str, Any] | None, *, is_claimed: bool) -> None:
        now = asyncio.get_running_loop().time()
        if progress is not None:
            self.measured[attempt] = progress
        if is_claimed:
            self._began.setdefault(attempt, now)
        beat = (is_claimed, None if progress is None else progress.get("beat"))
        last, since = self._heard.setdefault(attempt, (beat, now))
        if beat != last:
            self._heard[attempt] = (beat, now)
        elif not is_claimed:
            # It waits for a free worker, which may take any time; after a stop it need not begin.
            if self._order is not None:
                self._tasks[attempt].cancel()
        elif now - since > _SILENCE_SECONDS[self._order]:
            self._tasks[attempt].cancel()


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
