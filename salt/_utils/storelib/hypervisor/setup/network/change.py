# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A change of the network that undoes itself unless somebody confirms it.

Before anything is touched, the files of before and a script that puts them back are on the disk,
and the script is armed twice, outside of the minion: a timer of systemd's runs it while the machine
stays up, a unit of systemd's at the next boot, before the network begins. What decides is the
folder :data:`PENDING`: the confirmation and the script both begin by renaming it, which only one
of them can.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from storelib import files
from storelib.errors import Fault
from storelib.hypervisor.place import run
from storelib.hypervisor.setup.network.plan import Commands, Plan, now, put

HOME = Path("/var/lib/store-deploy/network")
UNITS = Path("/etc/systemd/system")
BOOT_UNIT = "store-deploy-network-undo.service"
TIMER = "store-deploy-network-undo-in-time"

COMMAND_S = 60
"""How long one command of a change may take: none may hang until the way back needs its place."""

UNIT = """\
# Made by store-deploy, and gone when the change of the network is confirmed.
[Unit]
Description=Undo a change of the network that nobody confirmed
DefaultDependencies=no
RequiresMountsFor={home}
After=systemd-remount-fs.service local-fs.target
Wants=network-pre.target
Before=network-pre.target sysinit.target shutdown.target
Before=systemd-networkd.service networking.service wickedd.service NetworkManager.service
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=/bin/sh {home}/undo boot

[Install]
WantedBy=sysinit.target
"""

SCRIPT = """\
#!/bin/sh
# Made by store-deploy: undoes the change of the network that is in the folder beside it.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd {home} || exit 1
mv pending undoing 2>/dev/null
[ -d undoing ] || exit 0
limited() {{ timeout --kill-after=5 {seconds} "$@"; }}
if [ "$1" != boot ]; then
:
{down}
fi
{restore}
sync
if [ "$1" != boot ]; then
:
{up}
fi
rm -rf undone
mv undoing undone
{disarm}
"""


def make(plan: Plan, undo_after_s: int) -> None:
    """
    Arm the way back, then make the change: :func:`confirm` it, or it is undone.

    undo_after_s
        How long the way back waits for that.

    Raises :class:`Fault`, with nothing touched, if the way back cannot be armed.
    """
    undo_now()
    _save(plan)
    _arm(undo_after_s)
    for command in plan.down:
        _limited(command)
    put(plan.files)
    for command in plan.up:
        _limited(command)


def pending() -> bool:
    """Say whether a change is neither confirmed nor undone."""
    return (HOME / "pending").is_dir() or (HOME / "undoing").is_dir()


def undoing() -> bool:
    """Say whether the change is being undone, or was."""
    return not (HOME / "pending").is_dir()


def confirm() -> bool:
    """Let the change stay; say whether it was there to be confirmed."""
    try:
        os.rename(HOME / "pending", HOME / "confirmed")
    except FileNotFoundError:
        return False
    files.sync(HOME)
    _disarm()
    shutil.rmtree(HOME)
    return True


def undo_now() -> None:
    """Undo what an earlier run left unconfirmed, if any."""
    if pending():
        run("sh", HOME / "undo")
    # What a kill within the confirmation left.
    if (HOME / "confirmed").is_dir():
        _disarm()
    shutil.rmtree(HOME, ignore_errors=True)


def _save(plan: Plan) -> None:
    """Write the files of before, and the script, then the folder that makes them count."""
    new = HOME / "new"
    new.mkdir(parents=True)
    restore = []
    for number, path in enumerate(plan.files):
        before = now(path)
        if before is None:
            restore.append(f"rm -f {shlex.quote(path)}")
            continue
        files.write(new / str(number), before.text, before.mode)
        temporary = shlex.quote(f"{path}.store-deploy")
        restore.append(f"cp -p undoing/{number} {temporary} && mv {temporary} {shlex.quote(path)}")
    script = SCRIPT.format(
        home=HOME,
        seconds=COMMAND_S,
        down="\n".join(_shell(plan.undo_down)),
        restore="\n".join(restore),
        up="\n".join(_shell(plan.undo_up)),
        disarm=f"systemctl --no-reload disable {BOOT_UNIT}\nrm -f {UNITS / BOOT_UNIT}",
    )
    files.write(HOME / "undo", script, 0o700)
    files.sync(new)
    os.rename(new, HOME / "pending")
    files.sync(HOME)


def _shell(commands: Commands) -> Iterator[str]:
    return (f"limited {shlex.join(command)}" for command in commands)


def _arm(undo_after_s: int) -> None:
    try:
        files.write(UNITS / BOOT_UNIT, UNIT.format(home=HOME))
        run("systemctl", "--no-reload", "enable", "--quiet", BOOT_UNIT)
        # A timer of an earlier change would have the name.
        with contextlib.suppress(Fault):
            run("systemctl", "stop", f"{TIMER}.timer")
        run(
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={TIMER}",
            f"--on-active={undo_after_s}",
            "--timer-property=AccuracySec=1s",
            "/bin/sh",
            HOME / "undo",
        )
        run("systemctl", "is-active", "--quiet", f"{TIMER}.timer")
    except Fault as fault:
        os.rename(HOME / "pending", HOME / "confirmed")
        with contextlib.suppress(Fault):
            _disarm()
        shutil.rmtree(HOME)
        raise Fault(
            f"the network is not touched, for its way back cannot be armed: {fault}",
            "see to systemd on this machine",
        ) from None


def _disarm() -> None:
    with contextlib.suppress(Fault):
        run("systemctl", "stop", f"{TIMER}.timer")
    with contextlib.suppress(Fault):
        run("systemctl", "--no-reload", "disable", "--quiet", BOOT_UNIT)
    (UNITS / BOOT_UNIT).unlink(missing_ok=True)


def _limited(command: tuple[str, ...]) -> None:
    # What it fails to do shows in what is looked for afterwards, and then all is undone.
    with contextlib.suppress(Fault):
        run("timeout", "--kill-after=5", str(COMMAND_S), *command)
