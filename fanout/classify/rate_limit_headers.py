"""How much answers say is left of an allowance before the endpoint refuses, in the fields of `dialects`."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fanout.classify.dialects import DIALECTS, Dialect
from fanout.classify.times import EPOCH, number, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Reader: TypeAlias = Callable[[Mapping[str, str]], Iterator["Quota"]]

# https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/: a list of policies with parameters, as in
# "default";r=50;t=30. Drafts before the eighth had: limit=100, remaining=50, reset=30.
_ITEM = re.compile(r'(?:^|,)\s*(?:"([^"]*)"|([\w*.:/-]+))\s*((?:;[^,;"]*(?:"[^"]*")?)+)')
_PARAMETER = re.compile(r';\s*([\w*]+)\s*=\s*"?([^;,"\s]+)')
_OLD = re.compile(r"remaining=(\d+).*?reset=(\d+)")
_LONGEST = 4096
"""Characters of a field that is read: the search in a longer one could take seconds."""


class Quota(NamedTuple):
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


def structured(headers: Mapping[str, str]) -> Iterator[Quota]:
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


def _by_dialect(dialect: Dialect, headers: Mapping[str, str]) -> Iterator[Quota]:
    reset = wait_for(headers.get(dialect.reset), headers.get("Date"))
    yield from _told(dialect.remaining, dialect.unit, headers.get(dialect.remaining), reset)


def _told(name: str, unit: str, left: str | None, seconds: float | None) -> Iterator[Quota]:
    """One allowance, if it can be made sense of; 0 and -1 seconds are seen in the wild, and say nothing."""
    remaining = number(left)
    if remaining is not None and seconds is not None and 0 < seconds < EPOCH:
        yield Quota(name, unit, remaining, seconds)


_READERS: dict[str, Reader] = {
    **{dialect.remaining: partial(_by_dialect, dialect) for dialect in DIALECTS},
    "RateLimit": structured,
}
