# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Who uses a file: the one place that is asked before anything is moved or removed.

A file is somebody's if a domain uses it in any way that libvirt knows, if a disk is made from it,
or if a process has it open. It is the same file under every path and link that leads to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib import commands
from storelib.errors import Fault
from storelib.hypervisor import chains, domains, set_aside
from storelib.hypervisor.place import Place

PATIENCE_S = 5
"""Seconds that a process has to close a file: a look at a disk, by whomever, takes a moment."""

DAEMONS = frozenset({"libvirtd", "virtqemud", "virtxend", "virtstoraged", "virtlockd", "virtlogd"})
"""What these have open is a domain's, and libvirt tells it."""

LOOP_GET_STATUS64 = 0x4C05
LOOP_INFO = struct.Struct("QQ")
"""Device and inode of the file behind a loop device, at the beginning of what the kernel tells."""


@dataclass(frozen=True)
class Use:
    """That somebody uses a file: who does, and how it is ended on the hypervisor."""

    why: str = ""
    end: str = ""


@dataclass(frozen=True)
class Users:
    """Who uses which files; ``unread`` says which disks could not be asked what they need."""

    by: Mapping[Hashable, Use]
    unread: list[Fault]

    def of(self, path: Path) -> Use:
        """Return the use of the file, or of one in the folder; an empty one if there is none."""
        keys = (key for file in _files(path) for key in _identities(file))
        return next((self.by[key] for key in keys if key in self.by), Use())


def users(
    connection: Any, place: Place, going: Iterable[Path], own: Any = None, loose: bool = True
) -> Users:
    """
    Look who uses files on this hypervisor.

    going
        Files and folders that shall be moved or removed: what they need themselves does not count.
    own
        The store's domain, if that is what goes: it is no user then, nor is its guest.
    loose
        Disks that are in no domain count, too: they lose what they are made from by a removal.
    """
    files = [file for path in going for file in _files(path)]
    leaving = {key for file in files for key in _identities(file)}
    by: dict[Hashable, Use] = {}
    unread: list[Fault] = []

    def used(disk: Path, use: Use) -> None:
        for key in _identities(disk):
            by.setdefault(key, use)

    def needs(disk: Path, use: Use) -> None:
        try:
            for file in chains.under(disk):
                used(file, use)
        except FileNotFoundError:
            pass
        except OSError as err:
            unread.append(Fault(f"{disk} cannot be read: {err.strerror}"))
        except Fault as fault:
            unread.append(fault)

    raw: set[Hashable] = set()
    for domain in _others(connection, place, own):
        for disk, layered, target in _disks(connection, domain):
            use = _by_domain(domain.name(), target)
            used(disk, use)
            if layered:
                needs(disk, use)
            else:
                raw |= _identities(disk)
    for disk in _loose(place) if loose else ():
        # What a guest wrote to the beginning of a raw disk is no word of ours.
        if not _identities(disk) & (leaving | raw):
            needs(disk, _by_disk(disk))
    by.update(_opened([file for file in files if not _identities(file) & by.keys()], own))
    return Users(by, unread)


def refuse(
    connection: Any, place: Place, going: Iterable[Path], own: Any = None, loose: bool = True
) -> None:
    """Raise :class:`Fault` if somebody else uses one of the files; else as :func:`users`."""
    files = [path for path in going if path.exists()]
    found = users(connection, place, files, own, loose)
    for file in files:
        use = found.of(file)
        if use.why:
            raise Fault(
                f"{file} is not touched: {use.why}",
                f"on the hypervisor, {use.end}; then try again",
            )


def _by_domain(name: str, target: str) -> Use:
    return Use(f"it is a disk of the domain {name}", commands.detach(name, target))


def _by_disk(disk: Path) -> Use:
    return Use(f"it is the backing file of {disk}", commands.make_independent(disk))


def renamed(connection: Any, place: Place, store: str) -> dict[str, Any] | None:
    """Return what the store's server says of itself, if it is there under another name."""
    for domain in _others(connection, place):
        for defined in _definitions(domain):
            whose = domains.metadata(defined) or {}
            # A copy of the server has our metadata, too, and disks with other names.
            if whose.get("store") == store and place.disk.name in _names(connection, domain):
                return {"name": domain.name(), **whose}
    return None


def refuse_renamed(connection: Any, place: Place, store: str, deployment: str = "") -> None:
    """
    Raise :class:`Fault` if the store's server is there under a name that somebody gave it.

    deployment
        Only if it is this one's.
    """
    found = renamed(connection, place, store)
    if found and deployment in ("", found["deployment"]):
        raise Fault(
            f"the server of store {store} is there under another name: {found['name']}",
            commands.rename(found["name"], place.minion_id),
        )


def refuse_moved(connection: Any, place: Place, names: Iterable[str]) -> None:
    """
    Raise :class:`Fault` unless the disks of the store's domain are where the pillar says.

    names
        Of the data disks.
    """
    domain = domains.lookup(connection, place.minion_id)
    data = {file.name: file for file in map(place.data_disk, names)}
    for defined in _definitions(domain):
        for number, disk in enumerate(defined.iterfind("devices/disk[@device='disk']")):
            source, target = disk.find("source"), disk.find("target")
            path = domains.source_path(connection, source) if source is not None else ""
            wanted = data.get(Path(path).name) if number else place.disk
            if path == str(wanted or ""):
                continue
            if below := [file for file in _under(Path(path)) if _of_store(place, file)]:
                name = target.get("dev", "") if target is not None else ""
                raise Fault(
                    f"the disk {name} of {place.minion_id} is a snapshot, {path}, of {below[-1]}",
                    commands.commit_snapshot(place.minion_id, name, path),
                )
            if wanted:
                raise Fault(
                    f"the {'data' if number else 'system'} disk of {place.minion_id} is {path}, "
                    f"not {wanted}",
                    "correct pool in the pillar; or "
                    f"{commands.move_disk(place.minion_id, path, wanted)}",
                )


def _of_store(place: Place, file: Path) -> bool:
    return file == place.disk or (
        file.parent == place.pool and file.name.startswith(f"{place.minion_id}-")
    )


def _under(disk: Path) -> list[Path]:
    with contextlib.suppress(OSError, Fault):
        return chains.under(disk)
    return []


def _others(connection: Any, place: Place, own: Any = None) -> Iterator[Any]:
    """Return the domains that may use a file: not the store's own, if it goes, nor its trial."""
    ours = {domains.trial_of(place.minion_id), own.name() if own is not None else ""}
    for domain in connection.listAllDomains():
        if domain.name() not in ours:
            yield domain


def _definitions(domain: Any) -> list[ElementTree.Element]:
    """Return the domain as it is defined and as it runs; nothing if it is gone meanwhile."""
    with domains.passing_over("NO_DOMAIN"):
        return [domains.description(domain), domains.running(domain)]
    return []


def _disks(connection: Any, domain: Any) -> Iterator[tuple[Path, bool, str]]:
    """
    Return the files that the domain names, whether they may have others under them, and the name
    of the disk's device.
    """
    for defined in _definitions(domain):
        for disk in defined.iterfind("devices/disk"):
            driver, target = disk.find("driver"), disk.find("target")
            device = target.get("dev", "") if target is not None else ""
            raw = driver is None or driver.get("type", "raw") == "raw"
            for source in disk.iter("source"):
                if path := domains.source_path(connection, source):
                    # What is under the top one is read from there.
                    yield Path(path), source in list(disk) and not raw, device
        for nvram in defined.iterfind("os/nvram"):
            inner = nvram.find("source")
            path = (inner.get("file") if inner is not None else nvram.text) or ""
            if path.strip():
                yield Path(path.strip()), False, ""


def _names(connection: Any, domain: Any) -> Iterator[str]:
    """Return the names of the files that the domain's disks are made of."""
    for disk, layered, _ in _disks(connection, domain):
        yield disk.name
        yield from (file.name for file in (_under(disk) if layered else ()))


def _loose(place: Place) -> Iterator[Path]:
    """Return the disks in the pool and set aside, whichever domain they are in, if any."""
    asides = place.set_asides.parent.glob(f"*/*/{set_aside.DISK}")
    for file in (*place.pool.iterdir(), *asides):
        with contextlib.suppress(OSError):
            if file.is_file() and chains.is_qcow2(file):
                yield file


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _identities(file: Path) -> set[Hashable]:
    """Return by what a file is known again: where its path leads, and its inode."""
    found: set[Hashable] = {Path(os.path.realpath(file))}
    with contextlib.suppress(OSError):
        status = file.stat()
        found.add((status.st_dev, status.st_ino))
    return found


def _opened(files: Iterable[Path], own: Any) -> dict[Hashable, Use]:
    """Return which of the files a process has open for longer than a moment, by their inodes."""
    wanted = {key for file in files for key in _identities(file)}
    found: dict[Hashable, Use] = {}

    def closed() -> bool:
        found.clear()
        found.update(_holders(wanted, _marks(own)))
        return not found

    domains.awaited(closed, PATIENCE_S)
    return found


def _marks(own: Any) -> list[str]:
    """Return how the guest's process is known, by its arguments."""
    if own is None or not own.isActive():
        return []
    return [f"\0-uuid\0{own.UUIDString()}\0", f"\0-xen-domid\0{own.ID()}\0"]


def _holders(wanted: set[Hashable], marks: list[str]) -> Iterator[tuple[Hashable, Use]]:
    for process in Path("/proc").glob("[0-9]*"):
        # Processes and their files come and go.
        with contextlib.suppress(OSError):
            for number in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(number.path)
                    inode = (status.st_dev, status.st_ino)
                    if inode in wanted and not _harmless(process, marks):
                        name = (process / "comm").read_text().strip()
                        why = f"the process {process.name} ({name}) has it open"
                        yield inode, Use(why, commands.end_process(process.name))
    for loop in Path("/sys/block").glob("loop*/loop"):
        device = f"/dev/{loop.parts[3]}"
        with contextlib.suppress(OSError), open(device, "rb") as opened:
            # Its path would be the one in the mount namespace of whoever set it up.
            inode = LOOP_INFO.unpack_from(fcntl.ioctl(opened, LOOP_GET_STATUS64, bytes(232)))
            if inode in wanted:
                why = f"it is behind the device {device}"
                yield inode, Use(why, commands.end_loop(device))


def _harmless(process: Path, marks: list[str]) -> bool:
    if (process / "comm").read_text().strip() in DAEMONS:
        return True
    arguments = (process / "cmdline").read_bytes().decode(errors="replace")
    return any(mark in arguments for mark in marks)
