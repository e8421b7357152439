"""The workers of a run, each of which takes one task after another from the scheduler to its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.engine.encoding import encode, fitted
from fanout.types import Verdict

if TYPE_CHECKING:
    from fanout.callbacks import Job, Tasks
    from fanout.codecs.base import Codec
    from fanout.engine.attempt import Attempter
    from fanout.engine.chunker import Chunker
    from fanout.engine.logs import LoggedAttempter
    from fanout.engine.recovery import Recovery
    from fanout.engine.results import ResultCollector
    from fanout.engine.scheduler import Scheduler
    from fanout.engine.task import ChunkTask
    from fanout.stop import StopEvent
    from fanout.telemetry.base import RunTrace
    from fanout.upstream.group import EndpointGroup


class Workers:
    """As many workers as the endpoint takes requests at a time.

    Args:
        tasks: the asyncio tasks of the run.
    """

    def __init__(
        self,
        chunker: Chunker,
        group: EndpointGroup,
        scheduler: Scheduler,
        recovery: Recovery,
        collector: ResultCollector,
        tasks: Tasks,
        stop_event: StopEvent,
    ) -> None:
        self._chunker = chunker
        self._group = group
        self._scheduler = scheduler
        self._recovery = recovery
        self._collector = collector
        self._tasks = tasks
        self._stop_event = stop_event
        self._n = 0
        self._codec: Codec
        self._attempter: Attempter | LoggedAttempter
        self._trace: RunTrace | None

    async def work(self, codec: Codec, attempter: Attempter | LoggedAttempter, trace: RunTrace | None = None) -> None:
        """Work until no task is left, or the run has stopped."""
        self._codec, self._attempter, self._trace = codec, attempter, trace
        await self._tasks.run(self._hired(self._most()))

    async def send_again(self, refused: list[tuple[ChunkTask, Verdict]]) -> None:
        """Send tasks again whose answers were held, and are unlike the others, after the workers have left."""
        self._reopen(refused)
        await self._tasks.run(self._hired(min(len(refused), self._group.limiter.limit)))

    def follow_limit(self) -> None:
        """Follow a change of the concurrency: workers join; surplus ones wait until they are needed again."""
        self._chunker.make_room(self._group.limiter.limit)
        self._scheduler.wake()
        if self._n:  # after the last one has left, nothing is to be sent
            self._join()

    def follow_jobs(self, n_awaited: int) -> None:
        """Give the places of workers that wait for jobs to others."""
        assert self._codec.polling is not None
        before, self._scheduler.awaited = self._scheduler.awaited, min(n_awaited, self._codec.polling.most)
        if self._scheduler.awaited > before:
            self._join()
            self._scheduler.wake()

    def _join(self) -> None:
        if self._stop_event.stopped is None:
            for worker in self._hired(self._most()):
                self._tasks.start(worker)

    def _hired(self, total: int) -> list[Job]:
        """Workers to join the present ones, up to ``total``."""
        more = max(0, total - self._n)
        self._n += more
        return [self._worker] * more

    def _most(self) -> int:
        """As many as concurrency allows and the input has chunks for, and as many more as wait for jobs.

        One more than that waits for the input where this takes time, so that the others are free for retries.
        """
        most = self._group.limiter.limit
        if self._codec.polling is not None:
            return most + self._scheduler.awaited + self._chunker.waits
        if (remaining := self._chunker.remaining) is not None:
            most = min(most, -(-remaining // (self._chunker.chunk_rows if self._chunker.packing is None else 1)))
        return most + self._chunker.waits

    async def _worker(self) -> None:
        scheduler, attempter, recovery = self._scheduler, self._attempter, self._recovery
        ticket = attempter.ticket()
        handle = recovery.handle if self._trace is None else self._trace.handling(recovery.handle)
        try:
            while (task := scheduler.next_nowait() or await scheduler.next()) is not None:
                if task.payload is None and (task := self._encoded(task)) is None:
                    continue
                outcome = await attempter.run(task, ticket)
                if isinstance(outcome, Verdict):
                    handle(task, outcome, ticket.sent_at)
                elif task.is_control:
                    recovery.end_control(None)
                else:
                    refused = self._collector.add(task, outcome)
                    if scheduler.finish(task):
                        recovery.finish(task)
                    if refused:
                        self._reopen(refused)
        finally:
            self._n -= 1
            ticket.close()

    def _encoded(self, task: ChunkTask) -> ChunkTask | None:
        """``task`` with its payload, or its first rows where all are too many; None where none is left to send."""
        if not self._encode(task):
            if self._scheduler.finish(task, succeeded=False):
                self._recovery.finish(task, succeeded=False)
            return None
        if self._chunker.packing is not None and task.bisection is None:
            return fitted(task, self._scheduler.put_back, self._chunker.packing, self._encode)
        return task

    def _encode(self, task: ChunkTask) -> bool:
        transport = self._group.balancer.endpoints[0].transport
        stamp = transport.stamped if transport.stamps else None
        return encode(task, self._codec, stamp, self._recovery.fail_unsent, uniform=self._chunker.uniform)

    def _reopen(self, refused: list[tuple[ChunkTask, Verdict]]) -> None:
        for task, verdict in refused:
            self._attempter.misfit(task, verdict)
            self._recovery.reopen(task, verdict)
