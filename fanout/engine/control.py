"""A handle with which a run can be ended from outside, by a signal for instance."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from fanout.stop import Stop

if TYPE_CHECKING:
    from fanout.engine.run import Run
    from fanout.types import StopKind


class RunControl:
    """Ends the run that it is given to, gently or at once.

    ::

        control = fanout.RunControl()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, control.drain)
        try:
            y = await client.map(X, control=control)
        except fanout.RunStopped as stop:
            y = stop.result.values  # stop.result.ok says which rows are answered

    It may be used before the run has begun, and from any thread.
    """

    def __init__(self) -> None:
        self._run: Run | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: tuple[Stop, bool] | None = None

    def drain(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """Send nothing new, finish what is in flight, then stop."""
        self._ask(Stop(kind, reason), cut=False)

    def cut(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """Stop now; what is in flight is abandoned and its rows are pending."""
        self._ask(Stop(kind, reason), cut=True)

    def attach(self, run: Run) -> None:
        """Let the handle act on ``run``; what was asked for before takes effect now."""
        self._loop, self._run = _running_loop(), run
        if self._asked is not None:
            stop, cut = self._asked
            run.stop(stop, cut=cut)

    def _ask(self, stop: Stop, *, cut: bool) -> None:
        self._asked = stop, cut
        if self._run is None:
            return
        if self._loop is None or _running_loop() is self._loop:
            self._run.stop(stop, cut=cut)
            return
        with suppress(RuntimeError):  # the loop is closed, so the run has ended
            self._loop.call_soon_threadsafe(partial(self._run.stop, stop, cut=cut))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
