"""Tokens of the OAuth 2.0 client credentials grant (RFC 6749, section 4.4)."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError
from urllib.parse import quote_plus, urlencode
from urllib.request import HTTPRedirectHandler, ProxyHandler

from fanout._escape import shortened
from fanout._redact import secrets_of
from fanout._url import redact_url, require_web_url
from fanout.auth.base import BlockingAuth, Credentials, bearer, require_secret
from fanout.deadline import Deadline, WatchedRequest, watched_opener
from fanout.errors import ConfigError, CredentialsError
from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Seconds for each step of the exchange. The whole of it may take as long as a try to obtain credentials.
_TIMEOUT = 20.0
# A token has some kilobytes; a server that sends more is no token endpoint, and must not fill the memory.
_MOST_BYTES = 2**16
_LONGEST_MESSAGE = 300


@checks_options
@dataclass(frozen=True, kw_only=True)
class OAuth2Auth(BlockingAuth):
    """A token that an OAuth 2.0 server gives for the id and the secret of a client."""

    token_url: str
    """URL of the token endpoint."""

    client_id: str
    """Id of the client."""

    client_secret: str = field(repr=False)
    """Secret of the client."""

    scope: str | None = None
    """Scopes to request, separated by spaces."""

    audience: str | None = None
    """API for which the token is, if the server wants to know."""

    client_auth: Literal["basic", "body"] = "basic"
    """Place of id and secret in the request for a token: "basic" is the Authorization header, "body" the form."""

    proxy: str | None = field(default=None, repr=False)
    """URL of an HTTP proxy to the token endpoint; or "env", for those that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name,
    which are ignored otherwise."""

    def __post_init__(self) -> None:
        require_web_url(self.token_url, "token_url")
        if self.proxy is not None and self.proxy != "env":
            require_web_url(self.proxy, "proxy")
        for name in ("client_id", "client_secret"):
            require_secret(name, getattr(self, name))
        if self.client_auth not in ("basic", "body"):
            raise ConfigError(f'client_auth must be "basic" or "body", not {self.client_auth!r}', key="client_auth")

    @property
    def secrets(self) -> Iterable[str]:
        """The secret, the pair as it is in the request for a token, and the credentials of the proxy."""
        return [*super().secrets, self._pair, *secrets_of(self.proxy or "", {})]

    @property
    def _pair(self) -> str:
        # RFC 6749, section 2.3.1: both are encoded as in a form.
        return b64encode(f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}".encode()).decode()

    def obtain(self) -> Credentials:
        """Request a token."""
        form = {"grant_type": "client_credentials", "scope": self.scope, "audience": self.audience}
        headers = {"Accept": "application/json"}
        if self.client_auth == "body":
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        else:
            headers["Authorization"] = f"Basic {self._pair}"
        body = urlencode({name: value for name, value in form.items() if value is not None}).encode()
        status, answer = _post(self.token_url, body, headers, self.proxy)
        shown = f"the token server {redact_url(self.token_url)}"
        if status != 200:
            reason = f"{shown} answered HTTP {status}{_message(answer)}"
            # All other statuses refuse these credentials or this form, which another try does not change.
            raise CredentialsError(reason, retryable=status == 429 or status >= 500)
        token, lifetime = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token:
            raise CredentialsError(f"{shown} answered without an access_token", retryable=False)
        # Some servers send the number as text.
        seconds = float(lifetime) if isinstance(lifetime, int | float | str) and str(lifetime).isdecimal() else None
        # A lifetime of 0 would make each request obtain a token: then it counts as unknown.
        return Credentials(headers=bearer(token), lifetime=seconds or None)


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: it would take the secret to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, body: bytes, headers: Mapping[str, str], proxy: str | None) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of the response to a POST; an empty one if it holds none."""
    # Without an argument the handler looks into the environment, for each request.
    proxies = None if proxy == "env" else {} if proxy is None else {"http": proxy, "https": proxy}
    opener = watched_opener(ProxyHandler(proxies), _NoRedirect())
    deadline = Deadline(_TIMEOUT)
    request = WatchedRequest(url, deadline, dict(headers), body)
    try:
        with deadline:
            try:
                response = opener.open(request, timeout=_TIMEOUT)
            except HTTPError as error:
                response = error
            with response:
                content = response.read(_MOST_BYTES)
        if deadline.passed:
            raise TimeoutError
    except (OSError, HTTPException) as error:
        late = f"it has not answered within {_TIMEOUT:g} s" if deadline.passed else None
        reason = late or getattr(error, "reason", None) or error
        raise CredentialsError(f"the token server {redact_url(url)} cannot be asked: {reason}") from None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return response.status, {}
    return response.status, answer if isinstance(answer, dict) else {}


def _message(answer: Mapping[str, Any]) -> str:
    """Return the server's words (RFC 6749, section 5.2)."""
    words = [answer[name] for name in ("error", "error_description") if isinstance(answer.get(name), str)]
    return shortened(f": {' - '.join(words)}", _LONGEST_MESSAGE) if words else ""
