# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A new server, made ready beside the old one: disk, key pair, seed, a trial of its definition.

Its files are in a folder of the pool until a rename puts them into their places. A note beside them
says whose they are; it names the public key only when all is there and libvirt took the definition.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from storelib import judge, seed
from storelib.hypervisor import Fault, Place, disks, domains, folder, guest, read_json, sync, write

Note = dict[str, Any]


@dataclass(frozen=True)
class Prepared(Place):
    """The files of a server that has not got its place yet."""

    @property
    def folder(self) -> Path:
        """Where they all are."""
        return self.own / "prepared" / self.minion_id

    @property
    def note(self) -> Path:
        """Whose the files are."""
        return self.folder / "prepared.json"

    @property
    def disk(self) -> Path:
        """The system disk."""
        return self.folder / "disk.qcow2"

    @property
    def seed(self) -> Path:
        """The seed; the old guest may still have its own in its drive."""
        return self.folder / "seed.iso"

    @property
    def trial(self) -> str:
        """Name of the trial's domain."""
        return domains.trial_of(self.minion_id)

    @property
    def nvram(self) -> Path:
        """Where libvirt would keep the NVRAM of the trial's domain."""
        return Place(self.pool, self.trial, self.sha256).nvram

    @property
    def console(self) -> Path:
        """Never written: the trial's domain is not started."""
        return self.folder / "console.log"

    def data_disk(self, name: str) -> Path:
        """Return the new disk: a trial names no disk that may be somebody's."""
        return self.disk


def of(place: Place) -> Prepared:
    """Return the files of the server that is made ready for that place."""
    return Prepared(*astuple(place))


def note_of(whose: Mapping[str, Any], spec: Mapping[str, Any], master_public_key: str) -> Note:
    """Return what tells this deployment's files from those of any other, or of another spec."""
    text = json.dumps([spec, master_public_key], sort_keys=True)
    return {**whose, "made_of": hashlib.sha256(text.encode()).hexdigest()}


def public_key(prepared: Prepared, note: Note) -> str | None:
    """Return the new server's public key, if it was made ready for this deployment."""
    written = read_json(prepared.note) or {}
    key: str | None = written.pop("public_key", None)
    return key if written == note else None


def make(
    prepared: Prepared, spec: Mapping[str, Any], note: Note, bits: int, master_public_key: str
) -> str:
    """Make disk, key pair and seed, and return the public key; the private one is in the seed."""
    swept(prepared)
    folder(prepared.folder.parent)
    prepared.folder.mkdir(mode=0o700)
    write(prepared.note, json.dumps(note))
    disks.room(prepared.image, prepared.pool, spec["clone"])
    disks.clone(prepared.image, prepared.disk, spec["disk_gib"], spec["clone"])
    private, public = guest.key_pair(bits)
    generation = note["generation"]
    documents = seed.documents(spec, generation, private, public, master_public_key)
    guest.write_seed(prepared, documents)
    return public


def made(prepared: Prepared, note: Note, public: str) -> None:
    """Note that all is there."""
    write(prepared.note, json.dumps({**note, "public_key": public}))


def there(prepared: Prepared, place: Place) -> bool:
    """Say whether disk and seed are there, moved or not."""
    return all(new.exists() or final.exists() for new, final in _ways(prepared, place))


def moved(prepared: Prepared, place: Place) -> None:
    """Rename disk and seed into their places; done again, it moves what is left to move."""
    for new, final in _ways(prepared, place):
        if new.exists():
            os.rename(new, final)
    sync(place.pool)


def _ways(prepared: Prepared, place: Place) -> tuple[tuple[Path, Path], ...]:
    return (prepared.disk, place.disk), (prepared.seed, place.seed)


def swept(prepared: Prepared) -> None:
    """Remove all files of the server that was made ready."""
    guest.remove_seed(prepared)
    if prepared.folder.exists():
        shutil.rmtree(prepared.folder)


def facts(prepared: Prepared) -> dict[str, Any]:
    """Return for which deployment there are files, and the bytes that they take on the disk."""
    files = [path.lstat() for path in prepared.folder.glob("*")]
    return {
        "path": str(prepared.folder),
        "exists": prepared.folder.exists(),
        "generation": (read_json(prepared.note) or {}).get("generation"),
        "size": sum(status.st_blocks * 512 for status in files),
    }


def check(connection: Any, spec: Mapping[str, Any], virt_type: str) -> None:
    """Raise :class:`Fault` if guests here cannot have the hardware that the spec asks for."""
    for wrong, mend in judge.hardware(spec, domains.capabilities(connection, virt_type)):
        raise Fault(wrong, mend)


def tried(
    connection: Any,
    spec: Mapping[str, Any],
    prepared: Prepared,
    note: Note,
    public: str,
    define: Callable[[str], Any],
) -> None:
    """
    Have this very libvirt take the definition, under a name and UUID of its own; undefine it again.

    define
        Given a name, defines the domain and returns it.
    """
    if domains.lookup(connection, prepared.trial) is not None:
        raise Fault(
            f"there is a domain {prepared.trial}, which store-deploy did not make",
            "rename or remove it",
        )
    with domains.refusals(connection):
        domain = define(prepared.trial)
        domains.complete(connection, domain, note, public, prepared.console)
        if connection.getType() == "QEMU":
            # More than a definition takes: the command line that a start would use.
            connection.domainXMLToNative("qemu-argv", domains.definition(domain))
    wanted = {
        "cpus": spec["cpus"],
        "memory_mib": spec["memory_mib"],
        "macs": [each["mac"].lower() for each in spec["interfaces"]],
        "disk": str(prepared.disk),
        "autostart": False,
    }
    found = domains.hardware(domain)
    if found != wanted:
        raise Fault(f"the trial definition reads back as {found}, not as {wanted}")
    untried(connection, spec, prepared)


def untried(connection: Any, spec: Mapping[str, Any], prepared: Prepared) -> None:
    """Remove the trial's domain, if there is one: a kill leaves it."""
    domain = domains.lookup(connection, prepared.trial)
    if domain is None:
        return
    defined = domains.description(domain)
    ours = (domains.metadata(defined) or {}).get("store") == spec["store"]
    if ours or domains.sources(connection, defined)[:1] == [str(prepared.disk)]:
        if domain.isActive():
            domain.destroy()
        domains.undefine(domain)
        prepared.nvram.unlink(missing_ok=True)
