# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What cloud-init set up, made to stay without it."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import Any

from storelib import files
from storelib.errors import Fault
from storelib.guest.deployment import boot_id
from storelib.guest.leftovers import CLOUD_INIT_OFF, switch_cloud_init_off
from storelib.guest.root import at, matches, name_of, text_of

NETWORK_FILES = (
    "/etc/netplan/*.yaml",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/NetworkManager/system-connections/*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
    "/etc/systemd/network/*.network",
)
"""Where a distribution keeps network configuration that outlives a reboot."""


def settle() -> dict[str, Any]:
    """
    Make what cloud-init set up stay without cloud-init, and switch cloud-init off.

    Returns the facts that were read back. Raises :class:`Fault` if an interface would be without
    configuration after the next reboot; cloud-init is left on then.
    """
    interfaces = {name: _network_files(name, mac) for name, mac in _interfaces()}
    bare = sorted(name for name, found in interfaces.items() if not found)
    if bare:
        raise Fault(
            f"interface {', '.join(bare)} has no configuration that outlives a reboot",
            "let the image's cloud-init render the network for the software that runs it",
            {"interfaces": interfaces},
        )
    # cloud-init itself gave the interfaces their names, from now on udev does. Not to a bridge, a
    # VLAN or whatever else is made on top of one and has its MAC: these have a kind, devices none.
    # Before its version 251 udev does not know that, and goes by the type.
    for name, mac in _interfaces():
        link = f"[Match]\nMACAddress={mac}\nType=ether\nKind=!*\n\n[Link]\nName={name}\n"
        files.write(at(f"/etc/systemd/network/10-store-deploy-{name}.link"), link)
    hostname = text_of("/proc/sys/kernel/hostname")
    if text_of("/etc/hostname") != hostname:
        files.write(at("/etc/hostname"), hostname + "\n")
    switch_cloud_init_off()
    # What cloud-init wrote has to be on the disk too.
    os.sync()
    return {
        "boot_id": boot_id(),
        "cloud_init_off": at(CLOUD_INIT_OFF).exists(),
        "hostname": text_of("/etc/hostname"),
        "interfaces": interfaces,
    }


def _interfaces() -> list[tuple[str, str]]:
    """Return name and MAC address of each network interface that stands for a device."""
    devices = [path.parent for path in matches("/sys/class/net/*/device")]
    return [(path.name, (path / "address").read_text().strip()) for path in devices]


def _network_files(interface: str, mac: str) -> list[str]:
    """Return the files that configure an interface, by its name, a pattern of it or its MAC."""
    found = []
    for path in filter(Path.is_file, (match for glob in NETWORK_FILES for match in matches(glob))):
        text = f"{path.name.replace('ifcfg-', ' ')}\n{path.read_text(errors='replace')}"
        words = re.findall(r"[\w.:*?-]+", re.sub(r"(?m)^\s*#.*$", "", text))
        if any(word.lower() == mac.lower() or _names(word, interface) for word in words):
            found.append(name_of(path))
    return found


def _names(word: str, interface: str) -> bool:
    return fnmatch.fnmatchcase(interface, word.rstrip(":")) and word[0] not in "*?"
