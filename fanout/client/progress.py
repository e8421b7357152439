"""A progress bar for `map`, in terminals and notebooks."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fanout.results import Statistics

_SECONDS = 0.25

# The remaining time is that of the rate in the last seconds: an average since the start would hide that an endpoint has
# become slow, or has recovered.
_WINDOW_SECONDS = 30.0


class RemainingTime:
    """Estimates the time that is left from the rate of the last 30 s, and until then from the rate since the start."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque([(0.0, 0)])

    def update(self, seconds: float, done: int, left: int | None) -> float | None:
        """Return the seconds that are left; None while no row has been done for 30 s, because none can be known.

        Args:
            seconds: time since the start.
            done: rows done since the start, without those of an earlier run: they took no time now.
            left: rows that are not done yet; None if their number is unknown.
        """
        self._samples.append((seconds, done))
        while len(self._samples) > 1 and self._samples[1][0] <= seconds - _WINDOW_SECONDS:
            self._samples.popleft()
        began, before = self._samples[0]
        if left is None or (left > 0 and done == before):
            return None
        return left * (seconds - began) / (done - before) if left > 0 else 0.0


def eta_text(left: float | None) -> str:
    """Return the seconds that are left in words."""
    return "ETA unknown" if left is None else f"ETA {timedelta(seconds=round(left))}"


@asynccontextmanager
async def progress_bar(statistics: Callable[[], Statistics], n_rows: int) -> AsyncIterator[None]:
    """Show a bar on stderr, or in the notebook's cell, for as long as the block runs."""
    remaining = RemainingTime()
    bar = _terminal_bar if _notebook_shell() is None else _notebook_bar
    with bar(n_rows) as show:

        def update() -> None:
            stats = statistics()
            done = stats.ok + stats.failed
            left = remaining.update(stats.seconds, done, n_rows - done)
            show(done, progress_text(stats, n_rows, left))

        async def update_regularly() -> None:
            while True:
                update()
                await asyncio.sleep(_SECONDS)

        updates = asyncio.create_task(update_regularly())
        try:
            yield
        finally:
            updates.cancel()
            await asyncio.gather(updates, return_exceptions=True)
            update()


@contextmanager
def _terminal_bar(n_rows: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar on stderr; gives the function that moves it to a number of rows, with a text beside it."""
    # Only a call that shows a bar pays for the import.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, force_jupyter=False)
    bar = Progress(BarColumn(), TextColumn("{task.fields[text]}", markup=False), console=console, auto_refresh=False)
    task = bar.add_task("", total=n_rows, text="")

    def show(done: int, text: str) -> None:
        bar.update(task, completed=done, text=text)
        bar.refresh()

    with bar:
        yield show


@contextmanager
def _notebook_bar(n_rows: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar in the notebook's cell. Unlike rich's, it needs no widgets, which many notebooks lack."""
    # By its name, because it ships with the notebook and not with this package.
    display = import_module("IPython.display").display

    def content(done: int, text: str) -> dict[str, str]:
        bar = f'<progress value="{done}" max="{max(1, n_rows)}"></progress>'
        return {"text/plain": text, "text/html": f"{bar} {escape(text)}"}

    handle = display(content(0, ""), raw=True, display_id=True)
    yield lambda done, text: handle.update(content(done, text), raw=True)


def _notebook_shell() -> Any:
    """Return the shell of the notebook in whose kernel this process runs; None elsewhere."""
    # Without this module there is no kernel: no import is needed to know that.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # A terminal's IPython shows the bar of a terminal.
    return shell if hasattr(shell, "kernel") else None


def progress_text(stats: Statistics, n_rows: int, left: float | None) -> str:
    """Return the line beside the bar."""
    parts = [f"{stats.ok + stats.failed:,}/{n_rows:,} rows"]
    if stats.failed:
        parts.append(f"{stats.failed:,} failed")
    if stats.retries:
        parts.append(f"{stats.retries:,} retries")
    parts.append(eta_text(left))
    return ", ".join(parts)
