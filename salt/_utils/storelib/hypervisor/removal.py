# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""All that a store server has on its hypervisor, for the day on which it goes for good."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib.errors import Fault
from storelib.hypervisor import (
    disks,
    domains,
    fence,
    guards,
    in_use,
    preparation,
    seed_iso,
    set_aside,
)
from storelib.hypervisor.host import Facts, Host, Order, Spec
from storelib.hypervisor.place import Place, folder, unfinished, write

Part = dict[str, Any]


def discard(host: Host, spec: Spec, generation: int, order: Order) -> Facts:
    """Remove the server that this deployment made, see ``store_hypervisor.discard``."""
    with guards.at_work(host, spec, order, "discard") as (connection, place):
        preparation.swept(preparation.of(place))
        known = domains.facts(connection, spec, place)
        if not known["exists"]:
            in_use.refuse_renamed(connection, place, spec["store"], order["deployment"])
        intent = guards.intent(spec, generation, order)
        if known["exists"] and known["ours"] and known["deployment"] == order["deployment"]:
            guards.in_pool(connection, spec, place)
            domain = domains.lookup(connection, spec["minion_id"])
            going = [place.disk, domains.nvram(domain, place), place.seed]
            in_use.refuse(connection, place, going, domain)
            # Killed from here on, the next call still knows whose files these are.
            folder(place.intent.parent)
            write(place.intent, json.dumps(intent))
            domain = domains.kept(connection, domain)
            domains.destroy(domain)
            domains.nvram(domain, place).unlink(missing_ok=True)
            domains.undefine(domain)
        if domains.intended(place) == intent:
            in_use.refuse(connection, place, [place.disk, place.nvram, place.seed])
            place.disk.unlink(missing_ok=True)
            place.nvram.unlink(missing_ok=True)
            swept(spec, place)
        known = domains.facts(connection, spec, place)
        # Of another's server, the files are that one's.
        others = (
            set_aside.restoring(place)
            or not known.get("ours", True)
            or known.get("deployment", order["deployment"]) != order["deployment"]
            or in_use.renamed(connection, place, spec["store"])
        )
        left = [spec["minion_id"]] if known["exists"] else []
        left += [str(file) for file in (place.disk, place.seed, place.nvram) if file.exists()]
        return {
            "domain": known,
            "disk": disks.facts(place.disk),
            "seed": seed_iso.facts(place),
            "left": [] if others else left,
        }


def retire(host: Host, spec: Spec, order: Order | None, data_disks: bool, remove: bool) -> Facts:
    """Remove all that the store has here, or list it, see ``store_hypervisor.retire``."""
    with guards.at_work(host, spec, _ordered(order, remove), "retire") as (connection, place):
        guards.in_pool(connection, spec, place)
        domain = domains.lookup(connection, spec["minion_id"])
        parts = [{"what": "domain", "name": spec["minion_id"], "size": 0}] if domain else []
        parts += _files(place, domains.nvram(domain, place))
        defined = [domains.description(domain)] if domain else []
        stay = _data_disks(
            connection,
            place,
            [each["name"] for each in spec["data_disks"]],
            [*defined, *_definitions(place)],
        )
        if data_disks:
            # Last, thus removed first: while a definition is there it says which these are.
            parts, stay = [*parts, *stay], []
        needed = _needed(connection, place, parts, domain)
        if remove and domain:
            domain = domains.kept(connection, domain)
            domain.setAutostart(False)
            domains.switch_off(domain)
        found = _removed(connection, parts, needed, remove)
        if remove:
            if not needed.of(place.seed).why:
                swept(spec, place)
            place.restored.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                place.set_asides.rmdir()
        found["kept"] += [{**each, "why": "data_disks=True was not given"} for each in stay]
        found["kept"] += _unreadable(place)
        return found


def prune(host: Host, spec: Spec, older_than_s: float, order: Order | None, remove: bool) -> Facts:
    """Remove set-aside servers from an age on, or list them, see ``store_hypervisor.prune``."""
    number = isinstance(older_than_s, (int, float)) and not isinstance(older_than_s, bool)
    if not number or not older_than_s >= 0:
        raise Fault(
            f"older_than_s is {older_than_s!r}, not a number of seconds from 0 up",
            "give the age in seconds, such as 2592000 for 30 days",
        )
    ordered = _ordered(order, remove)
    with guards.at_work(host, spec) as (connection, place):
        if ordered:
            fence.present(spec["store"], fence.machine_id(), ordered)
        parts = [
            {**each, "what": "set_aside"}
            for each, age in set_aside.aged(set_aside.listing(place), time.time())
            if each["complete"] and age >= older_than_s
        ]
        needed = _needed(connection, place, parts)
        found = _removed(connection, parts, needed, remove)
        found["kept"] += _unreadable(place)
        return found


def _ordered(order: Order | None, remove: bool) -> Order | None:
    """Return the order of a removal, ``None`` for a look."""
    if remove and order is None:
        raise Fault("nothing is removed without an order", "use the runner: salt-run deploy.retire")
    return order if remove else None


def swept(spec: Spec, place: Place) -> None:
    """Remove what a define made, or left when it was killed, beside the server's own files."""
    seed_iso.remove_seed(place)
    made = [place.disk, *(place.data_disk(data["name"]) for data in spec["data_disks"])]
    # The intent last: it says whose the others are.
    for file in (*map(unfinished, made), place.intent):
        file.unlink(missing_ok=True)


def _part(what: str, path: Path) -> Part:
    """Return a file or folder as it is told: what it is, its path, its bytes on the disk."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {
        "what": what,
        "path": str(path),
        "size": sum(file.lstat().st_blocks * 512 for file in files),
    }


def _files(place: Place, nvram: Path) -> list[Part]:
    """Return the files of the server, those of its set-aside predecessors too; no data disks."""
    rotated = re.compile(re.escape(place.console.name) + r"(\.\d+)?")
    named = [
        *(("disk", place.disk), ("nvram", nvram), ("seed", place.seed)),
        ("prepared", preparation.of(place).folder),
        *(("console", path) for path in _in(place.console.parent) if rotated.fullmatch(path.name)),
        *(
            ("set_aside", Path(each["path"]))
            for each in set_aside.listing(place)
            if not each["unreadable"]
        ),
    ]
    return [_part(what, path) for what, path in named if path.exists()]


def _unreadable(place: Place) -> list[Part]:
    """Return what is set aside and cannot be read, and why: it stays."""
    return [
        {**_part("set_aside", Path(each["path"])), "why": f"unreadable: {each['unreadable']}"}
        for each in set_aside.listing(place)
        if each["unreadable"]
    ]


def _data_disks(
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
    return [_part("data_disk", path) for path in sorted(known) if path.exists()]


def _definitions(place: Place) -> Iterator[ElementTree.Element]:
    """Return the definitions of the servers that were set aside."""
    for each in set_aside.listing(place):
        if not each["unreadable"] and set_aside.DOMAIN in each["files"]:
            yield ElementTree.parse(Path(each["path"]) / set_aside.DOMAIN).getroot()


def _needed(connection: Any, place: Place, going: Sequence[Part], own: Any = None) -> in_use.Users:
    """
    Return who needs the files that shall go.

    Raises :class:`Fault` if there is a disk of which cannot be read what it needs.
    """
    found = in_use.users(connection, place, map(_path, filter(_asked_for, going)), own)
    if found.unread:
        raise found.unread[0]
    return found


def _removed(
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
    return needed.of(_path(each)).why if _asked_for(each) else ""


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
        set_aside.removed(path)
    else:
        path.unlink(missing_ok=True)


def _exists(connection: Any, each: Part) -> bool:
    if each["what"] == "domain":
        return domains.lookup(connection, each["name"]) is not None
    return os.path.lexists(each["path"])


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
