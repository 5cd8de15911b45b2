# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What tells this guest from another one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from storelib.guest.deployment import boot_id
from storelib.guest.root import at, matches, text_of


def identity() -> dict[str, Any]:
    """Return what must be the same after a reboot, and what must not."""
    return {
        "boot_id": boot_id(),
        "machine_id": text_of("/etc/machine-id"),
        "hostname": text_of("/proc/sys/kernel/hostname"),
    }


def host_keys() -> dict[str, str]:
    """Return the fingerprints of the SSH host keys that OpenSSH can read, by file name."""
    found = {path.name: _fingerprint(path) for path in matches("/etc/ssh/ssh_host_*_key.pub")}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint}


def root_size_mib() -> int:
    """Return the size of the root file system."""
    return shutil.disk_usage(at("/")).total // 2**20


def _fingerprint(path: Path) -> str:
    asked = ["ssh-keygen", "-l", "-E", "sha256", "-f", str(path)]
    try:
        told = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    # Length, fingerprint, comment, type.
    return told.split()[1]
