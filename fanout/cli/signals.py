"""SIGINT and SIGTERM: once to finish what is in flight, twice to stop now."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from fanout.cli.progress import Display
    from fanout.engine import RunControl

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is entered, signals end the run that ``control`` belongs to, instead of the process."""

    def __init__(self, control: RunControl, display: Display) -> None:
        self.received: signal.Signals | None = None
        """The first signal that came."""
        self._control = control
        self._display = display
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._receive, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def _receive(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self._control.drain(f"interrupted by {number.name}", "interrupted")
            n = self._display.in_flight()
            self._display.say(f"finishing {n} request{'s' * (n != 1)} in flight; press Ctrl-C again to stop now")
        else:
            self._control.cut()
            self._display.say("stopping now, and writing what is done; press Ctrl-C again to abandon that too")
            # Then the next one ends the process, should a file system hang, for instance.
            self.__exit__()
