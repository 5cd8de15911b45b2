# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The old server of a store, set aside as a whole: disk, definition, NVRAM and public key.

A folder is filled under the name ``<name>.partial`` and renamed when all is there, so that a
clearing that was killed goes on in the same folder. It is emptied, by a restore, under the name
``<name>.restoring``; to a clearing such a folder is one that was not filled yet.

A name is ``<number>-g<generation>-<date>``. The number counts up, under the store's lock, and alone
says what came after what: a clock may be wrong. Folders without one are older, from before. One
that cannot be read is named with the reason, and otherwise left alone.
"""

from __future__ import annotations

import datetime
import errno
import filecmp
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib import commands
from storelib.errors import Fault
from storelib.files import sync
from storelib.hypervisor import domains
from storelib.hypervisor.place import Place, folder, read_json, unfinished, write

DISK = "disk.qcow2"
DOMAIN = "domain.xml"
NVRAM = "nvram.fd"
PUBLIC_KEY = "minion.pub"
NOTE = "set-aside.json"
"""Which deployment the server was of, and which one set it aside."""

SUFFIX = ".partial"
RESTORING = ".restoring"

DATE = "%Y-%m-%dT%H%M%SZ"
NAME = re.compile(rf"(?:(\d+)-)?g(\d+)-(\d{{4}}-\d\d-\d\dT\d{{6}}Z)({SUFFIX}|{RESTORING})?")


def begun(place: Place) -> Path | None:
    """Return the folder that a killed clearing left, if any."""
    return _named(place, SUFFIX)


def _named(place: Place, suffix: str) -> Path | None:
    readable = (Path(each["path"]) for each in listing(place) if not each["unreadable"])
    return next((path for path in readable if path.name.endswith(suffix)), None)


def opened(place: Place, note: Mapping[str, Any]) -> Path:
    """Return the folder to fill: the one that a killed clearing left, or a new one."""
    partial = begun(place)
    if partial is None:
        folder(place.set_asides)
        number = 1 + max((each["number"] for each in listing(place)), default=0)
        now = datetime.datetime.now(datetime.timezone.utc)
        partial = place.set_asides / f"{number:04}-g{note['generation']}-{now:{DATE}}{SUFFIX}"
        partial.mkdir(mode=0o700)
    known = read_json(partial / NOTE) or note
    # When the server ended is of the clearing that is under way, if it was killed after that.
    same = known.get("cleared_for") == note["cleared_for"]
    ended = {"ended": known["ended"]} if same and "ended" in known else {}
    write(partial / NOTE, json.dumps({**note, **ended, "generation": known["generation"]}))
    return partial


def note_end(partial: Path) -> None:
    """Note that the server has just ended, by a clock that nobody sets."""
    ended = {"boot_id": _boot_id(), "at": time.clock_gettime(time.CLOCK_BOOTTIME)}
    write(partial / NOTE, json.dumps({**(read_json(partial / NOTE) or {}), "ended": ended}))


def ended(aside: Path) -> dict[str, float]:
    """Return for how many seconds the server is off, if it ran until it was set aside."""
    noted = (read_json(aside / NOTE) or {}).get("ended")
    if not noted or noted["boot_id"] != _boot_id():
        return {}
    return {"off_for_s": round(time.clock_gettime(time.CLOCK_BOOTTIME) - noted["at"], 1)}


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


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
            raise Fault(
                f"both {source} and {target} exist",
                commands.choose(source, target),
            )
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


def nvram(folder: Path, place: Place) -> Path:
    """Return where the NVRAM of the server in the folder belongs."""
    definition = folder / DOMAIN
    named = definition.exists() and ElementTree.parse(definition).findtext("os/nvram")
    return Path(named) if named else place.nvram


def restoring(place: Place) -> Path | None:
    """Return the folder of a restore that is not over, if any."""
    return _named(place, RESTORING)


def path_of(restoring: Path) -> Path:
    """Return the path that a folder has while nothing is taken out of it."""
    return restoring.with_name(restoring.name.removesuffix(RESTORING))


def newest(spec: Mapping[str, Any], place: Place, known: Mapping[str, Any], of: int) -> Path:
    """
    Return the folder of the server of that deployment that was set aside last.

    Raises :class:`Fault` if there is none, or if something is in the server's place.
    """
    room = commands.put_back(spec["store"])
    if half := begun(place):
        raise Fault(f"the clearing that began {half.name} is not over", room)
    if known["exists"]:
        raise Fault(
            f"the domain {place.minion_id} of deployment {known['generation']} is in the place",
            room,
        )
    there = [each for each in listing(place) if each["complete"]]
    fitting = [each["path"] for each in there if each["generation"] == of]
    if not fitting:
        names = ", ".join(Path(each["path"]).name for each in there)
        raise Fault(
            f"no server of deployment {of} of {place.minion_id} is set aside; "
            f"set aside are: {names or 'none'}",
            f"to have a new one: {commands.anew(spec['store'])}",
        )
    aside = Path(fitting[-1])
    for file in (place.disk, nvram(aside, place)):
        if file.exists():
            raise Fault(f"there is a file {file} in the place", room)
    return aside


def check(
    connection: Any,
    aside: Path,
    spec: Mapping[str, Any],
    place: Place,
    known: Mapping[str, Any],
    of: int,
) -> None:
    """Raise :class:`Fault` if the server in that folder cannot be put back, or not be used then."""
    generation = _facts(aside)["generation"]
    if generation != of or known.get("generation", of) != of:
        room = commands.put_back(spec["store"])
        raise Fault(f"the restore of deployment {generation} is not over", room)
    lacking = [
        name
        for name in (DISK, DOMAIN, PUBLIC_KEY)
        if not (aside / name).exists()
        # A restore that goes on may have moved it already.
        and not (name == DISK and aside == restoring(place) and place.disk.exists())
    ]
    if lacking:
        raise Fault(
            f"{aside} lacks {', '.join(lacking)}",
            f"to have a new one: {commands.anew(spec['store'])}",
        )
    defined = ElementTree.parse(aside / DOMAIN).getroot()
    whose = domains.metadata(defined) or {}
    if (whose.get("store"), whose.get("generation")) != (spec["store"], of):
        raise Fault(
            f"{aside / DOMAIN} is not the definition of a server of store {spec['store']}, "
            f"deployment {of}",
            f"to have a new one: {commands.anew(spec['store'])}",
        )
    named = domains.sources(connection, defined)
    system, others = named[:1], named[1:]
    if system != [str(place.disk)]:
        raise Fault(
            f"the system disk of the set-aside server was {', '.join(system)}, not {place.disk}",
            "correct pool in the pillar",
        )
    missing = [file for file in others if file and not Path(file).exists()]
    if missing:
        raise Fault(
            f"the set-aside server needs {', '.join(missing)}, which is not there",
            "bring it back to that path",
        )


def taken_out(aside: Path) -> Path:
    """Give the folder the name under which it is emptied."""
    emptied = aside.with_name(aside.name.removesuffix(RESTORING) + RESTORING)
    if aside != emptied:
        os.rename(aside, emptied)
        sync(emptied.parent)
    return emptied


def taken_back(place: Place) -> None:
    """Turn a restore that was killed into a clearing that was, and forget one that is over."""
    note = read_json(place.restored)
    if left := restoring(place):
        if note and note.get("set_aside") == str(path_of(left)):
            removed(left)
        else:
            os.rename(left, f"{path_of(left)}{SUFFIX}")
            sync(place.set_asides)
    place.restored.unlink(missing_ok=True)


def removed(folder: Path) -> None:
    """Remove the folder with all that is in it."""
    # First, so that what a killed removal leaves is never taken for a server to restore.
    (folder / DOMAIN).unlink(missing_ok=True)
    shutil.rmtree(folder)


def listing(place: Place) -> list[dict[str, Any]]:
    """
    Return everything that was set aside for this minion ID, oldest first, as it is on the disk.

    ``at`` is the date in the folder's name, in seconds since the epoch; ``size`` the bytes that
    the folder takes on the disk; not ``complete`` is what a killed clearing or restore left.
    ``unreadable`` says why a folder cannot be read; what it cannot say is then 0 or empty.
    """
    there = place.set_asides.iterdir() if place.set_asides.is_dir() else ()
    found = map(_facts, there)
    return sorted(found, key=lambda each: (each["number"], each["at"], each["generation"]))


def aged(found: list[dict[str, Any]], now: float) -> list[tuple[dict[str, Any], float]]:
    """
    Return each server of a listing and its age in seconds, which a wrong clock never overstates.

    Nothing was set aside before what comes before it in the count, so it is no older than that;
    and a date that is still to come is none: the server is no older than the next one then.
    """
    at, told = now, []
    for each in reversed(found):
        at = each["at"] if each["at"] <= now else at
        told.append((each, at))
    latest, aged = 0, []
    for each, at in reversed(told):
        latest = max(latest, at)
        aged.append((each, now - latest))
    return aged


class _Unreadable(Exception):
    """A folder whose content nothing can be concluded from."""


def _facts(path: Path) -> dict[str, Any]:
    named = NAME.fullmatch(path.name)
    known = {
        "path": str(path),
        "number": int(named[1] or 0) if named else 0,
        "generation": int(named[2]) if named else 0,
        "cleared_for": None,
        "at": 0,
        "complete": False,
        "files": {},
        "size": 0,
    }
    try:
        if not named:
            raise _Unreadable("its name is not one of a set-aside server's")
        return {**known, **_read(path, named), "complete": not named[4], "unreadable": ""}
    except (OSError, _Unreadable) as err:
        return {**known, "unreadable": getattr(err, "strerror", None) or str(err)}


def _read(path: Path, named: re.Match[str]) -> dict[str, Any]:
    try:
        at = datetime.datetime.strptime(named[3], DATE).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise _Unreadable(f"{named[3]} is no date") from None
    note = read_json(path / NOTE)
    if note is None and (path / NOTE).exists():
        raise _Unreadable(f"its {NOTE} is damaged")
    try:
        whose = domains.metadata(ElementTree.parse(path / DOMAIN).getroot())
    except FileNotFoundError:
        whose = None
    except ElementTree.ParseError:
        raise _Unreadable(f"its {DOMAIN} is damaged") from None
    if whose and whose["generation"] is None:
        raise _Unreadable(f"its {DOMAIN} names no deployment by its number")
    files = {file.name: file.stat() for file in sorted(path.iterdir())}
    return {
        "cleared_for": (note or {}).get("cleared_for"),
        "at": int(at.timestamp()),
        "files": {name: status.st_size for name, status in files.items()},
        "size": sum(status.st_blocks * 512 for status in files.values()),
    }
