# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Minion keys and the autosign entry, each for exactly one minion ID.

Salt 3008 keeps keys behind ``salt.cache`` (``keys.cache_driver``), 3006 in folders of ``pki_dir``.
Both delete through ``salt.key``, which tells the rest of the master.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import stat
import threading
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
from salt.crypt import clean_key
from salt.utils.crypt import pem_finger

from storelib import files
from storelib.errors import Fault
from storemaster.deployment.master_api import ACCEPTED

FOLDERS = {
    "minions": ACCEPTED,
    "minions_pre": "pending",
    "minions_rejected": "rejected",
    "minions_denied": "denied",
}
"""Salt's name of each state of a key in the file system, and its plain one."""

MADE_FILE_MODE = 0o600

UMASK = threading.Lock()
"""Held where Salt sets the umask: there is one for all threads."""

KEY_FILE_MODE = 0o644

OTHERWISE = (
    "name another autosign_file and restart salt-master, or set admission: pinned in the pillar"
)

AUTOSIGN_LOCK = "autosign.lock"
"""The lock of the autosign file, in the state folder."""

LOCK_S = 5.0
"""How long the autosign file is waited for: its lock is held for moments only."""


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


def states(opts: dict) -> dict[str, str]:
    """Return the state of each minion's key, in one look; of several, accepted counts most."""
    with _key(opts) as key:
        found = key.list_keys()
    return {name: FOLDERS[folder] for folder in reversed(FOLDERS) for name in found[folder]}


def purge(opts: dict, minion: str) -> None:
    """
    Delete the keys of ``minion`` in every state.

    Nothing is called if there is none: each deletion makes Salt rotate the key that it shares
    with all minions, and every minion authenticates again.
    """
    states = set(known(opts, minion))
    if not states:
        return
    with UMASK, _key(opts) as key:
        folders = [name for name, state in FOLDERS.items() if state in states]
        key.delete_key(match_dict={name: [minion] for name in folders})


def accept(opts: dict, minion: str, public_key: str) -> None:
    """Store ``public_key`` as accepted and drop the others; the shared key is not rotated."""
    if "keys.cache_driver" in opts:
        cache = _key_cache(opts)
        with UMASK:
            cache.store("keys", minion, {"pub": public_key, "state": ACCEPTED})
            cache.flush("denied_keys", minion)
        return
    folder = Path(opts["pki_dir"])
    files.replace(folder / "minions" / minion, public_key.encode(), KEY_FILE_MODE)
    for name, state in FOLDERS.items():
        if state != ACCEPTED:
            (folder / name / minion).unlink(missing_ok=True)


def fingerprint(opts: dict, minion: str, public_key: str) -> str:
    """Return what ``salt-key -f`` prints of the minion's key; empty if it has none."""
    if not public_key:
        return ""
    stored = known(opts, minion).get(ACCEPTED, "")
    pem = stored if same(stored, public_key) else clean_key(public_key)
    if "keys.cache_driver" not in opts:
        # 3006 looks at the lines between the first and the last one, 3008 at all of the text.
        pem = "".join([line for line in pem.splitlines(keepends=True) if line.strip()][1:-1])
    return str(pem_finger(key=pem.encode(), sum_type=opts["hash_type"]))


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
    """Return Salt's cache of keys, one for each place: each new one makes a loader of its own."""
    place = tuple(opts[name] for name in ("keys.cache_driver", "pki_dir", "cachedir"))
    if place not in _key_caches:
        _key_caches[place] = salt.cache.Cache(opts, driver=place[0])
    return _key_caches[place]


_key_caches: dict[tuple[str, ...], Any] = {}


class Autosign:
    """
    Our lines in the master's ``autosign_file``; every other line stays byte for byte.

    What is in the way, whatever it is, is a :class:`Fault`, and the file is then as it was.
    """

    def __init__(self, opts: dict, lock: Path) -> None:
        self.configured = opts.get("autosign_file")
        self.lock = lock

    @property
    def path(self) -> Path | None:
        """Return the file, with no link in its path."""
        # Not by Path.resolve, which raises at a loop of links.
        return Path(os.path.realpath(self.configured)) if self.configured else None

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
        # In what is no file Salt finds no line either.
        if self.path is None or not self.path.is_file():
            return
        try:
            if self.armed(minion):
                with self._locked():
                    self._write([line for line in self._lines() if line != _line(minion)])
        except Fault as err:
            raise Fault(
                f"the line that admits {minion} may still be there: {err.reason}",
                f"remove the line of {minion} from {self.path}; {err.hint}",
            ) from err

    def rewrite(self) -> None:
        """Write the file as it is, an empty one if there is none: so could a line be added."""
        with self._locked():
            self._write(self._lines())

    def check(self) -> None:
        """Find what would keep :meth:`arm` from writing, as far as a look tells; write nothing."""
        with self._locked():
            self._lines()
            path = self._named()
            try:
                _look_at(path)
            except OSError as err:
                raise _unusable(path, "written", err) from err

    def _lines(self) -> list[bytes]:
        if self.path is None:
            return []
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                # From a pipe we would read for ever, a device would be replaced.
                raise Fault(
                    f"{self.path}, the autosign file, is no regular file",
                    f"put one in its place, or {OTHERWISE}",
                )
            return self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as err:
            raise _unusable(self.path, "read", err) from err

    def _named(self) -> Path:
        if self.path is None:
            raise Fault(
                "the master has no autosign_file",
                "install master.d/40-store-deploy-autosign.conf and restart salt-master, "
                "or set admission: pinned in the pillar",
            )
        return self.path

    def _write(self, lines: list[bytes]) -> None:
        path = self._named()
        try:
            before = path.stat() if path.exists() else None
            mode = before.st_mode & 0o777 if before else MADE_FILE_MODE
            files.replace(path, b"".join(lines), mode, _temporary(path), before)
        except OSError as err:
            raise _unusable(path, "written", err) from err

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(files.locked(self.lock, LOCK_S))
            except OSError as err:
                raise Fault(
                    f"{self.lock}, the lock of the autosign file, cannot be had: {err.strerror}",
                    f"chown -R {_user()}: {self.lock.parent}; rmdir {self.lock} if it is a folder",
                ) from err
            if not held:
                raise Fault(
                    f"{self.lock}, the lock of the autosign file, is held by another process for "
                    f"more than {LOCK_S} s",
                    f"lslocks or fuser {self.lock} says by which; end it",
                )
            yield


def _unusable(path: Path, done: str, err: OSError) -> Fault:
    # A link loop, or a folder that is none, is not there.
    there = [str(each) for each in (path, path.parent) if os.path.exists(each)]
    mend = f"chown {_user()}: {' '.join(there)}" if there else f"make {path.parent}"
    where = f" ({err.filename})" if err.filename else ""
    return Fault(
        f"the autosign file {path} cannot be {done}: {err.strerror}{where}",
        f"{mend}, so that the master's user can write it (lsattr and findmnt say what else is "
        f"in the way), or {OTHERWISE}",
    )


def _look_at(path: Path) -> None:
    """Raise the error that another file would meet on its way into the place of this one."""
    if _temporary(path).is_dir():
        raise _system(errno.EISDIR, _temporary(path))
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise _system(errno.EACCES, path.parent)
    if not path.exists():
        return
    before, root = path.stat(), os.geteuid() == 0
    own = before.st_uid == os.geteuid() and before.st_gid in (os.getegid(), *os.getgroups())
    # Who may write it and cannot, has it immutable.
    may = root or before.st_mode & stat.S_IWUSR
    can = os.access(path, os.W_OK, effective_ids=True)
    if not (root or own or files.may_lose_its_group(before)) or (may and not can):
        raise _system(errno.EPERM, path)
    mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    if str(path) in [line.split(" ")[4].replace(r"\040", " ") for line in mounts]:
        raise _system(errno.EBUSY, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.store-deploy")


def _system(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _line(minion: str) -> bytes:
    # Salt reads a line as a glob, then as a regular expression: escaped, it matches this ID only.
    return re.escape(minion).encode() + b"\n"
