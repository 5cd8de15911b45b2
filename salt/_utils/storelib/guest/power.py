# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The guest's reboot."""

from __future__ import annotations

import subprocess

from storelib.errors import Fault
from storelib.guest import deployment, leftovers
from storelib.guest.minion import Facts

REBOOT_DELAY_MS = 200
"""Time for the job that asked for a reboot to send its return."""


def reboot(after: str) -> Facts:
    """Reboot soon if this is the boot to be ended; in any other one the order was carried out."""
    current = deployment.boot_id()
    if current == after:
        reboot_soon()
    return {
        "boots": deployment.noted_boots(),
        "cleaned": leftovers.cleaned(),
        "boot_id": current,
        "rebooting": current == after,
    }


def reboot_soon() -> None:
    """
    Reboot in a moment, from outside the minion's control group, which ends with the minion.

    Raises :class:`Fault` if nothing on this machine takes the order.
    """
    timer = [
        "systemd-run",
        f"--on-active={REBOOT_DELAY_MS}ms",
        "--timer-property=AccuracySec=50ms",
    ]
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
