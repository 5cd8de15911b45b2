# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The old server of a store, set aside as a whole: disk, definition, NVRAM and public key.

A folder is filled under the name ``<name>.partial`` and renamed when all is there, so that a
clearing that was killed goes on in the same folder.
"""

from __future__ import annotations

import datetime
import errno
import filecmp
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storelib.hypervisor import Fault, Place, folder, read_json, sync, unfinished, write

DISK = "disk.qcow2"
DOMAIN = "domain.xml"
NVRAM = "nvram.fd"
PUBLIC_KEY = "minion.pub"
NOTE = "set-aside.json"
"""Which deployment the server was of, and which one set it aside."""

SUFFIX = ".partial"


def begun(place: Place) -> Path | None:
    """Return the folder that a killed clearing left, if any."""
    return next(iter(sorted(place.set_asides.glob(f"*{SUFFIX}"))), None)


def opened(place: Place, note: Mapping[str, Any]) -> Path:
    """Return the folder to fill: the one that a killed clearing left, or a new one."""
    partial = begun(place)
    if partial is None:
        folder(place.set_asides)
        while (final := place.set_asides / _name(note["generation"])).exists():
            time.sleep(0.1)
        partial = final.with_name(final.name + SUFFIX)
        partial.mkdir(mode=0o700)
    known = read_json(partial / NOTE) or note
    write(partial / NOTE, json.dumps({**note, "generation": known["generation"]}))
    return partial


def _name(generation: int) -> str:
    return f"g{generation}-{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H%M%SZ}"


def closed(partial: Path) -> Path:
    """Give the filled folder its name."""
    final = partial.with_name(partial.name.removesuffix(SUFFIX))
    sync(partial)
    os.rename(partial, final)
    sync(final.parent)
    return final


def move(source: Path, target: Path) -> None:
    """Move a file, if it is there, by renaming it; NVRAM may be on another file system."""
    if not source.exists():
        return
    if target.exists():
        # A move to another file system that was killed before its last line leaves both.
        if not filecmp.cmp(source, target, shallow=False):
            raise Fault(f"both {source} and {target} exist", "look at both, remove the wrong one")
        source.unlink()
        return
    try:
        os.rename(source, target)
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        copy = unfinished(target)
        shutil.copy2(source, copy)
        sync(copy)
        os.rename(copy, target)
        source.unlink()
    sync(target.parent)


def listing(place: Place, generation: int) -> list[dict[str, Any]]:
    """Return what this deployment has set aside, oldest first, as it is on the disk."""
    return [
        {
            "path": str(each),
            "generation": note["generation"],
            "files": {file.name: file.stat().st_size for file in sorted(each.iterdir())},
        }
        for each in sorted(place.set_asides.glob("g*Z"), key=lambda path: path.stat().st_mtime)
        if (note := read_json(each / NOTE)) and note["cleared_for"] == generation
    ]
