"""Classify answers: the next step after an attempt without values, and the quota that is left. No I/O."""

from fanout.classify.error_bodies import error_message, hidden_status
from fanout.classify.policy import classify_error, classify_invalid, classify_response, with_address
from fanout.classify.rate_limit_headers import Quota, pushback, readers

__all__ = [
    "Quota",
    "classify_error",
    "classify_invalid",
    "classify_response",
    "error_message",
    "hidden_status",
    "pushback",
    "readers",
    "with_address",
]
