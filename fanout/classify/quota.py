"""Errors that say that money, or the quota of a day or a month, is used up: waiting does not help, so the run stops.

One table. To add a vendor, add a line: a code that its errors carry, or the words with which its message begins.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.classify.statuses import short_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Case(NamedTuple):
    """The signs by which one vendor's errors say that a quota is used up."""

    vendor: str
    codes: tuple[str, ...] = ()
    """Values of ``code``, ``type`` and their like; ``*`` in front stands for any beginning."""

    words: tuple[str, ...] = ()
    """Regular expressions for the beginning of a message, with bounded repetition; case is ignored."""


# Checked in November 2026, in the vendors' pages and in reports that quote their answers.
CASES = (
    Case(
        "OpenAI",
        codes=(
            "insufficient_quota", "credit_balance_exhausted", "organization_usage_limit_exceeded",
            "billing_hard_limit_reached", "billing_not_active", "*_spend_limit_exceeded",
        ),
    ),
    Case(
        "Anthropic",
        codes=("billing_error", "enforced_spend_limit_reached"),
        words=(r"(?:your )?credit balance is too low", "you have reached your specified api usage limits"),
    ),
    Case("Google", codes=("*perday",)),  # the ids of a QuotaFailure's violations, cut behind PerDay
    Case("Cohere", words=(r"you are using a trial key, which is limited to [\d,]{1,12} api calls ?(?:/|per) ?month",)),
    Case(
        "OpenRouter",
        codes=("openrouter_free_tier_daily",),
        words=("rate limit exceeded: free-models-per-day", "insufficient credits", "key limit exceeded"),
    ),
    Case("Bedrock", codes=("ServiceQuotaExceededException",), words=("too many tokens per day",)),
    Case("DeepSeek", words=("insufficient balance",)),
    Case("Hugging Face", words=("you have exceeded your monthly included credits",)),
    Case("ElevenLabs, Perplexity", codes=("quota_exceeded",)),
)  # fmt: skip

_STATUSES = (400, 402, 403, 429)
"""Statuses with which quotas are refused."""

_CODE_FIELDS = ("code", "type", "status", "reason", "error_code", "error_type", "limit_source", "__type")
_MOST = 32
"""Objects of one list that are looked at."""

_LOOKED_AT = 1000
"""Characters of a message that are searched."""

_CODES = frozenset(code.lower() for case in CASES for code in case.codes if not code.startswith("*"))
_ENDS = tuple(code[1:].lower() for case in CASES for code in case.codes if code.startswith("*"))
# The words begin the message, or one that a proxy quotes: a row that holds them, quoted by a validator, is no quota.
_WORDS = re.compile(
    r"(?:\A\W{0,4}|message\W{1,8}|(?:error|exception)\W{1,8})"
    rf"(?:{'|'.join(words for case in CASES for words in case.words)})",
    re.IGNORECASE,
)


def quota_exhausted(status: int, error: Mapping[str, Any], headers: Mapping[str, str], message: str) -> bool:
    """True if an answer with this status, error, header fields and message says that a quota is used up."""
    if status == 402:
        return True
    if status not in _STATUSES:
        return False
    if any(code in _CODES or code.endswith(_ENDS) for code in _codes(error, headers)):
        return True
    return _WORDS.search(message[:_LOOKED_AT]) is not None


def _codes(error: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    yield short_name(headers.get("x-amzn-errortype", "")).lower()
    for inner in (error, *_inner(error, "details"), *_inner(error, "metadata")):
        for field in _CODE_FIELDS:
            if isinstance(code := inner.get(field), str):
                yield short_name(code).lower()
        for violation in _inner(inner, "violations"):
            for field in ("quotaId", "quotaMetric"):
                if isinstance(name := violation.get(field), str):
                    before, per_day, _ = name.lower().replace("_", "").partition("perday")
                    yield before[-20:] + per_day


def _inner(error: Mapping[str, Any], field: str) -> Iterator[Mapping[str, Any]]:
    """The object, or the objects, of a field."""
    value = error.get(field)
    for each in islice(value, _MOST) if isinstance(value, list) else (value,):
        if isinstance(each, dict):
            yield each
