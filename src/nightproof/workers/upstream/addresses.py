"""Judge the address that an upstream's name came to, so that no name leads the server into its own network.

A release names its upstreams; who can change what a public name resolves to must not reach what only the server
reaches. Pure. Called by the transports before they connect.
"""

from __future__ import annotations

import ipaddress

_INTERNAL_ENDS = (
    ".local",
    ".internal",
    ".lan",
    ".home.arpa",
    ".svc",
    ".corp",
    ".intranet",
    ".private",
    ".test",
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def literal(host: str) -> Address | None:
    """Return the address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def may_connect(host: str, address: str, *, private: bool) -> bool:
    """Say whether a host of this name may be reached at this address.

    An address that is written out is taken as written, and so is what the name says: `localhost`, a name without a
    dot, one of a zone that is never public. A public name must come to a public address, unless the release declares
    `private`. Link-local addresses, where clouds keep their credentials, are never reached.

    >>> may_connect("api.example.com", "10.1.2.3", private=False), may_connect("gpu1", "10.1.2.3", private=False)
    (False, True)
    """
    found = literal(address)
    if found is None:
        return False
    found = _embedded(found)
    if found in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    if literal(host) is not None or private or found.is_global:
        return True
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return found.is_loopback
    if "." not in name:
        return True
    return name.endswith(_INTERNAL_ENDS) and not found.is_loopback


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public_name(host: str) -> bool:
    """Say whether a host, with a port or without, is one of the public internet by its name or address."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    address = literal(name)
    if address is not None:
        return _embedded(address).is_global
    return name != "localhost" and not may_connect(name, "10.0.0.1", private=False)
