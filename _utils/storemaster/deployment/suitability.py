# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Says what the facts of a hypervisor lack: would this store's server fit and work there?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storelib import commands
from storelib.domain_states import ON
from storelib.hardware import FIRST_BOOT_MIB, missing

MIB = 1024**2
GIB = 1024**3


def hypervisor(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return what keeps the hypervisor from taking the store's server, a sentence each."""
    return list(_hypervisor(spec, facts))


def _hypervisor(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    libvirt = facts["libvirt"]
    if not libvirt["reachable"]:
        yield f"{libvirt['why']}: start libvirtd"
        return
    if not facts["virt_module"]:
        yield (
            "Salt's virt module does not load: install libvirt-python for the minion's Python "
            "(Salt Bundle: package libvirt-libs; Salt 3008: also saltext-virt)"
        )
    if facts["tools_missing"]:
        yield f"programs are missing: install {', '.join(facts['tools_missing'])}"
    if spec["virt_type"] != "auto" and spec["virt_type"] not in facts["virt_types"]:
        usable = ", ".join(facts["virt_types"]) or "none"
        yield f"virt_type {spec['virt_type']} cannot be used there: usable is {usable}"
    for source in facts["sources_missing"]:
        yield f"{source} does not exist or is not active: create it or correct the pillar"
    pool = facts["pool"]
    if facts["pool_error"] or not pool["exists"]:
        fault = facts["pool_error"] or f"pool {spec['pool']} does not exist"
        yield f"{fault}: create it or correct the pillar"
        return
    domain = facts["domain"]
    if domain["exists"] and not domain["ours"]:
        yield (
            f"a domain {spec['minion_id']} is there that store-deploy did not make for this store: "
            f"{commands.rename(spec['minion_id'])}; or choose another minion_id in the pillar"
        )
    for wrong, mend in missing(spec, facts.get("capabilities", {})):
        yield f"{wrong}: {mend}"
    needed_mib = disk_needed_mib(spec, facts)
    if not pool.get("inodes_left", True):
        yield f"pool {spec['pool']} has no inode left: remove files there (df -i shows it)"
    elif needed_mib > pool["free_mib"]:
        yield (
            f"pool {spec['pool']} has {pool['free_mib']} MiB free, {needed_mib} MiB are needed: "
            "make room (salt-run deploy.prune 0 shows the set-aside servers)"
        )
    # What the old guest has is given back before the new one starts.
    old_mib = domain.get("memory_mib", 0) if domain.get("state") in ON else 0
    if spec["memory_mib"] > facts["free_memory_mib"] + old_mib:
        yield (
            f"{facts['free_memory_mib'] + old_mib} MiB of memory are free, memory_mib asks for "
            f"{spec['memory_mib']}: make room or ask for less"
        )
    if domain.get("ours") or not domain["exists"]:
        yield from facts.get("refused", [])
    if facts.get("source_error"):
        yield facts["source_error"]
    virtual = facts["image"].get("virtual_size")
    if virtual and virtual > spec["disk_gib"] * GIB:
        yield (
            f"the image needs a disk of {-(-virtual // GIB)} GiB, disk_gib is {spec['disk_gib']}: "
            "raise disk_gib"
        )
    if wrong := facts["image"].get("wrong"):
        yield wrong


def disk_needed_mib(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """
    Return the MiB that the pool must have free.

    Disks are sparse: what must be there is the room for the guest's first boot, and, as far as the
    image's length is known, for what is to be fetched of it and for its copy. ``staging`` and
    ``preparing`` look again. Nothing of the old server is given back, for it stays, set aside; what
    was prepared already is there, or makes room.
    """
    image = facts["image"]
    cached: int = image.get("size") or 0
    length: int = cached or facts.get("image_length") or 0
    to_fetch = 0 if cached else max(0, length - image.get("part", 0))
    copied = length if spec["clone"] == "copy" else 0
    there: int = facts.get("prepared", {}).get("size", 0)
    return -(-to_fetch // MIB) + max(0, -(-copied // MIB) - there // MIB) + FIRST_BOOT_MIB
