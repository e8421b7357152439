"""How long a server wants no request, from all the places where servers say so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fanout.classify.allowance import structured
from fanout.classify.times import EPOCH, duration, number, seconds_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

_TELLING = re.compile("retry-after|ratelimit", re.IGNORECASE)


def pushback(
    headers: Mapping[str, str], body: Mapping[str, Any] | None = None, *, now: datetime | None = None
) -> float | None:
    """Seconds for which the server wants no request, or None where it does not tell.

    The first of these counts: ``retry-after-ms``, ``Retry-After`` (seconds, or a date against the answer's own
    ``Date``), the error in the ``body``, ``x-ratelimit-reset-*``, the ``RateLimit`` fields. What is not finite,
    negative, past or no time at all is ignored. ``now`` serves dates where the answer has none.
    """
    if not body and not _TELLING.search(" ".join(headers)):  # most often there is nothing to be looked at
        return None
    for wait in _all(headers, body or {}, now):
        if wait is not None:
            return wait
    return None


def _all(headers: Mapping[str, str], body: Mapping[str, Any], now: datetime | None) -> Iterator[float | None]:
    milliseconds = number(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    yield _retry_after(headers, now)
    yield _in_body(body)
    yield _reset(headers)
    yield _ratelimit(headers)


def _retry_after(headers: Mapping[str, str], now: datetime | None) -> float | None:
    value = headers.get("Retry-After")
    seconds = number(value)
    return seconds_until(value, headers.get("Date"), now) if value and seconds is None else seconds


def _in_body(body: Mapping[str, Any]) -> float | None:
    """Google's ``details[].retryDelay`` and Hugging Face's ``estimated_time``."""
    details = body.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and (delay := duration(detail.get("retryDelay"))) is not None:
            return delay
    estimated = body.get("estimated_time")
    return number(estimated) if isinstance(estimated, int | float | str) else None


def _reset(headers: Mapping[str, str]) -> float | None:
    """OpenAI's fields: what is used up counts; where that is not told, the soonest."""
    exhausted: list[float] = []
    other: list[float] = []
    for kind in ("requests", "tokens"):
        reset = duration(headers.get(f"x-ratelimit-reset-{kind}"))
        if reset is None or not 0 < reset < EPOCH:  # 0 and -1 are seen in the wild, and say nothing
            continue
        remaining = number(headers.get(f"x-ratelimit-remaining-{kind}"))
        (exhausted if remaining == 0 else other).append(reset)
    return max(exhausted) if exhausted else min(other, default=None)


def _ratelimit(headers: Mapping[str, str]) -> float | None:
    told = list(structured(headers))
    if told:
        return max((one.seconds for one in told if one.left == 0), default=None)
    reset_alone = number(headers.get("RateLimit-Reset"))
    return reset_alone if reset_alone is not None and 0 < reset_alone < EPOCH else None
