"""Waits that an error states in words, such as "Please try again in 6m0s"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fanout.classify.times import SPELLED, number, spelled, wait_for

if TYPE_CHECKING:
    from datetime import datetime

_LOOKED_AT = 2000
"""Characters of a message that are searched."""

# OpenAI, Groq: "try again in 7m12s"; Azure: "retry after 20 seconds"; Google: "retry in 34.07s"; Django: "Expected
# available in 30 seconds"; LiteLLM: "resets at: 2026-11-30 12:00:00 UTC". Other words state the time that has passed:
# "timed out waiting for a slot after 600s", "no worker available within 30 s", "max wait 300 seconds".
_OBJECT = r"(?:\s{1,3}(?:the|this|your|request|later|it|again)){0,3}"
_LEAD = (
    rf"\b(?:(?:try(?:ing)?\s{{1,3}}again|retry(?:ing)?){_OBJECT}[\s(-]{{1,3}}(?:in|after|at)"
    r"|(?:resets|will\s{1,3}reset|limit\s{1,3}reset)(?:\s{1,3}(?:in|after|at|on))?"
    r"|(?:expected|be|becomes?)\s{1,3}available(?:\s{1,3}again)?\s{1,3}(?:in|after|at)|available\s{1,3}again\s{1,3}(?:in|at)"
    r"|back(?:ing)?\s{0,3}off|estimated\s{1,3}wait(?:\s{1,3}time)?(?:\s{1,3}(?:is|of))?"
    r"|(?<!max )(?<!maximum )(?<!queue )(?<!the )wait|after\s{1,3}waiting)\b"
)
_FILLER = r"(?:[\s:=(~]{1,3}(?:about|approx|approximately|around|at\sleast|another|the\snext|for)\b){0,3}[\s:=(~]{1,3}"
_DURATION = re.compile(rf"{_LEAD}{_FILLER}({SPELLED})", re.IGNORECASE)
_ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:\s?(?:UTC|GMT)|Z|[+-]\d\d:?\d\d)?"
_TIME = re.compile(rf"{_LEAD}{_FILLER}({_ISO})", re.IGNORECASE)
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
