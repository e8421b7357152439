"""The workers of a run, each of which takes one task after another from the scheduler to its outcome.

A worker has the `Encoder` make the payload of a new task, and the attempter send it. The workers are asyncio tasks in
`Tasks`, which loses the end of none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fanout.callbacks import abnormal, is_its_own
from fanout.errors import CallbackError, ConfigError, EncodeError, InputError
from fanout.rows import take_rows
from fanout.types import Action, Payload, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.attempt import Attempter
    from fanout.engine.chunker import Chunker, ChunkTask
    from fanout.engine.first_attempts import Begun
    from fanout.engine.logs import LoggedAttempter
    from fanout.engine.packing import Packing
    from fanout.engine.recovery import Recovery
    from fanout.engine.results import ResultCollector
    from fanout.engine.scheduler import Scheduler
    from fanout.stop import StopEvent
    from fanout.telemetry.spans import RunSpans
    from fanout.upstream.group import EndpointGroup

    Job: TypeAlias = Callable[[], Coroutine[None, None, None]]

BODIES = (bytes, bytearray, memoryview, tuple)
"""Types of a body that can be sent."""


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
        self._encoder: Encoder
        self._attempter: Attempter | LoggedAttempter
        self._trace: RunSpans | None

    async def work(
        self,
        codec: Codec,
        attempter: Attempter | LoggedAttempter,
        trace: RunSpans | None = None,
        begun: Begun | None = None,
    ) -> None:
        """Work until no task is left, or the run has stopped. ``begun`` is an attempt that was made before."""
        self._codec, self._attempter, self._trace = codec, attempter, trace
        transport = self._group.balancer.endpoints[0].transport
        stamp = transport.stamped if transport.stamps else None
        self._encoder = Encoder(codec, stamp, self._recovery.fail_unsent, uniform=self._chunker.uniform)
        if begun is None:
            most = self._most()
        else:
            # Its rows are no longer in the input, so that none of them seems to need a worker.
            most = 1
            self._scheduler.progress.open += 1
            self._recovery.handle(begun.task, begun.verdict, begun.sent_at)
        await self._tasks.run(self._hired(most))

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
        # Jobs that end need no other worker: the surplus ones wait, or leave at the end of the input.
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
        most, bounds = self._group.limiter.limit, self._chunker.bounds
        if self._codec.polling is not None:
            return most + self._scheduler.awaited + self._chunker.waits
        if (remaining := self._chunker.remaining) is not None:
            # Bounds in bytes may make a chunk of each row, so then every row may need a worker.
            most = min(most, -(-remaining // (bounds.rows if bounds.packing is None else 1)))
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
                # Nothing of its answer is kept: the row belongs to no chunk of this run.
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
        encoder, packing = self._encoder, self._chunker.bounds.packing
        if not encoder.encode(task):
            # Its rows have failed already, or wait with other callers, so only the task has to be closed.
            if self._scheduler.finish(task, succeeded=False):
                self._recovery.finish(task, succeeded=False)
            return None
        if packing is not None and task.bisection is None:
            return encoder.fitted(task, self._scheduler.put_back, packing)
        return task

    def _reopen(self, refused: list[tuple[ChunkTask, Verdict]]) -> None:
        for task, verdict in refused:
            self._attempter.misfit(task, verdict)
            self._recovery.reopen(task, verdict)


class Encoder:
    """Makes the payload of each task once. Rows that the wire format cannot express fail alone, without a request.

    Args:
        stamp: puts an idempotency key on a payload; None where there is none.
        fail: takes the rows that cannot be sent.
        uniform: all rows of the input have one form, because they are rows of arrays.
    """

    def __init__(
        self,
        codec: Codec,
        stamp: Callable[[Payload], Payload] | None,
        fail: Callable[[ChunkTask, Verdict], None],
        *,
        uniform: bool,
    ) -> None:
        self._codec = codec
        self._stamp = stamp
        self._fail = fail
        self._uniform = uniform

    def encode(self, task: ChunkTask) -> bool:
        """Make the payload of ``task``. Rows that cannot be expressed leave it; False if none is left to send.

        Raises `ConfigError` where the codec says that no row of this kind can be sent at all, and `InputError` where
        that is for the form of the rows, and all rows of the input have the same.
        """
        while task.payload is None:
            try:
                payload = self._codec.encode(task.rows)
                if not (isinstance(payload, Payload) and isinstance(payload.body, BODIES)):
                    raise _no_payload(payload)
                task.payload = payload if self._stamp is None else self._stamp(payload)
            except EncodeError as error:
                if error.every_row and self._uniform:
                    raise InputError(error.reason) from None
                # A form that rows have only together, as 1 and 2.5 are float64, says nothing of each of them.
                alone = [row for row in error.rows if not self._encodes(task, row)] if error.every_row else []
                rows_left = self._remove(
                    task, alone or error.rows, task.in_input(error.reason, error.rows), error.reasons
                )
            except (ConfigError, CallbackError):
                raise
            except Exception as error:  # noqa: BLE001 - a short codec does not foresee every row
                bad = [row for row in range(task.n) if not self._encodes(task, row)]
                rows_left = self._remove(task, bad, f"{type(error).__name__}: {error}")
            except BaseException as error:
                raise abnormal("the codec's encode", error) from error
            else:
                break
            if not rows_left:
                return False
        return True

    def fitted(self, task: ChunkTask, put_back: Callable[[ChunkTask], None], packing: Packing) -> ChunkTask | None:
        """``task`` with its payload, or its first rows alone where all together are too large.

        ``put_back`` takes the others. None where no row is left to send.
        """
        while self.encode(task):
            packing.learn(task)
            if not packing.too_large(task):
                return task
            task, rest = task.halves()
            put_back(rest)
        return None

    def _remove(self, task: ChunkTask, bad: Sequence[int], reason: str, reasons: Sequence[str] = ()) -> bool:
        """Fail the rows ``bad`` of ``task`` for the ``reason``, or each for its own. True if others are left in it."""
        of_each = reasons if len(reasons) == len(bad) else [reason] * len(bad)
        reason_of = {row: one for row, one in zip(bad, of_each, strict=True) if 0 <= row < task.n}
        rows_of: dict[str, list[int]] = {}
        for row, one in reason_of.items():
            rows_of.setdefault(one, []).append(row)
        left = np.setdiff1d(np.arange(task.n), list(reason_of))
        if len(rows_of) < 2 and len(left) in (0, task.n):  # without a bad row, the rows are to blame together
            self._fail(task, _unsendable(next(iter(rows_of), reason)))
            return False
        for one, rows in rows_of.items():
            self._fail(task.part(np.sort(rows)), _unsendable(one))
        if len(left):
            task.keep(left)
        return len(left) > 0

    def _encodes(self, task: ChunkTask, row: int) -> bool:
        try:
            self._codec.encode(take_rows(task.rows, slice(row, row + 1)))
        except Exception:  # noqa: BLE001 - whatever it is, this row causes it
            return False
        except BaseException as error:
            raise abnormal("the codec's encode", error) from error
        return True


class Tasks:
    """The asyncio tasks of one run.

    A cancellation is a regular end only if it came through `cancel`. An `asyncio.TaskGroup` would accept any other as
    well, and lose the rows of the task.

    Args:
        report: takes the exception that a task raised. It must not wait.
        abandon: called when the wait for the tasks is cancelled; it has to end them all.
    """

    def __init__(self, report: Callable[[BaseException], None], abandon: Callable[[], None]) -> None:
        self._report = report
        self._abandon = abandon
        self._lent: asyncio.Task[None] | None = None
        self._n_cuts = 0
        """Cancellations of the lent task that came from this run."""
        self._loop = asyncio.get_running_loop()
        self._joined: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._all_ended: asyncio.Future[None] | None = None

    def lend(self) -> None:
        """Lend the current task, which does nothing but this run: `run` may do a job in it."""
        self._lent = asyncio.current_task()

    def start(self, job: Job, *, aside: bool = False) -> asyncio.Task[None]:
        """Start a task for ``job``. `join` and `cancel_all` ignore one that is ``aside``."""
        task = self._loop.create_task(self._supervised(job))
        if not aside:
            self._joined.add(task)
        task.add_done_callback(self._forget)
        return task

    def cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """End these tasks."""
        for task in tasks:
            self._cancelled.add(task)
            self._n_cuts += task is self._lent
            task.cancel()

    def cancel_all(self) -> None:
        """End every task that `join` waits for."""
        self.cancel(self._joined)

    async def run(self, jobs: Sequence[Job]) -> None:
        """Do ``jobs``, each in a task of its own, and wait as `join` does."""
        cancelled = False
        if self._lent is not None and len(jobs) == 1:  # a second task would cost a batch of one row a tenth of its time
            cancelled = await self._do_here(jobs[0], self._lent)
        else:
            for job in jobs:
                self.start(job)
        await self.join(cancelled=cancelled)

    async def _do_here(self, job: Job, task: asyncio.Task[None]) -> bool:
        """Do ``job`` in the current ``task``. True if the task was cancelled by others than `cancel`."""
        self._joined.add(task)
        try:
            await self._supervised(job)
            if self._n_cuts:
                await asyncio.sleep(0)  # a job that was cut in its last step has not met its cancellation yet
        except asyncio.CancelledError:
            pass
        self._joined.discard(task)
        self._cancelled.discard(task)
        while self._n_cuts:
            self._n_cuts -= 1
            task.uncancel()
        if not task.cancelling():
            return False
        self._abandon()
        return True

    async def join(self, *, cancelled: bool = False) -> None:
        """Wait until all tasks have ended, including those that start meanwhile. If cancelled, end them first."""
        # Tasks may start further tasks, for instance the second request of a hedge.
        while self._joined:
            # A future of its own costs a run of one task much less than `asyncio.wait`.
            self._all_ended = self._loop.create_future()
            try:
                await self._all_ended
            except asyncio.CancelledError:
                cancelled = True
                self._abandon()
        if cancelled:
            raise asyncio.CancelledError

    async def _supervised(self, job: Job) -> None:
        try:
            # Called here, so that no coroutine is left over if the task is cancelled before it starts.
            await job()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task in self._cancelled or (task is self._lent and not is_its_own(error)):
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
        if not self._joined and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)


def _unsendable(reason: str) -> Verdict:
    return Verdict(action=Action.FAIL, reason=f"cannot be sent: {reason}")


def _no_payload(returned: object) -> ConfigError:
    held = f"a Payload with a body of type {type(returned.body).__name__}" if isinstance(returned, Payload) else None
    kind = held or repr(type(returned))
    return ConfigError(f"encode must return a fanout.Payload whose body is bytes, not {kind}", key="codec")
