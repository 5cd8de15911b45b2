# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor has and lacks; looked at, never changed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storelib import __version__
from storelib.errors import Fault
from storelib.hypervisor import (
    bell,
    disks,
    domains,
    guards,
    images,
    preparation,
    seed_iso,
    set_aside,
)
from storelib.hypervisor.host import Facts, Host, Spec
from storelib.hypervisor.outcome import SEE_LOG
from storelib.hypervisor.place import MIB, Place, first, free, inodes_left, read_json

FACTS_PATIENCE_S = 5
"""How long facts wait for libvirt; without it they tell what else they know."""


def facts(host: Host, spec: Spec, source: bool = False) -> Facts:
    """
    Return what there is for this store, see ``store_hypervisor.facts``.

    source
        Look closer: what of the image's source, and of the old server, would be refused.
    """
    pool = Path(spec["pool"]) if spec["pool"].startswith("/") else None
    curl = [("curl",)] if spec["image"]["source"].startswith(images.WEB) else []
    found: Facts = {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "cpus": os.cpu_count(),
        "environment": host.environment,
        "marker": read_json(bell.MARKER),
        "virt_module": host.has_virt(),
        "tools_missing": [
            " or ".join(tools)
            for tools in (("qemu-img",), seed_iso.ISO_TOOLS, *curl)
            if not first(tools)
        ],
        "saltenv": host.saltenv,
        "source_error": "",
        "image_length": None,
        "libvirt": {"uri": host.uri, "version": None, "reachable": False, "why": ""},
        "virt_types": [],
        "virt_type": None,
        "free_memory_mib": None,
        "sources_missing": None,
        "domain": None,
        "pool_error": "",
        "capabilities": {},
        "refused": [],
    }
    try:
        with domains.connected(host.uri, FACTS_PATIENCE_S) as connection:
            usable = domains.virt_types(connection, spec["os_type"])
            found |= {
                "libvirt": {
                    "uri": connection.getURI(),
                    "version": connection.getLibVersion(),
                    "reachable": True,
                    "why": "",
                },
                "virt_types": usable,
                "virt_type": domains.resolved(spec["virt_type"], usable),
                "free_memory_mib": domains.free_memory_mib(connection),
                "sources_missing": domains.missing_sources(connection, spec["interfaces"]),
            }
            if found["virt_type"] in usable:
                found["capabilities"] = domains.capabilities(connection, found["virt_type"])
            try:
                pool = domains.pool_path(connection, spec["pool"])
            except Fault as fault:
                found["pool_error"] = str(fault)
            place = Place(pool, spec["minion_id"], spec["image"]["sha256"]) if pool else None
            found["domain"] = domains.facts(connection, spec, place)
            if source and place and place.pool.is_dir():
                found["refused"] = list(_refused(connection, spec, place))
    except domains.Gone:
        raise
    except Fault as fault:
        found["libvirt"]["why"] = str(fault)
    there = pool is not None and pool.is_dir()
    found["pool"] = {
        "path": str(pool) if pool else None,
        "exists": there,
        "free_mib": free(pool) // MIB if pool and there else 0,
    }
    if pool and there:
        found["pool"]["inodes_left"] = inodes_left(pool)
        place = Place(pool, spec["minion_id"], spec["image"]["sha256"])
        found["disk"] = disks.facts(place.disk)
        found["seed"] = seed_iso.facts(place)
        found["image"] = images.facts(place.image, spec["clone"])
        found["set_asides"] = set_aside.listing(place)
        found["prepared"] = preparation.facts(preparation.of(place))
    else:
        found |= {what: {"path": None, "exists": False} for what in ("disk", "seed", "image")}
        found["set_asides"] = []
        found["prepared"] = {"path": None, "exists": False, "generation": None, "size": 0}
    if source and found["image"].get("sha256") != spec["image"]["sha256"]:
        found |= _at_source(host, spec)
    return found


def _refused(connection: Any, spec: Spec, place: Place) -> Iterator[str]:
    """Yield what prepare would refuse, whatever the new server is."""
    try:
        guards.clearable(connection, spec, place)
        preparation.data_disks_usable(spec, place)
        preparation.free_for_trial(connection, spec, preparation.of(place))
    except Fault as fault:
        yield f"{fault}: {fault.hint}"


def _at_source(host: Host, spec: Spec) -> Facts:
    """Return what is known of an image that is not here yet."""
    source, sizes = spec["image"]["source"], (spec["disk_gib"], spec["clone"])
    try:
        return {"image_length": images.length(source, host.access, *sizes)}
    except Fault as fault:
        return {"source_error": f"{fault}: {fault.hint}"}


def health(host: Host) -> Facts:
    """Say whether this minion can be a hypervisor, whatever the store."""
    found = {
        "at": time.time(),
        "version": __version__,
        "salt": host.salt,
        "python": sys.prefix,
        "virt_module": host.has_virt(),
        "libvirt": "",
        "hint": "",
        "sudo_user": host.sudo_user,
        **host.environment,
    }
    try:
        with domains.connected(host.uri, 0):
            pass
    except Fault as fault:
        found |= {"libvirt": str(fault), "hint": fault.hint or SEE_LOG}
    return found
