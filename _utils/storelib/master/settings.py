# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The master's settings of this product: the mapping ``store_deploy`` in its configuration."""

from __future__ import annotations

from pathlib import Path

STATE_DIR = "/var/lib/salt/store-deploy"
MAX_ACTIVE = 50


def state_dir(opts: dict) -> Path:
    """Return the folder of the ledger and the locks."""
    return Path(_settings(opts).get("state_dir") or STATE_DIR)


def ledger_path(opts: dict) -> Path:
    """Return the ledger's path."""
    return state_dir(opts) / "ledger.sqlite"


def max_active(opts: dict) -> int:
    """Return how many deployments may be under way at once."""
    return int(_settings(opts).get("max_active") or MAX_ACTIVE)


def hypervisor_id(opts: dict, store: str) -> str | None:
    """Return the minion ID that the template ``hypervisor_id`` makes of a store ID."""
    template = _settings(opts).get("hypervisor_id")
    return str(template).replace("{store}", store) if template else None


def _settings(opts: dict) -> dict:
    return opts.get("store_deploy") or {}
