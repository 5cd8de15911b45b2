# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The store's record: pillar ``store_server`` to a validated, frozen :class:`StoreSpec`.

All faults of a pillar are found at once; each names the key, the value and what is allowed.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storelib.errors import Refused, SpecError
from storemaster.deployment import fields, formats, forms, lifecycle
from storemaster.deployment.formats import shown
from storemaster.deployment.reader import Reader


@dataclass(frozen=True)
class Image:
    """The image that the system disk is cloned from."""

    source: str
    sha256: str


@dataclass(frozen=True)
class DataDisk:
    """A disk that outlives the server."""

    name: str
    size_gib: int


@dataclass(frozen=True)
class Interface:
    """A network interface of the server."""

    name: str
    type: str
    source: str | None
    mac: str
    address: str
    gateway: str | None
    dns: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """How ``virt.start`` is retried and when a start counts as steady."""

    attempts: int
    backoff_s: tuple[int, ...]
    steady_s: int


KEEP = "keep"
"""Of ``registration``: nothing is done in Uyuni."""

LEFT_OUT = ("guest_pillar", "activation_key")
"""Keys of the pillar that are no part of a spec."""


@dataclass(frozen=True)
class StoreSpec:
    """
    A store server, fully described.

    Not part of it are ``guest_pillar`` (see the ext_pillar) and ``activation_key``, which is read
    where the seed is made: what is in a spec is in records and jobs.
    """

    store: str
    minion_id: str
    hostname: str
    group: str | None
    auto_deploy: bool
    image: Image
    cpus: int
    memory_mib: int
    disk_gib: int
    pool: str
    clone: str
    data_disks: tuple[DataDisk, ...]
    virt_type: str
    os_type: str
    firmware: str
    interfaces: tuple[Interface, ...]
    master: str
    minion: str
    registration: str
    system_groups: tuple[str, ...]
    admission: str
    start: Start
    verify: tuple[dict[str, Any], ...]
    timeouts: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON types: how the ledger and the modules get it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def store_id(value: object) -> str:
    """Return ``value`` if it is a store ID, otherwise raise :class:`Refused`."""
    if isinstance(value, str) and formats.STORE_ID.fullmatch(value):
        return value
    if value is None or isinstance(value, (bool, int, float)):
        number = "" if value is None or isinstance(value, bool) else "the number "
        raise Refused(
            f"the store ID arrived as {number}{value}, which need not be what was typed "
            "(YAML reads a bare 0417 as 417 or 271, no and off as False, null as nothing)",
            "quote it: on the command line \"'0417'\", in YAML '0417'",
        )
    raise Refused(
        f"{shown(value)} is no store ID",
        "a store ID has 1 to 63 letters, digits, dots, underscores or hyphens "
        "and begins with a letter or digit",
    )


def as_typed(value: object, argv: list[str]) -> object:
    """
    Return the store ID as it was typed, where ``salt-run`` has made a number of it.

    argv
        The process's command line. Only if exactly one word of it can have become the number, is
        that word the answer; otherwise ``value`` is returned as it came.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not argv[0].endswith("salt-run"):
        return value
    words = {word.removeprefix("store=") for word in argv[1:]}
    typed = [word for word in words if word.isdecimal() and value in _readings(word)]
    return typed[0] if len(typed) == 1 else value


def _readings(word: str) -> set[int]:
    """Return the numbers that YAML can make of decimal digits: a leading 0 may mean octal."""
    octal = word.startswith("0") and not set(word) & {"8", "9"}
    return {int(word), int(word, 8)} if octal else {int(word)}


def from_pillar(pillar: object, hypervisor: str) -> StoreSpec:
    """
    Return the spec that the hypervisor's pillar ``store_server`` describes.

    pillar
        The value of ``store_server``.
    hypervisor
        Minion ID of the hypervisor, for the messages.

    Raises :class:`SpecError` that names every fault.
    """
    values, faults = read(pillar)
    if faults:
        told = "; ".join(told for _, told in faults)
        raise SpecError(
            f"pillar store_server of {hypervisor} is wrong: {told}",
            f"mend the pillar, then try again; salt-run pillar.show_pillar {hypervisor} shows it",
        )
    spec = StoreSpec(**values)
    if spec.minion_id == hypervisor:
        raise SpecError(
            f"pillar store_server of {hypervisor}: minion_id is the hypervisor's own",
            "give the store server a minion ID of its own",
        )
    return spec


def read(pillar: object) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the values of a spec, ``None`` where they are faulty, and each fault with its path."""
    reader = Reader()
    values = _values(reader.mapping(pillar))
    _agree(values, pillar, reader)
    return values, reader.faults


def guest_pillar(pillar: object) -> dict[str, Any]:
    """Return ``guest_pillar`` of the hypervisor's ``store_server``, ``{}`` if there is none."""
    value = pillar.get("guest_pillar") if isinstance(pillar, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _values(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a spec from what was read by the table."""
    return {
        **{key: value for key, value in read.items() if key not in LEFT_OUT},
        "image": Image(**read["image"]),
        "data_disks": tuple(DataDisk(**each) for each in read["data_disks"] or ()),
        "interfaces": tuple(Interface(**each) for each in read["interfaces"] or ()),
        "system_groups": tuple(read["system_groups"] or ()),
        "start": Start(**read["start"]),
        "verify": tuple(map(_given, read["verify"] or ())),
        "timeouts": _given(read["timeouts"]),
    }


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _agree(values: Mapping[str, Any], pillar: Any, reader: Reader) -> None:
    """Find what is right by itself and wrong together."""
    hostname = values["hostname"]
    if hostname:
        # Only one that was made of the minion ID has not been looked at.
        wrong = formats.wrong_host_name(hostname)
        if wrong or not formats.HOSTNAME.fullmatch(hostname):
            allowed = f"{fields.HOST_NAME} (give one, minion_id is none)"
            reader.fault("hostname", hostname, allowed, wrong)
    if values["os_type"] in ("xen", "xenpvh") and values["virt_type"] not in ("xen", "auto"):
        reader.fault("os_type", values["os_type"], "hvm, unless virt_type is xen or auto")
    if values["firmware"] == "efi" and values["os_type"] not in ("hvm", None):
        reader.fault("firmware", "efi", "bios, unless os_type is hvm")
    # Not by case alone: that is nothing to some file systems.
    names = [disk.name and disk.name.lower() for disk in values["data_disks"]]
    _differ(reader, "data_disks", "names", names)
    _interfaces_agree(reader, values["interfaces"], [at for at, _ in _items(pillar, "interfaces")])
    addresses = [i.address.partition("/")[0] for i in values["interfaces"] if i.address]
    if values["master"] and values["master"] in (hostname, *addresses):
        reader.fault("master", values["master"], "another machine than the server itself")
    _start_fits(reader, values["start"], values["timeouts"])
    for (path, given), probe in zip(_items(pillar, "verify"), values["verify"], strict=False):
        if len(probe) != 1 and not reader.is_faulty(path):
            allowed = f"exactly one of {', '.join(fields.under('verify[]'))}"
            reader.fault(path, given, allowed)


def _items(pillar: Any, key: str) -> list[tuple[str, Any]]:
    """Return the items of a list as the pillar has them, each with where it is."""
    value = pillar.get(key) if isinstance(pillar, Mapping) else None
    kind = fields.under("")[key].kind
    return [(key + at, item) for at, item in forms.items(kind, value)] if kind.good(value) else []


def _interfaces_agree(reader: Reader, interfaces: tuple[Interface, ...], paths: list[str]) -> None:
    if not interfaces:
        reader.fault("interfaces", [], "at least one interface")
    for path, each in zip((f"{path}.source" for path in paths), interfaces, strict=False):
        if (each.type == "user") == (each.source is not None) and not reader.is_faulty(path):
            reader.fault(path, each.source, f"{fields.SOURCES}; none with type user")
    _differ(reader, "interfaces", "names", [each.name for each in interfaces])
    _differ(reader, "interfaces", "hardware addresses", [each.mac for each in interfaces])
    static = [each for each in interfaces if each.address not in (None, "dhcp")]
    own = [str(ipaddress.ip_interface(each.address).ip) for each in static]
    _differ(reader, "interfaces", "addresses", own)
    gateways = [each.gateway for each in static if each.gateway]
    families = [ipaddress.ip_address(gateway).version for gateway in gateways]
    if len(set(families)) < len(families):
        reader.fault("interfaces", gateways, "one gateway for IPv4, one for IPv6")
    for each in static:
        if each.gateway and ipaddress.ip_address(each.gateway) in map(ipaddress.ip_address, own):
            reader.fault("interfaces", each.gateway, "a gateway that is not the server itself")


def _differ(reader: Reader, key: str, what: str, values: list[str]) -> None:
    values = [value for value in values if value]
    if len(set(values)) < len(values):
        reader.fault(key, values, f"{what} that differ")


def _start_fits(reader: Reader, start: Start, timeouts: dict[str, int]) -> None:
    if start.attempts is None or not start.backoff_s or start.steady_s is None:
        return
    limit = lifecycle.limit_s("starting", timeouts)
    pauses = sum(start.backoff_s[:n][-1] for n in range(1, start.attempts))
    if limit and pauses + start.steady_s >= limit:
        reader.told(
            "start",
            f"{pauses} s of pauses (attempts, backoff_s) and {start.steady_s} s of steady_s",
            f"less than the {limit} s of timeouts.starting in all",
        )
