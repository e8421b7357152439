"""What must not be shown of an endpoint's URL and headers, and texts without it."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SHORTEST_SECRET = 6
_CREDENTIAL = re.compile("auth|key|token|secret|password|cookie|signature|^sig$|credential", re.IGNORECASE)


def secrets_of(url: str, headers: Mapping[str, str]) -> list[str]:
    """What must not be shown, longest first; short words are left, since they would be found everywhere."""
    parts = urlsplit(url)
    values = [parts.username or "", parts.password or ""]
    values += [pair.partition("=")[2] or pair for pair in parts.query.split("&")]
    values += [unquote_plus(value) for value in values]
    if parts.username is not None:  # the header that the session makes of them
        values.append(b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode())
    for value in headers.values():
        values += [value, value.rpartition(" ")[2]]  # with and without its "Bearer"
    forms = {form for value in values if len(value) >= _SHORTEST_SECRET for form in _written(value)}
    return sorted(forms, key=len, reverse=True)


def _written(value: str) -> Iterator[str]:
    """As a server may write it that repeats what it was sent: as it is, in JSON, in a URL, in HTML."""
    as_json = json.dumps(value)[1:-1]
    yield from (value, as_json, as_json.replace("/", "\\/"), quote(value, safe=""), escape(value))


def concealed(text: str, secrets: Iterable[str]) -> str:
    """``text``, a server's words for instance, with ``***`` in place of each secret, also of one that is cut off."""
    for secret in secrets:
        text = text.replace(secret, "***")
        cut = text.removesuffix("...")
        for length in range(len(secret) - 1, _SHORTEST_SECRET - 1, -1):
            if cut.endswith(secret[:length]):
                text = f"{cut[:-length]}***"
                break
    return text


def credentials_of(url: str, headers: Mapping[str, str]) -> list[str]:
    """Those of the secrets whose names say that they are: for texts that must stay exact where they hold none."""
    parts = urlsplit(url)
    query = "&".join(pair for pair in parts.query.split("&") if _CREDENTIAL.search(pair.partition("=")[0]))
    named = {name: value for name, value in headers.items() if _CREDENTIAL.search(name)}
    return secrets_of(parts._replace(query=query).geturl(), named)


def starred(body: bytes, secrets: Iterable[str]) -> bytes:
    """``body`` with stars in the place of each secret, and as long as before."""
    for secret in secrets:
        raw = secret.encode("utf-8", "surrogateescape")
        body = body.replace(raw, b"*" * len(raw))
    return body
