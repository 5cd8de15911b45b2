# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Minion keys and the autosign entry, each for exactly one minion ID.

Salt 3008 keeps keys behind ``salt.cache`` (``keys.cache_driver``), 3006 in folders of ``pki_dir``.
Both delete through ``salt.key``, which tells the rest of the master.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import salt.cache
import salt.key
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from storelib.errors import Fault
from storelib.world import ACCEPTED

FOLDERS = {
    "minions": ACCEPTED,
    "minions_pre": "pending",
    "minions_rejected": "rejected",
    "minions_denied": "denied",
}
"""Salt's name of each state of a key in the file system, and its plain one."""

MADE_FILE_MODE = 0o600


def known(opts: dict, minion: str) -> dict[str, str]:
    """Return the public keys of ``minion`` by state."""
    if "keys.cache_driver" not in opts:
        folder = Path(opts["pki_dir"])
        paths = {state: folder / name / minion for name, state in FOLDERS.items()}
        return {state: path.read_text() for state, path in paths.items() if path.is_file()}
    cache = _key_cache(opts)
    found = cache.fetch("keys", minion)
    keys = {found["state"]: found["pub"]} if found else {}
    denied = cache.fetch("denied_keys", minion)
    return {**keys, "denied": denied[0]} if denied else keys


def accepted(opts: dict) -> set[str]:
    """Return whose key is accepted, of all minions in one look."""
    with _key(opts) as key:
        return set(key.list_keys()["minions"])


def purge(opts: dict, minion: str) -> None:
    """
    Delete the keys of ``minion`` in every state.

    Nothing is called if there is none: each deletion makes Salt rotate the key that it shares
    with all minions, and every minion authenticates again.
    """
    states = set(known(opts, minion))
    if not states:
        return
    with _key(opts) as key:
        folders = [name for name, state in FOLDERS.items() if state in states]
        key.delete_key(match_dict={name: [minion] for name in folders})


def accept(opts: dict, minion: str, public_key: str) -> None:
    """Store ``public_key`` as accepted and drop the others; the shared key is not rotated."""
    if "keys.cache_driver" in opts:
        cache = _key_cache(opts)
        cache.store("keys", minion, {"pub": public_key, "state": ACCEPTED})
        cache.flush("denied_keys", minion)
        return
    folder = Path(opts["pki_dir"])
    temporary = folder / "minions" / f".{minion}.store-deploy"
    temporary.write_text(public_key)
    temporary.replace(folder / "minions" / minion)
    for name, state in FOLDERS.items():
        if state != ACCEPTED:
            (folder / name / minion).unlink(missing_ok=True)


def same(one: str, other: str) -> bool:
    """Say whether two PEM texts are the same public key, however they are written down."""
    try:
        forms = [_form(pem) for pem in (one, other)]
    except (ValueError, UnsupportedAlgorithm):
        # Salt stores whatever it is sent.
        return False
    return forms[0] == forms[1]


def _form(pem: str) -> bytes:
    key = load_pem_public_key(pem.encode())
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextlib.contextmanager
def _key(opts: dict) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        key = salt.key.get_key(opts)
        # 3006's Key is no context manager.
        if hasattr(key, "__exit__"):
            stack.enter_context(key)
        yield key


def _key_cache(opts: dict) -> Any:
    return salt.cache.Cache(opts, driver=opts["keys.cache_driver"])


class Autosign:
    """Our lines in the master's ``autosign_file``; every other line stays byte for byte."""

    def __init__(self, opts: dict, lock: Path) -> None:
        self.path = Path(opts["autosign_file"]).resolve() if opts.get("autosign_file") else None
        self.lock = lock

    def armed(self, minion: str) -> bool:
        """Say whether the entry of ``minion`` is there."""
        return _line(minion) in self._lines()

    def arm(self, minion: str) -> None:
        """Write the entry of ``minion``."""
        with self._locked():
            lines = self._lines()
            if _line(minion) not in lines:
                if lines and not lines[-1].endswith(b"\n"):
                    lines[-1] += b"\n"
                self._write([*lines, _line(minion)])

    def disarm(self, minion: str) -> None:
        """Remove the entry of ``minion``."""
        if self.path is None or not self.armed(minion):
            return
        with self._locked():
            self._write([line for line in self._lines() if line != _line(minion)])

    def rewrite(self) -> None:
        """Replace the file by its own bytes: a trial of what :meth:`arm` will have to do."""
        with self._locked():
            self._write(self._lines())

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().splitlines(keepends=True) if self.path else []
        except FileNotFoundError:
            return []

    def _write(self, lines: list[bytes]) -> None:
        if self.path is None:
            raise Fault(
                "the master has no autosign_file",
                "install master.d/40-store-deploy-autosign.conf and restart salt-master, "
                "or set admission: pinned in the pillar",
            )
        temporary = self.path.with_name(f".{self.path.name}.store-deploy")
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            before = self.path.stat() if self.path.exists() else None
            mode = before.st_mode & 0o777 if before else MADE_FILE_MODE
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:
                if before and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, mode)
                file.write(b"".join(lines))
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self.path)
        except OSError as err:
            raise Fault(
                f"the autosign file {self.path} cannot be written: {err.strerror}",
                "let the master's user own the file and its folder, or set autosign_file to a "
                "path where it can write; or set admission: pinned in the pillar",
            ) from err

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.lock, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _line(minion: str) -> bytes:
    # Salt reads a line as a glob, then as a regular expression: escaped, it matches this ID only.
    return re.escape(minion).encode() + b"\n"
