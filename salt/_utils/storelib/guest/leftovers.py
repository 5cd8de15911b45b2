# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap data and what cloud-init keeps of the seed: found, and removed for good."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from storelib import files, seed
from storelib.errors import Fault
from storelib.guest import minion_config
from storelib.guest.deployment import STATE_DIR, boots, bootstrap
from storelib.guest.minion import Facts, Minion
from storelib.guest.root import at, matches, name_of, text_of

CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"

CLOUD_INIT_COPIES = ("/var/lib/cloud/*", "/run/cloud-init/*", "/var/log/cloud-init*")
"""What cloud-init keeps of a seed: the documents themselves, what it made of them, its logs."""

KEY_PLACES = ("/etc/cloud", "/etc/store-deploy", "/run/cloud-init", "/var/lib/cloud")
"""Folders in which the private key is looked for once the seed's copies are gone."""


def cleaned() -> bool:
    """
    Return whether the deployment has removed all of its data here, its list of boots among them.

    That comes last, so a master that asks for the list has its ledger from a backup.
    """
    return bootstrap() is None and not boots() and at(CLOUD_INIT_OFF).exists()


def startup_configured() -> bool:
    """Return whether the minion runs the firstboot state at its next start."""
    return any(at(path).exists() for path in bootstrap_configs())


def cleanup(minion: Minion) -> Facts:
    """Remove what :func:`clean` does, unless the minion would have another master or ID then."""
    if afterwards := minion_config.afterwards(minion):
        raise Fault(
            f"without the bootstrap data this minion would go by {afterwards}",
            "take that out of the guest's own minion configuration, and out of the image's",
        )
    left = clean()
    if left:
        raise Fault(
            f"bootstrap data could not be removed: {', '.join(left)}",
            "remove these paths in the guest by hand",
            {"left": left},
        )
    return {"left": left, "registration": _registration(minion)}


def _registration(minion: Minion) -> list[str]:
    """Return which keys for Uyuni the minion still has, once the file that had them is gone."""
    if seed.REGISTRATION_GRAIN not in minion.grains:
        # To load them anew takes seconds.
        return []
    known = minion.fresh_grains().get(seed.REGISTRATION_GRAIN)
    return sorted(seed.REGISTRATION_KEYS & set(known if isinstance(known, dict) else ()))


def clean() -> list[str]:
    """
    Remove bootstrap data and each copy of the seed; return the paths that are left, best none.

    Keys, minion ID, SSH host keys, network and hostname stay.
    """
    # In this order: a guest that loses its list of boots first would take its next boot for the
    # first one; one that loses cloud-init's notes while cloud-init is on, for a new machine.
    switch_cloud_init_off()
    _unmount_seed()
    for path in (*bootstrap_configs(), seed.BOOTSTRAP, STATE_DIR, *CLOUD_INIT_COPIES):
        for found in matches(path):
            _remove(found)
    folder = at(seed.BOOTSTRAP).parent
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    os.sync()
    return left()


def left() -> list[str]:
    """Return the paths of bootstrap data and of copies of the seed or its private key."""
    paths = (*bootstrap_configs(), seed.BOOTSTRAP, STATE_DIR, *CLOUD_INIT_COPIES)
    found = {path for pattern in paths for path in matches(pattern)}
    return sorted({name_of(path) for path in (*found, *_key_copies())} | set(_seed_mounts()))


def bootstrap_configs() -> list[str]:
    """Return the paths of the minion's bootstrap configuration, for each kind of minion."""
    folders = seed.CONFIG.values()
    return [f"{folder}/{name}" for folder in folders for name in seed.BOOTSTRAP_CONFIGS]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def switch_cloud_init_off() -> None:
    """See that cloud-init does nothing from the next boot on."""
    if not at(CLOUD_INIT_OFF).exists():
        files.write(at(CLOUD_INIT_OFF), "The store's deployment has ended.\n")


def _seed_mounts() -> Iterator[str]:
    """Yield where the seed's device is mounted."""
    labels = [path for path in matches("/dev/disk/by-label/*") if path.name.lower() == "cidata"]
    devices = {str(label.resolve()) for label in labels}
    for line in text_of("/proc/self/mounts").splitlines():
        device, folder = line.split()[:2]
        if device in devices:
            yield folder


def _unmount_seed() -> None:
    for folder in list(_seed_mounts()):
        subprocess.run(["umount", folder], check=False, capture_output=True, timeout=60)


def _key_copies() -> Iterator[Path]:
    """Yield files that hold a line of the minion's private key and are not its own file."""
    lines = {
        line
        for folder in seed.CONFIG.values()
        for line in text_of(f"{folder}/pki/minion/minion.pem").splitlines()[1:2]
    }
    for folder in KEY_PLACES:
        for path in filter(Path.is_file, at(folder).rglob("*")):
            if any(line in path.read_text(errors="replace") for line in lines):
                yield path
