"""Calls on helper threads that are waited for to their end: no cancellation can call a thread back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class _Closable(Protocol):
    def close(self) -> object: ...


T = TypeVar("T")
C = TypeVar("C", bound=_Closable)


async def on_thread(call: Callable[..., T], *args: Any) -> T:
    """Call on a helper thread. What it works on may be closed as soon as this is over, cancelled or not."""
    return await ended(_started(call, *args))


@asynccontextmanager
async def opened_on_thread(opening: Callable[[], C]) -> AsyncIterator[C]:
    """Enter what ``opening`` gives, called on a helper thread, and close it at the end.

    Cancelled while that is opened, it waits until it is, and closes it.
    """
    opened = _started(opening)
    try:
        yield await asyncio.shield(opened)
    finally:
        try:
            await ended(opened)
        finally:  # of another cancellation, too
            if not opened.cancelled() and opened.exception() is None:
                opened.result().close()


async def ended(future: asyncio.Future[T]) -> T:
    """What ``future`` comes to. However often the wait is cancelled, it lasts to the end."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not future.cancelled():
            future.exception()  # seen: the caller learns of the cancellation alone
        raise asyncio.CancelledError
    return future.result()


def _started(call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(None, copy_context().run, _called, call, *args)


def _called(call: Callable[..., T], *args: Any) -> T:
    try:
        return call(*args)
    except StopIteration as error:  # no future can carry one: the wait for it would have no end
        raise RuntimeError(f"{call} raised StopIteration") from error
