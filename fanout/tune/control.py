"""A handle with which a search can be ended from outside."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from fanout.engine import RunControl

if TYPE_CHECKING:
    from fanout.types import StopKind


class SearchControl(RunControl):
    """Ends the trial that is under way, and with it the search. It has many runs, each with a control of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._current = RunControl()
        self._reason: tuple[str, StopKind] = ("interrupted", "interrupted")
        self._asked_to_end = asyncio.Event()

    @property
    def ended(self) -> bool:
        """True once somebody wants the end."""
        return self._asked_to_end.is_set()

    @property
    def reason(self) -> str:
        """Why they want it."""
        return self._reason[0]

    def fresh(self) -> RunControl:
        """The control for the next run; those before it are over."""
        self._current = RunControl()
        if self.ended:
            self._current.drain(*self._reason)
        return self._current

    def drain(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """See `RunControl.drain`."""
        self._end(reason, kind)
        self._current.drain(reason, kind)

    def cut(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """See `RunControl.cut`."""
        self._end(reason, kind)
        self._current.cut(reason, kind)

    def _end(self, reason: str, kind: StopKind) -> None:
        self._reason = reason, kind
        self._asked_to_end.set()

    async def sleep(self, seconds: float) -> None:
        """Wait, or until somebody wants the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked_to_end.wait()
