# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Disks: made by qemu-img and cp, believed only when qemu-img has read them back."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from storelib import commands
from storelib.errors import Fault
from storelib.files import sync
from storelib.hardware import FIRST_BOOT_MIB
from storelib.hypervisor import chains
from storelib.hypervisor.place import (
    GIB,
    MIB,
    free,
    inodes_left,
    no_inode,
    no_space,
    run,
    unfinished,
)


def info(path: Path) -> dict[str, Any]:
    """Return the disk's format, virtual size in bytes and backing file as qemu-img reads them."""
    return _info(_read(path))


def _read(path: Path) -> dict[str, Any]:
    # A running guest holds the lock that qemu-img would want.
    read: dict[str, Any] = json.loads(
        run("qemu-img", "info", "--force-share", "--output=json", path)
    )
    return read


def _info(read: dict[str, Any]) -> dict[str, Any]:
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


def whole(image: Path, name: object) -> None:
    """
    Raise :class:`Fault` if the image, called by that name, is not a qcow2 that is all there.

    A checksum says nothing of other files that an image needs, or of a mark that it is damaged.
    """
    if fault := _not_whole(_read(image), name):
        raise fault


def of_image(image: Path, mode: str) -> dict[str, Any]:
    """Return what :func:`info` does, and as ``wrong`` what keeps the image from being used."""
    read = _read(image)
    fault = _not_whole(read, image.stem) or _not_growing(read, mode)
    return {**_info(read), "wrong": f"{fault}: {fault.hint}" if fault else ""}


def _not_whole(read: dict[str, Any], name: object, what: str = "image") -> Fault | None:
    data = read.get("format-specific", {}).get("data", {})
    alone = what == "image"
    # An image is somewhere else, a data disk is at the path that it is called by.
    file = None if alone else name
    check, convert = commands.check_disk(file), commands.convert_disk(file, read["format"])
    for wrong, why, mend in (
        (read["format"] != "qcow2", "is not in the format qcow2", convert),
        (alone and "backing-filename" in read, "needs another file (backing file)", convert),
        (
            alone and "data-file" in data,
            "needs another file (external data file)",
            convert,
        ),
        (read.get("encrypted"), "is encrypted, which no guest here could open", "decrypt it"),
        (data.get("corrupt"), "is marked as corrupt", check),
    ):
        if wrong:
            return Fault(f"the {what} {name} {why}", mend)
    return None


def usable(disk: Path) -> None:
    """
    Raise :class:`Fault` if the data disk, which is there, is none that a new server could open.

    Unlike an image it may need other files, as long as these are there.
    """
    _reached(disk)
    if fault := _not_whole(_read(disk), disk, "data disk"):
        raise fault
    if missing := [file for file in chains.under(disk) if not file.exists()]:
        raise Fault(
            f"the data disk {disk} needs {missing[0]}, which is not there",
            "bring it back to that path",
        )
    try:
        run("qemu-img", "info", "--force-share", "--backing-chain", disk)
    except Fault as fault:
        raise Fault(
            f"the data disk {disk} cannot be opened with all that it needs: {fault}",
            "bring back what it needs",
        ) from None


def _reached(disk: Path) -> None:
    if not disk.exists():
        raise Fault(
            f"the data disk {disk} is a link to {os.path.realpath(disk)}, which is not there",
            "mount what it is on, or bring it back to that path",
        )


def fit(image: Path, size_gib: int, mode: str) -> None:
    """Raise :class:`Fault` if no disk of that size, in GiB, can be made from the image."""
    read = _read(image)
    size = read["virtual-size"]
    if size > size_gib * GIB:
        raise Fault(
            f"the disk ({size_gib} GiB) is smaller than the image ({size / GIB:g} GiB)",
            "raise disk_gib in the pillar",
        )
    if fault := _not_growing(read, mode):
        raise fault


def _not_growing(read: dict[str, Any], mode: str) -> Fault | None:
    compat = read.get("format-specific", {}).get("data", {}).get("compat")
    if mode == "copy" and compat == "0.10" and read.get("snapshots"):
        return Fault(
            "the image cannot be grown: it is a qcow2 of version 2 (compat 0.10) with snapshots in "
            "it",
            commands.convert_disk(),
        )
    return None


def room(image: Path, folder: Path, mode: str, there: int = 0) -> None:
    """
    Raise :class:`Fault` if a disk made from the image, and a first boot, have no room there.

    there
        Bytes of a disk that is there already: it is this one, or will make room for it.
    """
    if not inodes_left(folder):
        raise no_inode(folder)
    needed = FIRST_BOOT_MIB * MIB + (image.stat().st_blocks * 512 if mode == "copy" else 0)
    if needed - there > free(folder):
        raise no_space(folder, needed - there)


def clone(image: Path, disk: Path, size_gib: int, mode: str) -> None:
    """
    Make a disk from an image.

    size_gib
        Size that the disk shall have, in GiB.
    mode
        ``copy`` (independent of the image) or ``cow`` (has the image as its backing file).
    """
    fit(image, size_gib, mode)
    partial = unfinished(disk)
    partial.unlink(missing_ok=True)
    if mode == "cow":
        run(
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"),
            *(image, partial, f"{size_gib}G"),
        )
    else:
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
    if os.path.lexists(path):
        _reached(path)
        return
    partial = unfinished(path)
    partial.unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", partial, f"{size_gib}G")
    os.rename(partial, path)
    sync(path.parent)
