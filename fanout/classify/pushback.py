"""How long a server wants no request, from all the places where servers say so."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_EPOCH = 1e9
"""A reset "in" more seconds than this is a time of day, not a duration."""

# The header fields of https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/, newer form and older.
_RATELIMIT_ITEM = re.compile(r";\s*r=(\d+)\s*;\s*t=(\d+)|;\s*t=(\d+)\s*;\s*r=(\d+)")
_RATELIMIT_OLD = re.compile(r"remaining=(\d+).*?reset=(\d+)")


def pushback(
    headers: Mapping[str, str], body: Mapping[str, Any] | None = None, *, now: datetime | None = None
) -> float | None:
    """Seconds for which the server wants no request, or None where it does not tell.

    The first of these counts: ``retry-after-ms``, ``Retry-After`` (seconds, or a date against the answer's own
    ``Date``), the error in the ``body``, ``x-ratelimit-reset-*``, the ``RateLimit`` fields. What is not finite,
    negative, past or no time at all is ignored. ``now`` serves dates where the answer has none.
    """
    for wait in _all(headers, body or {}, now):
        if wait is not None:
            return wait
    return None


def _all(headers: Mapping[str, str], body: Mapping[str, Any], now: datetime | None) -> Iterator[float | None]:
    milliseconds = _number(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    yield _retry_after(headers, now)
    yield _in_body(body)
    yield _reset(headers)
    yield _ratelimit(headers)


def _retry_after(headers: Mapping[str, str], now: datetime | None) -> float | None:
    value = headers.get("Retry-After")
    seconds = _number(value)
    return _seconds_until(value, headers.get("Date"), now) if value and seconds is None else seconds


def _in_body(body: Mapping[str, Any]) -> float | None:
    """Google's ``details[].retryDelay`` and Hugging Face's ``estimated_time``."""
    details = body.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and (delay := _duration(detail.get("retryDelay"))) is not None:
            return delay
    estimated = body.get("estimated_time")
    return _number(estimated) if isinstance(estimated, int | float | str) else None


def _reset(headers: Mapping[str, str]) -> float | None:
    """OpenAI's fields: what is used up counts; where that is not told, the soonest."""
    exhausted: list[float] = []
    other: list[float] = []
    for kind in ("requests", "tokens"):
        reset = _duration(headers.get(f"x-ratelimit-reset-{kind}"))
        if reset is None or not 0 < reset < _EPOCH:  # 0 and -1 are seen in the wild, and say nothing
            continue
        remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        (exhausted if remaining == 0 else other).append(reset)
    return max(exhausted) if exhausted else min(other, default=None)


def _ratelimit(headers: Mapping[str, str]) -> float | None:
    value = headers.get("RateLimit", "")
    if found := _RATELIMIT_ITEM.search(value):
        remaining, reset = found[1] or found[4], found[2] or found[3]
        return _number(reset) if _number(remaining) == 0 else None
    if found := _RATELIMIT_OLD.search(value):
        return _number(found[2]) if _number(found[1]) == 0 else None
    reset_alone = _number(headers.get("RateLimit-Reset"))
    return reset_alone if reset_alone is not None and 0 < reset_alone < _EPOCH else None


def _duration(value: object) -> float | None:
    """``"6m0s"``, ``"20ms"``, ``"3s"``, ``"1.5"``, 3: in seconds."""
    if not isinstance(value, str):
        return _number(value) if isinstance(value, int | float) else None
    text = value.strip()
    parts = _DURATION_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return _number(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return _number(text)


def _number(value: str | float | None) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _seconds_until(date: str, server_date: str | None, now: datetime | None) -> float | None:
    """From the server's own clock, if it tells it, so that ours may be wrong by any amount."""
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
    date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)  # HTTP knows no other zone
