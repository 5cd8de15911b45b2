# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The guest as its own files show it: boots, bootstrap data, network, what cloud-init left.

Nothing here knows Salt. Whatever is changed can be done again after a kill at any line.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storelib import files, seed

ROOT = Path("/")
"""Where the guest's files are; tests point it at a folder."""

STATE_DIR = "/var/lib/store-deploy"
BOOTS = f"{STATE_DIR}/boots"
HANDED_OVER = f"{STATE_DIR}/handed-over"

CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"
CLOUD_INIT_COPIES = ("/var/lib/cloud/*", "/run/cloud-init/*", "/var/log/cloud-init*")
"""What cloud-init keeps of a seed: the documents themselves, what it made of them, its logs."""

KEY_PLACES = ("/etc/cloud", "/etc/store-deploy", "/run/cloud-init", "/var/lib/cloud")
"""Folders in which the private key is looked for once the seed's copies are gone."""

NETWORK_FILES = (
    "/etc/netplan/*.yaml",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/NetworkManager/system-connections/*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
    "/etc/systemd/network/*.network",
)
"""Where a distribution keeps network configuration that outlives a reboot."""

REBOOT_DELAY_S = 5
"""Time for the job that asked for a reboot to send its return."""


class Fault(Exception):
    """Something in the guest is not as it must be; ``hint`` says what to do about it."""

    def __init__(self, error: str, hint: str, facts: dict[str, Any] | None = None):
        super().__init__(error)
        self.hint = hint
        self.facts = facts or {}


def bootstrap() -> dict[str, Any] | None:
    """Return what the seed says of this deployment, None once the bootstrap data are gone."""
    try:
        data = json.loads(_at(seed.BOOTSTRAP).read_text(encoding="utf-8"))
        return {"store": str(data["store"]), "generation": int(data["generation"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as err:
        raise Fault(
            f"{seed.BOOTSTRAP} cannot be read: {err!r}", "Deploy the store once more."
        ) from err


def check_deployment(store: str, generation: int) -> None:
    """Raise :class:`Fault` if this guest was made by another deployment than the one that asks."""
    here = bootstrap()
    if here and here != {"store": store, "generation": generation}:
        raise Fault(
            f"this guest is of store {here['store']}, deployment {here['generation']}, "
            f"not of store {store}, deployment {generation}",
            "look which guest answers to this minion ID",
        )


def boot_id() -> str:
    """Return the kernel's ID of the current boot."""
    return _text("/proc/sys/kernel/random/boot_id")


def boots() -> list[str]:
    """Return the IDs of all boots that were noted, in order."""
    return _text(BOOTS).split()


def cleaned() -> bool:
    """
    Return whether the deployment has removed all of its data here, its list of boots among them.

    That comes last, so a master that asks for the list has its ledger from a backup.
    """
    return bootstrap() is None and not boots() and _at(CLOUD_INIT_OFF).exists()


def note_boot() -> list[str]:
    """Add the current boot to the list, unless it is the last one there; return the list."""
    noted = boots()
    if noted[-1:] != [boot_id()]:
        noted.append(boot_id())
        files.write(_at(BOOTS), "".join(f"{boot}\n" for boot in noted))
    return noted


def handed_over(store: str, generation: int) -> bool:
    """Return whether this deployment's guest has told that it is there."""
    return _text(HANDED_OVER) == _marker(store, generation)


def note_handing_over(store: str, generation: int) -> None:
    """Remember that this deployment's guest has told that it is there."""
    files.write(_at(HANDED_OVER), _marker(store, generation) + "\n")


def reboot_soon() -> None:
    """
    Reboot in a few seconds, from outside the minion's control group, which ends with the minion.

    Raises :class:`Fault` if nothing on this machine takes the order.
    """
    timer = ["systemd-run", f"--on-active={REBOOT_DELAY_S}", "--timer-property=AccuracySec=100ms"]
    refusals = []
    for command in ([*timer, "systemctl", "reboot"], ["shutdown", "-r", "+1"]):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
            return
        except (OSError, subprocess.SubprocessError) as err:
            said = getattr(err, "stderr", None) or err
            refusals.append(f"{command[0]}: {str(said).strip()}")
    # A machine that is going down takes no more orders: that is the reboot that was ordered before.
    if not _going_down():
        raise Fault(f"no reboot: {'; '.join(refusals)}", "Reboot the guest by hand.")


def _going_down() -> bool:
    try:
        asked = ["systemctl", "is-system-running"]
        done = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.strip() == "stopping"


def identity() -> dict[str, Any]:
    """Return what must be the same after a reboot, and what must not."""
    return {
        "boot_id": boot_id(),
        "machine_id": _text("/etc/machine-id"),
        "hostname": _text("/proc/sys/kernel/hostname"),
    }


def host_keys() -> dict[str, str]:
    """Return the fingerprints of the SSH host keys, as OpenSSH writes them, by file name."""
    return {path.name: _fingerprint(path) for path in _matches("/etc/ssh/ssh_host_*_key.pub")}


def root_size_mib() -> int:
    """Return the size of the root file system."""
    root = os.statvfs(ROOT)
    return root.f_blocks * root.f_frsize // 2**20


def startup_configured() -> bool:
    """Return whether the minion runs the firstboot state at its next start."""
    return any(_at(path).exists() for path in _bootstrap_configs())


def settle() -> dict[str, Any]:
    """
    Make what cloud-init set up stay without cloud-init, and switch cloud-init off.

    Returns the facts that were read back. Raises :class:`Fault` if an interface would be without
    configuration after the next reboot; cloud-init is left on then.
    """
    interfaces = {name: _network_files(name, mac) for name, mac in _interfaces()}
    bare = sorted(name for name, found in interfaces.items() if not found)
    if bare:
        raise Fault(
            f"interface {', '.join(bare)} has no configuration that outlives a reboot",
            "let the image's cloud-init render the network for the software that runs it",
            {"interfaces": interfaces},
        )
    # cloud-init itself gave the interfaces their names, from now on udev does. Not to a bridge, a
    # VLAN or whatever else is made on top of one and has its MAC: these have a kind, devices none.
    # Before its version 251 udev does not know that, and goes by the type.
    for name, mac in _interfaces():
        link = f"[Match]\nMACAddress={mac}\nType=ether\nKind=!*\n\n[Link]\nName={name}\n"
        files.write(_at(f"/etc/systemd/network/10-store-deploy-{name}.link"), link)
    hostname = _text("/proc/sys/kernel/hostname")
    if _text("/etc/hostname") != hostname:
        files.write(_at("/etc/hostname"), hostname + "\n")
    _switch_cloud_init_off()
    # What cloud-init wrote has to be on the disk too.
    os.sync()
    return {
        "boot_id": boot_id(),
        "cloud_init_off": _at(CLOUD_INIT_OFF).exists(),
        "hostname": _text("/etc/hostname"),
        "interfaces": interfaces,
    }


def clean() -> list[str]:
    """
    Remove bootstrap data and each copy of the seed; return the paths that are left, best none.

    Keys, minion ID, SSH host keys, network and hostname stay.
    """
    # In this order: a guest that loses its list of boots first would take its next boot for the
    # first one; one that loses cloud-init's notes while cloud-init is on, for a new machine.
    _switch_cloud_init_off()
    _unmount_seed()
    for path in (*_bootstrap_configs(), seed.BOOTSTRAP, STATE_DIR, *CLOUD_INIT_COPIES):
        for found in _matches(path):
            _remove(found)
    folder = _at(seed.BOOTSTRAP).parent
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    os.sync()
    return left()


def left() -> list[str]:
    """Return the paths of bootstrap data and of copies of the seed or its private key."""
    paths = (*_bootstrap_configs(), seed.BOOTSTRAP, STATE_DIR, *CLOUD_INIT_COPIES)
    found = {path for pattern in paths for path in _matches(pattern)}
    return sorted({_name(path) for path in (*found, *_key_copies())} | set(_seed_mounts()))


def _at(path: str) -> Path:
    return ROOT / path.lstrip("/")


def _name(path: Path) -> str:
    return f"/{path.relative_to(ROOT)}"


def _matches(pattern: str) -> list[Path]:
    return sorted(ROOT.glob(pattern.lstrip("/")))


def _text(path: str) -> str:
    try:
        return _at(path).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _marker(store: str, generation: int) -> str:
    return f"{store} {generation}"


def _bootstrap_configs() -> list[str]:
    folders = seed.CONFIG.values()
    return [f"{folder}/{name}" for folder in folders for name in seed.BOOTSTRAP_CONFIGS]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _switch_cloud_init_off() -> None:
    if not _at(CLOUD_INIT_OFF).exists():
        files.write(_at(CLOUD_INIT_OFF), "The store's deployment has ended.\n")


def _interfaces() -> list[tuple[str, str]]:
    """Return name and MAC address of each network interface that stands for a device."""
    devices = [path.parent for path in _matches("/sys/class/net/*/device")]
    return [(path.name, (path / "address").read_text().strip()) for path in devices]


def _network_files(interface: str, mac: str) -> list[str]:
    """Return the files that configure an interface, by its name, a pattern of it or its MAC."""
    found = []
    for path in filter(Path.is_file, (match for glob in NETWORK_FILES for match in _matches(glob))):
        text = f"{path.name.replace('ifcfg-', ' ')}\n{path.read_text(errors='replace')}"
        words = re.findall(r"[\w.:*?-]+", re.sub(r"(?m)^\s*#.*$", "", text))
        if any(word.lower() == mac.lower() or _names(word, interface) for word in words):
            found.append(_name(path))
    return found


def _names(word: str, interface: str) -> bool:
    return fnmatch.fnmatchcase(interface, word.rstrip(":")) and word[0] not in "*?"


def _seed_mounts() -> Iterator[str]:
    """Yield where the seed's device is mounted."""
    labels = [path for path in _matches("/dev/disk/by-label/*") if path.name.lower() == "cidata"]
    devices = {str(label.resolve()) for label in labels}
    for line in _text("/proc/self/mounts").splitlines():
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
        for line in _text(f"{folder}/pki/minion/minion.pem").splitlines()[1:2]
    }
    for folder in KEY_PLACES:
        for path in filter(Path.is_file, _at(folder).rglob("*")):
            if any(line in path.read_text(errors="replace") for line in lines):
                yield path


def _fingerprint(path: Path) -> str:
    key = base64.b64decode(path.read_text().split()[1])
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"
