"""The heap of tasks that wait for a worker, and the workers that wait for a task."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from fanout.stop import WaitQueue

if TYPE_CHECKING:
    from fanout.engine.chunker import ChunkTask
    from fanout.stop import StopEvent

# Seconds by which a timer may fire too early.
_ROUNDING = 1e-9


class TaskQueue:
    """Tasks that wait for a worker, ordered by (due, order), and workers that wait for a task."""

    def __init__(self, stop_event: StopEvent) -> None:
        self._stop_event = stop_event
        self.heap: list[tuple[float, int, ChunkTask]] = []
        self._order = 0
        self._workers = WaitQueue()
        self.sleepers = self._workers.sleepers
        """The workers that wait."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.heap)

    def put(self, task: ChunkTask, delay: float = 0.0) -> None:
        """Hand ``task`` to a worker in ``delay`` seconds."""
        due = self._loop.time() + delay
        # The order makes equal times first come, first served, and spares a comparison of tasks.
        heappush(self.heap, (due, self._order, task))
        self._order += 1
        if self.sleepers:  # a worker that begins to wait sets the timer itself
            self._wake_at(due)

    def pop(self) -> ChunkTask | None:
        """The task that has been due longest; None if none is due."""
        if not self.heap or self.heap[0][0] > self._loop.time() + _ROUNDING:
            return None
        task = heappop(self.heap)[2]
        # A worker that was woken wakes the next one, so that all are at work if there is enough for them.
        self._workers.notify_one()
        return task

    async def wait(self, *, all_busy: bool) -> None:
        """Wait until there may be a task for this worker, or until the run stops.

        ``all_busy`` says that a task which is due has to wait, until one of the busy workers is free.
        """
        if self.heap:
            due = self.heap[0][0]
            if due > self._loop.time():
                self._wake_at(due)
            elif not all_busy:  # it has become due since this worker looked, and no timer will report it
                return
        await self._stop_event.sleep(inf, self._workers)

    def notify_one(self) -> None:
        """Let a worker that waits look for a task."""
        self._workers.notify_one()

    def notify_all(self) -> None:
        """Let all workers that wait look for a task, or end."""
        self._workers.notify_all()

    def close(self) -> None:
        """Drop all tasks: the run is over."""
        self.heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_at(self, due: float) -> None:
        if due <= self._loop.time():
            self._workers.notify_one()
        # One timer for all tasks, for the first one that is due.
        elif self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._workers.notify_one()
