# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a store's server needs of its hypervisor, for the master and for the hypervisor itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FIRST_BOOT_MIB = 1024
"""What a sparse disk must be able to grow by, or the guest does not even boot."""


def missing(spec: Mapping[str, Any], capabilities: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
