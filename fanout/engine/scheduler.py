"""The scheduler gives each free worker its next task.

A task is, in this order: a retry that is due, a part of a split chunk, or a new chunk. All that wait are in one heap,
ordered by the time at which they are due and then by the order in which they came. No new chunk is taken while as many
wait as there is concurrency: that is the only back-pressure. `fanout.engine.recovery` decides how a failed task goes
on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.engine.task_queue import TaskQueue

if TYPE_CHECKING:
    from fanout.engine.bisection import Evidence
    from fanout.engine.chunker import Chunker, ChunkTask
    from fanout.stop import StopEvent
    from fanout.upstream.group import EndpointGroup

# With one request in flight, one retry that waits must not keep new chunks from being sent beside it.
_FEWEST_WAITING = 2


class Progress:
    """The progress of a run, at which its watchdog looks."""

    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time
        self.open = 0
        """Tasks whose rows have been taken, and are neither answered nor failed."""
        self.progress_at = self.now()
        """Time of the loop at which a task last succeeded, or was taken while none was open."""
        self.last_failure = ""
        """Reason of the last failure; empty before the first."""
        self.last_answered: ChunkTask | None = None
        """The task that was answered last."""

    def note(self) -> None:
        """Note that work is under way at the endpoint: its silence is no stall."""
        self.progress_at = self.now()


class Scheduler:
    """Orders the tasks of one run.

    Args:
        chunker: new chunks come from it.
        evidence: knows the failed tasks that are parked, and whether new chunks would fail as they did.
    """

    def __init__(self, chunker: Chunker, group: EndpointGroup, evidence: Evidence, stop_event: StopEvent) -> None:
        self.chunker = chunker
        self._group = group
        self._evidence = evidence
        self._stop_event = stop_event
        self._queue = TaskQueue(stop_event)
        self.progress = Progress()
        self.reader: asyncio.Task[None] | None = None
        """The worker that waits for the input, if one does."""
        self._exhausted = False
        self._input_error: Exception | None = None
        self._lets_one_through = False
        """One new chunk is taken, however many tasks wait."""
        self._n_let_through = 0
        """New chunks that were let through since the last success."""
        self.awaited = 0
        """Tasks whose job an asynchronous API does: they need no slot, so as many others are in hand besides."""

    @property
    def n_waiting(self) -> int:
        """Tasks that wait to be repeated, or for their turn."""
        return len(self._queue) + len(self._evidence.parked)

    @property
    def done(self) -> bool:
        """True once all rows of the input are answered or failed, or held until the schema is known."""
        return self._exhausted and not self.progress.open

    def next_nowait(self) -> ChunkTask | None:
        """The next task, if nothing has to be waited for."""
        if self._stop_event.stopped is not None:
            return None
        queue, total = self._queue, self._group.capacity.limiter.limit + self.awaited
        waiting = len(queue.heap) + len(self._evidence.parked)
        if self.progress.open - waiting >= total:  # each open task is in the hands of a worker, or waits
            return None
        if queue.heap and not self._lets_one_through and (task := queue.pop()) is not None:
            return task
        # On the happy path nothing waits and nothing is unexplained, so nothing else has to be asked.
        if (waiting or self._evidence.unexplained is not None) and not self._accepts_chunks(waiting):
            return None
        # No new chunk is there, so that tasks which wait must not give way to one when `next` looks again.
        if (task := self.chunker.get_nowait()) is None:
            self._lets_one_through = False
            return None
        if queue.sleepers and self.progress.open - waiting + 1 < total:
            queue.notify_one()
        return self.opened(task)

    async def next(self) -> ChunkTask | None:
        """Wait for the next task; None when there will be none, or the run has stopped."""
        while (task := self.next_nowait()) is None and self._stop_event.stopped is None:
            if self.done:
                error, self._input_error = self._input_error, None
                if error is not None:
                    raise error
                break
            if not self.chunker.waits and self.chunker.remaining == 0 and not self._exhausted:
                self._end_input()
                continue
            all_busy = self.progress.open - self.n_waiting >= self._group.capacity.limiter.limit + self.awaited
            if all_busy or self._exhausted or self.reader is not None or not self._accepts_chunks(self.n_waiting):
                await self._queue.wait(all_busy=all_busy)
            elif (task := await self._read()) is not None:
                break
        return task

    def put_back(self, task: ChunkTask) -> None:
        """Send ``task``, a part of a chunk that has just been taken, before any new chunk."""
        self.opened(task)
        self._queue.put(task)

    def finish(self, task: ChunkTask, *, succeeded: bool = True) -> bool:
        """Close a task whose rows have been handed to the collector. True if `Recovery.finish` has to act on it."""
        evidence, progress = self._evidence, self.progress
        if succeeded:
            progress.progress_at = progress.now()
            progress.last_answered = task
            self._n_let_through = 0
        if task.bisection is not None:
            return True
        self.close_one()
        if evidence.active:
            self.look_again()
        # Only tasks that are parked wait for a success to explain their failure.
        return bool(
            evidence.parked
            or evidence.unexplained is not None
            or evidence.withheld
            or (succeeded and self._group.answered.sizes.watching)
        )

    def put(self, task: ChunkTask, delay: float = 0.0) -> None:
        """Hand an open task to a worker in ``delay`` seconds."""
        self._queue.put(task, delay)

    def opened(self, task: ChunkTask) -> ChunkTask:
        """Count a task from which an answer is expected. Returns it."""
        self._lets_one_through = False
        progress = self.progress
        # A time in which nothing was open, such as a slow consumer's, is no stall of the endpoint.
        if not progress.open:
            progress.progress_at = progress.now()
        progress.open += 1
        return task

    def close_one(self) -> None:
        """Close an open task. When it was the last one, the workers may end."""
        self.progress.open -= 1
        # The workers that wait would wait for ever: nothing else wakes them now.
        if not self.progress.open and self._exhausted:
            self._queue.notify_all()

    @property
    def no_new_chunk(self) -> bool:
        """True if no row of the input is left that is not in a task."""
        return self._exhausted or self.chunker.remaining == 0

    def let_one_through(self, most: int) -> bool:
        """Accept one new chunk, however many tasks wait.

        False if none is left, or ``most`` were sent like that since the last success.
        """
        if self.no_new_chunk or self._n_let_through >= most:
            return False
        self._n_let_through += 1
        self._lets_one_through = True
        return True

    def look_again(self) -> None:
        """Let a worker that waits look for a task: new chunks may be accepted again."""
        if self._queue.sleepers:
            self._queue.notify_one()

    def wake(self) -> None:
        """Let the workers that wait look for a task: more may be in flight than before."""
        self._queue.notify_all()

    def close(self) -> None:
        """End the scheduling; tasks that wait are dropped, and their rows stay pending."""
        self._queue.close()

    def _accepts_chunks(self, waiting: int) -> bool:
        """True if a new chunk may be taken while so many tasks wait."""
        if self._lets_one_through:
            return True
        # An endpoint that has never answered gets no other chunk before its first ones have used their attempts up.
        most = max(_FEWEST_WAITING, self._group.capacity.limiter.limit)
        if waiting and (waiting >= most or not self._group.balancer.answered):
            return False
        return not self._evidence.holds_back

    async def _read(self) -> ChunkTask | None:
        """Wait for the input. One worker at a time does, so that the others are free for retries."""
        self.reader = asyncio.current_task()
        try:
            task = await self.chunker.get()
        except Exception as error:  # raised once the rows that came before it are answered
            # An interrupt ends the run at once, and is no error of the input.
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise
            self._input_error, task = error, None
        finally:
            self.reader = None
        if task is None:
            self._end_input()
            return None
        # Another worker may read the input while this one sends.
        self._queue.notify_one()
        return self.opened(task)

    def _end_input(self) -> None:
        self._exhausted = True
        self._queue.notify_all()
