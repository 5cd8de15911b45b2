# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's cache of images: fetched once, believed by their checksum only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storelib.errors import Fault, NotNow
from storelib.files import locked, sync
from storelib.hypervisor import alarm, disks, transfer
from storelib.hypervisor.place import MIB, folder, free, no_space, read_json, write

WEB = ("http://", "https://")

PATIENCE_S = 10
"""How long a job waits for another one that brings the same image, before it tells."""

CHUNK = 64 * 1024


class Busy(NotNow):
    """Another job brings the image."""


def stage(
    source: str,
    image: Path,
    sha256: str,
    get_file: Callable[[str, str], object],
    access: transfer.Access,
    limit_s: float,
) -> None:
    """
    Bring the image into the cache.

    source
        ``salt://`` or ``http(s)://`` URL, or absolute path on the hypervisor.
    image
        Path of the image in the cache.
    sha256
        Checksum that the image must have.
    get_file
        Salt's ``cp.get_file``: fetches a ``salt://`` URL to a path and returns the path where the
        file is, which on a minion without a master is the original's.
    access
        How this minion gets to web servers.
    limit_s
        Seconds that a transfer may take. By ``salt://`` or from a path it ends with the first piece
        after it, as of a Salt job (see :mod:`storelib.hypervisor.alarm`).

    Raises :class:`Busy` while another job does it, and :class:`Fault`; what was fetched of an
    http(s) source is kept and resumed next time.
    """
    folder(image.parent)
    with _alone(image):
        if image.exists() and checked(image, sha256):
            return
        part, came = image.with_suffix(".part"), ""
        until = time.monotonic() + limit_s
        if source.startswith(WEB):
            came = _from_web(source, part, sha256, access, until)
        else:
            late = Fault(
                f"the image {source} cannot be fetched: it took longer than {limit_s:.1f} s",
                "see to its server and the line, or set a longer timeouts.staging in the pillar",
            )
            try:
                with alarm.set_to(until, late):
                    _at_once(source, part, get_file)
            except (OSError, Fault):
                # It begins anew each time: half of it would only fill the pool.
                part.unlink(missing_ok=True)
                raise
        found = checksum(part)
        if found != sha256:
            came = f"{_what(part)}{came}"
            part.unlink()
            raise Fault(
                f"the image {transfer.shown(source)} has the sha256 {found}, the pillar says "
                f"{sha256}; it is {came}",
                "correct image.sha256 in the pillar or the file at the source",
            )
        try:
            disks.whole(part, transfer.shown(source))
        except Fault:
            part.unlink()
            raise
        part.chmod(0o644)
        sync(part)
        # Over a damaged one: clones that have it as their backing file find the right content.
        os.rename(part, image)
        sync(image.parent)
        _record(image, sha256)


def facts(image: Path, clone: str) -> dict[str, Any]:
    """Return whether the image is in the cache, and what is known of it if it was verified."""
    verified = recorded(image)
    found = {"path": str(image), "exists": image.exists(), "sha256": verified}
    if not verified:
        return {**found, "part": _here(image)}
    return {**found, "size": image.stat().st_size, **disks.of_image(image, clone)}


def length(source: str, access: transfer.Access, disk_gib: int, clone: str) -> int | None:
    """
    Return the length in bytes of an image that is to be fetched, if this hypervisor can tell.

    disk_gib, clone
        Which disk is to be made from it; an image that is a file here is looked at as a whole.

    Raises :class:`Fault` that keeps it from being fetched or used.
    """
    if source.startswith(WEB):
        return transfer.length(source, access)
    if source.startswith("salt://"):
        return None
    try:
        path = _original(source)
        with path.open("rb"):
            pass
        disks.whole(path, source)
        disks.fit(path, disk_gib, clone)
        return path.stat().st_size
    except OSError as err:
        raise Fault(
            f"the image {source} cannot be read: {err.strerror}", "see to its file"
        ) from err


def recorded(image: Path) -> str | None:
    """Return the checksum that the image had when it was last read, if unchanged since then."""
    record = read_json(_verified(image))
    if record and image.exists() and record["stamp"] == _stamp(image):
        return str(record["sha256"])
    return None


def checked(image: Path, sha256: str) -> bool:
    """Return whether the image has that checksum; it is read only if it was touched."""
    if recorded(image) == sha256:
        return True
    if checksum(image) != sha256:
        return False
    _record(image, sha256)
    return True


def checksum(path: Path) -> str:
    """Return the file's SHA-256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _record(image: Path, sha256: str) -> None:
    write(_verified(image), json.dumps({"sha256": sha256, "stamp": _stamp(image)}))


def _verified(image: Path) -> Path:
    return image.with_suffix(".verified")


def _stamp(image: Path) -> list[int]:
    status = image.stat()
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def _alone(image: Path) -> Iterator[None]:
    """Keep two jobs from fetching the image; the lock ends with the process at the latest."""
    with locked(image.with_suffix(".lock"), PATIENCE_S) as held:
        if not held:
            raise Busy(
                "another job of this hypervisor brings the image, "
                f"{_here(image) // MIB} MiB are here",
                "wait for its end",
            )
        yield


def _here(image: Path) -> int:
    """Return how many bytes of an image that is being fetched are here."""
    part = image.with_suffix(".part")
    return part.stat().st_size if part.exists() else 0


def _at_once(source: str, part: Path, get_file: Callable[[str, str], object]) -> None:
    """Bring what is not brought piece by piece here."""
    if not source.startswith("salt://"):
        _from_path(source, part)
        return
    got = get_file(source, str(part))
    if not got:
        raise Fault(
            f"the master does not serve the image {source}",
            "put the image into the master's file_roots or correct image.source in the pillar",
        )
    if str(got) != str(part):
        _from_path(str(got), part)


def _from_path(source: str, part: Path) -> None:
    original = _original(source)
    needed = original.stat().st_size
    if needed > free(part.parent):
        raise no_space(part.parent, needed)
    shutil.copyfile(original, part)


def _original(source: str) -> Path:
    original = Path(source)
    if not original.is_file():
        raise Fault(
            f"the image {source} {'is no file' if original.exists() else 'does not exist'} on the "
            "hypervisor",
            "put the image there or correct image.source in the pillar",
        )
    return original


def _from_web(source: str, part: Path, sha256: str, access: transfer.Access, until: float) -> str:
    """Fetch the image; return what there is to know of the transfer if its checksum is wrong."""
    came = transfer.fetch(source, part, access, until)
    if not came.whole and checksum(part) != sha256:
        # Of servers that do not say whether it is still the same file: pieces of two.
        part.unlink()
        came = transfer.fetch(source, part, access, until)
    return "" if came.sized else ", of a length that the server did not tell: it may be cut"


def _what(part: Path) -> str:
    with part.open("rb") as file:
        return f"{transfer.kind(file.read(CHUNK))} of {part.stat().st_size} bytes"
