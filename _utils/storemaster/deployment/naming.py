# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Which names and addresses of a store stand in the DNS: ``store_deploy:dns`` in the settings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from storelib.errors import Fault
from storemaster.deployment import lifecycle
from storemaster.deployment.receivers import DNS, FILE, SDB, Key, Receiver
from storemaster.deployment.record import Record

STATES = (lifecycle.DEPLOYED.name, lifecycle.RETIRED.name)
"""In which a store's name is set, and taken away."""

LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
ZONE = re.compile(rf"{LABEL}(\.{LABEL})*\.?")
ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
TTL_S = 300

MOST = 16
"""Addresses that one server has at most."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _are(value: Any, good: Any) -> bool:
    return isinstance(value, list) and value != [] and all(good(each) for each in value)


def _is_zone(value: object) -> bool:
    return isinstance(value, str) and bool(ZONE.fullmatch(value)) and len(value) < 254


def _is_server(value: str) -> bool:
    host, _, port = value.partition("#")
    ipaddress.ip_address(host)
    return not port or 0 < int(port) < 65536


KEYS = {
    "servers": Key(lambda v: _are(v, _is_server), "a list of addresses, ADDRESS or ADDRESS#PORT"),
    "zones": Key(lambda v: _are(v, _is_zone), "a list of zones, those of the PTR records too"),
    "networks": Key(
        lambda v: _are(v, ipaddress.ip_network), "a list of networks, such as 10.0.0.0/8"
    ),
    "key_name": Key(_is_zone, "the name of a TSIG key"),
    "key_file": FILE,
    "key": SDB,
    "algorithm": Key(lambda v: v in ALGORITHMS, " | ".join(ALGORITHMS)),
    "ttl": Key(
        lambda v: not isinstance(v, bool) and 0 <= v <= 86400 and v == int(v),
        "a whole number of seconds, 0 to 86400",
    ),
}
NEEDED = (("servers",), ("zones",), ("networks",), ("key_name",), ("key_file", "key"))


def faults(told: object) -> Iterator[str]:
    """Find what is wrong with the setting, a sentence each."""
    if not isinstance(told, Mapping):
        yield "it is no mapping"
        return
    for key, value in told.items():
        if key not in KEYS:
            yield f"{key} is no key of it, allowed: {', '.join(KEYS)}"
        elif fault := KEYS[key].fault(str(key), value):
            yield fault
    for names in NEEDED:
        if not set(names) & set(told):
            yield f"it needs {' or '.join(names)}"
    if {"key_file", "key"} <= set(told):
        yield "it has both key_file and key: one is enough"


def receiver(told: Mapping[str, Any]) -> Receiver:
    """Return the receiver of changes that follows them in the DNS."""
    return Receiver(DNS, DNS, {**told, "states": STATES})


def addresses(record: Record, networks: list[str]) -> list[Address] | None:
    """
    Return the addresses that the store's server has told, under its seal, within these networks.

    ``None`` if it was never asked, as one that was adopted. A guest that is somebody else's by now
    must not be able to claim any address: where the pillar has them, these are all that count.
    """
    told = record.evidence.server or record.evidence.probes
    if told is None or "addresses" not in told:
        return None
    said = told["addresses"] if isinstance(told["addresses"], list) else []
    allowed = [ipaddress.ip_network(each) for each in networks]
    static = _static(record)
    found: list[Address] = []
    for text in said:
        # What means something on one interface only is nobody else's address.
        if not isinstance(text, str) or "%" in text:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        known = static is None or address in static
        if known and address not in found and any(address in each for each in allowed):
            found.append(address)
    if not found or len(found) > MOST:
        shown = ", ".join(map(str, said[:MOST])) or "none"
        what = "no address" if not found else f"more than {MOST} addresses"
        which = "" if static is None else ", and is one of its pillar's"
        raise Fault(
            f"{what} of {record.minion_id} is within store_deploy:dns:networks{which}: {shown}",
            "correct the networks, or see which addresses the server has",
        )
    return found


def _static(record: Record) -> set[Address] | None:
    """Return the addresses that the pillar gives the server; ``None`` if it leaves one open."""
    given = [str(each.get("address", "dhcp")) for each in record.spec.get("interfaces", ())]
    if not given or any("/" not in each for each in given):
        return None
    return {ipaddress.ip_interface(each).ip for each in given}


def hostname(record: Record, zones: list[str]) -> str:
    """Return the store's full name; raise :class:`Fault` if it is in none of the zones."""
    name = str(record.spec["hostname"]).rstrip(".").lower()
    if not zone_of(name, zones):
        raise Fault(
            f"{name} is in none of the zones of store_deploy:dns",
            "give the store a full hostname in its pillar, or add the zone",
        )
    return name


def zone_of(name: str, zones: list[str]) -> str:
    """Return the innermost of the zones that a name is in; empty if it is in none, or is one."""
    within = [each for each in zones if name.endswith(f".{each.rstrip('.').lower()}")]
    return max(within, key=len, default="")


def marker(store: str) -> str:
    """Return the text that says whose a name is."""
    return f"heritage=store-deploy,store={store}"
