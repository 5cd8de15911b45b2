# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a store server's files are on its hypervisor, and what all who work there need."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storelib import commands, files
from storelib.errors import Fault

CONSOLES = Path("/var/log/libvirt/store-deploy")
"""Where virtlogd keeps what the guests write to their serial console."""

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True)
class Place:
    """The files of one store server in its pool."""

    pool: Path
    minion_id: str
    sha256: str

    @property
    def own(self) -> Path:
        """The product's own folder, in the pool so that a rename is enough to move a disk."""
        return self.pool / ".store-deploy"

    @property
    def image(self) -> Path:
        """The cached image that the system disk is cloned from."""
        return self.own / "images" / f"{self.sha256}.qcow2"

    @property
    def disk(self) -> Path:
        """The system disk."""
        return self.pool / f"{self.minion_id}.qcow2"

    @property
    def seed(self) -> Path:
        """The seed's ISO image."""
        return self.pool / f"{self.minion_id}-seed.iso"

    @property
    def nvram(self) -> Path:
        """Where libvirt keeps what the guest's UEFI remembers, unless the definition says else."""
        return Path(f"/var/lib/libvirt/qemu/nvram/{self.minion_id}_VARS.fd")

    @property
    def intent(self) -> Path:
        """Says that a domain without our metadata is one that we were about to complete."""
        return self.own / "defining" / f"{self.minion_id}.json"

    @property
    def restored(self) -> Path:
        """Says which set-aside server the domain is, where it was put back."""
        return self.own / "restored" / f"{self.minion_id}.json"

    @property
    def set_asides(self) -> Path:
        """The folder of everything that was set aside for this minion ID."""
        return self.own / "set-aside" / self.minion_id

    @property
    def console(self) -> Path:
        """The log of the guest's serial console."""
        return CONSOLES / f"{self.minion_id}.log"

    def data_disk(self, name: str) -> Path:
        """Return the path of the data disk of that name."""
        return self.pool / f"{self.minion_id}-{name}.qcow2"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep two jobs from working on the same store server at once."""
        with files.locked(folder(self.own / "locks") / self.minion_id):
            yield


def folder(path: Path) -> Path:
    """Make the folder, which QEMU's user may pass through to a path that it was given."""
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    return path


def free(path: Path) -> int:
    """Return the bytes that can still be written under the path."""
    return shutil.disk_usage(path).free


def inodes_left(path: Path) -> bool:
    """Say whether another file can be made under the path; some file systems have no limit."""
    usage = os.statvfs(path)
    return not usage.f_files or usage.f_favail > 0


def no_space(path: Path, needed: int) -> Fault:
    """Return the fault that says that the pool is full."""
    if not inodes_left(path):
        return no_inode(path)
    return Fault(
        f"no free disk in {path}: {-(-needed // MIB)} MiB needed, {free(path) // MIB} MiB free",
        commands.MAKE_ROOM,
    )


def no_inode(path: Path) -> Fault:
    """Return the fault that says that no file can be made there, however much room there is."""
    return Fault(
        f"no inode left in {path}: its file system takes no more files",
        commands.free_inodes(path),
    )


def run(*command: str | Path) -> str:
    """Run a tool and return what it printed; raises :class:`Fault` if it is missing or fails."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            check=False,
            umask=0o077,
        )
    except FileNotFoundError:
        raise Fault(f"{command[0]} is not installed", f"install {command[0]}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Fault(f"{command[0]} failed: {said[-1] if said else f'status {done.returncode}'}")
    return done.stdout


def unfinished(path: Path) -> Path:
    """Return the name under which a file is made until it is complete."""
    return path.with_name(f".{path.name}.new")


def write(path: Path, text: str) -> None:
    """Write a file of root's own, whole or not at all, so that a power cut cannot tear it."""
    files.replace(path, text.encode(), 0o600, unfinished(path))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in the file, ``None`` if there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def of_system(err: OSError, pool: Path | None) -> Fault:
    """Return the fault that an error of the operating system amounts to."""
    if err.errno == errno.ENOSPC and pool:
        if not inodes_left(pool):
            return no_inode(pool)
        return Fault(
            f"no free disk in {pool}: {free(pool) // MIB} MiB free",
            commands.MAKE_ROOM,
        )
    where = f" ({err.filename})" if err.filename else ""
    return Fault(f"{err.strerror or err}{where}")


def first(tools: Sequence[str]) -> str:
    """Return the first of the tools that is installed, or an empty string."""
    return next((tool for tool in tools if shutil.which(tool)), "")
