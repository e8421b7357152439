"""How long a server wants no request, from all the places where servers say so."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from fanout.classify.dialects import BODY_WAITS, DIALECTS, WAITS, Wait
from fanout.classify.error_message import provider_error
from fanout.classify.rate_limit_headers import structured
from fanout.classify.times import EPOCH, number, wait_for
from fanout.classify.words import wait_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

_TELLING = re.compile("retry-after|rate-?limit", re.IGNORECASE)
_COMMA = re.compile(r"(?<!mon)(?<!tue)(?<!wed)(?<!thu)(?<!fri)(?<!sat)(?<!sun)(?<!day),", re.IGNORECASE)
"""Commas between values that were joined, not those in HTTP dates."""

_LONGEST = 1024
_MOST = 16
"""Values of one field, and objects in an error, that are looked at."""


def pushback(
    headers: Mapping[str, str],
    body: Mapping[str, Any] | None = None,
    *,
    message: str = "",
    now: datetime | None = None,
    refused: bool = True,
) -> float | None:
    """Seconds for which the server wants no request, or None where it does not tell.

    The first of these counts: ``retry-after-ms``, ``Retry-After``, the error in the ``body``, the words of its
    ``message``, the fields that say when an allowance is refilled. Of several values of one field the longest counts.
    Values that are not finite, negative, past or no time at all are ignored, and 0 counts where nothing else is said.
    ``now`` serves times of day where the answer has no ``Date``. An answer that is not ``refused`` for its rate may
    have an allowance left, whose refill is then no reason to wait.
    """
    if not body and not message and not _TELLING.search(" ".join(headers)):  # most often there is nothing to look at
        return None
    fields = headers if hasattr(headers, "getall") else CIMultiDict(headers)
    waits = _all(fields, body or {}, message, now, refused=refused)
    at_once = None
    for wait in waits:
        if wait:
            return wait
        at_once = wait if at_once is None else at_once
    return at_once


def _all(
    headers: Mapping[str, str], body: Mapping[str, Any], message: str, now: datetime | None, *, refused: bool
) -> Iterator[float | None]:
    yield _first_wait(headers, now)
    yield _in_body(body, headers.get("date"), now)
    yield wait_in_words(message, headers.get("date"), now) if message else None
    yield _reset(headers, now, refused=refused)
    for inner in _objects(body):  # OpenRouter repeats its provider's header fields in the metadata
        given = inner.get("headers")
        if isinstance(given, dict):
            fields = CIMultiDict((name, value) for name, value in islice(given.items(), 100) if isinstance(value, str))
            fields.setdefault("Date", headers.get("Date", ""))
            yield _first_wait(fields, now)
            yield _reset(fields, now, refused=refused)


def _first_wait(headers: Mapping[str, str], now: datetime | None) -> float | None:
    date, at_once = headers.get("date"), None
    for wait in WAITS:
        if wait.field in headers:
            seconds = [_seconds(value, wait, date, now) for value in _values(headers, wait.field)]
            longest = max((each for each in seconds if each is not None), default=None)
            if longest:
                return longest
            at_once = longest if at_once is None else at_once
    return at_once


def _values(headers: Mapping[str, str], field: str) -> Iterator[str]:
    """All values of a field, be it repeated or joined."""
    get_all = getattr(headers, "getall", None)
    for value in islice(get_all(field) if get_all is not None else (headers[field],), _MOST):
        if len(value) <= _LONGEST:
            yield from islice(_COMMA.split(value), _MOST)


def _seconds(value: object, wait: Wait, date: str | None, now: datetime | None) -> float | None:
    if isinstance(value, bool):
        return None
    bare = number(value) if isinstance(value, int | float | str) else None
    if bare is not None and wait.unit != 1.0 and bare * wait.unit < EPOCH:
        return bare * wait.unit
    return wait_for(value, date, now)


def _in_body(body: Mapping[str, Any], date: str | None, now: datetime | None) -> float | None:
    for inner in _objects(body):
        for wait in BODY_WAITS:
            if wait.field in inner and (seconds := _seconds(inner[wait.field], wait, date, now)) is not None:
                return seconds
    return None


def _objects(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects in an error that may hold a wait; the more special ones first."""
    for field in ("details", "metadata"):
        inner = body.get(field)
        for each in islice(inner, _MOST) if isinstance(inner, list) else (inner,):
            if isinstance(each, dict):
                yield each
    yield body
    if behind := provider_error(body):
        yield from _objects(behind)


def _reset(headers: Mapping[str, str], now: datetime | None, *, refused: bool) -> float | None:
    """The time until an exhausted allowance is refilled; of a refusal where none is exhausted, the soonest refill.

    The soonest counts among the fields of one family, the first in the table that the answer has.
    """
    exhausted: list[float] = []
    other: dict[str, float] = {}
    date = headers.get("date")
    for remaining, reset, _, family in DIALECTS:
        seconds = wait_for(headers[reset], date, now) if reset in headers else None
        if seconds is None or not 0 < seconds < EPOCH:  # 0 and -1 are seen in the wild, and say nothing
            continue
        if number(headers.get(remaining)) == 0:
            exhausted.append(seconds)
        elif refused:
            other[family] = min(seconds, other.get(family, seconds))
    exhausted += [one.seconds for one in structured(headers) if one.left == 0]
    return max(exhausted) if exhausted else next(iter(other.values()), None)
