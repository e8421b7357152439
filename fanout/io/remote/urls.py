"""URLs in the place of paths: their parts, their hosts, and the local files that stand for outputs until the upload."""

from __future__ import annotations

import os
import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from fanout._url import redact_url, require_web_url
from fanout.errors import ConfigError
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

STORES = ("s3", "gs", "az")
"""Schemes of object stores."""

WEB = ("http", "https")
STAGING = "fanout-uploads"
"""Folder of the outputs that are, or will be, uploaded."""

# A Path makes one slash of two: str(Path("s3://bucket/key")) is "s3:/bucket/key".
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)")
# Azure has containers such as $web.
_BUCKET = re.compile(r"[A-Za-z0-9$_][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ALIASES = {"gcs": "gs", "azure": "az"}

# Names that no public server has: RFC 6761 and 6762 (appendix G), and the "localhost.localdomain" of hosts files.
_INTERNAL_NAMES = (
    ".localhost", ".localdomain", ".local", ".internal", ".intranet", ".private", ".corp", ".lan", ".home", ".home.arpa"
)  # fmt: skip
_NAME_OR_ADDRESS = re.compile(r"[a-z0-9_.:-]+")
# Global unicast. The other IPv6 addresses are internal, or translated to IPv4 ones that may be: 64:ff9b::7f00:1.
_GLOBAL_UNICAST = IPv6Network("2000::/3")


class StoreUrl(NamedTuple):
    """The place of an object, or of all objects whose keys begin with ``key``."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def url_of(path: str | os.PathLike[str], key: str = "input.path") -> str | None:
    """Return ``path`` if it is a URL, also one that was made a `Path`; None for a local path.

    Raises `ConfigError`, with ``key``, for a scheme that is not known, a URL without a host, and a name that no bucket
    and no object can have.
    """
    text = os.fspath(path)
    match = _URL.match(text)
    if match is None:
        return None
    scheme, rest = match[1].lower(), text[match.end() :]
    scheme = _ALIASES.get(scheme, scheme)
    if match[2] == "/" and (isinstance(path, str) or scheme not in (*STORES, *WEB)):
        return None
    if scheme not in (*STORES, *WEB):
        hint = did_you_mean(scheme, [*STORES, *WEB], "; did you mean {}?")
        known = "s3://, gs://, az:// and https://"
        raise ConfigError(f"{match[1]}:// is the scheme of no file that can be read or written: {known}{hint}", key=key)
    url = f"{scheme}://{rest}"
    if scheme in WEB:
        require_web_url(url, key)
    elif (problem := _problem_of(parts_of(url))) is not None:
        # Some tools take credentials before a bucket.
        raise ConfigError(f"{redact_url(url)} {problem}", key=key)
    return url


def _problem_of(place: StoreUrl) -> str | None:
    """Return the reason for which no object can be there; None if one can. obstore checks less, or panics."""
    kind = "container" if place.scheme == "az" else "bucket"
    if not place.bucket:
        return f"names no {kind}"
    if not _BUCKET.fullmatch(place.bucket):
        return f"does not begin with the name of a {kind}: letters, digits, dots, dashes and underscores"
    *folders, name = place.key.split("/")
    if not all(folders) or {".", ".."} & {*folders, name}:
        return "is not the name of a file: a part of it is empty, '.' or '..'"
    if _CONTROL.search(place.key):
        return "is not the name of a file: it has a control character"
    return None


def parts_of(url: str) -> StoreUrl:
    """Return the parts of a URL of an object store. A key is taken as it is: no part of it is a query or an escape."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return StoreUrl(scheme, bucket, key)


def is_web(url: str) -> bool:
    """Return True for the URL of a web server."""
    return url.partition("://")[0] in WEB


def shown(url: str) -> str:
    """Return a URL for messages and journals: without the userinfo and the query of a web server's."""
    return redact_url(url) if is_web(url) else url


def staged_path(url: str, folder: Path) -> Path:
    """Return the local file of an output: ``s3://bucket/a/y.npy`` -> ``FOLDER/fanout-uploads/s3/bucket/a/y.npy``.

    Raises `ConfigError` for a URL that nothing can be uploaded to, or that no file can have the name of.
    """
    if is_web(url):
        problem = "cannot be written: outputs go to s3://, gs:// or az://, or to a local file"
        raise ConfigError(f"{shown(url)} {problem}", key="output.path")
    scheme, bucket, key = parts_of(url)
    parts = [bucket, *key.split("/")]
    if not all(parts) or {".", ".."} & set(parts):
        raise ConfigError(f"{url} is not the name of a file: a part of it is empty, '.' or '..'", key="output.path")
    return folder.joinpath(STAGING, scheme, *(quote(part, safe=" !#$&'()+,;=@[]{}~%*") for part in parts))


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
