# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The commands that hints of hypervisor and master tell an operator to type.

Each says where and when it is typed, if that is not the master and at any time, and is quoted for
a shell.
"""

from __future__ import annotations

import shlex
from pathlib import Path

WHILE_OFF = "on the hypervisor, while it is shut off"

MAKE_ROOM = "make room in the pool (salt-run deploy.prune 0 shows the set-aside servers)"


def deploy(verb: str, store: str, *more: str) -> str:
    """Return the command that says a verb of a store."""
    return " ".join(["salt-run", f"deploy.{verb}", store, *more])


def anew(store: str) -> str:
    """Say how the store gets a new server; the one that is there is set aside."""
    return deploy("store", store, "redeploy=True")


def put_back(store: str) -> str:
    """Say what to do where something is in the place of a server that is put back."""
    return f"{deploy('rollback', store)}: it makes room first"


def adopt(store: str) -> str:
    """Say how what the hypervisor has comes into the ledger."""
    return f"see what is there, and take it into the ledger: {deploy('adopt', store)}"


def rename(name: str, other: str = "") -> str:
    """Say how a domain gets another name, or at least gives its own one away."""
    return f"{WHILE_OFF}: {shlex.join(['virsh', 'domrename', name, other or f'{name}-other'])}"


def detach(domain: str, target: str) -> str:
    """Say how a domain gives a disk away; one without a target is to be looked for by hand."""
    disk = ["virsh", "detach-disk", domain, target, "--config"]
    edit = ["virsh", "edit", domain]
    return f"while {domain} is shut off: {shlex.join(disk if target else edit)}"


def commit_snapshot(domain: str, target: str, file: str) -> str:
    """Say how a snapshot goes into the disk that it is of."""
    commit = shlex.join(["virsh", "blockcommit", domain, target, "--active", "--pivot"])
    return f"on the hypervisor, while the guest runs: {commit}; then {shlex.join(['rm', file])}"


def move_disk(domain: str, path: str, wanted: Path) -> str:
    """Say how a disk comes to where it should be; one on the network has no ``path``."""
    move = f"{shlex.join(['mv', path, str(wanted)])}; " if path else ""
    return f"{WHILE_OFF}: {move}{shlex.join(['virsh', 'edit', domain])}"


def make_independent(disk: Path) -> str:
    """Say how a disk comes to need no backing file."""
    return f"while no guest has that: qemu-img rebase -b '' {shlex.quote(str(disk))}"


def check_disk(disk: object = None) -> str:
    """Say how a disk is repaired, or an image where it comes from."""
    file, there = _disk(disk)
    return f"{there}: qemu-img check -r all {file}"


def convert_disk(disk: object = None, written: str = "") -> str:
    """
    Say how a disk becomes a qcow2 that needs no other file, or an image where it comes from.

    written
        Its format: a guest can write to a raw disk what looks like another one.
    """
    file, there = _disk(disk)
    new, _ = _disk(disk, ".new")
    known = f"-f {written} " if written else ""
    return f"{there}: qemu-img convert {known}-O qcow2 {file} {new}; mv {new} {file}"


def _disk(disk: object, end: str = "") -> tuple[str, str]:
    if disk is None:
        return f"IMAGE{end}", "where it comes from"
    return shlex.quote(f"{disk}{end}"), "on the hypervisor, while no guest has it"


def choose(one: Path, other: Path) -> str:
    """Say how one of two files is put out of the way."""
    look = shlex.join(["ls", "-l", str(one), str(other)])
    moves = [shlex.join(["mv", str(path), f"{path}.wrong"]) for path in (one, other)]
    return f"look which is the wrong one: {look}; then {', or '.join(moves)}"


def make_folder(path: Path) -> str:
    """Say how a folder comes to be."""
    return f"on the hypervisor: {shlex.join(['mkdir', '-p', str(path)])}, or mount it"


def free_inodes(path: Path) -> str:
    """Say how a file system takes more files."""
    return f"remove files there; {shlex.join(['df', '-i', str(path)])} shows it"


def end_process(number: str) -> str:
    """Say how a process ends that uses a file."""
    return f"once it may end: kill {number}"


def end_loop(device: str) -> str:
    """Say how a loop device gives its file away."""
    return f"once nothing of it is mounted: {shlex.join(['losetup', '-d', device])}"
