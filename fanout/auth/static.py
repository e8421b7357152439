"""The types of authentication whose credentials never change: a token, an API key, or a name with a password."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fanout._headers import require_header_name
from fanout.auth.base import StaticAuth, bearer, require_secret
from fanout.errors import ConfigError
from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@checks_options
@dataclass(frozen=True, kw_only=True)
class BearerAuth(StaticAuth):
    """``Authorization: Bearer TOKEN`` with every request."""

    token: str = field(repr=False)
    """The token."""

    def __post_init__(self) -> None:
        require_secret("token", self.token)

    @property
    def headers(self) -> Mapping[str, str]:
        """The field Authorization."""
        return bearer(self.token)


@checks_options
@dataclass(frozen=True, kw_only=True)
class ApiKeyAuth(StaticAuth):
    """A key in a header field of its own with every request."""

    token: str = field(repr=False)
    """The key."""

    header: str = "x-api-key"
    """Name of the header field, for instance api-key or x-goog-api-key."""

    def __post_init__(self) -> None:
        require_secret("token", self.token)
        require_header_name(self.header, "header")

    @property
    def headers(self) -> Mapping[str, str]:
        """The field with the key."""
        return {self.header: self.token}


@checks_options
@dataclass(frozen=True, kw_only=True)
class BasicAuth(StaticAuth):
    """A name and a password with every request (RFC 7617)."""

    username: str = field(repr=False)
    """The name; some APIs expect a key here, and no password."""

    password: str = field(default="", repr=False)
    """The password."""

    def __post_init__(self) -> None:
        for name in ("username", "password"):
            if not isinstance(value := getattr(self, name), str):
                raise ConfigError(f"{name} must be a text, not {type(value).__name__}", key=name)
        if ":" in self.username:
            raise ConfigError("username must not hold a colon, which separates it from the password", key="username")

    @property
    def secret_fields(self) -> Iterable[str]:
        """The password; the name where it is alone, because it is then a key."""
        # Stripe and others take the API key as a name without a password.
        return ["password" if self.password else "username"]

    @property
    def headers(self) -> Mapping[str, str]:
        """The field Authorization."""
        # RFC 7617 leaves the encoding open, and lets a server ask for UTF-8 alone (section 2.1).
        pair = f"{self.username}:{self.password}".encode()
        return {"Authorization": f"Basic {b64encode(pair).decode()}"}
