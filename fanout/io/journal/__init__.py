"""The journal: a record on disk of the rows that are done, so that a killed run can be resumed."""

from fanout.io.journal.comparison import same_but_for_times
from fanout.io.journal.journal import Journal
from fanout.io.journal.reading import read_state
from fanout.io.journal.state import JournalState, RecordedJob, Spending, Spent

__all__ = ["Journal", "JournalState", "RecordedJob", "Spending", "Spent", "read_state", "same_but_for_times"]
