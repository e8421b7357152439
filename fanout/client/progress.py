"""A progress bar for `map`, in terminals and notebooks."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fanout.types import Statistics

_SECONDS = 0.25

# The remaining time is that of the rate in the last seconds: an average since the start would hide that an endpoint has
# become slow, or has recovered.
_WINDOW_SECONDS = 30.0


class RemainingTime:
    """Estimates the time that is left from the rate of the last 30 s."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, done: int) -> float | None:
        """Return the seconds that are left; None while no row has been done for 30 s, because none can be known."""
        self._samples.append((now, done))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _WINDOW_SECONDS:
            self._samples.popleft()
        began, before = self._samples[0]
        if done >= self._n_rows:
            return 0.0
        if done == before:
            return None
        return (self._n_rows - done) * (now - began) / (done - before)


@asynccontextmanager
async def progress_bar(statistics: Callable[[], Statistics], n_rows: int) -> AsyncIterator[None]:
    """Show a bar on stderr, or in the notebook's cell, for as long as the block runs."""
    # Only a call that shows a bar pays for the import.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        BarColumn(), TextColumn("{task.fields[text]}", markup=False), console=Console(stderr=True), auto_refresh=False
    )
    remaining = RemainingTime(n_rows)
    now = asyncio.get_running_loop().time
    task = bar.add_task("", total=n_rows, text="")

    def update() -> None:
        stats = statistics()
        done = stats.ok + stats.failed
        bar.update(task, completed=done, text=progress_text(stats, n_rows, remaining.update(now(), done)))
        bar.refresh()

    async def update_regularly() -> None:
        while True:
            update()
            await asyncio.sleep(_SECONDS)

    with bar:
        updates = asyncio.create_task(update_regularly())
        try:
            yield
        finally:
            updates.cancel()
            await asyncio.gather(updates, return_exceptions=True)
            update()


def progress_text(stats: Statistics, n_rows: int, left: float | None) -> str:
    """Return the line beside the bar."""
    parts: list[Any] = [f"{stats.ok + stats.failed:,}/{n_rows:,} rows"]
    if stats.failed:
        parts.append(f"{stats.failed:,} failed")
    if stats.retries:
        parts.append(f"{stats.retries:,} retries")
    parts.append("ETA unknown" if left is None else f"ETA {timedelta(seconds=round(left))}")
    return ", ".join(parts)
