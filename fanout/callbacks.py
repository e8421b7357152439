"""Code that a run was given, and the ways in which it may end that are neither a return nor an ordinary exception."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.errors import CallbackError

if TYPE_CHECKING:
    from types import TracebackType


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


def abnormal(origin: str, error: BaseException) -> CallbackError:
    """The error for ``error``, which the code called ``origin`` raised. Raise it ``from error``."""
    said = f": {error}" if str(error) else ""
    without_reason = ", although the run was not cancelled" if isinstance(error, asyncio.CancelledError) else ""
    made = CallbackError(f"{origin} raised {type(error).__name__}{said}{without_reason}")
    made.__cause__ = error
    return made


def is_its_own(error: BaseException) -> bool:
    """True if awaited code raised ``error`` by itself; False if a request to end the current task passed through it."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    if isinstance(error, GeneratorExit):  # where no task is running, the coroutine is being closed
        try:
            return asyncio.current_task() is not None
        except RuntimeError:
            return False
    return True
