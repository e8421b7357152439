"""What to do after an attempt that did not succeed: pure functions over one table, and no I/O."""

from fanout.classify.pushback import pushback
from fanout.classify.said import said
from fanout.classify.verdicts import classify_error, classify_invalid, classify_reply

__all__ = ["classify_error", "classify_invalid", "classify_reply", "pushback", "said"]
