# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a value of the pillar must be, beyond its type.

The patterns and ``is_`` functions know the syntax. The ``wrong_`` functions take what is right by
syntax and say what is wrong with it all the same, or return an empty string.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

STORE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MINION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(\.{LABEL})*")
NUMBER = re.compile(r"([0-9]+|0[xX][0-9A-Fa-f]*)\Z")
"""A last label that makes an IPv4 address of a name, to whatever resolves it."""

URL_HOST = re.compile(HOSTNAME.pattern.replace("A-Za-z0-9", "A-Za-z0-9_"))
"""As a host name; underscores are common in names that only the site's own DNS has."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
"""Names of interfaces and bridges (the kernel's limit is 15 characters), and of data disks."""

LIBVIRT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 _.-]{0,126}[A-Za-z0-9_.-])?")
"""Names of libvirt's pools and networks."""

GROUP = re.compile(r"[^\x00-\x20\x7f-\xa0]([^\x00-\x1f\x7f-\x9f]{0,126}[^\x00-\x20\x7f-\xa0])?")
"""What a system group of Uyuni may be called, too."""

ACTIVATION_KEY = re.compile(r"[A-Za-z0-9._-]{1,256}")

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
SERVICE = re.compile(r"[A-Za-z0-9@._-]{1,128}")
SHA256 = re.compile(r"[0-9a-f]{64}")
SOURCE = re.compile(r"(salt://|https?://|/)[!-~]{1,1023}")

PATH = re.compile(r"""/((?![<>&"'])[ -~]){1,255}""")
"""A folder; Salt's template of a domain takes its name as it is, so nothing of XML's own."""

POOL = re.compile(f"{PATH.pattern}|{LIBVIRT_NAME.pattern}")

ADDRESS = re.compile(r"[0-9A-Fa-f:.]+")
"""What may be an address, if ``is_ip`` says so."""

WITH_PREFIX = re.compile(r"dhcp|[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})")

COMMAND = re.compile(r"[\s\S]*\S[\s\S]*")

KERNELS = frozenset({"lo", "all", "default"})
"""Names that no interface can have: the kernel keeps them for itself."""

NO_HOST_NAMES = frozenset({"localhost", "localhost.localdomain"})

TAKEN_DISKS = frozenset({"system", "disk", "cdrom", "seed", "nvram"})
"""Names of the server's other drives: Salt's ``virt`` would take one for the other."""

SHORTEST_PREFIX = 8

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def is_ip(value: object) -> bool:
    """Say whether that is an address, without prefix and zone."""
    try:
        return isinstance(value, str) and "%" not in value and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def is_address(value: str) -> bool:
    """Say whether what is :data:`WITH_PREFIX` is ``dhcp``, or an address with its prefix."""
    # A netmask is no prefix: cloud-init would not take it.
    address, _, prefix = value.partition("/")
    if not is_ip(address):
        return value == "dhcp"
    return int(prefix) <= ipaddress.ip_address(address).max_prefixlen


def is_link(value: str, type_: str | None) -> bool:
    """Say whether that can be the name of what an interface of this type is connected to."""
    return bool((LIBVIRT_NAME if type_ == "network" else NAME).fullmatch(value))


def wrong_host_name(value: str) -> str:
    """Find host names that are addresses to whatever looks them up, or every host's own."""
    if NUMBER.match(value.rpartition(".")[2]):
        return "which looks like an address"
    return "which every host is to itself" if value.lower() in NO_HOST_NAMES else ""


def wrong_master(value: str) -> str:
    """Find names and addresses at which a guest finds no master."""
    if not is_ip(value):
        return wrong_host_name(value)
    address = ipaddress.ip_address(value)
    return _loopback(address) or _nobodys(address)


def wrong_address(value: str) -> str:
    """Find addresses with a prefix that no interface of a server can have."""
    if value == "dhcp":
        return ""
    interface = ipaddress.ip_interface(value)
    wrong = _loopback(interface.ip) or _nobodys(interface.ip)
    if not wrong and interface.network.prefixlen < SHORTEST_PREFIX:
        return f"a prefix below {SHORTEST_PREFIX}"
    return wrong or _edge(interface, interface.ip)


def is_gateway(value: str, address: str | None) -> bool:
    """Say whether that is an address in the network of ``address`` (any, if that is faulty)."""
    if not is_ip(value) or address in (None, "dhcp"):
        return is_ip(value) and address is None
    return ipaddress.ip_address(value) in ipaddress.ip_interface(address).network


def wrong_gateway(value: str, address: str | None) -> str:
    """Find gateways that cannot be one for a server with that ``address``."""
    if address is None:
        return ""
    interface, gateway = ipaddress.ip_interface(address), ipaddress.ip_address(value)
    if gateway == interface.ip:
        return "the server's own address"
    return _edge(interface, gateway)


def wrong_dns(values: list[str], _address: str | None) -> str:
    """Find addresses that no name server has."""
    found = ((value, _nobodys(ipaddress.ip_address(value))) for value in values)
    return next((f"{value} being {wrong}" for value, wrong in found if wrong), "")


def wrong_mac(value: str) -> str:
    """Find hardware addresses that no card can have."""
    first = int(value[:2], 16)
    if first & 1:
        return "a multicast address, as its first pair is odd"
    if first == 0xFE:
        return "an address that libvirt keeps for the host's side"
    return "no card's address" if set(value) == {"0", ":"} else ""


def wrong_interface(value: str) -> str:
    """Find names that the kernel gives to no interface."""
    return "which the kernel keeps for itself" if value in KERNELS else ""


def wrong_link(value: str, type_: str | None) -> str:
    """Find names that no bridge has."""
    return wrong_interface(value) if type_ == "bridge" else ""


def wrong_disk(value: str) -> str:
    """Find names of data disks that another drive of the server has."""
    return "the name of another drive" if value.lower() in TAKEN_DISKS else ""


def wrong_sha256(value: str) -> str:
    """Find checksums that stand for one that nobody has filled in."""
    if value == EMPTY_SHA256:
        return "the checksum of an empty file (sha256sum FILE prints the right one)"
    if len(set(value)) == 1:
        return "a placeholder (sha256sum FILE prints the right one)"
    return ""


def wrong_source(value: str) -> str:
    """Find URLs that no transfer can follow, or that carry credentials."""
    if not value.startswith("http"):
        return ""
    authority = re.split(r"[/?#]", value.partition("://")[2])[0]
    if "@" in authority:
        return "a URL with credentials, which would be in the record and in logs"
    if not _can_be_reached(value, "[" in authority):
        return "a URL whose host or port is malformed"
    host = urlsplit(value).hostname or ""
    wrong = _nobodys(ipaddress.ip_address(host)) if is_ip(host) else ""
    return f"a URL whose host is {wrong}" if wrong else ""


def _can_be_reached(url: str, bracketed: bool) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if bracketed or NUMBER.match(host.rpartition(".")[2]):
        return port != 0 and is_ip(host) and (":" in host) == bracketed
    return port != 0 and bool(URL_HOST.fullmatch(host.removesuffix(".")))


def shown(value: object) -> str:
    """Return a value as the operator may see it: on one line, not too long, no credentials."""
    text = repr(value) if isinstance(value, (str, bool)) else str(value)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    text = re.sub(r"://.*@", "://***@", text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _loopback(address: Address) -> str:
    return "a loopback address" if address.is_loopback else ""


def _nobodys(address: Address) -> str:
    """Find addresses that stand for no one host that could be reached."""
    if address.is_unspecified or (address.version == 4 and int(address) < 2**24):
        return "nobody's address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address, which does not reach beyond the link"
    return "a reserved address" if address.is_reserved and not address.is_loopback else ""


def _edge(interface: Interface, address: Address) -> str:
    """Find the addresses at a network's two ends; in one of two addresses both are hosts'."""
    network = interface.network
    if network.prefixlen >= network.max_prefixlen - 1:
        return ""
    if address == network.network_address:
        return "the network's own address"
    # IPv6 has no broadcast.
    last = network.version == 4 and address == network.broadcast_address
    return "the network's broadcast address" if last else ""
