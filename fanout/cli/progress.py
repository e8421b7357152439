"""Progress on stderr: a live bar on a terminal, a line every 10 s elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from fanout.cli.output import OUTPUT, print_message
from fanout.cli.texts import money
from fanout.client.progress import RemainingTime, eta_text
from fanout.errors import ClientStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from fanout.io.writers.base import FileSink
    from fanout.report import Measured
    from fanout.results import Statistics

# The log of a day then has 8,640 lines, and still shows a stall soon.
LINE_SECONDS = 10.0
# Ten redraws a second look steady; more would only take time from the event loop.
BAR_SECONDS = 0.1

# Minimum width of the bar itself, in columns.
_BAR_WIDTH = 6


def progress_display(*, quiet: bool = False) -> Display:
    """Return the display that suits stderr."""
    if quiet or sys.stderr is None:  # the parent process closed it
        return Silent()
    # A dumb terminal cannot move its cursor.
    can_redraw = os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    return Bar() if sys.stderr.isatty() and can_redraw else Lines()


class Display(ABC):
    """Shows the progress of a run, from `open` to `stop`."""

    seconds: float
    """Interval between two updates."""

    def __init__(self) -> None:
        self._client: Measured | None = None
        self._sink: FileSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._rows: int | None = None
        self._earlier = 0
        self._remaining = RemainingTime()

    def open(self) -> None:
        """Show the first phase of a run, in which its input is read."""
        self._task = asyncio.get_running_loop().create_task(self._update_regularly())

    def start(self, client: Measured | None, rows: int | None, earlier: int, sink: FileSink | None = None) -> None:
        """Show ``client`` send ``rows`` rows (None: unknown), of which an earlier run finished ``earlier``.

        After that, show ``sink`` finish and upload the output. Without a client, that is all there is to do.
        """
        if earlier and client is not None:
            self.say(f"resuming: {earlier:,} rows were done before{f' of {rows:,}' if rows is not None else ''}")
        self._client, self._rows, self._earlier, self._sink = client, rows, earlier, sink
        if self._task is None:
            self.open()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            # The task ends by its cancellation.
            with suppress(asyncio.CancelledError):
                await self._task

    def in_flight(self) -> int:
        try:
            return self._client.statistics().in_flight if self._client else 0
        # A signal may arrive after the end of the run.
        except ClientStateError:  # closed already
            return 0

    def say(self, message: str) -> None:
        print_message(message)

    @abstractmethod
    def show(self, stats: Statistics, rows: int | None) -> None:
        """Show the counters."""

    @abstractmethod
    def show_phase(self, phase: str, done: float | None, total: float | None, unit: str = "rows") -> None:
        """Show a phase in which no row is sent. ``done`` of ``total`` rows or megabytes have passed it."""

    def _eta(self, stats: Statistics, rows: int | None) -> str:
        now = stats.ok + stats.failed
        left = None if rows is None else rows - self._earlier - now
        return eta_text(self._remaining.update(stats.seconds, now, left))

    def _update(self) -> None:
        sink = self._sink
        destination = None if sink is None else sink.destination
        if destination is not None and (progress := destination.progress) is not None:
            uploaded, size = progress
            self.show_phase("uploading the output", uploaded / 1e6, size / 1e6, "MB")
        elif sink is not None and (finished := sink.finished_rows) is not None:
            self.show_phase("writing the output", finished, self._rows)
        elif self._client is not None:
            self.show(self._client.statistics(), self._rows)
        else:
            self.show_phase("reading the input", None, None)

    async def _update_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            try:
                self._update()
            except (ClientStateError, OSError):  # the run is over, or stderr is closed
                return


class Silent(Display):
    """Shows messages only."""

    seconds = 3600.0

    def show(self, stats: Statistics, rows: int | None) -> None:
        """Nothing."""

    def show_phase(self, phase: str, done: float | None, total: float | None, unit: str = "rows") -> None:
        """Nothing."""


def _count(done: int, rows: int | None) -> str:
    # The number of rows of a long input is an estimate, which may be too low.
    return f"{done}" if rows is None else f"{done}/{max(rows, done)}"


def _in_flight(stats: Statistics) -> str:
    """Return the requests in flight, and their limit if "auto" sets it."""
    return f"{stats.in_flight}" if stats.concurrency is None else f"{stats.in_flight} of {stats.concurrency}"


def _cost(stats: Statistics, before: str = "") -> str:
    return "" if stats.cost is None else f"{before}{money(stats.cost)} {stats.currency}"


class Lines(Display):
    """Prints a line every 10 s, for logs."""

    seconds = LINE_SECONDS

    def show(self, stats: Statistics, rows: int | None) -> None:
        now = stats.ok + stats.failed
        # The rate counts the rows of this process alone: those of an earlier one took no time now.
        rate, done = now / stats.seconds if stats.seconds else 0.0, self._earlier + now
        click.echo(
            f"{_count(done, rows)} rows, {stats.failed} failed, {rate:.1f} rows/s, {_in_flight(stats)} in flight, "
            f"{stats.retries} retries{_cost(stats, ', ')}, {self._eta(stats, rows)}",
            err=True,
        )

    def show_phase(self, phase: str, done: float | None, total: float | None, unit: str = "rows") -> None:
        click.echo(f"{phase}{_of(done, total, unit)}", err=True)


def _of(done: float | None, total: float | None, unit: str) -> str:
    if done is None:
        return ""
    return f": {_number(done)} {unit}" if total is None else f": {_number(done)}/{_number(total)} {unit}"


def _number(value: float) -> str:
    return f"{value}" if isinstance(value, int) else f"{value:.1f}"


class Bar(Display):
    """A live bar. Importing rich takes 50 ms, so only a terminal imports it."""

    seconds = BAR_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._phase: str | None = None
        """Phase of the bar; None while rows are sent."""

    async def stop(self) -> None:
        await super().stop()
        if self._progress is not None:
            self._progress.stop()

    def say(self, message: str) -> None:
        if self._progress is None:
            super().say(message)
        else:
            self._progress.console.print(OUTPUT.redactor.lines(message), markup=False, highlight=False)

    def show(self, stats: Statistics, rows: int | None) -> None:
        progress = self._begin(None)
        now = stats.ok + stats.failed
        done = self._earlier + now
        # The most important part comes first: a narrow terminal shows only the beginning.
        parts = [
            f"{_count(done, rows)} rows",
            f"{stats.failed} failed" if stats.failed else "",
            f"{now / stats.seconds if stats.seconds else 0:,.0f} rows/s",
            f"{_in_flight(stats)} in flight",
            f"{stats.retries} retries",
            _cost(stats),
            self._eta(stats, rows),
        ]
        _draw(progress, done, rows and max(rows, done), _fitting(parts, progress.console.width - _BAR_WIDTH))

    def show_phase(self, phase: str, done: float | None, total: float | None, unit: str = "rows") -> None:
        progress = self._begin(phase, moves=done is not None)
        _draw(progress, done or 0, total, f"{phase}{_of(done, total, unit)}")

    def _begin(self, phase: str | None, *, moves: bool = True) -> Progress:
        """Return the bar of a phase, each of which has one of its own, because their totals differ."""
        if self._progress is not None:
            if self._phase == phase:
                return self._progress
            self._progress.stop()
        self._progress, self._phase = _new_bar(moves=moves), phase
        self._progress.add_task("", total=None, text="")
        self._progress.start()
        return self._progress


def _draw(progress: Progress, done: float, total: float | None, text: str) -> None:
    progress.update(progress.task_ids[0], total=total, completed=done, text=text)
    progress.refresh()


def _new_bar(*, moves: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True))
    return Progress(
        *((BarColumn(bar_width=None), text) if moves else (text,)),
        console=Console(stderr=True),
        auto_refresh=False,  # a refreshing thread would slow the run down
        transient=True,
        expand=True,
    )


def _fitting(parts: Sequence[str], width: int) -> str:
    """Join as many of the parts as fit; the first one always, since it matters most."""
    text = parts[0]
    for part in parts[1:]:
        if part and len(text) + len(part) + 2 <= width:
            text += f", {part}"
    return text
