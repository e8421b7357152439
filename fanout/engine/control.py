"""A handle with which a run can be ended from outside, by a signal for instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.engine.halt import Stop

if TYPE_CHECKING:
    from fanout.engine.run import Run
    from fanout.types import StopKind


class RunControl:
    """Ends the run that it is given to, gently or at once. It may be used before the run has begun."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._asked: tuple[Stop, bool] | None = None

    def drain(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """Send nothing new, finish what is in flight, then stop."""
        self._ask(Stop(kind, reason), cut=False)

    def cut(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """Stop now; what is in flight is abandoned and its rows are pending."""
        self._ask(Stop(kind, reason), cut=True)

    def attach(self, run: Run) -> None:
        """Let the handle act on ``run``; what was asked for before takes effect now."""
        self._run = run
        if self._asked is not None:
            stop, cut = self._asked
            run.stop(stop, cut=cut)

    def _ask(self, stop: Stop, *, cut: bool) -> None:
        self._asked = stop, cut
        if self._run is not None:
            self._run.stop(stop, cut=cut)
