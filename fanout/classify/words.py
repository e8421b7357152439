"""Waits that an error states in words, such as "Please try again in 6m0s"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fanout.classify.times import SPELLED, number, spelled, wait_for

if TYPE_CHECKING:
    from datetime import datetime

_LOOKED_AT = 2000
"""Characters of a message that are searched."""

_LEAD = r"\b(?:try(?:ing)?\s{1,3}again|retry(?:ing)?|wait(?:ing)?|resets?|available|back\s{1,3}off)\b"
_BETWEEN = r"[^\d.;!?]{0,40}"
# OpenAI, Groq: "try again in 7m12s"; Azure: "retry after 20 seconds"; Google: "retry in 34.07s"; Django: "available in
# 30 seconds"; LiteLLM: "resets at: 2026-11-30 12:00:00 UTC".
_DURATION = re.compile(rf"{_LEAD}{_BETWEEN}({SPELLED})", re.IGNORECASE)
_TIME = re.compile(
    rf"{_LEAD}{_BETWEEN}(\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{{1,9}})?)?(?:\s?UTC|Z|[+-]\d\d:?\d\d)?)",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"\b[Rr]etry[-_ ][Aa]fter[:=]?\s{0,3}(\d{1,9}(?:\.\d{1,9})?)(?=[.,;)\"']?(?:\s{1,3}[A-Z]|\s{0,3}\Z))"
)


def wait_in_words(message: str, server_date: str | None = None, now: datetime | None = None) -> float | None:
    """Seconds that ``message`` asks to wait, the longest if there are several; None where it asks for none."""
    text = message[:_LOOKED_AT]
    waits = [spelled(found.rstrip(" ,").lower().removesuffix(" and")) for found in _DURATION.findall(text)]
    waits += [wait_for(found, server_date, now) for found in _TIME.findall(text)]
    waits += [number(found) for found in _BARE.findall(text)]
    return max((wait for wait in waits if wait is not None), default=None)
