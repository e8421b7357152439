"""Control requests: a row that was answered before is sent again, to see whether the endpoint still works.

A row that fails alone may be to blame, or the endpoint. Most often the requests for other rows show which of them it
is; at the end of a run there are none.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from fanout.engine.bisection import could_be_outage
from fanout.engine.chunker import ChunkTask
from fanout.rows import copy_rows, take_rows
from fanout.types import (
    Chunk,
)

if TYPE_CHECKING:
    from fanout.engine.scheduler import Progress
    from fanout.types import Rows, Verdict
    from fanout.upstream.group import EndpointGroup

BEFORE_ALL_OTHERS = -inf
"""Delay of a task that goes before all that are due. While the circuit is open, each of them takes a trial."""


class ControlTask(ChunkTask):
    """A row that was answered before. Its answer is discarded: only whether it comes counts."""

    __slots__ = ()

    is_control = True

    def __init__(self, rows: Rows) -> None:
        super().__init__(Chunk(0, 0), rows)  # none of the rows of this run
        self.n = 1


class ControlRequests:
    """Decides on the control requests of one run. One at a time serves all rows that wait."""

    def __init__(self, group: EndpointGroup, progress: Progress) -> None:
        self._group = group
        self._progress = progress
        self.under_way = False
        self.failed = False
        """The last one was not answered."""

    @property
    def possible(self) -> bool:
        """True if a row is known that was answered, in this run or in one before."""
        return self._progress.last_answered is not None or self._group.answered.row is not None

    def over(self) -> bool:
        """True once the last one has its outcome."""
        return not self.under_way

    def begin(self) -> ControlTask:
        """Make the next one; it has to be `possible`, and none under way."""
        self.under_way = True
        # A row of this run is preferred: credentials and model are those of now.
        answered = self._progress.last_answered
        row = self._group.answered.row if answered is None else _first(answered)
        assert row is not None
        return ControlTask(row)

    def end(self, verdict: Verdict | None) -> None:
        """Take in the outcome; ``verdict`` is None if it was answered."""
        self.under_way, self.failed = False, verdict is not None
        if verdict is not None and not could_be_outage(verdict):
            # The row is refused by now, which shows nothing.
            self._progress.last_answered = self._group.answered.row = None

    def close(self, *, keep: bool) -> None:
        """End the run. ``keep`` leaves a row for the control requests of the next one."""
        if keep and (answered := self._progress.last_answered) is not None:
            self._group.answered.row = _independent(_first(answered))
        self._progress.last_answered = None


def _first(task: ChunkTask) -> Rows:
    return take_rows(task.rows, slice(0, 1))


def _independent(rows: Rows) -> Rows:
    """Return a copy of ``rows``, which keeps no array alive that they are a view of."""
    try:
        return copy_rows(rows)
    except Exception:  # noqa: BLE001 - rows for a codec of the user's may be of any class
        return rows
