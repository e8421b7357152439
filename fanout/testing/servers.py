"""Servers for code that is not async: on a thread and an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from fanout.options import checks_options

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


@checks_options
class Background(Generic[T]):
    """Enters an async context manager, such as a `FaultServer`, on a thread of its own: ``with Background(server)``.

    Exceptions of entering and leaving it are raised here.
    """

    def __init__(self, entered: AbstractAsyncContextManager[T]) -> None:
        self._entered = entered
        self._thread = threading.Thread(target=self._run, name="fanout-server", daemon=True)
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._value: T

    def __enter__(self) -> T:
        self._thread.start()
        # The server's port is known, or its error raised, before the test goes on.
        self._ready.wait()
        self._raise()
        return self._value

    def __exit__(self, *_: object) -> None:
        # An asyncio event may be set on its own thread only.
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._raise()

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._entered as self._value:
                self._ready.set()
                await self._end.wait()
        # Without the event in the finally block below, a failed start would block the test for ever.
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
            self._error = error
        finally:
            self._ready.set()

    def _raise(self) -> None:
        if self._error is not None:
            self._thread.join()
            raise self._error
