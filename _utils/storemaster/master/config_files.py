# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The files of the master's configuration, in the order in which Salt takes them."""

from __future__ import annotations

import glob
import grp
import os
import pwd
from pathlib import Path
from typing import Any, NamedTuple

import salt.utils.yaml

DEFAULT_INCLUDE = "master.d/*.conf"

RESTART = "systemctl restart salt-master"


class File(NamedTuple):
    """A file that Salt reads; ``layer`` counts up in the order in which it takes them."""

    path: Path
    layer: int
    content: dict[str, Any]


class Unread(NamedTuple):
    """Why a file does not count, how to mend it, and whether Salt ends there."""

    fault: str
    mend: str
    ends: bool


def main_file(opts: dict) -> Path:
    """Return the file beside which all others are."""
    return Path(opts.get("conf_file") or "/etc/salt/master")


def read(opts: dict) -> tuple[list[File], list[Unread]]:
    """Return the files that Salt reads, in its order, and why it does not read the others."""
    main = main_file(opts)
    files: list[File] = []
    unread: list[Unread] = []

    def take(path: Path, layer: int) -> dict[str, Any]:
        try:
            content = salt.utils.yaml.safe_load(path.read_text()) or {}
        except PermissionError:
            unread.append(_closed(opts, path))
        except OSError as err:
            unread.append(_spoilt(path, f"cannot be read: {err.strerror}", ends=True))
        except UnicodeDecodeError:
            unread.append(_spoilt(path, "cannot be read: it is no text in UTF-8", ends=True))
        except salt.utils.yaml.YAMLError as err:
            mark = getattr(err, "problem_mark", None)
            at = f" at line {mark.line + 1}" if mark else ""
            why = getattr(err, "problem", None) or "it cannot be read"
            unread.append(_spoilt(path, f"is no YAML: {why}{at}"))
        else:
            if isinstance(content, dict):
                files.append(File(path, layer, content))
                return content
            unread.append(_spoilt(path, "holds no keys, which Salt passes over"))
        return {}

    told = take(main, 0) if os.path.exists(main) or closed(main) else {}
    for layer, key, default in ((1, "default_include", DEFAULT_INCLUDE), (2, "include", [])):
        for pattern in _patterns(main, told.get(key, default)):
            if closed(pattern.parent):
                unread.append(_closed(opts, pattern.parent))
            for path in sorted(glob.glob(str(pattern))):
                take(Path(path), layer)
    return files, unread


def having(opts: dict, key: str, part: str = "") -> Path | None:
    """Return the file whose word on a key, or on a part of it, is the last one."""
    for file in reversed(read(opts)[0] if "conf_file" in opts else []):
        told = file.content.get(key)
        parts = map(str, told) if isinstance(told, dict) else ()
        if key in file.content and (not part or part in parts):
            return file.path
    return None


def naming(opts: dict, key: str, text: str) -> Path | None:
    """Return the last file that has a text in what it says of a key."""
    for file in reversed(read(opts)[0]):
        if text in str(file.content.get(key)):
            return file.path
    return None


def closed(path: Path) -> Path | None:
    """Return the folder, or the file itself, that keeps the present user from reading it."""
    real = Path(os.path.realpath(path))
    for each in (*reversed(real.parents), real):
        if not os.path.lexists(each):
            return None
        search = os.X_OK if each.is_dir() else 0
        needed = search | (os.R_OK if each == real else 0)
        if not os.access(each, needed, effective_ids=True):
            return each
    return None


def opened(opts: dict, at: Path, listed: bool = True) -> str:
    """Say how the master's user gets into what is closed: others do not, nor can it change it."""
    group = grp.getgrgid(pwd.getpwnam(opts["user"]).pw_gid).gr_name
    return f"chgrp {group} {at}; chmod {'g+rX' if listed else 'g+X'} {at}"


def _patterns(main: Path, include: object) -> list[Path]:
    patterns = include if isinstance(include, list) else [include]
    return [
        main.parent / os.path.expanduser(pattern)
        for pattern in patterns
        if isinstance(pattern, str) and pattern
    ]


def _spoilt(path: Path, why: str, ends: bool = False) -> Unread:
    return Unread(
        f"{path} {why}, so nothing in it counts", f"mend {path}, then {RESTART}", ends=ends
    )


def _closed(opts: dict, path: Path) -> Unread:
    """Salt reads its files as root, if root starts it, and is the master's user only then."""
    user, at = opts["user"], closed(path) or path
    listed = at == Path(os.path.realpath(path))
    return Unread(
        f"{user} cannot read {path}: what runs as {user} ends there, or goes on without it",
        f"{opened(opts, at, listed)}; {RESTART}",
        ends=True,
    )
