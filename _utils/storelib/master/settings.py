# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The master's settings of this product: the mapping ``store_deploy`` in its configuration."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from storelib.errors import Refused
from storelib.spec import MINION_ID

STATE_DIR = "/var/lib/salt/store-deploy"
MAX_ACTIVE = 50

MEND = "correct it in 50-store-deploy-settings.conf, then systemctl restart salt-master"


class Setting(NamedTuple):
    """What a setting may be; ``None`` leaves it at its default."""

    good: Callable[[object], bool]
    allowed: str


def _is_template(value: object) -> bool:
    filled = value.replace("{store}", "0") if isinstance(value, str) else ""
    return filled != value and bool(MINION_ID.fullmatch(filled))


SETTINGS = {
    "hypervisor_id": Setting(_is_template, "a minion ID with {store} in it, such as hv-{store}"),
    "max_active": Setting(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
        "a whole number, 1 or more",
    ),
    "state_dir": Setting(lambda v: isinstance(v, str) and v.startswith("/"), "an absolute path"),
}


def faults(opts: dict) -> Iterator[tuple[str, str]]:
    """Find what is wrong with the settings, and how to mend each."""
    yield from wrong(opts).values()


def wrong(opts: dict) -> dict[str, tuple[str, str]]:
    """Return fault and mend of each setting that is wrong; at ``store_deploy`` that of them all."""
    ours = opts.get("store_deploy")
    if ours is not None and not isinstance(ours, dict):
        return {"store_deploy": (f"store_deploy is {ours!r}, allowed: a mapping of settings", MEND)}
    found = {}
    for key, value in (ours or {}).items():
        if key not in SETTINGS:
            allowed = ", ".join(SETTINGS)
            found[str(key)] = (f"store_deploy: {key} is no setting, allowed: {allowed}", MEND)
        elif value is not None and not SETTINGS[key].good(value):
            allowed = SETTINGS[key].allowed
            found[key] = (f"store_deploy: {key} is {value!r}, allowed: {allowed}", MEND)
    return found


def check(opts: dict, *keys: str) -> None:
    """Raise :class:`Refused` if one of these settings is wrong."""
    found = wrong(opts)
    for key in ("store_deploy", *keys):
        if key in found:
            raise Refused(*found[key])


def state_dir(opts: dict) -> Path:
    """
    Return the folder of the ledger and the locks.

    Raises :class:`Refused` if the setting is wrong: an empty ledger in the default's place would
    know none of the stores.
    """
    check(opts, "state_dir")
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
    """Return how many deployments may be under way at once; the default if that is wrong."""
    usable = "max_active" not in wrong(opts)
    return int((usable and _settings(opts).get("max_active")) or MAX_ACTIVE)


def hypervisor_id(opts: dict, store: str) -> str | None:
    """Return the minion ID that the template ``hypervisor_id`` makes of a store ID."""
    check(opts, "hypervisor_id")
    template = _settings(opts).get("hypervisor_id")
    return str(template).replace("{store}", store) if template else None


def _settings(opts: dict) -> dict:
    ours = opts.get("store_deploy")
    return ours if isinstance(ours, dict) else {}
