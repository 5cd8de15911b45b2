# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a new server is defined, in the words of Salt's ``virt.init``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storelib.hypervisor.place import Place


def arguments(spec: Mapping[str, Any], place: Place, virt_type: str) -> dict[str, Any]:
    """
    Return the keyword arguments for Salt's ``virt.init``.

    Nothing is left to its defaults that would make a disk, start or seed the guest, or listen on
    the network.
    """
    xen = virt_type == "xen"
    disks = [{"name": "system", "source_file": str(place.disk), "format": "qcow2"}]
    disks += [
        {
            "name": data["name"],
            "source_file": str(place.data_disk(data["name"])),
            "format": "qcow2",
        }
        for data in spec["data_disks"]
    ]
    seed = {
        "name": "store-deploy-seed",
        "device": "cdrom",
        "source_file": str(place.seed),
        "format": "raw",
    }
    if spec["os_type"] != "hvm":
        # Without an emulated IDE controller there is no CD drive: cloud-init finds the seed by its
        # label on a disk, too.
        seed |= {"device": "disk", "model": "xen"}
    return {
        "name": spec["minion_id"],
        # Without a mode KVM shows the guest a CPU older than what today's distributions ask for.
        "cpu": {"maximum": spec["cpus"], "mode": "host-passthrough"}
        if virt_type == "kvm"
        else spec["cpus"],
        "mem": spec["memory_mib"],
        "nic": None,
        "interfaces": [_interface(interface, xen) for interface in spec["interfaces"]],
        "hypervisor": virt_type,
        "start": False,
        "seed": False,
        "disk": None,
        "disks": [*disks, seed],
        "graphics": None,
        "os_type": spec["os_type"],
        "boot": {"efi": True} if spec["firmware"] == "efi" else None,
        "serials": None if spec["os_type"] != "hvm" else [{"type": "pty"}],
        "consoles": [{"type": "pty"}] if spec["os_type"] != "hvm" else None,
    }


def _interface(interface: Mapping[str, Any], xen: bool) -> dict[str, Any]:
    made = {key: interface[key] for key in ("name", "type", "mac")}
    if interface["type"] != "user":
        made["source"] = interface["source"]
    if not xen:
        made["model"] = "virtio"
    return made
