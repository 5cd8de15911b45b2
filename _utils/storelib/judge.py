# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Judges the facts that a hypervisor reports: would this store's server fit and work there?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storelib.domain_states import ON

MIB = 1024**2
GIB = 1024**3

FIRST_BOOT_MIB = 1024
"""What a sparse disk must be able to grow by, or the guest does not even boot."""


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
            "rename or remove it, or choose another minion_id"
        )
    for wrong, mend in hardware(spec, facts.get("capabilities", {})):
        yield f"{wrong}: {mend}"
    needed_mib = disk_needed_mib(spec, facts)
    if not pool.get("inodes_left", True):
        yield f"pool {spec['pool']} has no inode left: remove files there (df -i shows it)"
    elif needed_mib > pool["free_mib"]:
        yield (
            f"pool {spec['pool']} has {pool['free_mib']} MiB free, {needed_mib} MiB are needed: "
            "make room (set-aside servers are in its folder .store-deploy/set-aside)"
        )
    # What the old guest has is given back before the new one starts.
    old_mib = domain.get("memory_mib", 0) if domain.get("state") in ON else 0
    if spec["memory_mib"] > facts["free_memory_mib"] + old_mib:
        yield (
            f"{facts['free_memory_mib'] + old_mib} MiB of memory are free, memory_mib asks for "
            f"{spec['memory_mib']}: make room or ask for less"
        )
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


def hardware(spec: Mapping[str, Any], capabilities: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what guests cannot have there, as far as libvirt can say, and what to do about it."""
    most, firmwares = capabilities.get("max_cpus"), capabilities.get("firmwares")
    if most and spec["cpus"] > most:
        yield (
            f"cpus is {spec['cpus']}, a guest there can have {most} (machine type "
            f"{capabilities['machine']})",
            "lower cpus in the pillar",
        )
    if firmwares is not None and spec["firmware"] == "efi" and "efi" not in firmwares:
        yield (
            "firmware is efi, and the hypervisor has none",
            "install UEFI for its guests (Debian: ovmf, SUSE: qemu-ovmf-x86_64), or set firmware: "
            "bios in the pillar",
        )


def disk_needed_mib(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """
    Return the MiB that the pool must have free.

    Disks are sparse: what must be there is the room for the guest's first boot, and that which the
    image takes, if it is copied and that is known: if it is in the cache. ``staging`` and
    ``preparing`` look again. Nothing of the old server is given back, for it stays, set aside; what
    was prepared already is there, or makes room.
    """
    size: int = (spec["clone"] == "copy" and facts["image"].get("size")) or 0
    there: int = facts.get("prepared", {}).get("size", 0)
    return max(0, -(-size // MIB) - there // MIB) + FIRST_BOOT_MIB
