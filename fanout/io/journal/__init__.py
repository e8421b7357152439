"""The journal: a record on disk of the rows that are done, so that a killed run can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.io.journal.comparison import same_but_for_times
    from fanout.io.journal.format import read_state
    from fanout.io.journal.journal import Journal
    from fanout.io.journal.state import JournalState, RecordedJob, Spending, Spent

__all__ = ["Journal", "JournalState", "RecordedJob", "Spending", "Spent", "read_state", "same_but_for_times"]

__getattr__ = lazy(
    __name__,
    {
        "fanout.io.journal.comparison": ("same_but_for_times",),
        "fanout.io.journal.format": ("read_state",),
        "fanout.io.journal.journal": ("Journal",),
        "fanout.io.journal.state": ("JournalState", "RecordedJob", "Spending", "Spent"),
    },
)
