# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The master's settings of this product: the mapping ``store_deploy`` in its configuration."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

STATE_DIR = "/var/lib/salt/store-deploy"
MAX_ACTIVE = 50


def state_dir(opts: dict) -> Path:
    """Return the folder of the ledger and the locks."""
    return Path(_settings(opts).get("state_dir") or STATE_DIR)


def ledger_path(opts: dict) -> Path:
    """Return the ledger's path."""
    return state_dir(opts) / "ledger.sqlite"


def root_secret(opts: dict) -> bytes:
    """Return the master's own secret, from which those of the minions are derived."""
    path = state_dir(opts) / "secret"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".secret.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        # Whoever is first makes it; it is never replaced.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    return path.read_bytes()


def max_active(opts: dict) -> int:
    """Return how many deployments may be under way at once."""
    return int(_settings(opts).get("max_active") or MAX_ACTIVE)


def hypervisor_id(opts: dict, store: str) -> str | None:
    """Return the minion ID that the template ``hypervisor_id`` makes of a store ID."""
    template = _settings(opts).get("hypervisor_id")
    return str(template).replace("{store}", store) if template else None


def _settings(opts: dict) -> dict:
    return opts.get("store_deploy") or {}
