"""The headers that a client's requests carry: given once, or asked for, and asked for again when they are refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import TypeAlias, TypedDict

from fanout.callbacks import ENDS_OF_ITERATION, abnormal, is_its_own
from fanout.errors import ConfigError, IncompleteResponse
from fanout.settings import require_headers

Ask: TypeAlias = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
HeaderSource: TypeAlias = Mapping[str, str] | Ask
"""Header fields, or a function (async or not) that gives them, with a fresh token for instance."""

MANY_FIELDS = 64
"""More fields than most answers have: only then the whole header is measured."""

_LOOKED_AT = 4096
"""Bytes of a refusal that are searched."""

_CREDENTIALS = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)
_LEAST_FIELDS = 128
_BYTES_A_FIELD = 64


class HeadLimits(TypedDict):
    """What aiohttp calls its limits for the header of an answer."""

    max_line_size: int
    max_field_size: int
    max_headers: int


def head_limits(most: int) -> HeadLimits:
    """aiohttp's limits for a header of at most ``most`` bytes: it bounds each field, and the number of fields."""
    fields = max(_LEAST_FIELDS, most // _BYTES_A_FIELD)
    return {"max_line_size": most, "max_field_size": most, "max_headers": fields}


def require_small_head(headers: Mapping[str, str], most: int) -> None:
    """Raise `IncompleteResponse` for a header of more than ``most`` bytes."""
    if sum(len(name) + len(value) for name, value in headers.items()) > most:
        raise IncompleteResponse(f"the header of the answer is larger than {most:,} bytes (max_header_bytes)")


def credentials_refused(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """True if an answer refuses the credentials and new ones may help: a 401, or a 403 that says "expired".

    AWS and some gateways answer an expired token or signature with 403.
    """
    if status != 403:
        return status == 401
    fields = f"{headers.get('x-amzn-errortype', '')} {headers.get('www-authenticate', '')}"
    return "expired" in fields[:_LOOKED_AT].lower() or b"expired" in body[:_LOOKED_AT].lower()


class Headers:
    """The user's header fields, kept until a server refuses them.

    Args:
        fixed: fields that never change.
        source: more of them; a function is called before the first request and again by `renew`.
    """

    def __init__(self, fixed: Mapping[str, str], source: HeaderSource | None) -> None:
        self._fixed = dict(fixed)
        self._ask = source if callable(source) else None
        self._turn = asyncio.Lock()
        self.fields: dict[str, str] = {}
        self._set({} if source is None or self._ask else source)
        self.version = 0 if self._ask else 1
        """Counts the answers of the function; 0 until it has been asked."""

        self.refused = 0
        """The newest version that the server has refused."""

    @property
    def can_renew(self) -> bool:
        """True where a function gives the fields."""
        return self._ask is not None

    def has_source_of(self, other: Headers) -> bool:
        """True if the same function gives both."""
        return self._ask is not None and self._ask is other._ask

    def credentials(self) -> frozenset[tuple[str, str]]:
        """The fields that tell one user from another."""
        return frozenset((name.lower(), value) for name, value in self.fields.items() if _CREDENTIALS.search(name))

    async def renew(self) -> bool:
        """Ask again if what there is was refused. False where there is nobody to ask."""
        if self._ask is None:
            return False
        async with self._turn:  # of many that are refused together, one asks
            if self.version == self.refused:
                self._set(await self._asked())
                self.version += 1
        return True

    async def _asked(self) -> object:
        assert self._ask is not None
        try:
            given = self._ask()
            return await given if isawaitable(given) else given
        except BaseException as error:
            ordinary = isinstance(error, Exception) and not isinstance(error, ENDS_OF_ITERATION)
            if not ordinary and is_its_own(error):
                raise abnormal("headers=", error) from error
            raise

    def _set(self, given: object) -> None:
        if not isinstance(given, Mapping):
            raise ConfigError(f"headers must be a mapping, not {type(given).__name__}", key="headers")
        require_headers(given)
        self.fields = {**self._fixed, **given}
