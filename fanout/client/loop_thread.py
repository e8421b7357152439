"""An event loop on its own thread. Ctrl-C can interrupt its blocking calls without losing their results."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from fanout.errors import ClientStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

# Interval at which a waiting thread wakes up. A signal that another thread receives does not wake a lock.
_POLL_SECONDS = 0.2


class LoopThread:
    """Runs an event loop on a daemon thread, until `close`."""

    def __init__(self) -> None:
        self.closed = False
        self._pid = os.getpid()
        self._submitting = threading.Lock()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        # A daemon thread: a client that is never closed must not keep the interpreter alive.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="fanout-loop", daemon=True)
        self._thread.start()
        # The loop exists once its thread runs, and the first call needs it.
        self._started.wait()

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """Run ``job`` on the loop and return its result. An interrupt of the waiting cancels the job."""
        future = JobFuture(job)
        try:
            self.submit(future)
            return self.wait(future)
        except BaseException:
            future.cancel()
            raise

    def submit(self, future: JobFuture[Any]) -> None:
        """Start the job of ``future`` on the loop.

        The caller makes the future, so that an interrupt in the middle of this call does not lose it.
        """
        try:
            self._submit(partial(future.start, self._loop))
        except ClientStateError:
            future.job.close()
            raise

    def cancel_unless_started(self, future: JobFuture[Any]) -> None:
        """Cancel ``future`` if an interrupt came before its job was submitted. It would never be resolved otherwise."""
        with suppress(ClientStateError):
            self._submit(future.cancel_unless_started)

    def wait(self, future: JobFuture[T]) -> T:
        """Block until the job of ``future`` ends; return its result or raise its exception."""
        while not future.done():
            with suppress(TimeoutError, concurrent.futures.CancelledError):
                future.result(_POLL_SECONDS)
        try:
            outcome = future.result()
        except concurrent.futures.CancelledError:
            raise ClientStateError("the client was closed before the answer came") from None
        if outcome.interrupt is not None:
            raise outcome.interrupt
        return cast("T", outcome.value)

    def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` on the loop's thread and return its result. Callbacks on that thread may use this too."""

        async def called() -> T:
            return function()

        return function() if threading.current_thread() is self._thread else self.run(called())

    def close(self) -> None:
        """End all tasks, the loop and its thread."""
        self._require_other_thread()
        # Jobs submitted before this end with the loop. The lock keeps others from being submitted to an ended loop.
        with self._submitting:
            if not self.closed:
                self.closed = True
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _submit(self, call: Callable[[], object]) -> None:
        if os.getpid() != self._pid:  # a forked child has no threads of its parent
            raise ClientStateError("the client was opened before a fork; open one in each process")
        self._require_other_thread()
        with self._submitting:
            if self.closed:
                raise ClientStateError("the client is closed; make a new one")
            self._loop.call_soon_threadsafe(call)

    def _require_other_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise ClientStateError("on_event cannot wait for the client that calls it: it would wait for itself")

    async def _live(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._end.wait()


class _Outcome(NamedTuple, Generic[T]):
    value: T | None = None
    interrupt: BaseException | None = None


class JobFuture(concurrent.futures.Future[_Outcome[T]]):
    """The outcome of a job on the loop's thread. `cancel` cancels the job."""

    def __init__(self, job: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self.job = job
        self._task: asyncio.Task[_Outcome[T]] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the job. Call it on the loop's thread."""
        if self.cancelled():
            self.job.close()
            return
        self._task = loop.create_task(_outcome(self.job))
        self._task.add_done_callback(self._resolve)
        self.add_done_callback(partial(self._cancel_task, loop))

    def cancel_unless_started(self) -> None:
        """Cancel this future if `start` was never called. Call it on the loop's thread, after `start` if at all."""
        if self._task is None and self.cancel():
            self.job.close()

    def _resolve(self, task: asyncio.Task[_Outcome[T]]) -> None:
        if self.cancelled():
            return
        if task.cancelled():
            self.cancel()
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())

    def _cancel_task(self, loop: asyncio.AbstractEventLoop, _: object) -> None:
        if self.cancelled() and self._task is not None and not self._task.done():
            with suppress(RuntimeError):  # the loop is closed, so its tasks have ended
                loop.call_soon_threadsafe(self._task.cancel)


async def _outcome(job: Coroutine[Any, Any, T]) -> _Outcome[T]:
    # Raised inside a task, these two exceptions would end the event loop: they are passed on as values.
    try:
        return _Outcome(value=await job)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        return _Outcome(interrupt=interrupt)
