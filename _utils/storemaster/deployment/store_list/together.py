# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What is right in each store of a list, and wrong in two of them together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storemaster.deployment.formats import shown
from storemaster.deployment.spec import Interface
from storemaster.deployment.store_list.columns import HYPERVISOR, HYPERVISOR_MAC
from storemaster.deployment.store_list.rows import Fault, Row


@dataclass(frozen=True)
class Member:
    """A store, as the spec reads it."""

    row: Row
    values: Mapping[str, Any]
    """``None`` where they are faulty."""
    given: Mapping[str, Any]
    """What it has of its own, flat."""

    listed: bool = True
    """Whether it is in the list; the others are where that is to be written to."""

    @property
    def interfaces(self) -> Sequence[Interface]:
        """Return its interfaces; none if they are faulty as a whole."""
        found: Sequence[Interface] = self.values["interfaces"] or ()
        return found

    @property
    def where(self) -> str:
        """Say where it is."""
        return f"in {self.row.place}" if self.listed else f"of {self.row.hypervisor}"


@dataclass(frozen=True)
class Claim:
    """Something that only one store can have."""

    kind: str
    value: str
    path: str
    derived: bool = False
    """Whether it was made of the store's ID."""

    def fault(self, where: str) -> str:
        """Say who has it already."""
        told = f"{self.path} {self.value}"
        if self.derived:
            return f"{told}, made of the store's ID, is also {where}: give one of them another"
        return f"{told} is also {where}"


@dataclass(frozen=True)
class Network:
    """A network with a store's address in it."""

    of: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    path: str
    member: Member

    @property
    def bounds(self) -> tuple[int, int, int]:
        """Return what networks are sorted by: IP version, first and last address."""
        network = self.of.network
        return network.version, int(network.network_address), -int(network.broadcast_address)

    def reaches(self, other: Network) -> bool:
        """Say whether a network that begins later, or is smaller, lies in it."""
        return other.of.version == self.of.version and other.of.ip in self.of.network


def faults(members: Sequence[Member], shared_networks: bool) -> Iterator[Fault]:
    """
    Find what two stores cannot both have; what is wrong among unlisted ones is not told.

    shared_networks
        Whether stores may be in one network.
    """
    taken = {
        (claim.kind, claim.value): f"that of {member.row.hypervisor}, which is not in this list "
        "(import removes nothing: do that before, if it is to go)"
        for member in members
        if not member.listed
        for claim in _claims(member)
    }
    listed = [member for member in members if member.listed]
    minions = {str(member.row.hypervisor): member for member in listed}
    for member in listed:
        twice = False
        for claim in _claims(member):
            key = (claim.kind, claim.value)
            if key in taken and not (claim.derived and twice):
                yield member.row.fault(claim.path, claim.fault(taken[key]))
                twice = twice or claim.kind == "store"
            taken.setdefault(key, member.where)
        minion = member.values["minion_id"]
        if minion and minion in minions:
            told = f"minion_id is {shown(minion)}, a hypervisor {minions[minion].where}"
            yield member.row.fault("minion_id", told)
    if not shared_networks:
        yield from _networks(members)


def _claims(member: Member) -> Iterator[Claim]:
    values, given = member.values, member.given
    name, store = member.row.hypervisor, values["store"]
    if isinstance(name, str) and name:
        yield Claim("hypervisor", name, HYPERVISOR)
    if isinstance(member.row.mac, str) and member.row.mac:
        yield Claim("mac", member.row.mac, HYPERVISOR_MAC)
    if store:
        yield Claim("store", store, "store")
    # What is made of a store ID is nothing without one.
    if values["minion_id"] and (store or "minion_id" in given):
        yield Claim("minion", values["minion_id"], "minion_id", "minion_id" not in given)
    for each in member.interfaces:
        path = f"interfaces.{each.name}"
        if each.mac and (store or f"{path}.mac" in given):
            yield Claim("mac", each.mac, f"{path}.mac", f"{path}.mac" not in given)
        if each.address and each.address != "dhcp":
            address = ipaddress.ip_interface(each.address).ip
            yield Claim("address", str(address), f"{path}.address")


def _networks(members: Sequence[Member]) -> Iterator[Fault]:
    """Find addresses in a network of another store."""
    widest: Network | None = None
    for each in sorted(_all_networks(members), key=lambda network: network.bounds):
        if widest is None or not widest.reaches(each):
            widest = each
        elif widest.member is not each.member and widest.of.ip != each.of.ip:
            yield from _shared(widest, each)


def _all_networks(members: Sequence[Member]) -> Iterator[Network]:
    for member in members:
        for each in member.interfaces:
            if each.address and each.address != "dhcp":
                yield Network(
                    ipaddress.ip_interface(each.address), f"interfaces.{each.name}.address", member
                )


def _shared(one: Network, other: Network) -> Iterator[Fault]:
    """Tell it of the store that comes later in the list, or of the one that is in it."""

    def place(network: Network) -> tuple[bool, int]:
        return network.member.listed, network.member.row.place.line

    first, later = sorted((one, other), key=place)
    if later.member.listed:
        told = (
            f"{later.path} is {later.of}, in the network of another store, {first.of} "
            f"{first.member.where}; if stores share networks, say shared_networks=True"
        )
        yield later.member.row.fault(later.path, told)
