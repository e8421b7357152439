"""User code that ends neither by returning nor with an ordinary exception: none is lost.

Whatever ends a callback otherwise than by its return, a stray `CancelledError` included, is an error of the run, never
a silent success.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from fanout.errors import CallbackError

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

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
