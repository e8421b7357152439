"""Hosts that are not on the public internet, as far as their names or addresses show it."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network

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
