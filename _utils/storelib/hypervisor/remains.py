# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""All that a store server has on its hypervisor, for the day on which it goes for good."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib.hypervisor import Place, domains, in_use, new_server, old

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
        *(
            ("set_aside", Path(each["path"]))
            for each in old.listing(place)
            if not each["unreadable"]
        ),
    ]
    return [part(what, path) for what, path in named if path.exists()]


def unreadable(place: Place) -> list[Part]:
    """Return what is set aside and cannot be read, and why: it stays."""
    return [
        {**part("set_aside", Path(each["path"])), "why": f"unreadable: {each['unreadable']}"}
        for each in old.listing(place)
        if each["unreadable"]
    ]


def data_disks(
    connection: Any,
    place: Place,
    names: Iterable[str],
    definitions: Iterable[ElementTree.Element],
) -> list[Part]:
    """Return the data disks of those names, and what else the definitions name that is one."""
    named = {
        Path(file)
        for defined in definitions
        for file in domains.sources(connection, defined)
        if re.fullmatch(re.escape(f"{place.pool}/{place.minion_id}-") + r"[^/]+\.qcow2", file)
    }
    known = named | {place.data_disk(name) for name in names}
    return [part("data_disk", path) for path in sorted(known) if path.exists()]


def definitions(place: Place) -> Iterator[ElementTree.Element]:
    """Return the definitions of the servers that were set aside."""
    for each in old.listing(place):
        if not each["unreadable"] and old.DOMAIN in each["files"]:
            yield ElementTree.parse(Path(each["path"]) / old.DOMAIN).getroot()


def needed(connection: Any, place: Place, going: Sequence[Part], own: Any = None) -> in_use.Users:
    """
    Return who needs the files that shall go.

    Raises :class:`Fault` if there is a disk of which cannot be read what it needs.
    """
    found = in_use.users(connection, place, map(_path, filter(_asked_for, going)), own)
    if found.unread:
        raise found.unread[0]
    return found


def removed(
    connection: Any, parts: Sequence[Part], needed: in_use.Users, remove: bool
) -> dict[str, list[Part]]:
    """Remove the parts, the last one first, but what others need; or only say what would be."""
    kept = [{**each, "why": why} for each in parts if (why := _why_kept(each, needed))]
    found = [each for each in parts if not _why_kept(each, needed)]
    for each in reversed(found if remove else []):
        _remove(connection, each)
    left = [each for each in found if remove and _exists(connection, each)]
    gone = [each for each in found if remove and each not in left]
    return {"found": found, "removed": gone, "left": left, "kept": kept}


def _why_kept(each: Part, needed: in_use.Users) -> str:
    return needed.of(_path(each)) if _asked_for(each) else ""


def _asked_for(each: Part) -> bool:
    # A log may go while somebody reads it.
    return each["what"] not in ("domain", "console")


def _path(each: Part) -> Path:
    return Path(each["path"])


def _remove(connection: Any, each: Part) -> None:
    if each["what"] == "domain":
        if domain := domains.lookup(connection, each["name"]):
            domains.undefine(domain)
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
