# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What pump and sweeper leave for the doctor: when they last ran, with which code and settings.

A master goes on with what it was started with, whatever is on the disk by now; they run inside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import salt.version

from storelib import files
from storemaster.master import settings

PUMP, SWEEPER, OUTBOX = "pump", "sweeper", "outbox"

BEAT_S = 10
"""How often the time is noted."""

SETTINGS = (
    *("auto_accept", "autoreject_file", "autosign_file", "conf_file", "ext_job_cache"),
    *("ext_pillar", "file_ignore_glob", "file_ignore_regex", "file_roots", "fileserver_backend"),
    *("fileserver_followsymlinks", "ipc_mode", "job_cache", "keep_jobs_seconds"),
    *("master_job_cache", "minion_data_cache", "module_dirs", "open_mode", "pillar_cache"),
    *("pillar_dirs", "pillar_roots", "pillarenv", "reactor", "saltenv", "sock_dir"),
    *("store_deploy", "user"),
)
"""What must be the same on the disk and in the running master; Salt itself changes ``schedule``."""

CHECKOUT = Path(__file__).parents[3]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _code() -> str:
    tops = ("_engines", "_pillar", "_runners", "_utils/storelib", "_utils/storemaster")
    paths = sorted(path for top in tops for path in (CHECKOUT / top).rglob("*.py"))
    return _digest(b"".join(path.read_bytes() for path in paths))


CODE = _code()
"""Digest of the code, as it was when this process loaded it."""


def _state(opts: dict) -> dict[str, Any]:
    told = {key: opts.get(key) for key in SETTINGS}
    # Of what may hold passwords, what tells it from another.
    told["ext_pillar"] = _digest(json.dumps(told["ext_pillar"], default=str).encode())
    told |= {"code": CODE, "salt": salt.version.__version__}
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return plain


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


def last(opts: dict, who: str) -> tuple[float, dict[str, Any]]:
    """Return when ``who`` last ran, 0 if never, and what it has that is not as here."""
    at, was = _note(opts, who)
    return at, {
        key: was.get(key) for key, here in _state(opts).items() if was and was.get(key) != here
    }


def running(opts: dict, since: float) -> dict[str, Any]:
    """Return the settings of the master that runs since then, as far as they were told."""
    told = [note for who in (PUMP, SWEEPER) if (note := _note(opts, who))[0] >= since]
    _, was = max(told, key=lambda note: note[0], default=(0.0, {}))
    return {key: was[key] for key in SETTINGS if key in was and key != "ext_pillar"}


def _note(opts: dict, who: str) -> tuple[float, dict[str, Any]]:
    path = _path(opts, who)
    try:
        at, was = path.stat().st_mtime, json.loads(path.read_text())
    except (OSError, ValueError):
        return 0, {}
    return (at, was) if isinstance(was, dict) else (0, {})


def _path(opts: dict, who: str) -> Path:
    return settings.state_dir(opts) / f"{who}.json"
