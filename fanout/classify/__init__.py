"""What answers mean: what to do after an attempt that did not succeed, and what is left of an allowance. No I/O."""

from fanout.classify.address import with_address
from fanout.classify.allowance import Allowance, readers
from fanout.classify.pushback import pushback
from fanout.classify.said import said
from fanout.classify.statuses import hidden_status
from fanout.classify.verdicts import classify_error, classify_invalid, classify_reply

__all__ = [
    "Allowance",
    "classify_error",
    "classify_invalid",
    "classify_reply",
    "hidden_status",
    "pushback",
    "readers",
    "said",
    "with_address",
]
