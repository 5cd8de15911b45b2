# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's cache of images: fetched once, believed by their checksum only."""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storelib.hypervisor import Fault, disks, folder, free, locked, no_space, read_json, sync, write

TIMEOUT_S = 30
"""Seconds that a server may be silent."""

CUT = (urllib.error.URLError, ConnectionError, TimeoutError)
"""What the network does to a transfer, unlike a full disk, which is an OSError too."""

CHUNK = 64 * 1024


def stage(source: str, image: Path, sha256: str, get_file: Callable[[str, str], object]) -> None:
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

    Raises :class:`Fault`; what was fetched of an http(s) source is kept and resumed next time.
    """
    folder(image.parent)
    with locked(image.with_suffix(".lock")):
        if image.exists() and checked(image, sha256):
            return
        part = image.with_suffix(".part")
        if source.startswith("salt://"):
            _from_salt(source, part, get_file)
        elif source.startswith(("http://", "https://")):
            _from_web(source, part)
        else:
            _from_path(source, part)
        found = checksum(part)
        if found != sha256:
            part.unlink()
            raise Fault(
                f"the image {source} has the sha256 {found}, the pillar says {sha256}",
                "correct image.sha256 in the pillar or the file at the source",
            )
        try:
            disks.whole(part, source)
        except Fault:
            part.unlink()
            raise
        part.chmod(0o644)
        sync(part)
        # Over a damaged one: clones that have it as their backing file find the right content.
        os.rename(part, image)
        sync(image.parent)
        _record(image, sha256)


def facts(image: Path) -> dict[str, Any]:
    """Return whether the image is in the cache, and what is known of it if it was verified."""
    verified = recorded(image)
    found = {"path": str(image), "exists": image.exists(), "sha256": verified}
    if not verified:
        return found
    return {**found, "size": image.stat().st_size, **disks.info(image), "wrong": wrong(image)}


def wrong(image: Path) -> str:
    """Say what keeps a cached image from being used though its checksum is right."""
    try:
        disks.whole(image, image.stem)
    except Fault as fault:
        return f"{fault}: {fault.hint}"
    return ""


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


def _from_salt(source: str, part: Path, get_file: Callable[[str, str], object]) -> None:
    try:
        got = get_file(source, str(part))
    except OSError:
        # Salt begins anew each time: half of it would only fill the pool.
        part.unlink(missing_ok=True)
        raise
    if not got:
        raise Fault(
            f"the master does not serve the image {source}",
            "put the image into the master's file_roots or correct image.source in the pillar",
        )
    if str(got) != str(part):
        _from_path(str(got), part)


def _from_path(source: str, part: Path) -> None:
    original = Path(source)
    if not original.is_file():
        raise Fault(
            f"the image {source} does not exist on the hypervisor",
            "put the image there or correct image.source in the pillar",
        )
    _room(part, original.stat().st_size)
    shutil.copyfile(original, part)


def _from_web(source: str, part: Path) -> None:
    """Fetch, and go on where the connection broke for as long as that brings more of the file."""
    most = -1
    while True:
        try:
            missing = _more(source, part)
        except urllib.error.HTTPError as err:
            raise Fault(
                f"the image {source} cannot be fetched: the server answers {err.code} {err.reason}",
                "put the image there or correct image.source in the pillar",
            ) from err
        except (*CUT, http.client.HTTPException) as err:
            missing, why = -1, _reason(err)
        else:
            why = "the server closed the connection"
        if not missing:
            return
        size = part.stat().st_size if part.exists() else 0
        if size <= most or not size:
            raise Fault(
                f"the image {source} cannot be fetched: {why} after {size} bytes",
                "see to the server and the line (the transfer goes on where it stopped)",
            )
        most = size


def _more(source: str, part: Path) -> int:
    """Fetch what is not there yet and return how many bytes are still missing."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as err:
        # Nothing after what is there: complete, or of another file; the checksum tells.
        if err.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return 0
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        length = int(answer.headers.get("Content-Length") or 0)
        _room(part, length)
        with part.open("ab" if resumed else "wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
        end = (have if resumed else 0) + length
        return end - part.stat().st_size if length else 0


def _reason(err: Exception) -> str:
    reason = getattr(err, "reason", err)
    if isinstance(reason, TimeoutError):
        return f"the server was silent for {TIMEOUT_S} s"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _room(part: Path, needed: int) -> None:
    if needed > free(part.parent):
        raise no_space(part.parent, needed)
