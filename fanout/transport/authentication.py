"""The transport that adds credentials to each request as it is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from multidict import CIMultiDict
from yarl import URL

from fanout._headers import require_headers
from fanout._lazy import pattern
from fanout._redact import Redactor
from fanout.callbacks import calling
from fanout.errors import ConfigError
from fanout.transport.base import CredentialsDue
from fanout.transport.headers import credentials_refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.auth import Authenticator, Credentials
    from fanout.transport.base import Request, Transport
    from fanout.types import Response

_PART_OF_A_SIGNATURE = pattern(r"[^\s,;=]{24,}")


class AuthenticatingTransport:
    """Sends requests through another transport, with the header fields of the newest credentials.

    A recorder wraps this one, so that it sees requests without credentials.

    Args:
        transport: sends the requests.
        authenticator: obtains the credentials.
        taken: lower-case names of fields that credentials may not set.
    """

    def __init__(self, transport: Transport, authenticator: Authenticator, taken: frozenset[str] = frozenset()) -> None:
        self._transport = transport
        self._authenticator = authenticator
        self._taken = taken
        self._last: tuple[object, object] = (None, None)
        self._merged: CIMultiDict[str] = CIMultiDict()

    async def send(self, request: Request) -> Response:
        """Send ``request``. Raises `CredentialsDue` if credentials have to be obtained, and what the transport raises.

        A response that refuses the credentials is returned; the next request then waits for new ones.
        """
        credentials = self._authenticator.current()
        if credentials is None:
            raise CredentialsDue(self._authenticator)
        signed: Mapping[str, str] = {}
        if credentials.sign is None:
            headers = self._with_fields_of(credentials, request.headers)
        else:
            headers, signed = self._signed(credentials, request)
        response = await self._transport.send(replace(request, headers=headers))
        if response.status >= 300:
            if signed:
                # The signature is redacted here, because it belongs to this one response.
                parts = [part for value in signed.values() for part in _PART_OF_A_SIGNATURE.findall(value)]
                response.body = Redactor(parts).hide_in_body(response.body)
            if credentials_refused(response.status, response.headers, response.body):
                self._authenticator.refuse(credentials)
        return response

    def __repr__(self) -> str:
        return f"{self._authenticator!r} of {self._transport!r}"

    def _with_fields_of(self, credentials: Credentials, headers: Mapping[str, str]) -> CIMultiDict[str]:
        """Return ``headers`` with the fields of ``credentials``; the same object as long as both stay the same."""
        # The fast path encodes the same object only once.
        if self._last[0] is not headers or self._last[1] is not credentials:
            self._merged = self._merge(headers, credentials.headers)
            self._last = (headers, credentials)
        return self._merged

    def _signed(self, credentials: Credentials, request: Request) -> tuple[CIMultiDict[str], Mapping[str, str]]:
        """Return the header fields of ``request`` with those of ``credentials``, and those that its signature added."""
        assert credentials.sign is not None
        headers = self._merge(request.headers, credentials.headers)
        # In the form in which aiohttp sends the URL.
        shown = replace(request, url=str(URL(request.url)), headers=headers)
        with calling("auth"):
            signed = credentials.sign(shown)
        require_headers(signed, "auth")
        return self._merge(headers, signed), signed

    def _merge(self, headers: Mapping[str, str], fields: Mapping[str, str]) -> CIMultiDict[str]:
        merged = CIMultiDict(headers)
        for name, value in fields.items():
            if name in merged or name.lower() in self._taken:
                raise ConfigError(f"the field {name} is set by auth and in headers; leave one of them out", key="auth")
            merged[name] = value
        return merged
