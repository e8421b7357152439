"""Times as header fields and error bodies write them: numbers, durations, Unix times, ISO times, HTTP dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import isfinite

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_LONGEST = 64
"""Characters of a time: a longer text is none. The search for parts takes quadratic time."""

EPOCH = 1e9
"""A reset "in" more seconds than this is a time of day, not a duration."""

_SECONDS, _MILLISECONDS = 1e11, 1e14
"""A Unix time below the first is in seconds, below the second in milliseconds, else in microseconds."""

_YEAR = 366 * 86400.0
_SPELLED_UNITS = {
    "millisecond": 1e-3, "msec": 1e-3, "second": 1.0, "sec": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0,
    "hr": 3600.0, "day": 86400.0,
}  # fmt: skip
SPELLED = (
    r"(?:\d{1,15}(?:\.\d{1,15})?\s{0,3}"
    r"(?:ns|us|µs|milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
    r"(?:,?\s{1,3}and\s{1,3}|,?\s{1,3})?){1,5}"
)
"""Pattern of a duration as people write it, such as ``1 minute and 30 seconds`` or ``6m0s``; case is ignored."""

_SPELLED = re.compile(SPELLED, re.IGNORECASE)
_SPELLED_PART = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s{0,3}([a-zµ]{1,12})", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_ZONE_NAME = re.compile(r" ?(?:UTC|GMT)\Z", re.IGNORECASE)
_OFFSET_AFTER_GMT = re.compile(r"GMT([+-]\d{4})")


def duration(value: object) -> float | None:
    """``"6m0s"``, ``"20ms"``, ``"3s"``, ``"1.5"``, 3: in seconds."""
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
    """``"20 seconds"``, ``"1 minute and 30 seconds"``, ``"1 s"``: in seconds."""
    text = text.strip()
    if len(text) > _LONGEST or not _SPELLED.fullmatch(text):
        return None
    return number(sum(float(count) * _unit(unit.lower()) for count, unit in _SPELLED_PART.findall(text)))


def wait_for(value: object, server_date: str | None = None, now: datetime | None = None) -> float | None:
    """Seconds until the time that ``value`` names, in whichever form; None where it is past, or no time.

    The same field holds seconds with one vendor and a time of day with another, so the value alone tells its form. A
    time of day is measured by the server's own clock (``server_date``), where there is one.
    """
    if isinstance(value, str) and len(value) <= _LONGEST:
        value = value.strip(" \t\"'")
    seconds = duration(value)
    if seconds is not None:
        return seconds if seconds < EPOCH else _since_unix_epoch(seconds, server_date, now)
    if not isinstance(value, str) or len(value) > _LONGEST or not (text := value.strip()) or text.startswith("-"):
        return None
    if (seconds := spelled(text)) is not None:
        return seconds
    if _ISO.match(text):
        return _after(_iso(text), server_date, now)
    return seconds_until(_OFFSET_AFTER_GMT.sub(r"\1", text), server_date, now)


def seconds_until(date: str, server_date: str | None, now: datetime | None) -> float | None:
    """Seconds until ``date``, by the server's own clock, if it tells it: ours may be wrong by any amount."""
    try:
        then = _date(date)
    except (ValueError, OverflowError):
        return None
    return _after(then, server_date, now)


def _unit(name: str) -> float:
    return _UNITS.get(name) or _SPELLED_UNITS[name.removesuffix("s")]


def _after(then: datetime | None, server_date: str | None, now: datetime | None) -> float | None:
    seconds = -1.0 if then is None else (then - _start(server_date, now)).total_seconds()
    return seconds if seconds >= 0 else None


def _start(server_date: str | None, now: datetime | None) -> datetime:
    """Now, by the server's clock if it tells it."""
    try:
        return _date(server_date or "")
    except (ValueError, OverflowError):
        return now or datetime.now(UTC)


def _since_unix_epoch(time: float, server_date: str | None, now: datetime | None) -> float | None:
    """Seconds until a Unix time. A time of years ago is none, but a wait in seconds: it must not become "at once"."""
    then = time if time < _SECONDS else time / 1e3 if time < _MILLISECONDS else time / 1e6
    seconds = then - _start(server_date, now).timestamp()
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
