# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A new server, made ready beside the old one: disks, key pair, seed, a trial of its definition.

Its files are in a folder of the pool until a rename puts them into their places. A note beside them
says whose they are; it names the public key only when all is there and libvirt took the definition.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from storelib import commands, hardware, seed
from storelib.errors import Fault
from storelib.files import sync
from storelib.hypervisor import disks, domains, seed_iso
from storelib.hypervisor.place import Place, folder, read_json, write

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

    def new_data_disk(self, name: str) -> Path:
        """Return the path of a data disk that the store has not got yet."""
        return self.folder / f"data-{name}.qcow2"

    def data_disk(self, name: str) -> Path:
        """Return the new one, or the system disk: a trial names no disk that may be somebody's."""
        new = self.new_data_disk(name)
        return new if new.exists() else self.disk


def of(place: Place) -> Prepared:
    """Return the files of the server that is made ready for that place."""
    return Prepared(*astuple(place))


def note_of(
    whose: Mapping[str, Any],
    spec: Mapping[str, Any],
    master_public_key: str,
    registration: Mapping[str, str],
) -> Note:
    """Return what tells this deployment's files from those of any other, or of another spec."""
    text = json.dumps([spec, master_public_key, *filter(None, [registration])], sort_keys=True)
    return {**whose, "made_of": hashlib.sha256(text.encode()).hexdigest()}


def public_key(prepared: Prepared, note: Note) -> str | None:
    """Return the new server's public key, if it was made ready for this deployment."""
    written = read_json(prepared.note) or {}
    key: str | None = written.pop("public_key", None)
    return key if written == note else None


def make(
    prepared: Prepared,
    place: Place,
    spec: Mapping[str, Any],
    note: Note,
    bits: int,
    master_public_key: str,
    registration: Mapping[str, str],
) -> str:
    """Make disks, key pair and seed, and return the public key; the private one is in the seed."""
    swept(prepared)
    folder(prepared.folder.parent)
    prepared.folder.mkdir(mode=0o700)
    write(prepared.note, json.dumps(note))
    disks.room(prepared.image, prepared.pool, spec["clone"])
    for data in spec["data_disks"]:
        if not os.path.lexists(place.data_disk(data["name"])):
            disks.keep(prepared.new_data_disk(data["name"]), data["size_gib"])
    # An empty disk takes little, and the first boot's room is beside it.
    disks.room(prepared.image, prepared.pool, spec["clone"])
    disks.clone(prepared.image, prepared.disk, spec["disk_gib"], spec["clone"])
    private, public = seed_iso.key_pair(bits)
    generation = note["generation"]
    documents = seed.documents(spec, generation, private, public, master_public_key, registration)
    seed_iso.write_seed(prepared, documents)
    return public


def made(prepared: Prepared, note: Note, public: str) -> None:
    """Note that all is there."""
    write(prepared.note, json.dumps({**note, "public_key": public}))


def there(prepared: Prepared, place: Place) -> bool:
    """Say whether system disk and seed are there, moved or not."""
    return all(new.exists() or final.exists() for new, final in _ways(prepared, place))


def data_disks_there(prepared: Prepared, place: Place, spec: Mapping[str, Any]) -> bool:
    """Say whether there are all data disks: made ready, moved, or from before."""
    return all(
        new.exists() or os.path.lexists(final) for new, final in _data(prepared, place, spec)
    )


def data_disks(prepared: Prepared, place: Place, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what can be read of the data disks, where they are now."""
    return [
        disks.facts(final if os.path.lexists(final) else new)
        for new, final in _data(prepared, place, spec)
    ]


def data_disks_usable(spec: Mapping[str, Any], place: Place) -> None:
    """Raise :class:`Fault` if a data disk that is there is none that a new server could open."""
    for disk in (place.data_disk(each["name"]) for each in spec["data_disks"]):
        if os.path.lexists(disk):
            disks.usable(disk)


def moved(prepared: Prepared, place: Place, spec: Mapping[str, Any]) -> None:
    """Rename disks and seed into their places; done again, it moves what is left to move."""
    for new, final in _ways(prepared, place):
        if new.exists():
            os.rename(new, final)
    for new, final in _data(prepared, place, spec):
        # What has come to be there meanwhile may hold data.
        if new.exists() and not os.path.lexists(final):
            os.rename(new, final)
    sync(place.pool)


def _ways(prepared: Prepared, place: Place) -> tuple[tuple[Path, Path], ...]:
    return (prepared.disk, place.disk), (prepared.seed, place.seed)


def _data(prepared: Prepared, place: Place, spec: Mapping[str, Any]) -> Iterator[tuple[Path, Path]]:
    for data in spec["data_disks"]:
        yield prepared.new_data_disk(data["name"]), place.data_disk(data["name"])


def swept(prepared: Prepared) -> None:
    """Remove all files of the server that was made ready."""
    seed_iso.remove_seed(prepared)
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
    for wrong, mend in hardware.missing(spec, domains.capabilities(connection, virt_type)):
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
    free_for_trial(connection, spec, prepared)
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


def free_for_trial(connection: Any, spec: Mapping[str, Any], prepared: Prepared) -> None:
    """Raise :class:`Fault` if somebody else's domain has the name that a trial takes."""
    domain = domains.lookup(connection, prepared.trial)
    if domain is not None and not _trial(connection, spec, prepared, domain):
        raise Fault(
            f"there is a domain {prepared.trial}, which store-deploy did not make",
            commands.rename(prepared.trial),
        )


def untried(connection: Any, spec: Mapping[str, Any], prepared: Prepared) -> None:
    """Remove the trial's domain, if there is one: a kill leaves it."""
    domain = domains.lookup(connection, prepared.trial)
    if domain is not None and _trial(connection, spec, prepared, domain):
        if domain.isActive():
            domain.destroy()
        domains.undefine(domain)
        prepared.nvram.unlink(missing_ok=True)


def _trial(connection: Any, spec: Mapping[str, Any], prepared: Prepared, domain: Any) -> bool:
    """Say whether a domain of that name is a trial of ours."""
    defined = domains.description(domain)
    ours = (domains.metadata(defined) or {}).get("store") == spec["store"]
    return ours or domains.sources(connection, defined)[:1] == [str(prepared.disk)]
