"""Virtual time: an event loop that jumps to its next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Real seconds between looks at helper threads: while one works, no time passes.
_THREAD_POLL = 0.01


class VirtualClock(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything runs, and jumps when all wait for a timer.

    An hour of backoff takes as long as its computation. Use it for logic without sockets: a socket takes real
    time, which this clock does not count. ``asyncio.Runner(loop_factory=VirtualClock)`` runs a scenario;
    with pytest-asyncio give it to the ``pytest_asyncio_loop_factories`` hook.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._in_threads = 0
        super().__init__(_JumpingSelector(self._jump))
        # asyncio takes timers within its clock's resolution for due; below the step of a float that far from zero, the
        # clock would stand still before a timer for ever.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds since the creation of the loop."""
        return self._now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As the base class does; the clock stands still until the thread is done."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As the base class does; the clock stands still until its threads have ended.

        Since Python 3.12 a timer bounds this wait. The clock would jump to it.
        """
        self._in_threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._in_threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._in_threads -= 1

    def _jump(self, seconds: float) -> float:
        """Let ``seconds`` pass, or return the real seconds to wait for a thread instead."""
        if self._in_threads:
            return _THREAD_POLL
        self._now += seconds
        return 0.0


def in_virtual_time(test: Callable[P, Coroutine[None, None, T]]) -> Callable[P, T]:
    """Make a plain function of an async one: called, it runs on a `VirtualClock`, where waiting takes no time.

    A decorator for tests. It works without pytest-asyncio, and in any of its modes. pytest passes fixtures on to the
    test, except async ones: they live on another loop.
    """

    @wraps(test)
    def run(*arguments: P.args, **options: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            return runner.run(test(*arguments, **options))

    return run


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], float]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        # Without a timer to jump to, only a thread or a socket can go on: that takes real time.
        return super().select(None if timeout is None else self._jump(timeout))
