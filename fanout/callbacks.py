"""User code and tasks of a run that end neither by returning nor with an ordinary exception: none is lost.

Whatever ends a worker, a task or a callback otherwise than by its return, a stray `CancelledError` included, is an
error of the run, never a silent success.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from fanout.errors import CallbackError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from types import TracebackType

    Job: TypeAlias = Callable[[], Coroutine[None, None, None]]

T = TypeVar("T")

ENDS_OF_ITERATION = (StopIteration, StopAsyncIteration)
"""Exceptions that may not pass. No future can carry the first, so a wait for a helper thread would have no end; the
second would end the iteration over a stream as if all rows had come."""


class calling:  # noqa: N801 - reads as a statement: `with calling("headers="):`
    """Turn a `BaseException` of synchronous code into a `CallbackError` that names the code.

    Nothing can cancel code that does not await, so a `CancelledError` out of it is its own.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and (not isinstance(error, Exception) or isinstance(error, ENDS_OF_ITERATION)):
            raise abnormal(self._origin, error) from error


async def awaiting(origin: str, code: Awaitable[T]) -> T:
    """Await the user's ``code``, and turn a `BaseException` of its own into a `CallbackError` that names it."""
    try:
        return await code
    except BaseException as error:
        ordinary = isinstance(error, Exception) and not isinstance(error, ENDS_OF_ITERATION)
        if not ordinary and is_its_own(error):
            raise abnormal(origin, error) from error
        raise


def abnormal(origin: str, error: BaseException) -> CallbackError:
    """The `CallbackError` for ``error``, which the code called ``origin`` raised. Raise it ``from error``."""
    text = f": {error}" if str(error) else ""
    unasked = ", although the run was not cancelled" if isinstance(error, asyncio.CancelledError) else ""
    callback_error = CallbackError(f"{origin} raised {type(error).__name__}{text}{unasked}")
    callback_error.__cause__ = error
    return callback_error


def is_its_own(error: BaseException) -> bool:
    """True if awaited code raised ``error`` by itself; False if a request to end the current task passed through it."""
    if isinstance(error, asyncio.CancelledError):
        # A task that is asked to end has a count of such requests; a stray exception leaves it at 0.
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    if isinstance(error, GeneratorExit):  # where no task is running, the coroutine is being closed
        try:
            return asyncio.current_task() is not None
        except RuntimeError:
            return False
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
        self._loop = asyncio.get_running_loop()
        self._joined: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._all_ended: asyncio.Future[None] | None = None

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
            task.cancel()

    def cancel_all(self) -> None:
        """End every task that `join` waits for."""
        self.cancel(self._joined)

    async def run(self, jobs: Iterable[Job]) -> None:
        """Start tasks for ``jobs``, and wait as `join` does."""
        for job in jobs:
            self.start(job)
        await self.join()

    async def join(self) -> None:
        """Wait until all tasks have ended, including those that start meanwhile. If cancelled, end them first."""
        cancelled = False
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
        if not self._joined and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)
