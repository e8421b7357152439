"""Errors that say that money, or the quota of a day or a month, is used up: waiting does not help, so the run stops.

One table. To add a vendor, add a line: a code that its errors carry, or the words with which its message begins.
Codes prove it. Words do not where the request holds them too: a validator may quote a row.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.classify.error_message import messages, provider_error
from fanout.classify.statuses import short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


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
        # Google begins in the same words where the quota is that of a minute, and goes on in others.
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

_STATUSES = (400, 402, 403, 429)
"""Statuses with which quotas are refused."""

_CODE_FIELDS = ("code", "type", "status", "reason", "error_code", "error_type", "limit_source", "__type", "error")
_MOST = 32
"""Objects of one list that are looked at."""

_LOOKED_AT = 1000
"""Characters of a message that are searched."""

_CODES = frozenset(code.lower() for case in CASES for code in case.codes if not code.startswith("*"))
_ENDS = tuple(code[1:].lower() for case in CASES for code in case.codes if code.startswith("*"))
# The words begin the message, behind the names of exceptions that have passed it on, and within an object that these
# quote. Words that come later may be a row's own.
_CHAIN = r"(?:(?:[\w.]{0,60}(?:error|exception)|error code: \d{3}|\d{3})\W{1,6}){0,6}"
_IN_OBJECT = r"(?:b?['\"]?\{[^{]{0,100}(?:\{[^{]{0,100})?['\"]message['\"]\s{0,3}:\s{0,3}['\"])?"
_WORDS = re.compile(
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
    """True if an answer with this status, error, header fields and message says that a quota is used up.

    ``quotes`` says of words whether the message may have them from the request.
    """
    if status == 402:
        return True
    if status not in _STATUSES:
        return False
    behind = provider_error(error)
    if any(code in _CODES or code.endswith(_ENDS) for code in (*_codes(error, headers), *_codes(behind, {}))):
        return True
    for text in (message, *messages(behind)):
        found = _WORDS.search(text[:_LOOKED_AT])
        if found is not None and not quotes(found[1]):
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
    """The object, or the objects, of a field."""
    value = error.get(field)
    for each in islice(value, _MOST) if isinstance(value, list) else (value,):
        if isinstance(each, dict):
            yield each
