"""The journal: which rows of a run are done, on disk, so that a run that was killed goes on where it was."""

from fanout.io.journal.journal import Journal, same_but_for_times
from fanout.io.journal.state import State, read_state

__all__ = ["Journal", "State", "read_state", "same_but_for_times"]
