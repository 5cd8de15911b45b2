# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The field table: every key of the pillar ``store_server``, what it may be and what it means.

This table is the truth. :mod:`spec` reads a pillar by it; the reference in the docs and the JSON
Schema in ``pillar/`` are made from it (``make diagram``). A new key is a row here, and an attribute
of the spec.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from storelib.seed import CONFIG
from storemaster.deployment import formats, lifecycle
from storemaster.deployment.times import DAY

REQUIRED: Any = object()
"""The default of a key that has none."""

OWN, SHARED = "the store", "all stores"
"""Whose a key usually is: the scope of a field."""

HOST_NAME = "a host name"
SHORT_NAME = "up to 15 letters, digits, . _ -"
SOURCES = f"a bridge ({SHORT_NAME}) or libvirt network (up to 128, and spaces)"


@dataclass(frozen=True)
class Kind:
    """What a value may be."""

    allowed: str
    """In words."""
    good: Callable[..., object]
    """Says whether its syntax is right."""
    schema: Mapping[str, Any]
    """The same in JSON Schema, as far as that can say it."""
    wrong: Callable[..., str] = lambda *_: ""
    """Says what is wrong with it all the same."""
    beside: tuple[str, ...] = ()
    """Keys above it in the table whose values ``good`` and ``wrong`` get, too."""
    secret: bool = False
    """Whether it may hold what must not be shown."""


@dataclass(frozen=True)
class Field:
    """One key of the pillar."""

    path: str
    """``[]`` is each item of a list, ``STATE`` each state that has a limit."""
    kind: Kind
    default: Any
    """A function of what was read before it, if it is callable."""
    scope: str
    meaning: str
    default_told: str = ""
    """What the reference says of a default that cannot be shown as it is."""

    @property
    def where(self) -> str:
        """The path of the mapping that it is in."""
        return self.path.rpartition(".")[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it stands for."""
        key = self.path.rpartition(".")[2]
        return tuple(lifecycle.FOLLOWS) if key == "STATE" else (key,)


def is_int(value: object) -> bool:
    """Say whether that is a whole number; a boolean is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def text(
    allowed: str,
    pattern: re.Pattern[str],
    wrong: Callable[..., str] = lambda *_: "",
    good: Callable[..., object] = lambda *_: True,
    beside: tuple[str, ...] = (),
) -> Kind:
    """Make a kind: a text that as a whole is of this pattern, and ``good``."""
    return Kind(
        allowed,
        lambda v, *others: isinstance(v, str) and pattern.fullmatch(v) and good(v, *others),
        # To JSON Schema the end of a text is $ alone.
        {"type": "string", "pattern": rf"^({pattern.pattern})$".replace(r"\Z", "$")},
        wrong,
        beside,
    )


def whole(low: int, high: int) -> Kind:
    """Make a kind: a whole number within bounds."""
    return Kind(
        f"a whole number {low}..{high}",
        lambda v: is_int(v) and low <= v <= high,
        {"type": "integer", "minimum": low, "maximum": high},
    )


def choice(*choices: str) -> Kind:
    """Make a kind: one of these texts."""
    return Kind(" | ".join(choices), lambda v: v in choices, {"enum": list(choices)})


def several(
    allowed: str,
    item: Kind,
    least: int = 0,
    wrong: Callable[..., str] = lambda *_: "",
    good: Callable[..., object] = lambda *_: True,
    beside: tuple[str, ...] = (),
) -> Kind:
    """Make a kind: a list of values of one kind, at least so many of them, and ``good``."""
    return Kind(
        allowed,
        lambda v, *others: (
            isinstance(v, (list, tuple))
            and len(v) >= least
            and all(map(item.good, v))
            and good(v, *others)
        ),
        {"type": "array", "items": item.schema, "minItems": least},
        wrong,
        beside,
    )


def default_mac(store: str, name: str) -> str:
    """Return the address that an interface keeps over redeployments, in QEMU's own range."""
    digest = hashlib.sha256(f"{store}/{name}".encode()).hexdigest()
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


FLAG = Kind("true | false", lambda v: isinstance(v, bool), {"type": "boolean"})
PART = Kind("a mapping of keys to values", lambda v: isinstance(v, Mapping), {"type": "object"})
"""A mapping whose keys are in the table."""
ANYTHING = Kind("a mapping", PART.good, PART.schema, secret=True)
PARTS = Kind(
    "a list, or a mapping by name",
    lambda v: isinstance(v, (list, tuple, Mapping)),
    {"type": "array"},
)
"""A list of mappings whose keys are in the table; a form saves them by their names."""
PROBES = Kind("a list of probes, or a mapping of lists", PARTS.good, PARTS.schema)
"""Such a list, each of its mappings with exactly one of the keys; a form saves a list of each."""
ADDRESS = text("an address", formats.ADDRESS, good=formats.is_ip)

TABLE = (
    Field(
        "store",
        text("a quoted string of 1 to 63 letters, digits, . _ - ('0417')", formats.STORE_ID),
        REQUIRED,
        OWN,
        "the store's ID; it begins with a letter or digit",
    ),
    Field(
        "minion_id",
        text("up to 128 letters, digits, . _ -", formats.MINION_ID),
        lambda found: f"store-{found['store']}",
        OWN,
        "of the store server; also the name of its domain. A store that has a server keeps it: "
        "`deploy.retire` first",
        "`store-{store}`",
    ),
    Field(
        "hostname",
        text(HOST_NAME, formats.HOSTNAME, formats.wrong_host_name),
        lambda found: found["minion_id"],
        OWN,
        "the server's, with domain if you like; nothing that looks like an address",
        "`{minion_id}`",
    ),
    Field(
        "group",
        text("a name of up to 128 characters", formats.GROUP),
        None,
        SHARED,
        "a region or line, by which stores are listed: `deploy.list group=GROUP`",
    ),
    Field(
        "auto_deploy",
        FLAG,
        False,
        OWN,
        "whether the hypervisor's ready event may begin the first deployment, and one on "
        "[new hardware](operate.md#new-hardware)",
    ),
    Field("image", PART, REQUIRED, SHARED, "what the system disk is cloned from"),
    Field(
        "image.source",
        text(
            "salt://PATH, http(s)://URL or /PATH without spaces",
            formats.SOURCE,
            formats.wrong_source,
        ),
        REQUIRED,
        SHARED,
        "where the hypervisor gets the image; a path is one on the hypervisor. No credentials in a "
        "URL",
    ),
    Field(
        "image.sha256",
        text("64 lower-case hexadecimal digits", formats.SHA256, formats.wrong_sha256),
        REQUIRED,
        SHARED,
        "checksum of the image: `sha256sum FILE` prints it",
    ),
    Field("cpus", whole(1, 512), 2, SHARED, "virtual CPUs"),
    Field("memory_mib", whole(128, 16 * 1024 * 1024), 2048, SHARED, "memory"),
    Field(
        "disk_gib",
        whole(1, 65536),
        20,
        SHARED,
        "size of the system disk, not smaller than the image",
    ),
    Field(
        "pool",
        text(
            "an absolute directory or the name of a libvirt pool of type dir (up to 128 letters, "
            "digits, spaces, . _ -)",
            formats.POOL,
        ),
        "/var/lib/libvirt/images",
        SHARED,
        "where disks, seed and cached image are",
    ),
    Field(
        "clone",
        choice("copy", "cow"),
        "copy",
        SHARED,
        "`copy` is independent of the image; `cow` has the cached image as its backing file, which "
        "must then never be removed",
    ),
    Field(
        "data_disks",
        PARTS,
        (),
        OWN,
        "disks that outlive the server: made once, attached again at each deployment, never "
        "changed",
    ),
    Field(
        "data_disks[].name",
        text(SHORT_NAME, formats.NAME, formats.wrong_disk),
        REQUIRED,
        OWN,
        "the file is `MINION_ID-NAME.qcow2`. Not system, disk, cdrom, seed, nvram",
    ),
    Field(
        "data_disks[].size_gib",
        whole(1, 65536),
        REQUIRED,
        OWN,
        "size when it is made; a disk that exists keeps its size",
    ),
    Field(
        "virt_type",
        choice("auto", "kvm", "qemu", "xen"),
        "auto",
        SHARED,
        "`auto` takes the first of kvm, xen, qemu that works there",
    ),
    Field(
        "os_type",
        choice("hvm", "xen", "xenpvh"),
        "hvm",
        SHARED,
        "`xen` (PV) and `xenpvh` only with `virt_type` xen or auto",
    ),
    Field("firmware", choice("bios", "efi"), "bios", SHARED, "efi only with `os_type` hvm"),
    Field(
        "interfaces",
        PARTS,
        ({"name": "eth0", "type": "bridge", "source": "br0", "address": "dhcp"},),
        SHARED,
        "network interfaces, at least one",
    ),
    Field(
        "interfaces[].name",
        text(SHORT_NAME, formats.NAME, formats.wrong_interface),
        REQUIRED,
        SHARED,
        "its name in the guest",
    ),
    Field(
        "interfaces[].type",
        choice("bridge", "network", "user"),
        "bridge",
        SHARED,
        "libvirt's; `user` is QEMU's user networking, for tests",
    ),
    Field(
        "interfaces[].source",
        text(
            SOURCES,
            formats.LIBVIRT_NAME,
            formats.wrong_link,
            formats.is_link,
            beside=("type",),
        ),
        None,
        SHARED,
        "what it is connected to",
        "required, except with type user",
    ),
    Field(
        "interfaces[].mac",
        text("six lower-case pairs aa:bb:..", formats.MAC, formats.wrong_mac),
        lambda found: default_mac(found["store"], found["name"]),
        OWN,
        "quoted; the same at each deployment",
        "made of store ID and interface name",
    ),
    Field(
        "interfaces[].address",
        text(
            "dhcp or ADDRESS/PREFIX, such as 10.1.2.3/24",
            formats.WITH_PREFIX,
            formats.wrong_address,
            formats.is_address,
        ),
        "dhcp",
        OWN,
        "IPv4 by DHCP, or a static address",
    ),
    Field(
        "interfaces[].gateway",
        text(
            "an address in the network of a static address",
            formats.ADDRESS,
            formats.wrong_gateway,
            formats.is_gateway,
            beside=("address",),
        ),
        None,
        OWN,
        "default route; one for IPv4, one for IPv6",
    ),
    Field(
        "interfaces[].dns",
        several(
            "a list of addresses, with a static address",
            ADDRESS,
            wrong=formats.wrong_dns,
            good=lambda values, address: address != "dhcp" or not values,
            beside=("address",),
        ),
        (),
        OWN,
        "name servers",
    ),
    Field(
        "master",
        text("a host name or IPv4 address", formats.HOSTNAME, formats.wrong_master),
        REQUIRED,
        SHARED,
        "whom the guest's minion calls; it must be this master, or a proxy before it",
    ),
    Field(
        "minion",
        choice(*CONFIG),
        next(iter(CONFIG)),
        SHARED,
        "which minion is in the image; the latter is the Salt Bundle's",
    ),
    Field(
        "registration",
        choice("keep", "reactivation", "profile_first"),
        "keep",
        SHARED,
        "what a server is to Uyuni: see [its profile](uyuni.md#the-profile-of-a-store-server)",
    ),
    Field(
        "activation_key",
        dataclasses.replace(
            text("up to 256 letters, digits, . _ -", formats.ACTIVATION_KEY), secret=True
        ),
        None,
        SHARED,
        "Uyuni's, for a server that it is to register; not with `registration` keep",
    ),
    Field(
        "system_groups",
        several("a list of names", text("a name", formats.LIBVIRT_NAME)),
        (),
        SHARED,
        "Uyuni's, for a profile that is made in advance",
    ),
    Field(
        "admission",
        choice("autosign", "pinned"),
        "autosign",
        SHARED,
        "how the guest's key gets in: see [security](security.md#security)",
    ),
    Field("start", PART, {}, SHARED, "how the domain's start is tried"),
    Field("start.attempts", whole(1, 20), 5, SHARED, "how often the start is tried"),
    Field(
        "start.backoff_s",
        several("a list of seconds 0..600", whole(0, 600), least=1),
        (2, 4, 8, 16, 30),
        SHARED,
        "pauses between the attempts; the last one is repeated",
    ),
    Field(
        "start.steady_s",
        whole(0, 600),
        20,
        SHARED,
        "seconds that the domain must run without a break; with the pauses less than "
        "`timeouts.starting`",
    ),
    Field(
        "verify",
        PROBES,
        (),
        SHARED,
        "run in the guest; all must pass. Each has exactly one of the next three keys",
    ),
    Field(
        "verify[].tcp",
        whole(1, 65535),
        None,
        SHARED,
        "a port that takes a connection",
        "none",
    ),
    Field(
        "verify[].service",
        text("a unit's name", formats.SERVICE),
        None,
        SHARED,
        "a service that runs",
        "none",
    ),
    Field(
        "verify[].command",
        text("a shell command", formats.COMMAND),
        None,
        SHARED,
        "ends with status 0 within 60 s",
        "none",
    ),
    Field("timeouts", PART, {}, SHARED, "other limits of states"),
    Field(
        "timeouts.STATE",
        whole(1, 7 * DAY),
        None,
        SHARED,
        "seconds until the state fails",
        "see [states](operate.md#states-and-deadlines)",
    ),
    Field(
        "guest_pillar",
        ANYTHING,
        {},
        OWN,
        "becomes pillar of the guest, always as it is now: not frozen into the record",
    ),
)


@functools.cache
def under(where: str) -> dict[str, Field]:
    """Return the fields of a mapping by their keys; ``interfaces[]`` is an item's path."""
    return {key: field for field in TABLE if field.where == where for key in field.keys}
