"""The user's header fields: given once, or by a function that is called again when a server refuses them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import TypeAlias

from fanout.callbacks import ENDS_OF_ITERATION, abnormal, is_its_own
from fanout.errors import ConfigError
from fanout.settings import require_headers

HeaderFunction: TypeAlias = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
HeaderSource: TypeAlias = Mapping[str, str] | HeaderFunction
"""Header fields, or a function (async or not) that gives them, with a fresh token for instance."""

_LOOKED_AT = 4096
"""Bytes of a refusal that are searched for "expired"."""

_CREDENTIALS = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)


def credentials_refused(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """True if an answer refuses the credentials and new ones may help: a 401, or a 403 that says "expired".

    AWS and some gateways answer an expired token or signature with 403.
    """
    if status != 403:
        return status == 401
    fields = f"{headers.get('x-amzn-errortype', '')} {headers.get('www-authenticate', '')}"
    return "expired" in fields[:_LOOKED_AT].lower() or b"expired" in body[:_LOOKED_AT].lower()


class RenewableHeaders:
    """The header fields of one endpoint, renewed once a server has refused them.

    Args:
        fixed: fields that never change.
        source: more of them; a function is called before the first request and again by `renew`.
    """

    def __init__(self, fixed: Mapping[str, str], source: HeaderSource | None) -> None:
        self._fixed = dict(fixed)
        self._function = source if callable(source) else None
        self._renewing = asyncio.Lock()
        self.fields: dict[str, str] = {}
        self._set({} if source is None or self._function else source)
        self.version = 0 if self._function else 1
        """Counts the calls of the function; 0 until it has been called."""

        self.refused = 0
        """The newest version that the server has refused."""

    @property
    def can_renew(self) -> bool:
        """True where a function gives the fields."""
        return self._function is not None

    def has_source_of(self, other: RenewableHeaders) -> bool:
        """True if the same function gives both."""
        return self._function is not None and self._function is other._function

    def credentials(self) -> frozenset[tuple[str, str]]:
        """The fields that distinguish one account from another."""
        return frozenset((name.lower(), value) for name, value in self.fields.items() if _CREDENTIALS.search(name))

    async def renew(self) -> bool:
        """Call the function again if the newest fields were refused. False where there is none."""
        if self._function is None:
            return False
        async with self._renewing:  # of many requests that are refused together, the first one renews for all
            if self.version == self.refused:
                self._set(await self._call())
                self.version += 1
        return True

    async def _call(self) -> object:
        assert self._function is not None
        try:
            given = self._function()
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
