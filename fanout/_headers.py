"""Header fields, and the credentials that settings hold in them, in URLs and in options.

Settings that are pickled carry no credential: the name of an environment variable stands in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fanout._lazy import pattern
from fanout._url import credentials_in, is_credential
from fanout._variables import has_reference
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Name of a header field (RFC 9110, section 5.6.2).
_TOKEN = pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# A lone surrogate cannot be encoded in UTF-8.
_NOT_IN_A_VALUE = pattern("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

# With a second framing header, two readers could disagree about the end of a message (request smuggling). Host is
# allowed, because it selects a virtual host and frames nothing.
_FRAMING = frozenset(
    {
        "connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip

# Header fields that carry credentials, beside those of which the name says it.
_CREDENTIAL_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie"})

SCHEMES = frozenset({"bearer", "basic", "digest", "token", "apikey", "api-key", "negotiate", "aws4-hmac-sha256"})
"""Schemes of credentials in a header field, in lower case."""


def require_no_literals(keys: Sequence[str]) -> None:
    """Raise `ConfigError` if there are ``keys``: the places of credentials in settings that are being pickled."""
    if keys:
        raise ConfigError(
            f"{keys[0]} is a credential, which does not travel to other processes: write the name of an environment "
            "variable in its place, such as ${API_KEY}, and set that where the settings are used",
            key=keys[0],
        )


def is_secret_option(name: str) -> bool:
    """Return True if an option of an object store is a credential by its name."""
    plain = name.lower().removesuffix("_base64")
    return is_credential(plain) or plain.endswith("access_key_id")


def has_literal(url: str) -> bool:
    """Return True if a URL has a credential itself, and not the name of a variable in its place."""
    return any(not has_reference(one) for one in _credentials_of(url))


def literal_fields(headers: Mapping[str, str]) -> list[str]:
    """Return the names of the header fields that have a credential itself, and not the name of a variable."""
    return [
        name for name, value in headers.items()
        if value and not has_reference(value)
        and (is_credential(name) or name.lower() in _CREDENTIAL_FIELDS or _has_scheme(value))
    ]  # fmt: skip


def _has_scheme(value: str) -> bool:
    scheme, space, _ = value.partition(" ")
    return bool(space) and scheme.lower() in SCHEMES


def _credentials_of(url: str) -> list[str]:
    parts = urlsplit(url)
    # A name without a password is a token, as in https://TOKEN@host.
    own = [parts.password or parts.username] if parts.username is not None or parts.password is not None else []
    return [one for one in (*own, *credentials_in(url)) if one]


def require_headers(headers: Mapping[str, str], key: str = "headers") -> None:
    """Raise `ConfigError` for a header field that cannot be sent or that frames a message. The value is not shown."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"header {name!r} must be a text, not {type(value).__name__}", key=key)
        require_header_name(name, key)
        if _NOT_IN_A_VALUE.search(value):
            raise ConfigError(f"header {name!r} holds a line break or another control character", key=key)


def require_header_name(name: str, key: str) -> None:
    """Raise `ConfigError` for the name of a header field that may not be set."""
    if not _TOKEN.fullmatch(name):
        if _NOT_IN_A_VALUE.search(name):
            raise ConfigError(f"header {name!r} holds a line break or another control character", key=key)
        raise ConfigError(f"header {name!r} is no valid name: use letters, digits and !#$%&'*+-.^_`|~ only", key=key)
    # Names of header fields ignore case (RFC 9110, section 5.1).
    if name.lower() in _FRAMING:
        raise ConfigError(f"header {name!r} frames the message, so fanout alone sets it; leave it out", key=key)
