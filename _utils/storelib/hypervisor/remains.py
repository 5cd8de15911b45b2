# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""All that a store server has on its hypervisor, for the day on which it goes for good."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib.hypervisor import Fault, Place, disks, domains, new_server, old

Part = dict[str, Any]


def part(what: str, path: Path) -> Part:
    """Return a file or folder as it is told: what it is, its path, its bytes on the disk."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {
        "what": what,
        "path": str(path),
        "size": sum(file.lstat().st_blocks * 512 for file in files),
    }


def files(place: Place, nvram: Path) -> list[Part]:
    """Return the files of the server, those of its set-aside predecessors too; no data disks."""
    rotated = re.compile(re.escape(place.console.name) + r"(\.\d+)?")
    named = [
        *(("disk", place.disk), ("nvram", nvram), ("seed", place.seed)),
        ("prepared", new_server.of(place).folder),
        *(("console", path) for path in _in(place.console.parent) if rotated.fullmatch(path.name)),
        *(("set_aside", path) for path in _in(place.set_asides)),
    ]
    return [part(what, path) for what, path in named if path.exists()]


def data_disks(
    place: Place, names: Iterable[str], definitions: Iterable[ElementTree.Element]
) -> list[Part]:
    """Return the data disks of those names, and what else the definitions name that is one."""
    named = {
        Path(file)
        for defined in definitions
        for file in domains.sources(defined)
        if re.fullmatch(re.escape(f"{place.pool}/{place.minion_id}-") + r"[^/]+\.qcow2", file)
    }
    known = named | {place.data_disk(name) for name in names}
    return [part("data_disk", path) for path in sorted(known) if path.exists()]


def definitions(place: Place) -> Iterator[ElementTree.Element]:
    """Return the definitions of the servers that were set aside."""
    for path in _in(place.set_asides):
        if (path / old.DOMAIN).exists():
            yield ElementTree.parse(path / old.DOMAIN).getroot()


def needed(connection: Any, place: Place, going: Sequence[Part]) -> dict[Path, str]:
    """Return the files that others need, and why: disks of other domains, backing files."""
    found = {
        Path(file).resolve(): f"it is a disk of the domain {domain.name()}"
        for domain in connection.listAllDomains()
        if domain.name() != place.minion_id and not domains.is_trial(domain.name())
        for file in domains.sources(domains.description(domain))
        if file
    }
    asides = place.set_asides.parent.glob(f"*/*/{old.DISK}")
    for disk in {*found, *place.pool.glob("*.qcow2"), *asides}:
        try:
            backing = disk.exists() and disks.info(disk)["backing"]
        except Fault:
            # What goes may be damaged; of another it must be known what it needs.
            if not any(disk.is_relative_to(each["path"]) for each in going if "path" in each):
                raise
            continue
        if backing:
            found[Path(backing).resolve()] = f"it is the backing file of {disk}"
    return found


def removed(
    connection: Any, parts: Sequence[Part], needed: Mapping[Path, str], remove: bool
) -> dict[str, list[Part]]:
    """Remove the parts, the last one first, but what others need; or only say what would be."""
    kept = [{**each, "why": why} for each in parts if (why := _why_kept(each, needed))]
    found = [each for each in parts if not _why_kept(each, needed)]
    for each in reversed(found if remove else []):
        _remove(connection, each)
    left = [each for each in found if remove and _exists(connection, each)]
    gone = [each for each in found if remove and each not in left]
    return {"found": found, "removed": gone, "left": left, "kept": kept}


def _why_kept(each: Part, needed: Mapping[Path, str]) -> str:
    if each["what"] == "domain":
        return ""
    path = Path(each["path"]).resolve()
    return next((why for file, why in needed.items() if file.is_relative_to(path)), "")


def _remove(connection: Any, each: Part) -> None:
    if each["what"] == "domain":
        domains.undefine(domains.lookup(connection, each["name"]))
    elif (path := Path(each["path"])).is_dir():
        old.removed(path)
    else:
        path.unlink(missing_ok=True)


def _exists(connection: Any, each: Part) -> bool:
    if each["what"] == "domain":
        return domains.lookup(connection, each["name"]) is not None
    return os.path.lexists(each["path"])


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
