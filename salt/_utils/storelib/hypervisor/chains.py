# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a disk is made of: its backing files, all the way down, and external data files."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor.place import run

HEADER = struct.Struct(">4sIQ56xQ")
"""Of a qcow2 file: magic, version, offset of the backing file's name, features it must have."""

MAGIC = b"QFI\xfb"
DATA_FILE = 1 << 2


def is_qcow2(file: Path) -> bool:
    """Return whether the file begins as a qcow2 file does."""
    return _head(file).startswith(MAGIC)


def under(disk: Path) -> list[Path]:
    """
    Return the files that the disk needs beside itself.

    Raises :class:`Fault` if the disk cannot be read.
    """
    # Few disks have any: most are told from their header, without a process for each.
    if _alone(_head(disk)):
        return []
    # A running guest holds the lock that qemu-img would want without -U.
    command = ("qemu-img", "info", "-U", "--output=json")
    try:
        layers = json.loads(run(*command, "--backing-chain", disk))
    except Fault:
        # A file of it is missing: the disk itself still says which one it needs.
        layers = [json.loads(run(*command, disk))]
    found = dict.fromkeys(file for layer in layers for file in _files(layer, disk.parent))
    return [file for file in found if file != disk]


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEADER.size)


def _alone(head: bytes) -> bool:
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        return False
    _, version, backing, features = HEADER.unpack(head)
    return not backing and (version == 2 or (version == 3 and not features & DATA_FILE))


def _files(layer: dict[str, Any], folder: Path) -> Iterator[Path]:
    name = layer["filename"]
    yield from (own := list(_local(name, folder)))
    beside = own[0].parent if own else folder
    yield from _local(layer.get("full-backing-filename", ""), beside)
    special = layer.get("format-specific", {}).get("data", {})
    yield from _local(special.get("data-file", ""), beside)


def _local(name: str, folder: Path) -> Iterator[Path]:
    """Return the local files that a name of QEMU's means; none for one on the network."""
    if name.startswith("json:"):
        for inner in _filenames(json.loads(name.removeprefix("json:"))):
            yield from _local(inner, folder)
        return
    name = name.removeprefix("file:")
    if name and not re.match(r"[A-Za-z0-9+.-]+:", name):
        yield folder / name


def _filenames(options: Any) -> Iterator[str]:
    if isinstance(options, dict):
        for key, value in options.items():
            if key.rpartition(".")[2] == "filename" and isinstance(value, str):
                yield value
            else:
                yield from _filenames(value)
