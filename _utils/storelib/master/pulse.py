# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What pump and sweeper leave for the doctor: when they last ran, with which code and settings.

A master goes on with what it was started with, whatever is on the disk by now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from storelib import files
from storelib.master import settings

PUMP, SWEEPER = "pump", "sweeper"

BEAT_S = 10
"""How often the time is noted."""

SETTINGS = (
    *("auto_accept", "autosign_file", "ext_pillar", "file_roots", "module_dirs", "open_mode"),
    *("pillar_dirs", "reactor", "store_deploy"),
)
"""What must be the same on the disk and in the running master; Salt itself changes ``schedule``."""

CHECKOUT = Path(__file__).parents[3]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _code() -> str:
    folders = (CHECKOUT / name for name in ("_engines", "_pillar", "_runners", "_utils/storelib"))
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return _digest(b"".join(path.read_bytes() for path in paths))


CODE = _code()
"""Digest of the code, as it was when this process loaded it."""


def _state(opts: dict) -> dict[str, str]:
    # Of settings a digest only: ext_pillar may hold passwords.
    plain = {key: json.dumps(opts.get(key), sort_keys=True, default=str) for key in SETTINGS}
    return {"code": CODE, **{key: _digest(text.encode()) for key, text in plain.items()}}


def beat(opts: dict, who: str) -> None:
    """Note that ``who`` runs in the master; a disk that refuses is the ledger's to tell."""
    if "fun" in opts:
        # By hand, with salt-run.
        return
    path, text = _path(opts, who), json.dumps(_state(opts))
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            files.write(path, text, 0o600)
        elif abs(time.time() - path.stat().st_mtime) > BEAT_S:
            os.utime(path)


def last(opts: dict, who: str) -> tuple[float, set[str]]:
    """Return when ``who`` last ran, 0 if never, and what it has that is not as here."""
    path = _path(opts, who)
    try:
        at, was = path.stat().st_mtime, json.loads(path.read_text())
    except (OSError, ValueError):
        return 0, set()
    return at, {key for key, digest in _state(opts).items() if was.get(key) != digest}


def _path(opts: dict, who: str) -> Path:
    return settings.state_dir(opts) / f"{who}.json"
