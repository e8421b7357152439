"""What answers mean: what to do after an attempt that did not succeed, and what is left of an allowance. No I/O."""

from fanout.classify.address import with_address
from fanout.classify.error_message import said
from fanout.classify.pushback import pushback
from fanout.classify.rate_limit_headers import Quota, readers
from fanout.classify.statuses import hidden_status
from fanout.classify.verdicts import classify_error, classify_invalid, classify_response

__all__ = [
    "Quota",
    "classify_error",
    "classify_invalid",
    "classify_response",
    "hidden_status",
    "pushback",
    "readers",
    "said",
    "with_address",
]
