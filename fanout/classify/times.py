"""Times as header fields and error bodies write them: numbers, durations, dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_LONGEST = 64
"""Characters of a time: a longer text is none. The search for parts takes quadratic time."""

EPOCH = 1e9
"""A reset "in" more seconds than this is a time of day, not a duration."""


def duration(value: object) -> float | None:
    """``"6m0s"``, ``"20ms"``, ``"3s"``, ``"1.5"``, 3: in seconds."""
    if not isinstance(value, str):
        return number(value) if isinstance(value, int | float) else None
    if len(value) > _LONGEST:
        return None
    text = value.strip()
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


def seconds_until(date: str, server_date: str | None, now: datetime | None) -> float | None:
    """Seconds until ``date``, by the server's own clock, if it tells it: ours may be wrong by any amount."""
    try:
        then = _date(date)
    except (ValueError, OverflowError):
        return None
    try:
        start = _date(server_date or "")
    except (ValueError, OverflowError):
        start = now or datetime.now(UTC)
    seconds = (then - start).total_seconds()
    return seconds if seconds >= 0 else None


def _date(text: str) -> datetime:
    if len(text) > _LONGEST:
        raise ValueError("too long for a date")
    date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)  # HTTP knows no other zone
