"""Recognize errors for exhausted money, or for an exhausted quota of a day or a month.

No wait of some minutes helps, so that the run stops at the first such error.

To support another vendor, add a line to the table: a code of its errors, or the first words of its messages. A code
is proof. Words are none if the request has them too, for a validator may quote a row.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout._lazy import pattern
from fanout.classify.error_bodies import messages, provider_error, short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Case(NamedTuple):
    """The codes and words of one vendor's errors for an exhausted quota."""

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
        # Google begins with the same words for the quota of a minute, and continues differently.
        words=(
            (
                r"you exceeded your current quota, please check your plan and billing details\. for more information "
                r"on this error, read the docs: https://platform\.openai"
            ),
        ),
    ),
    Case(
        "Anthropic",
        codes=("billing_error", "enforced_spend_limit_reached"),
        words=(r"(?:your )?credit balance is too low", "you have reached your specified api usage limits"),
    ),
    Case(
        "Google",
        codes=("*perday",),  # the ids of a QuotaFailure's violations, cut behind PerDay
        words=("your prepayment credits are depleted", r"your project has exceeded its (?:\w{1,20} ){0,2}spending cap"),
    ),
    Case(
        "LiteLLM",
        codes=("budget_exceeded",),
        words=(r"budget has been exceeded[!.]", "exceededbudget: "),
    ),
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

# Statuses of errors for an exhausted quota.
_STATUSES = (400, 402, 403, 429)

_CODE_FIELDS = ("code", "type", "status", "reason", "error_code", "error_type", "limit_source", "__type", "error")
# Objects of one list that are read.
_MOST = 32
# Characters of a message that are searched.
_LONGEST = 1000

_CODES = frozenset(code.lower() for case in CASES for code in case.codes if not code.startswith("*"))
_ENDS = tuple(code[1:].lower() for case in CASES for code in case.codes if code.startswith("*"))
# The words begin the message, or follow the names of exceptions and the start of an object that exceptions quote.
# Words in any later place may be those of a row.
_CHAIN = r"(?:(?:[\w.]{0,60}(?:error|exception)|error code: \d{3}|\d{3})\W{1,6}){0,6}"
_IN_OBJECT = r"(?:b?['\"]?\{[^{]{0,100}(?:\{[^{]{0,100})?['\"]message['\"]\s{0,3}:\s{0,3}['\"])?"
_WORDS = pattern(
    rf"\A\W{{0,4}}{_CHAIN}{_IN_OBJECT}({'|'.join(words for case in CASES for words in case.words)})",
    re.IGNORECASE,
)


def quota_exhausted(
    status: int,
    error: Mapping[str, Any],
    headers: Mapping[str, str],
    message: str,
    quotes: Callable[[str], bool] = lambda _: False,
) -> bool:
    """True if an answer with this status, error, header fields and message reports an exhausted quota.

    ``quotes`` is true for words that the message may have from the request.
    """
    if status == 402:
        return True
    if status not in _STATUSES:
        return False
    behind = provider_error(error)
    if any(code in _CODES or code.endswith(_ENDS) for code in (*_codes(error, headers), *_codes(behind, {}))):
        return True
    for text in (message, *messages(behind)):
        match = _WORDS.search(text[:_LONGEST])
        if match is not None and not quotes(match[1]):
            return True
    return False


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
    """The object of a field, or the objects of its list."""
    value = error.get(field)
    for each in islice(value, _MOST) if isinstance(value, list) else (value,):
        if isinstance(each, dict):
            yield each
