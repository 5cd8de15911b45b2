# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Files that a power cut leaves either as they were or as they should be, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

PAUSE_S = 0.02
"""How often a lock that somebody else holds is tried: they are held for moments only."""


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """
    Replace the file at ``path`` by one with this text, whole and on the disk.

    Missing folders are made. Raises :class:`OSError` if the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text.encode(), mode)


def replace(
    path: Path,
    content: bytes,
    mode: int,
    temporary: Path | None = None,
    owner: os.stat_result | None = None,
) -> None:
    """
    Replace the file at ``path``, or make it, whole and on the disk.

    temporary
        Where it is written first, for those who hold a lock: what a kill leaves there the next
        one overwrites. By default under a name of this process.
    owner
        The file of before, if its owner and group are to be kept.

    Raises :class:`OSError` if the disk refuses; the file is as it was then.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = _made(temporary)
    try:
        with open(descriptor, "wb") as file:
            if owner:
                _give(descriptor, owner)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _made(path: Path) -> int:
    """Open a new file, which nobody else may read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        # A kill left it, perhaps of another mode, or another user's.
        os.unlink(path)
        return os.open(path, flags, 0o600)


def _give(descriptor: int, before: os.stat_result) -> None:
    """Give a file the owner and group of the one that it replaces."""
    try:
        os.fchown(descriptor, before.st_uid, before.st_gid)
    except PermissionError:
        if not may_lose_its_group(before):
            raise


def may_lose_its_group(before: os.stat_result) -> bool:
    """Say whether a file may be replaced by one of a group of ours, its owner being the same."""
    # A user may give a file to no group but its own: then only one may go that has no more
    # rights than everybody, for ours would gain them.
    group, others = before.st_mode >> 3 & 7, before.st_mode & 7
    return before.st_uid == os.geteuid() and not group & ~others


def sync(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, survive a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def locked(path: Path, wait_s: float | None = None) -> Iterator[bool]:
    """
    Hold an exclusive lock on that file, which ends with the process at the latest.

    Yields whether it is held.

    wait_s
        How long it is waited for while somebody else holds it; ``None``: as long as that takes.
    """
    # Opened for both, a pipe in its place does not wait for its other end.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Where another thread of Salt's has set the umask, which is one for all of them.
        if os.fstat(descriptor).st_mode & 0o600 != 0o600:
            os.fchmod(descriptor, 0o600)
        yield _flocked(descriptor, wait_s)
    finally:
        os.close(descriptor)


def _flocked(descriptor: int, wait_s: float | None) -> bool:
    if wait_s is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
        time.sleep(PAUSE_S)
