"""Helper threads: calls that are awaited to their end, and a thread that nothing waits for.

No cancellation can call a thread back. A call that works on files is therefore awaited to its end even when its task is
cancelled: only then may the files be closed.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class _Closable(Protocol):
    def close(self) -> object: ...


T = TypeVar("T")
C = TypeVar("C", bound=_Closable)


async def on_thread(call: Callable[..., T], *args: Any) -> T:
    """Call on a helper thread. Whether cancelled or not, the call has ended when this returns or raises."""
    return await ended(_start(call, *args))


@asynccontextmanager
async def opened_on_thread(opening: Callable[[], C]) -> AsyncIterator[C]:
    """Enter the object that ``opening`` returns, called on a helper thread, and close it at the end.

    If it is cancelled while ``opening`` runs, it waits for the object and closes it.
    """
    future = _start(opening)
    try:
        yield await asyncio.shield(future)
    finally:
        try:
            await ended(future)
        # A second cancellation passes through the wait.
        finally:
            if not future.cancelled() and future.exception() is None:
                future.result().close()


async def ended(future: asyncio.Future[T]) -> T:
    """Return the result of ``future``. However often the wait is cancelled, it lasts to the end."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        # The caller gets the cancellation alone; to fetch the exception keeps asyncio from logging it.
        if not future.cancelled():
            future.exception()
        raise asyncio.CancelledError
    return future.result()


def _start(call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(None, copy_context().run, _call, call, *args)


def _call(call: Callable[..., T], *args: Any) -> T:
    try:
        return call(*args)
    # No future can carry StopIteration: the wait for it would not end.
    except StopIteration as error:
        raise RuntimeError(f"{call} raised StopIteration") from error


class DaemonThread(Executor):
    """An executor with one daemon thread, for reading a blocking input or decoding large answers.

    At its exit the interpreter waits for the threads of a pool. An input that never sends another byte would keep it
    waiting for ever.
    """

    def __init__(self, name: str = "fanout-source") -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` on the thread, after all calls that were submitted before."""
        future: Future[Any] = Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread once it has made the calls that were submitted; never waits for it."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            del job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            # The exception belongs to the code that awaits the future.
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            # Without this, a large answer would be held until the next one comes.
            del future, call
