"""Hosts that are not on the public internet, as far as their names or addresses show it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network

# Names that no public server has: RFC 6761 and 6762 (appendix G), and the "localhost.localdomain" of hosts files.
_INTERNAL_NAMES = (
    ".localhost", ".localdomain", ".local", ".internal", ".intranet", ".private", ".corp", ".lan", ".home", ".home.arpa"
)  # fmt: skip
# Global unicast. The other IPv6 addresses are internal, or translated to IPv4 ones that may be: 64:ff9b::7f00:1.
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def is_internal(host: str) -> bool:
    """True for a host that is not on the public internet, by its name or its address alone; no name is looked up."""
    if ":" not in host:
        try:
            # Addresses may also be written as one number, or in hexadecimal: http://2130706433/ is this machine.
            return not IPv4Address(socket.inet_aton(host)).is_global
        except OSError:
            return "." not in host or host.endswith(_INTERNAL_NAMES)
    address = IPv6Address(host)
    within = address.ipv4_mapped or address.sixtofour
    return not (within.is_global if within else address.is_global and address in _GLOBAL_UNICAST)
