# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a new guest is given: its key pair, its seed, its definition."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from storelib.hypervisor import Fault, Place, first, run, sync, unfinished

ISO_TOOLS = ("xorrisofs", "genisoimage", "mkisofs")

PRIVATE = Path("/run")
"""Memory, not disk: the private key passes through it on its way into the seed."""


def key_pair(bits: int) -> tuple[str, str]:
    """Return a new RSA key pair as PEM, private half first, in the forms that Salt writes."""
    key = rsa.generate_private_key(65537, bits)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


def write_seed(place: Place, documents: Mapping[str, str]) -> None:
    """Write the documents into the guest's seed, an ISO image with the label that NoCloud wants."""
    tool = first(ISO_TOOLS)
    if not tool:
        raise Fault(f"none of {', '.join(ISO_TOOLS)} is installed", "install xorriso")
    remove_seed(place)
    private = _private(place)
    private.mkdir(mode=0o700)
    try:
        for name, text in documents.items():
            (private / name).write_text(text)
        partial = unfinished(place.seed)
        run(tool, "-quiet", "-volid", "cidata", "-joliet", "-rock", "-output", partial, private)
    finally:
        shutil.rmtree(private)
    sync(partial)
    os.rename(partial, place.seed)


def remove_seed(place: Place) -> None:
    """Remove the seed and what a killed attempt left of it: the private key is in each."""
    shutil.rmtree(_private(place), ignore_errors=True)
    for file in (unfinished(place.seed), place.seed):
        file.unlink(missing_ok=True)


def _private(place: Place) -> Path:
    return PRIVATE / f"store-deploy-seed-{place.minion_id}"


def init_arguments(spec: Mapping[str, Any], place: Place, virt_type: str) -> dict[str, Any]:
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
