"""Read the waits that servers demand, and the quotas that are left, from header fields and error bodies.

To support another vendor, add a line to a table. Names are in lower case. The value decides the form of a time (see
`fanout.classify.times.wait_for`), because one vendor writes seconds where another writes a Unix time. Checked in
November 2026 against the vendors' pages where a line names them.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from multidict import CIMultiDict

from fanout._lazy import pattern
from fanout.classify.error_bodies import provider_error
from fanout.classify.times import EPOCH, number, wait_for, wait_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Reader: TypeAlias = Callable[[Mapping[str, str]], Iterator["Quota"]]

# LiteLLM's proxy passes its provider's fields on with its own prefix.
PREFIXES = ("", "llm_provider-")


class Wait(NamedTuple):
    """A field with the time to wait."""

    field: str
    unit: float = 1.0
    """Seconds of one unit of a bare number; durations and times of day have units of their own."""


class Dialect(NamedTuple):
    """Two fields of one vendor: the quota that is left, and the time of its reset."""

    remaining: str
    reset: str
    unit: str
    """``"requests"``, ``"tokens"``, or another unit."""

    family: str
    """The beginning of the names of one vendor's fields."""


# The more exact fields come first.
_WAITS = (
    Wait("retry-after-ms", 1e-3),  # OpenAI, Azure
    Wait("x-ms-retry-after-ms", 1e-3),  # Azure
    Wait("retry-after"),  # RFC 9110
    Wait("x-retry-after"),
    Wait("x-ratelimit-retry-after"),
)

# {} stands for "remaining" or "reset".
_DIALECTS = (
    ("x-ratelimit-{}-requests", "requests"),  # OpenAI, Azure, Groq, vLLM gateways: durations (6m0s), seconds
    ("x-ratelimit-{}-tokens", "tokens"),
    ("x-ratelimit-{}-requests-minute", "requests"),  # Cerebras, SambaNova: seconds, Unix times
    ("x-ratelimit-{}-requests-hour", "requests"),
    ("x-ratelimit-{}-requests-day", "requests"),
    ("x-ratelimit-{}-tokens-minute", "tokens"),
    ("x-ratelimit-{}-tokens-hour", "tokens"),
    ("x-ratelimit-{}-tokens-day", "tokens"),
    ("x-ratelimit-{}", "requests"),  # GitHub: Unix time; OpenRouter: Unix time in milliseconds; others: seconds, dates
    ("x-rate-limit-{}", "requests"),  # X: Unix time
    ("x-rate-limit-{}-requests", "requests"),
    ("x-rate-limit-{}-tokens", "tokens"),
    ("ratelimit-{}", "requests"),  # the first IETF drafts: seconds; GitLab: Unix time
    ("anthropic-ratelimit-requests-{}", "requests"),  # Anthropic: ISO times
    ("anthropic-ratelimit-tokens-{}", "tokens"),
    ("anthropic-ratelimit-input-tokens-{}", "tokens"),
    ("anthropic-ratelimit-output-tokens-{}", "output-tokens"),
)

WAITS = tuple(Wait(prefix + field, unit) for field, unit in _WAITS for prefix in PREFIXES)
DIALECTS = tuple(
    Dialect(prefix + name.format("remaining"), prefix + name.format("reset"), unit, prefix + name.partition("{")[0])
    for name, unit in _DIALECTS
    for prefix in PREFIXES
)

# Fields of an error in a body, and of the objects in its details and metadata.
BODY_WAITS = (
    Wait("retryDelay"),  # Google: a RetryInfo among the details, as 3s
    Wait("retry_after_ms", 1e-3),
    Wait("retryAfterMs", 1e-3),
    Wait("retry_after"),
    Wait("retryAfter"),
    Wait("retry_after_seconds"),  # OpenRouter, in the metadata
    Wait("retryAfterSeconds"),
    Wait("estimated_time"),  # Hugging Face
)
# All fields that can state a wait, so that a vendor stays one line in a table above.
_FIELDS = frozenset(
    field.lower() for field in (*(wait.field for wait in WAITS), *(one.reset for one in DIALECTS), "RateLimit")
)
# Commas between joined values, but not those of HTTP dates.
_COMMA = pattern(r"(?<!mon)(?<!tue)(?<!wed)(?<!thu)(?<!fri)(?<!sat)(?<!sun)(?<!day),", re.IGNORECASE)

_LONGEST_WAIT = 1024
# Values of one field, and objects in an error, that are read.
_MOST = 16

# https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/: a list of policies with parameters, as in
# "default";r=50;t=30. Drafts before the eighth had: limit=100, remaining=50, reset=30.
_ITEM = pattern(r'(?:^|,)\s*(?:"([^"]*)"|([\w*.:/-]+))\s*((?:;[^,;"]*(?:"[^"]*")?)+)')
_PARAMETER = pattern(r';\s*([\w*]+)\s*=\s*"?([^;,"\s]+)')
_OLD = pattern(r"remaining=(\d+).*?reset=(\d+)")
# Characters of a RateLimit field. The search in a longer one could take seconds.
_LONGEST = 4096


class Quota(NamedTuple):
    """The part of a quota that is left until its reset."""

    name: str
    """Distinguishes the quotas of an endpoint."""

    unit: str
    """``"requests"``, ``"tokens"``, or another unit of the endpoint (``"content-bytes"``)."""

    remaining: float
    reset: float
    """Seconds until the reset."""


def pushback(
    headers: Mapping[str, str],
    body: Mapping[str, Any] | None = None,
    *,
    message: str = "",
    refused: bool = True,
) -> float | None:
    """Seconds for which the server wants no request; None if it states none.

    The first of these counts: ``retry-after-ms``, ``Retry-After``, the error in the ``body``, the words of its
    ``message``, the reset of a quota. Of several values of one field the longest counts. Values that are not finite,
    negative, past or no time are ignored, and 0 counts only if nothing else is stated.

    Args:
        headers: header fields of the answer; look-up should ignore case.
        body: the error in the answer, see `fanout.classify.error_bodies.error_body`.
        message: its words, if they may state a wait.
        refused: the answer refuses the request for its rate. Any other answer may have a quota left, whose reset is no
            reason to wait.
    """
    fields = headers if hasattr(headers, "getall") else CIMultiDict(headers)
    waits = _stated_waits(fields, body or {}, message, refused=refused)
    at_once = None
    for wait in waits:
        if wait:
            return wait
        at_once = wait if at_once is None else at_once
    return at_once


def readers(headers: Mapping[str, str]) -> tuple[Reader, ...]:
    """Return the readers of quotas for an endpoint that sends these header fields."""
    return tuple(reader for field, reader in _READERS.items() if field in headers)


def structured(headers: Mapping[str, str]) -> Iterator[Quota]:
    """Read the ``RateLimit`` field in its newer and older form; ``RateLimit-Policy`` has the unit of a policy."""
    value = headers.get("RateLimit", "")
    if len(value) > _LONGEST:
        return
    if old := _OLD.search(value):
        yield from _quota("RateLimit", "requests", old[1], number(old[2]))
    units = {name: policy.get("qu", "requests") for name, policy in _items(headers.get("RateLimit-Policy", ""))}
    for name, policy in _items(value):
        yield from _quota(f"RateLimit {name}", units.get(name, "requests"), policy.get("r"), number(policy.get("t")))


def _stated_waits(
    headers: Mapping[str, str], body: Mapping[str, Any], message: str, *, refused: bool
) -> Iterator[float | None]:
    # Most answers have no such field: one comparison is cheaper than a look-up for each dialect.
    in_fields = not _FIELDS.isdisjoint(map(str.lower, headers))
    if in_fields:
        yield _first_wait(headers)
    if body:
        yield _in_body(body, headers.get("date"))
    if message:
        yield wait_in_words(message, headers.get("date"))
    if in_fields:
        yield _reset(headers, refused=refused)
    for inner in _objects(body):  # OpenRouter repeats its provider's header fields in the metadata
        if isinstance(quoted := inner.get("headers"), dict):
            fields = CIMultiDict((name, value) for name, value in islice(quoted.items(), 100) if isinstance(value, str))
            fields.setdefault("Date", headers.get("Date", ""))
            yield _first_wait(fields)
            yield _reset(fields, refused=refused)


def _first_wait(headers: Mapping[str, str]) -> float | None:
    date, at_once = headers.get("date"), None
    for wait in WAITS:
        if wait.field in headers:
            seconds = [_seconds(value, wait, date) for value in _values(headers, wait.field)]
            longest = max((each for each in seconds if each is not None), default=None)
            if longest:
                return longest
            at_once = longest if at_once is None else at_once
    return at_once


def _values(headers: Mapping[str, str], field: str) -> Iterator[str]:
    """All values of a field, repeated or joined."""
    get_all = getattr(headers, "getall", None)
    for value in islice(get_all(field) if get_all is not None else (headers[field],), _MOST):
        if len(value) <= _LONGEST_WAIT:
            yield from islice(_COMMA.split(value), _MOST)


def _seconds(value: object, wait: Wait, date: str | None) -> float | None:
    if isinstance(value, bool):
        return None
    bare = number(value) if isinstance(value, int | float | str) else None
    if bare is not None and wait.unit != 1.0 and bare * wait.unit < EPOCH:
        return bare * wait.unit
    return wait_for(value, date)


def _in_body(body: Mapping[str, Any], date: str | None) -> float | None:
    for inner in _objects(body):
        for wait in BODY_WAITS:
            if wait.field in inner and (seconds := _seconds(inner[wait.field], wait, date)) is not None:
                return seconds
    return None


def _objects(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects in an error that may state a wait, the innermost first."""
    for field in ("details", "metadata"):
        inner = body.get(field)
        for each in islice(inner, _MOST) if isinstance(inner, list) else (inner,):
            if isinstance(each, dict):
                yield each
    yield body
    if behind := provider_error(body):
        yield from _objects(behind)


def _reset(headers: Mapping[str, str], *, refused: bool) -> float | None:
    """Seconds until the reset of an exhausted quota; for a refusal without one, until the soonest reset.

    The soonest reset is that of one family of fields, the first of the table that the answer has.
    """
    exhausted: list[float] = []
    other: dict[str, float] = {}
    date = headers.get("date")
    for remaining, reset, _, family in DIALECTS:
        seconds = wait_for(headers[reset], date) if reset in headers else None
        if seconds is None or not 0 < seconds < EPOCH:  # some servers send 0 or -1, which mean nothing
            continue
        if number(headers.get(remaining)) == 0:
            exhausted.append(seconds)
        elif refused:
            other[family] = min(seconds, other.get(family, seconds))
    exhausted += [quota.reset for quota in structured(headers) if quota.remaining == 0]
    return max(exhausted) if exhausted else next(iter(other.values()), None)


def _items(value: str) -> Iterator[tuple[str, dict[str, str]]]:
    for quoted, bare, parameters in _ITEM.findall(value[:_LONGEST]):
        yield quoted or bare, dict(_PARAMETER.findall(parameters))


def _by_dialect(dialect: Dialect, headers: Mapping[str, str]) -> Iterator[Quota]:
    reset = wait_for(headers.get(dialect.reset), headers.get("Date"))
    yield from _quota(dialect.remaining, dialect.unit, headers.get(dialect.remaining), reset)


def _quota(name: str, unit: str, left: str | None, reset: float | None) -> Iterator[Quota]:
    """One quota, if its fields are plausible; some servers send 0 or -1 seconds, which mean nothing."""
    remaining = number(left)
    if remaining is not None and reset is not None and 0 < reset < EPOCH:
        yield Quota(name, unit, remaining, reset)


_READERS: dict[str, Reader] = {
    **{dialect.remaining: partial(_by_dialect, dialect) for dialect in DIALECTS},
    "RateLimit": structured,
}
