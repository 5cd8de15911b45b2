# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Disks: made by qemu-img and cp, believed only when qemu-img has read them back."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from storelib.hypervisor import GIB, Fault, free, no_space, run, sync, unfinished


def info(path: Path) -> dict[str, Any]:
    """Return the disk's format, virtual size in bytes and backing file as qemu-img reads them."""
    # A running guest holds the lock that qemu-img would want.
    read = json.loads(run("qemu-img", "info", "--force-share", "--output=json", path))
    return {
        "format": read["format"],
        "virtual_size": read["virtual-size"],
        "backing": read.get("full-backing-filename"),
    }


def facts(path: Path) -> dict[str, Any]:
    """Return whether the disk exists and what qemu-img reads of it, if it can."""
    found: dict[str, Any] = {"path": str(path), "exists": path.exists()}
    if found["exists"]:
        with contextlib.suppress(Fault):
            found.update(info(path))
    return found


def fit(image: Path, size_gib: int) -> None:
    """Raise :class:`Fault` if a disk of that size, in GiB, is smaller than the image."""
    size = info(image)["virtual_size"]
    if size > size_gib * GIB:
        raise Fault(
            f"the disk ({size_gib} GiB) is smaller than the image ({size / GIB:g} GiB)",
            "raise disk_gib in the pillar",
        )


def room(image: Path, disk: Path) -> None:
    """Raise :class:`Fault` if an independent copy of the image has no room beside the disk."""
    needed = image.stat().st_blocks * 512
    if needed > free(disk.parent):
        raise no_space(disk.parent, needed)


def clone(image: Path, disk: Path, size_gib: int, mode: str) -> None:
    """
    Make a disk from an image.

    size_gib
        Size that the disk shall have, in GiB.
    mode
        ``copy`` (independent of the image) or ``cow`` (has the image as its backing file).
    """
    fit(image, size_gib)
    partial = unfinished(disk)
    partial.unlink(missing_ok=True)
    if mode == "cow":
        run(
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"),
            *(image, partial, f"{size_gib}G"),
        )
    else:
        room(image, disk)
        run("cp", "--sparse=always", "--reflink=auto", image, partial)
        run("qemu-img", "resize", "-q", "-f", "qcow2", partial, f"{size_gib}G")
    partial.chmod(0o600)
    wanted = {
        "format": "qcow2",
        "virtual_size": size_gib * GIB,
        "backing": str(image) if mode == "cow" else None,
    }
    made = info(partial)
    if made != wanted:
        raise Fault(f"the disk made from {image} reads back as {made}, not as {wanted}")
    # qemu-img has flushed what it wrote last, and with it all of the file.
    os.rename(partial, disk)
    sync(disk.parent)


def keep(path: Path, size_gib: int) -> None:
    """Make a data disk if there is none; one that is there stays as it is, whatever its size."""
    if not path.exists():
        partial = unfinished(path)
        partial.unlink(missing_ok=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", partial, f"{size_gib}G")
        os.rename(partial, path)
        sync(path.parent)
