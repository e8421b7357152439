"""The header fields of requests: the user's, which a function may renew when a server refuses them, and fanout's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from itertools import count
from typing import TypeAlias
from uuid import uuid4

from multidict import CIMultiDict

from fanout._headers import require_headers
from fanout._lazy import pattern
from fanout._redact import secrets_of
from fanout._version import __version__
from fanout.callbacks import awaiting, calling
from fanout.errors import ConfigError

HeaderFunction: TypeAlias = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
HeaderSource: TypeAlias = Mapping[str, str] | HeaderFunction
"""Header fields, or a function (async or not) that gives them, with a fresh token for instance."""

# Bytes of a refusal that are searched for "expired".
_LOOKED_AT = 4096

USER_AGENT = f"fanout-ml/{__version__}"
# Content types whose header fields are kept; a codec may make a new type for each request (multipart boundaries).
_REMEMBERED = 16

# An idempotency key names a request, and not its sender.
_CREDENTIALS = pattern("auth|(?<!idempotency-)key|token|secret|cookie", re.IGNORECASE)


def credentials_refused(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """True if an answer refuses the credentials and new ones may help: a 401, or a 403 that says "expired".

    AWS and some gateways answer an expired token or signature with 403.
    """
    if status != 403:
        return status == 401
    fields = f"{headers.get('x-amzn-errortype', '')} {headers.get('www-authenticate', '')}"
    return "expired" in fields[:_LOOKED_AT].lower() or b"expired" in body[:_LOOKED_AT].lower()


class CallHeaders:
    """The header fields of one call, beside those of the client, which they replace where the names are equal.

    Objects with the same fields are equal, so that rows of several calls can share a request.

    Raises:
        ConfigError: a field cannot be sent.
    """

    __slots__ = ("_base", "_key", "_merged", "fields", "secrets")

    def __init__(self, fields: Mapping[str, str]) -> None:
        given: object = fields
        if not isinstance(given, Mapping):
            raise ConfigError(f"headers must be a mapping, not {type(given).__name__}", key="headers")
        require_headers(fields)
        self.fields = CIMultiDict(fields)
        self.secrets = secrets_of("", fields)
        self._key = tuple(sorted((name.lower(), value) for name, value in fields.items()))
        self._base: Mapping[str, str] | None = None
        self._merged: CIMultiDict[str] = CIMultiDict()

    @property
    def has_credentials(self) -> bool:
        """True if a field may be a credential, so that a refusal says nothing of the client's own."""
        return any(_CREDENTIALS.search(name) for name, _ in self._key)

    def onto(self, base: Mapping[str, str]) -> CIMultiDict[str]:
        """``base`` with these fields; the same object for the same ``base``, which the fast path encodes only once."""
        if self._base is not base:
            merged = CIMultiDict(base)
            merged.update(self.fields)
            if "Content-Type" in base:  # that of the codec's body
                merged["Content-Type"] = base["Content-Type"]
            self._base, self._merged = base, merged
        return self._merged

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallHeaders) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<CallHeaders {', '.join(self.fields)}>"


class RequestHeaders:
    """The header fields of requests to one endpoint. The user's are renewed once a server has refused them.

    Args:
        fixed: fields that never change.
        source: more of them; a function is called before the first request and again by `renew`.
        auth: the fields of the endpoint's credentials, which no other source may set.
        id_header: a field that numbers the requests.
    """

    def __init__(
        self, fixed: Mapping[str, str], source: HeaderSource | None, auth: Mapping[str, str], id_header: str | None
    ) -> None:
        self._fixed = dict(fixed)
        self._auth = dict(auth)
        self._function = source if callable(source) else None
        self._renewing = asyncio.Lock()
        self.id_header = id_header
        prefix = uuid4().hex
        self._ids = (f"{prefix}-{number}" for number in count(1))
        self.user: dict[str, str]
        """The user's fields, those of the credentials included."""

        self.plain: CIMultiDict[str]
        """The fields of a request without a body."""

        self.by_type: dict[str, CIMultiDict[str]]
        """The fields of requests with a body, by content type. One object serves them all, and is never changed."""

        self._set({} if source is None or self._function else source)
        self.version = 0 if self._function else 1
        """Counts the calls of the function; 0 until it has been called."""

        self.refused = 0
        """The newest version that the server has refused."""

    @property
    def can_renew(self) -> bool:
        """True where a function gives the fields."""
        return self._function is not None

    def has_source_of(self, other: RequestHeaders) -> bool:
        """True if the same function gives both."""
        return self._function is not None and self._function is other._function

    def require_apart(self, call: CallHeaders) -> None:
        """Raise `ConfigError` if ``call`` sets a field of the credentials."""
        for name in self._auth:
            if name in call.fields:
                raise ConfigError(
                    f"the field {name} is set by auth and in headers; leave one of them out", key="headers"
                )

    def credentials(self) -> frozenset[tuple[str, str]]:
        """The fields that distinguish one account from another."""
        return frozenset(
            (name.lower(), value)
            for name, value in self.user.items()
            if name in self._auth or _CREDENTIALS.search(name)
        )

    def of_type(self, content_type: str) -> CIMultiDict[str]:
        """The fields of a request with a body of that type. Raises `ConfigError` for one that no field can hold."""
        require_headers({"Content-Type": content_type})
        headers = self.plain.copy()
        headers["Content-Type"] = content_type
        # A boundary is new in each request, so an unbounded table would grow for ever.
        if len(self.by_type) < _REMEMBERED:
            self.by_type[content_type] = headers
        return headers

    def numbered(self, headers: Mapping[str, str]) -> CIMultiDict[str]:
        """``headers`` with the number of the next request."""
        assert self.id_header is not None
        numbered = CIMultiDict(headers)
        numbered[self.id_header] = next(self._ids)
        return numbered

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
        with calling("headers="):
            given = self._function()
        return await awaiting("headers=", given) if isawaitable(given) else given

    def _set(self, given: object) -> None:
        if not isinstance(given, Mapping):
            raise ConfigError(f"headers must be a mapping, not {type(given).__name__}", key="headers")
        require_headers(given)
        user = CIMultiDict({**self._fixed, **given})
        for name in self._auth:
            if name in user:
                raise ConfigError(f"the field {name} is set by auth and in headers; leave one of them out", key="auth")
        self.user = {**user, **self._auth}
        self.plain = CIMultiDict({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        self.plain.update(self.user)
        self.by_type = {}
