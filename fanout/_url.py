"""URLs: their secrets are redacted before they are shown, and they are checked before a request is sent."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL = "local://"
"""Scheme of the packaged model server."""

UNIX = "unix://"
"""Scheme of Unix sockets: ``unix:///PATH``, or ``unix:///PATH:/v1/embeddings?a=1`` with the target of the request."""

USUAL_PORTS = {"http": 80, "https": 443}
"""Scheme -> the port of a URL that names none."""

# The host of requests over a Unix socket, which has no name of its own. curl and Docker send the same.
_HOST_OF_SOCKETS = "http://localhost"

# Bytes of a socket's path that every system has room for: 104 with a final NUL on macOS, 108 on Linux.
_LONGEST_SOCKET = 103

_CREDENTIAL = re.compile("(^|[-_.])(api-?key|key|token|secret|password|signature|sig|credential|auth)$", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return ``url`` with ``***`` in place of the userinfo and of all query values."""
    if url.startswith(UNIX):
        socket, http = split_socket(url)
        return with_socket(redact_url(http), socket)
    try:
        parts = urlsplit(url)
    except ValueError:  # no part of it can be identified, so no part can be shown
        return "***"
    if "@" in url and not _has_authority(parts):
        # The scheme is missing, or a / ? # in a password cuts the URL in the wrong place.
        return f"***@{redact_url(url.rpartition('@')[2])}"
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    query = "&".join(
        f"{pair.partition('=')[0]}=***" if "=" in pair else "***" for pair in parts.query.split("&") if pair
    )
    return parts._replace(netloc=netloc, query=query, fragment="").geturl()


def is_credential(name: str) -> bool:
    """True if the name of a query parameter or header field is that of a credential."""
    return _CREDENTIAL.search(name) is not None


def credentials_in(url: str) -> Iterator[str]:
    """Yield the values of those query parameters of ``url`` that are credentials by their names, decoded."""
    for name, value in parse_qsl(urlsplit(url).query):
        if is_credential(name):
            yield value


def require_url(url: str, key: str) -> None:
    """Raise `ConfigError` unless ``url`` is an http(s) URL with a host, ``unix:///PATH``, or ``local://NAME``."""
    if url == LOCAL:
        raise ConfigError(f"{key} {url!r} names no model; try local://digits", key=key)
    if url.startswith(UNIX):
        _require_socket(url, key)
    elif not url.startswith(LOCAL):  # local://package.module:function has no host to check
        require_web_url(url, key)


def split_socket(url: str) -> tuple[str | None, str]:
    """Return the path of the Unix socket in ``url``, and the URL of requests over it; None and ``url`` for another."""
    if not url.startswith(UNIX):
        return None, url
    socket, colon, target = url.removeprefix(UNIX).partition(":/")
    return socket, f"{_HOST_OF_SOCKETS}/{target}" if colon else _HOST_OF_SOCKETS


def with_socket(url: str, socket: str | None) -> str:
    """Return the URL of which `split_socket` returned ``socket``, with the path and the query of ``url``."""
    if socket is None or not url.startswith(_HOST_OF_SOCKETS):
        return url
    target = url.removeprefix(_HOST_OF_SOCKETS)
    return f"{UNIX}{socket}:{target}" if target.startswith("/") else f"{UNIX}{socket}"


def _require_socket(url: str, key: str) -> None:
    socket, _ = split_socket(url)
    assert socket is not None
    if not socket.startswith("/") or socket == "/":
        problem = "has no absolute path; write three slashes, as in unix:///run/model.sock"
    elif len(socket.encode()) > _LONGEST_SOCKET:
        problem = f"has a path of {len(socket.encode())} bytes, and systems take {_LONGEST_SOCKET} for a socket"
    elif "\0" in socket:
        problem = "holds a NUL"
    else:
        return
    raise ConfigError(f"{key} {redact_url(url)!r} {problem}", key=key)


def require_web_url(url: str, key: str) -> None:
    """Raise `ConfigError` unless ``url`` is an http(s) URL with a host."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # the message of this error may quote a part of the password
        raise ConfigError(
            f"{key} {redact_url(url)!r} is not a URL: its host or port cannot be read "
            "(in a password, write @ / ? # as %40 %2F %3F %23)",
            key=key,
        ) from None
    if parts.scheme not in ("http", "https"):
        # "host:8000/x" parses with "host" as its scheme, so the remedy covers both cases.
        raise ConfigError(
            f"{key} {redact_url(url)!r} has no http:// or https:// in front; write the whole URL, "
            f"for instance http://{redact_url(url).rpartition('//')[2]}, unix:///run/model.sock for a Unix socket, or "
            "local://digits for the packaged server",
            key=key,
        )
    if not host:
        raise ConfigError(f"{key} {redact_url(url)!r} names no host", key=key)


def with_path(url: str, path: str) -> str:
    """Return ``url`` with ``path`` appended, but for the beginning of ``path`` with which ``url`` ends.

    ``https://h/v1`` and ``/v1/embeddings`` give ``https://h/v1/embeddings``. A query of ``path`` is added too; where
    ``url`` has a parameter of the same name, that one stays. ``local://NAME`` stays as it is.
    """
    if not path or url.startswith(LOCAL):
        return url
    socket, url = split_socket(url)
    parts = urlsplit(url)
    path, _, query = path.partition("?")
    present, wanted = parts.path.rstrip("/").split("/")[1:], path.split("/")[1:]
    shared = next(n for n in range(len(wanted), -1, -1) if present[len(present) - n :] == wanted[:n])
    # An URL that ends with the whole path is kept, with or without a slash behind it.
    if shared < len(wanted):
        parts = parts._replace(path="/" + "/".join([*present, *wanted[shared:]]))
    names = {pair.partition("=")[0] for pair in parts.query.split("&")}
    added = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in names]
    return with_socket(parts._replace(query="&".join([*filter(None, [parts.query]), *added])).geturl(), socket)


def _has_authority(parts: SplitResult) -> bool:
    try:
        return bool(parts.netloc) and (parts.port is None or parts.port >= 0)
    except ValueError:  # the port is not a number
        return False


# Names that no public server has: RFC 6761 and 6762 (appendix G), and the "localhost.localdomain" of hosts files.
_INTERNAL_NAMES = (
    ".localhost", ".localdomain", ".local", ".internal", ".intranet", ".private", ".corp", ".lan", ".home", ".home.arpa"
)  # fmt: skip
_NAME_OR_ADDRESS = re.compile(r"[a-z0-9_.:-]+")
# Global unicast. The other IPv6 addresses are internal, or translated to IPv4 ones that may be: 64:ff9b::7f00:1.
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def is_internal(host: str) -> bool:
    """True for a host that is not on the public internet, by its name or its address alone; no name is looked up.

    ``host`` is in the form that `as_resolved` returns.
    """
    if ":" not in host:
        try:
            # Addresses may also be written as one number, or in hexadecimal: http://2130706433/ is this machine.
            return not IPv4Address(socket.inet_aton(host)).is_global
        except OSError:
            return "." not in host or host.endswith(_INTERNAL_NAMES)
    address = IPv6Address(host)
    within = address.ipv4_mapped or address.sixtofour
    return not (within.is_global if within else address.is_global and address in _GLOBAL_UNICAST)


def as_resolved(host: str) -> str:
    """Return a host in the form in which its address is looked up. Raises `ValueError` for one that has none.

    Clients fold full-width digits, ideographic stops and invisible characters: "127" and "." in any of these forms
    lead to this machine. A percent sign may hide any character, and no host needs one.
    """
    resolved = host.encode("idna").decode().lower().rstrip(".")
    if resolved and not _NAME_OR_ADDRESS.fullmatch(resolved):
        raise ValueError
    if ":" in resolved:
        IPv6Address(resolved)
    return resolved
