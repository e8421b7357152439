"""What answers say is left of an allowance before the endpoint will refuse, in the fields that vendors use for it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fanout.classify.times import EPOCH, duration, number, seconds_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Reader: TypeAlias = Callable[[Mapping[str, str]], Iterator["Allowance"]]

# https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/: a list of policies with parameters, as in
# "default";r=50;t=30. Drafts before the eighth had: limit=100, remaining=50, reset=30.
_ITEM = re.compile(r'(?:^|,)\s*(?:"([^"]*)"|([\w*.:/-]+))\s*((?:;[^,;"]*(?:"[^"]*")?)+)')
_PARAMETER = re.compile(r';\s*([\w*]+)\s*=\s*"?([^;,"\s]+)')
_OLD = re.compile(r"remaining=(\d+).*?reset=(\d+)")
_LONGEST = 4096
"""Characters of a field that is read: the search in a longer one could take seconds."""


class Allowance(NamedTuple):
    """So much is left for so long."""

    name: str
    """Tells one allowance of an endpoint from another."""

    unit: str
    """``"requests"``, ``"tokens"``, or what else an endpoint counts (``"content-bytes"``)."""

    left: float
    seconds: float
    """Until there is more, or all of it again."""


def readers(headers: Mapping[str, str]) -> tuple[Reader, ...]:
    """What reads allowances from the answers of an endpoint that sends these fields; nothing for one that does not."""
    return tuple(reader for field, reader in _READERS.items() if field in headers)


def structured(headers: Mapping[str, str]) -> Iterator[Allowance]:
    """The ``RateLimit`` field, newer form and older. ``RateLimit-Policy`` tells what a policy counts."""
    value = headers.get("RateLimit", "")
    if len(value) > _LONGEST:
        return
    if old := _OLD.search(value):
        yield from _told("RateLimit", "requests", old[1], number(old[2]))
    units = {name: of.get("qu", "requests") for name, of in _items(headers.get("RateLimit-Policy", ""))}
    for name, of in _items(value):
        yield from _told(f"RateLimit {name}", units.get(name, "requests"), of.get("r"), number(of.get("t")))


def _items(value: str) -> Iterator[tuple[str, dict[str, str]]]:
    for quoted, bare, parameters in _ITEM.findall(value[:_LONGEST]):
        yield quoted or bare, dict(_PARAMETER.findall(parameters))


def _by_unit(unit: str, headers: Mapping[str, str]) -> Iterator[Allowance]:
    """OpenAI's fields: durations such as 6m0s."""
    reset = duration(headers.get(f"x-ratelimit-reset-{unit}"))
    yield from _told(unit, unit, headers.get(f"x-ratelimit-remaining-{unit}"), reset)


def _plain(prefix: str, headers: Mapping[str, str]) -> Iterator[Allowance]:
    """GitHub's fields, and those of the first drafts: a reset in seconds, or as a time of day (Unix)."""
    reset = duration(headers.get(f"{prefix}Reset"))
    if reset is not None and reset >= EPOCH:
        reset = seconds_until(_http_date(reset), headers.get("Date"), None)
    yield from _told(prefix, "requests", headers.get(f"{prefix}Remaining"), reset)


def _told(name: str, unit: str, left: str | None, seconds: float | None) -> Iterator[Allowance]:
    """One allowance, if it can be made sense of; 0 and -1 seconds are seen in the wild, and say nothing."""
    remaining = number(left)
    if remaining is not None and seconds is not None and 0 < seconds < EPOCH:
        yield Allowance(name, unit, remaining, seconds)


def _http_date(epoch: float) -> str:
    try:
        return format_datetime(datetime.fromtimestamp(epoch, UTC), usegmt=True)
    except (ValueError, OverflowError, OSError):  # milliseconds, or nonsense
        return ""


_READERS: dict[str, Reader] = {
    "x-ratelimit-remaining-requests": partial(_by_unit, "requests"),
    "x-ratelimit-remaining-tokens": partial(_by_unit, "tokens"),
    "x-ratelimit-remaining": partial(_plain, "X-RateLimit-"),
    "RateLimit": structured,
    "RateLimit-Remaining": partial(_plain, "RateLimit-"),
}
