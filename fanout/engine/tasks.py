"""The tasks of one run: whatever ends one of them otherwise than by its return is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from fanout.callbacks import is_its_own

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    Job: TypeAlias = Callable[[], Coroutine[None, None, None]]


class Tasks:
    """Starts tasks, ends them, and waits for their end.

    A cancellation counts as an ending in order only if it came through `cancel`. An `asyncio.TaskGroup` would take any
    other for one too, and lose the rows that the task had in hand.

    Args:
        report: takes what a task raised. It must not wait.
        abandon: called where the wait for the tasks is cancelled; it has to end them all.
    """

    def __init__(self, report: Callable[[BaseException], None], abandon: Callable[[], None]) -> None:
        self._report = report
        self._abandon = abandon
        self._loop = asyncio.get_running_loop()
        self._joined: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()

    def start(self, job: Job, *, aside: bool = False) -> asyncio.Task[None]:
        """Start a task for ``job``. `join` and `cancel_all` leave one alone that is ``aside``."""
        task = self._loop.create_task(self._supervised(job))
        if not aside:
            self._joined.add(task)
        task.add_done_callback(self._forget)
        return task

    def cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """End these tasks."""
        for task in tasks:
            self._cancelled.add(task)
            task.cancel()

    def cancel_all(self) -> None:
        """End every task that `join` waits for."""
        self.cancel(self._joined)

    async def join(self) -> None:
        """Wait until all tasks have ended, those too that start meanwhile. Cancelled, it has them ended first."""
        cancelled = False
        while self._joined:
            try:
                await asyncio.wait(self._joined)
            except asyncio.CancelledError:
                cancelled = True
                self._abandon()
        if cancelled:
            raise asyncio.CancelledError

    async def _supervised(self, job: Job) -> None:
        try:
            await job()  # made here, so that no coroutine is left over where the task is cancelled before it starts
        except asyncio.CancelledError as error:
            if asyncio.current_task() in self._cancelled:
                raise
            self._report(error)
        except BaseException as error:
            if not is_its_own(error):
                raise
            self._report(error)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and task not in self._cancelled:  # it was cancelled before it began
            self._report(asyncio.CancelledError())
        self._joined.discard(task)
        self._cancelled.discard(task)
