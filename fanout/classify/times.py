"""Parse times as header fields, error bodies and messages state them: numbers, durations, dates, and words."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import isfinite

from fanout._lazy import pattern

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = pattern(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
# Characters of a time. A longer text is none, and the search for its parts takes quadratic time.
_LONGEST = 64

EPOCH = 1e9
"""A larger number of seconds is a Unix time, not a duration."""

# A Unix time below the first is in seconds, below the second in milliseconds, else in microseconds.
_SECONDS, _MILLISECONDS = 1e11, 1e14

_YEAR = 366 * 86400.0
_SPELLED_UNITS = {
    "millisecond": 1e-3, "msec": 1e-3, "second": 1.0, "sec": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0,
    "hr": 3600.0, "day": 86400.0,
}  # fmt: skip
# A duration as people write it, such as 1 minute and 30 seconds, or 6m0s.
_SPELLED_PATTERN = (
    r"(?:\d{1,15}(?:\.\d{1,15})?\s{0,3}"
    r"(?:ns|us|µs|milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
    r"(?:,?\s{1,3}and\s{1,3}|,?\s{1,3})?){1,5}"
)

_SPELLED = pattern(_SPELLED_PATTERN, re.IGNORECASE)
_SPELLED_PART = pattern(r"(\d{1,15}(?:\.\d{1,15})?)\s{0,3}([a-zµ]{1,12})", re.IGNORECASE)
_ISO = pattern(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_ZONE_NAME = pattern(r" ?(?:UTC|GMT)\Z", re.IGNORECASE)
_OFFSET_AFTER_GMT = pattern(r"GMT([+-]\d{4})")
# Characters of a message that are searched.
_LONGEST_MESSAGE = 2000

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
_DIGIT = pattern(r"\d")
_LED_DURATION = pattern(rf"{_LEAD}{_FILLER}({_SPELLED_PATTERN})", re.IGNORECASE)
_ISO_TEXT = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:\s?(?:UTC|GMT)|Z|[+-]\d\d:?\d\d)?"
_LED_TIME = pattern(rf"{_LEAD}{_FILLER}({_ISO_TEXT})", re.IGNORECASE)
_BARE = pattern(r"\b[Rr]etry[-_ ][Aa]fter[:=]?\s{0,3}(\d{1,9}(?:\.\d{1,9})?)(?=[.,;)\"']?(?:\s{1,3}[A-Z]|\s{0,3}\Z))")


def duration(value: object) -> float | None:
    """Seconds of ``"6m0s"``, ``"20ms"``, ``"3s"``, ``"1.5"`` or 3; None for any other value."""
    if not isinstance(value, str):
        return number(value) if isinstance(value, int | float) else None
    if len(value) > _LONGEST:
        return None
    text = value.strip()
    if text.startswith("PT"):  # ISO 8601, and protobuf in some languages: PT1M30S
        text = text[2:].lower()
    parts = _DURATION_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return number(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return number(text)


def number(value: str | float | None) -> float | None:
    """A finite number, 0 or more; None for anything else."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and len(value) > _LONGEST):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # an integer may be beyond every float
        return None
    return number if isfinite(number) and number >= 0 else None


def spelled(text: str) -> float | None:
    """Seconds of ``"20 seconds"``, ``"1 minute and 30 seconds"`` or ``"1 s"``; None for any other text."""
    text = text.strip()
    if len(text) > _LONGEST or not _SPELLED.fullmatch(text):
        return None
    parts = [(float(count), unit.lower()) for count, unit in _SPELLED_PART.findall(text)]
    return number(sum(count * (_UNITS.get(unit) or _SPELLED_UNITS[unit.removesuffix("s")]) for count, unit in parts))


def wait_for(value: object, server_date: str | None = None) -> float | None:
    """Seconds until the time that ``value`` states in any form; None if it is past, or no time.

    One vendor writes seconds where another writes a time of day, so that the value alone decides its form. A time of
    day is compared with the server's own clock (``server_date``), if the answer has its date.
    """
    if isinstance(value, str) and len(value) <= _LONGEST:
        value = value.strip(" \t\"'")
    seconds = duration(value)
    if seconds is not None:
        return seconds if seconds < EPOCH else _since_unix_epoch(seconds, server_date)
    if not isinstance(value, str) or len(value) > _LONGEST or not (text := value.strip()) or text.startswith("-"):
        return None
    if (seconds := spelled(text)) is not None:
        return seconds
    if _ISO.match(text):
        return _after(_iso(text), server_date)
    return seconds_until(_OFFSET_AFTER_GMT.sub(r"\1", text), server_date)


def seconds_until(date: str, server_date: str | None) -> float | None:
    """Seconds until ``date``, by the server's clock if the answer has its date: ours may be wrong by any amount."""
    try:
        then = _date(date)
    except (ValueError, OverflowError):
        return None
    return _after(then, server_date)


def wait_in_words(message: str, server_date: str | None = None) -> float | None:
    """Seconds that a message such as "Please try again in 6m0s" asks to wait, at most; None if it asks for none."""
    text = message[:_LONGEST_MESSAGE]
    if _DIGIT.search(text) is None:
        return None
    waits = [spelled(match.rstrip(" ,").lower().removesuffix(" and")) for match in _LED_DURATION.findall(text)]
    waits += [wait_for(match, server_date) for match in _LED_TIME.findall(text)]
    waits += [number(match) for match in _BARE.findall(text)]
    return max((wait for wait in waits if wait is not None), default=None)


def _after(then: datetime | None, server_date: str | None) -> float | None:
    seconds = -1.0 if then is None else (then - _start(server_date)).total_seconds()
    return seconds if seconds >= 0 else None


def _start(server_date: str | None) -> datetime:
    """Now, by the server's clock if the answer has its date."""
    try:
        return _date(server_date or "")
    except (ValueError, OverflowError):
        return _now()


def _now() -> datetime:
    return datetime.now(UTC)


def _since_unix_epoch(time: float, server_date: str | None) -> float | None:
    """Seconds until a Unix time. A time of years ago is a wait in seconds instead, which must not become "at once"."""
    then = time if time < _SECONDS else time / 1e3 if time < _MILLISECONDS else time / 1e6
    seconds = then - _start(server_date).timestamp()
    if seconds < -_YEAR:
        return time
    return seconds if seconds >= 0 else None


def _iso(text: str) -> datetime | None:
    try:
        then = datetime.fromisoformat(_ZONE_NAME.sub("Z", text))
    except ValueError:
        return None
    return then if then.tzinfo else then.replace(tzinfo=UTC)


@lru_cache(maxsize=16)  # many answers of one second carry the same date
def _date(text: str) -> datetime:
    if len(text) > _LONGEST:
        raise ValueError("too long for a date")
    date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)  # HTTP knows no other zone
