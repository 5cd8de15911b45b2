# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The store's record: pillar ``store_server`` to a validated, frozen :class:`StoreSpec`.

All faults of a pillar are found at once; each names the key, the value and what is allowed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storelib import formats, lifecycle
from storelib.errors import Refused, SpecError
from storelib.formats import LIBVIRT_NAME, NAME, shown
from storelib.reader import REQUIRED, Reader, is_int, kind_of
from storelib.seed import CONFIG
from storelib.times import DAY

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MINION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

HOST_NAME = "a host name"
SHORT_NAME = "up to 15 letters, digits, . _ -"
SOURCES = f"a bridge ({SHORT_NAME}) or libvirt network (up to 128, and spaces)"


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


@dataclass(frozen=True)
class StoreSpec:
    """A store server, fully described. ``guest_pillar`` is not part of it: see the ext_pillar."""

    store: str
    minion_id: str
    hostname: str
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
    if isinstance(value, str) and ID.fullmatch(value):
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
    faults: list[str] = []
    reader = Reader(pillar, "", faults)
    spec = _spec(reader)
    if faults or spec is None:
        raise SpecError(
            f"pillar store_server of {hypervisor} is wrong: " + "; ".join(faults),
            f"mend the pillar, then try again; salt-run pillar.show_pillar {hypervisor} shows it",
        )
    if spec.minion_id == hypervisor:
        raise SpecError(
            f"pillar store_server of {hypervisor}: minion_id is the hypervisor's own",
            "give the store server a minion ID of its own",
        )
    return spec


def guest_pillar(pillar: object) -> dict[str, Any]:
    """Return ``guest_pillar`` of the hypervisor's ``store_server``, ``{}`` if there is none."""
    value = pillar.get("guest_pillar") if isinstance(pillar, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def default_mac(store: str, name: str) -> str:
    """Return the address that an interface keeps over redeployments, in QEMU's own range."""
    digest = hashlib.sha256(f"{store}/{name}".encode()).hexdigest()
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def _spec(top: Reader) -> StoreSpec | None:
    store = top.text(
        "store",
        ID.fullmatch,
        "a quoted string of 1 to 63 letters, digits, . _ - ('0417')",
        REQUIRED,
    )
    minion_id = top.text(
        "minion_id", MINION_ID.fullmatch, "up to 128 letters, digits, . _ -", f"store-{store}"
    )
    image = top.part("image", REQUIRED)
    start = top.part("start", {})
    values = {
        "store": store,
        "minion_id": minion_id,
        "hostname": top.text(
            "hostname",
            formats.HOSTNAME.fullmatch,
            HOST_NAME,
            minion_id,
            formats.wrong_host_name,
        ),
        "auto_deploy": top.get("auto_deploy", False, lambda v: isinstance(v, bool), "true | false"),
        "image": Image(
            source=image.text(
                "source",
                formats.SOURCE.fullmatch,
                "salt://PATH, http(s)://URL or /PATH without spaces",
                REQUIRED,
                formats.wrong_source,
            ),
            sha256=image.text(
                "sha256",
                formats.SHA256.fullmatch,
                "64 lower-case hexadecimal digits",
                REQUIRED,
                formats.wrong_sha256,
            ),
        ),
        "cpus": top.integer("cpus", 1, 512, 2),
        "memory_mib": top.integer("memory_mib", 128, 16 * 1024 * 1024, 2048),
        "disk_gib": top.integer("disk_gib", 1, 65536, 20),
        "pool": top.text(
            "pool",
            formats.is_pool,
            "an absolute directory or the name of a libvirt pool of type dir (up to 128 letters, "
            "digits, spaces, . _ -)",
            "/var/lib/libvirt/images",
        ),
        "clone": top.choice("clone", "copy", "cow"),
        "data_disks": tuple(_data_disk(part) for part in top.parts("data_disks", [], "a list")),
        "virt_type": top.choice("virt_type", "auto", "kvm", "qemu", "xen"),
        "os_type": top.choice("os_type", "hvm", "xen", "xenpvh"),
        "firmware": top.choice("firmware", "bios", "efi"),
        "interfaces": tuple(
            _interface(part, store)
            for part in top.parts(
                "interfaces",
                [{"name": "eth0", "type": "bridge", "source": "br0", "address": "dhcp"}],
                "a list",
            )
        ),
        "master": top.text(
            "master",
            formats.HOSTNAME.fullmatch,
            "a host name or IPv4 address",
            REQUIRED,
            formats.wrong_master,
        ),
        "minion": top.choice("minion", *CONFIG),
        "admission": top.choice("admission", "autosign", "pinned"),
        "start": Start(
            attempts=start.integer("attempts", 1, 20, 5),
            backoff_s=tuple(
                start.get(
                    "backoff_s",
                    (2, 4, 8, 16, 30),
                    lambda v: (
                        isinstance(v, (list, tuple))
                        and bool(v)
                        and all(is_int(s) and 0 <= s <= 600 for s in v)
                    ),
                    "a list of seconds 0..600",
                )
                or ()
            ),
            steady_s=start.integer("steady_s", 0, 600, 20),
        ),
        "verify": tuple(_probe(part) for part in top.parts("verify", [], "a list of probes")),
        "timeouts": _timeouts(top.part("timeouts", {})),
    }
    top.seen.add("guest_pillar")
    if not isinstance(top.data.get("guest_pillar", {}), Mapping):
        # What it holds may be secret.
        top.told("guest_pillar", kind_of(top.data["guest_pillar"]), "a mapping")
    for part in (image, start, top):
        part.end()
    _agree(values, top)
    return None if top.faults else StoreSpec(**values)


def _agree(values: Mapping[str, Any], top: Reader) -> None:
    """Find what is right by itself and wrong together."""
    hostname = values["hostname"]
    if "hostname" not in top.data and hostname:
        wrong = formats.wrong_host_name(hostname)
        if wrong or not formats.HOSTNAME.fullmatch(hostname):
            top.fault("hostname", hostname, f"{HOST_NAME} (give one, minion_id is none)", wrong)
    if values["os_type"] in ("xen", "xenpvh") and values["virt_type"] not in ("xen", "auto"):
        top.fault("os_type", values["os_type"], "hvm, unless virt_type is xen or auto")
    if values["firmware"] == "efi" and values["os_type"] not in ("hvm", None):
        top.fault("firmware", "efi", "bios, unless os_type is hvm")
    # Not by case alone: that is nothing to some file systems.
    _differ(top, "data_disks", "names", [d.name and d.name.lower() for d in values["data_disks"]])
    _interfaces_agree(top, values["interfaces"])
    addresses = [i.address.partition("/")[0] for i in values["interfaces"] if i.address]
    if values["master"] and values["master"] in (hostname, *addresses):
        top.fault("master", values["master"], "another machine than the server itself")
    _start_fits(top, values["start"], values["timeouts"])


def _interfaces_agree(top: Reader, interfaces: tuple[Interface, ...]) -> None:
    if not interfaces:
        top.fault("interfaces", [], "at least one interface")
    _differ(top, "interfaces", "names", [each.name for each in interfaces])
    _differ(top, "interfaces", "hardware addresses", [each.mac for each in interfaces])
    static = [each for each in interfaces if each.address not in (None, "dhcp")]
    own = [str(ipaddress.ip_interface(each.address).ip) for each in static]
    _differ(top, "interfaces", "addresses", own)
    gateways = [each.gateway for each in static if each.gateway]
    families = [ipaddress.ip_address(gateway).version for gateway in gateways]
    if len(set(families)) < len(families):
        top.fault("interfaces", gateways, "one gateway for IPv4, one for IPv6")
    for each in static:
        if each.gateway and ipaddress.ip_address(each.gateway) in map(ipaddress.ip_address, own):
            top.fault("interfaces", each.gateway, "a gateway that is not the server itself")


def _differ(top: Reader, key: str, what: str, values: list[str]) -> None:
    values = [value for value in values if value]
    if len(set(values)) < len(values):
        top.fault(key, values, f"{what} that differ")


def _start_fits(top: Reader, start: Start, timeouts: dict[str, int]) -> None:
    if start.attempts is None or not start.backoff_s or start.steady_s is None:
        return
    limit = lifecycle.limit_s("starting", timeouts)
    pauses = sum(start.backoff_s[:n][-1] for n in range(1, start.attempts))
    if limit and pauses + start.steady_s >= limit:
        top.told(
            "start",
            f"{pauses} s of pauses (attempts, backoff_s) and {start.steady_s} s of steady_s",
            f"less than the {limit} s of timeouts.starting in all",
        )


def _data_disk(part: Reader) -> DataDisk:
    disk = DataDisk(
        name=part.text("name", NAME.fullmatch, SHORT_NAME, REQUIRED, formats.wrong_disk),
        size_gib=part.integer("size_gib", 1, 65536, REQUIRED),
    )
    part.end()
    return disk


def _interface(part: Reader, store: str) -> Interface:
    name = part.text("name", NAME.fullmatch, SHORT_NAME, REQUIRED, formats.wrong_interface)
    kind = part.choice("type", "bridge", "network", "user")
    address = part.text(
        "address",
        formats.is_address,
        "dhcp or ADDRESS/PREFIX, such as 10.1.2.3/24",
        "dhcp",
        formats.wrong_address,
    )
    interface = Interface(
        name=name,
        type=kind,
        source=_source(part, kind),
        mac=part.text(
            "mac",
            formats.MAC.fullmatch,
            "six lower-case pairs aa:bb:..",
            default_mac(store, str(name)),
            formats.wrong_mac,
        ),
        address=address,
        gateway=part.text(
            "gateway",
            lambda v: formats.is_gateway(v, address),
            "an address in the network of a static address",
            None,
            lambda v: formats.wrong_gateway(v, address),
        ),
        dns=tuple(
            part.get(
                "dns",
                (),
                lambda v: (
                    isinstance(v, (list, tuple))
                    and all(map(formats.is_ip, v))
                    and (address != "dhcp" or not v)
                ),
                "a list of addresses, with a static address",
                formats.wrong_dns,
            )
            or ()
        ),
    )
    part.end()
    return interface


def _source(part: Reader, kind: str | None) -> Any:
    """Read what the interface is connected to: what may be its name depends on the type."""
    name = LIBVIRT_NAME if kind == "network" else NAME
    wrong = formats.wrong_interface if kind == "bridge" else lambda _: ""
    source = part.text("source", name.fullmatch, SOURCES, None, wrong)
    if (kind == "user") == (source is not None) and "source" not in _faulty(part):
        part.fault("source", source, f"{SOURCES}; none with type user")
    return source


def _faulty(part: Reader) -> set[str]:
    """Return the keys of ``part`` that already have a fault."""
    heads = (fault.partition(" ")[0] for fault in part.faults)
    return {head.rpartition(".")[2] for head in heads if head.startswith(f"{part.where}.")}


def _probe(part: Reader) -> dict[str, Any]:
    probe = {
        "tcp": part.integer("tcp", 1, 65535, None),
        "service": part.text("service", formats.SERVICE.fullmatch, "a unit's name", None),
        "command": part.get(
            "command", None, lambda v: isinstance(v, str) and bool(v.strip()), "a shell command"
        ),
    }
    part.end()
    given = {kind: value for kind, value in probe.items() if value is not None}
    faulty = any(fault.startswith((f"{part.where} ", f"{part.where}.")) for fault in part.faults)
    if len(given) != 1 and not faulty:
        part.fault("", dict(part.data), "exactly one of tcp, service, command")
    return given


def _timeouts(part: Reader) -> dict[str, int]:
    limits = {state: part.integer(state, 1, 7 * DAY, None) for state in lifecycle.FOLLOWS}
    part.end()
    return {state: limit for state, limit in limits.items() if limit is not None}
