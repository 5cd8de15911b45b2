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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storelib import lifecycle
from storelib.errors import Refused, SpecError
from storelib.seed import CONFIG

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MINION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63})*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
"""Names of interfaces (the kernel's limit is 15 characters), bridges and data disks."""

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
SHA256 = re.compile(r"[0-9a-f]{64}")
SOURCE = re.compile(r"(salt://|https?://|/)[!-~]{1,1023}")
PATH = re.compile(r"/[ -~]{1,255}")


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
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Refused(
            f"the store ID arrived as the number {value}, which need not be what was typed "
            "(YAML reads a bare 0417 as 417 or 271)",
            "quote it: on the command line \"'0417'\", in YAML '0417'",
        )
    raise Refused(
        f"{_shown(value)} is no store ID",
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
    reader = _Reader(pillar, "", faults)
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


_REQUIRED: Any = object()


class _Reader:
    """Reads one mapping key by key and notes each fault; a faulty key reads as ``None``."""

    def __init__(self, data: object, where: str, faults: list[str]) -> None:
        self.where = where
        self.faults = faults
        self.seen: set[str] = set()
        if not isinstance(data, Mapping):
            self.fault("", data, "a mapping of keys to values")
            data = {}
        self.data = data

    def fault(self, key: str, value: object, allowed: str) -> None:
        path = ".".join(filter(None, (self.where, key))) or "store_server"
        missing = value is _REQUIRED
        self.faults.append(
            f"{path} is {'missing' if missing else _shown(value)}, allowed: {allowed}"
        )

    def get(self, key: str, default: Any, good: Callable[[Any], bool], allowed: str) -> Any:
        self.seen.add(key)
        value = self.data.get(key, default)
        if value is default and default is not _REQUIRED:
            return default
        if value is _REQUIRED or not good(value):
            self.fault(key, value, allowed)
            return None
        return value

    def text(self, key: str, pattern: re.Pattern[str], allowed: str, default: Any) -> Any:
        return self.get(
            key, default, lambda v: isinstance(v, str) and bool(pattern.fullmatch(v)), allowed
        )

    def integer(self, key: str, low: int, high: int, default: Any) -> Any:
        return self.get(
            key, default, lambda v: _is_int(v) and low <= v <= high, f"a whole number {low}..{high}"
        )

    def choice(self, key: str, *choices: str) -> Any:
        """Read one of ``choices``; the first is the default."""
        return self.get(key, choices[0], lambda v: v in choices, " | ".join(choices))

    def part(self, key: str, default: Any) -> _Reader:
        self.seen.add(key)
        where = ".".join(filter(None, (self.where, key)))
        return _Reader(self.data.get(key, default), where, self.faults)

    def parts(self, key: str, default: Any, allowed: str) -> list[_Reader]:
        values = self.get(key, default, lambda v: isinstance(v, (list, tuple)), allowed) or []
        where = ".".join(filter(None, (self.where, key)))
        return [_Reader(value, f"{where}[{i}]", self.faults) for i, value in enumerate(values)]

    def end(self) -> None:
        for key in self.data:
            if key not in self.seen:
                self.fault(str(key), self.data[key], f"no such key; known: {sorted(self.seen)}")


def _spec(top: _Reader) -> StoreSpec | None:
    store = top.text(
        "store", ID, "a quoted string of 1 to 63 letters, digits, . _ - ('0417')", _REQUIRED
    )
    minion_id = top.text(
        "minion_id", MINION_ID, "up to 128 letters, digits, . _ -", f"store-{store}"
    )
    image = top.part("image", _REQUIRED)
    start = top.part("start", {})
    values = {
        "store": store,
        "minion_id": minion_id,
        "hostname": top.text("hostname", HOSTNAME, "a host name", minion_id),
        "auto_deploy": top.get("auto_deploy", False, lambda v: isinstance(v, bool), "true | false"),
        "image": Image(
            source=image.text(
                "source", SOURCE, "salt://PATH, http(s)://URL or /PATH without spaces", _REQUIRED
            ),
            sha256=image.text("sha256", SHA256, "64 lower-case hexadecimal digits", _REQUIRED),
        ),
        "cpus": top.integer("cpus", 1, 512, 2),
        "memory_mib": top.integer("memory_mib", 128, 16 * 1024 * 1024, 2048),
        "disk_gib": top.integer("disk_gib", 1, 65536, 20),
        "pool": top.get(
            "pool",
            "/var/lib/libvirt/images",
            lambda v: isinstance(v, str) and bool(PATH.fullmatch(v) or NAME.fullmatch(v)),
            "an absolute directory or the name of a libvirt pool of type dir",
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
        "master": top.text("master", HOSTNAME, "a host name or address", _REQUIRED),
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
                        and all(_is_int(s) and 0 <= s <= 600 for s in v)
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
    top.get("guest_pillar", {}, lambda v: isinstance(v, Mapping), "a mapping")
    for part in (image, start, top):
        part.end()
    _agree(values, top)
    return None if top.faults else StoreSpec(**values)


def _agree(values: Mapping[str, Any], top: _Reader) -> None:
    """Find what is right by itself and wrong together."""
    if values["hostname"] and not HOSTNAME.fullmatch(values["hostname"]):
        top.fault("hostname", values["hostname"], "a host name; give one, minion_id is none")
    if values["os_type"] in ("xen", "xenpvh") and values["virt_type"] not in ("xen", "auto"):
        top.fault("os_type", values["os_type"], "hvm, unless virt_type is xen or auto")
    if values["firmware"] == "efi" and values["os_type"] not in ("hvm", None):
        top.fault("firmware", "efi", "bios, unless os_type is hvm")
    for key in ("data_disks", "interfaces"):
        names = [item.name for item in values[key]]
        if len(set(names)) < len(names):
            top.fault(key, names, "names that differ")
    if not values["interfaces"]:
        top.fault("interfaces", [], "at least one interface")


def _data_disk(part: _Reader) -> DataDisk:
    disk = DataDisk(
        name=part.text("name", NAME, "up to 15 letters, digits, . _ -", _REQUIRED),
        size_gib=part.integer("size_gib", 1, 65536, _REQUIRED),
    )
    part.end()
    return disk


def _interface(part: _Reader, store: str) -> Interface:
    name = part.text("name", NAME, "up to 15 letters, digits, . _ -", _REQUIRED)
    kind = part.choice("type", "bridge", "network", "user")
    address = part.get(
        "address", "dhcp", _is_address, "dhcp or ADDRESS/PREFIX, such as 10.1.2.3/24"
    )
    gateway = part.get(
        "gateway",
        None,
        lambda v: (
            _is_ip(v)
            and address not in (None, "dhcp")
            and ipaddress.ip_address(v) in ipaddress.ip_interface(address).network
        ),
        "an address in the network of a static address",
    )
    dns = part.get(
        "dns",
        (),
        lambda v: (
            isinstance(v, (list, tuple)) and all(map(_is_ip, v)) and (address != "dhcp" or not v)
        ),
        "a list of addresses, with a static address",
    )
    source = part.text("source", NAME, "a bridge or libvirt network", None)
    if (kind == "user") == (source is not None) and "source" not in _faulty(part):
        part.fault("source", source, "a bridge or libvirt network; none with type user")
    interface = Interface(
        name=name,
        type=kind,
        source=source,
        mac=part.text("mac", MAC, "six lower-case pairs aa:bb:..", default_mac(store, str(name))),
        address=address,
        gateway=gateway,
        dns=tuple(dns or ()),
    )
    part.end()
    return interface


def _faulty(part: _Reader) -> set[str]:
    """Return the keys of ``part`` that already have a fault."""
    heads = (fault.partition(" ")[0] for fault in part.faults)
    return {head.rpartition(".")[2] for head in heads if head.startswith(f"{part.where}.")}


def _probe(part: _Reader) -> dict[str, Any]:
    probe = {
        "tcp": part.integer("tcp", 1, 65535, None),
        "service": part.text(
            "service", re.compile(r"[A-Za-z0-9@._-]{1,128}"), "a unit's name", None
        ),
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


def _timeouts(part: _Reader) -> dict[str, int]:
    limits = {
        state: part.integer(state, 1, 7 * 24 * lifecycle.HOUR, None) for state in lifecycle.FOLLOWS
    }
    part.end()
    return {state: limit for state, limit in limits.items() if limit is not None}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ip(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _is_address(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        # A netmask is no prefix: cloud-init would not take it.
        return value == "dhcp" or (
            value.partition("/")[2].isdecimal() and bool(ipaddress.ip_interface(value))
        )
    except ValueError:
        return False


def _shown(value: object) -> str:
    """Return a value as the operator may see it: on one line, not too long."""
    text = repr(value) if isinstance(value, (str, bool)) else str(value)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else f"{text[:77]}..."
