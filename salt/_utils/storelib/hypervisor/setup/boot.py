# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Which kernel the machine boots by itself: Xen, with plain Linux to fall back to.

GRUB is told to boot what is saved in its environment, and Xen's entry is saved there. Where that
cannot be loaded, GRUB goes on with Linux (its variable ``fallback``), whose entry stays.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor.place import run
from storelib.hypervisor.setup import made
from storelib.hypervisor.setup.network.plan import File, Plan, before, now, of_plain, put
from storelib.hypervisor.setup.outcome import Outcome

CAPABILITIES = Path("/proc/xen/capabilities")
"""Where Xen says it of itself; mounted by a service, which may be later than the minion."""

FEATURES = Path("/sys/hypervisor/properties/features")
DOM0 = 1 << 11
"""Xen's XENFEAT_dom0 in them (xen/include/public/features.h)."""

ENTRY = re.compile(r"^menuentry .*?\ '([^']+)'", re.MULTILINE)
TOP = re.compile(r"^(?:menuentry|submenu) .*", re.MULTILINE)
"""What of the menu is at its top: entries of submenus are further in."""

SAVED = "GRUB_DEFAULT=saved"
FALLBACK = "/etc/grub.d/07_store-deploy"


def under_xen() -> bool:
    """Say whether the running kernel is that of Xen's Dom0."""
    with contextlib.suppress(OSError, ValueError):
        if int(FEATURES.read_text(), 16) & DOM0:
            return True
    with contextlib.suppress(OSError):
        return "control_d" in CAPABILITIES.read_text()
    return False


def not_wanted(virt_type: str) -> str:
    """Return why the running kernel is not the one that this type wants, or an empty string."""
    if virt_type == "xen" and not under_xen():
        return "this machine does not run under Xen: reboot it into Xen"
    if virt_type in ("kvm", "qemu") and under_xen():
        return f"this machine runs under Xen, and {virt_type} is wanted: reboot it into plain Linux"
    return ""


@dataclass(frozen=True)
class Grub:
    """The boot loader's files and commands, which distributions name differently."""

    config: Path
    command: str
    """What its commands begin with."""

    @property
    def defaults(self) -> str:
        """Return the file that says what is booted by default."""
        # Debian's GRUB reads that folder last, and its Xen brings a file there.
        if self.command == "grub":
            return "/etc/default/grub.d/zz-store-deploy.cfg"
        return "/etc/default/grub"

    def entries(self) -> tuple[str, str]:
        """Return the IDs of the entries that boot Xen and plain Linux; empty for none."""
        found = ENTRY.findall(self.config.read_text())
        xen = [each for each in found if each.startswith("xen")]
        linux = [each for each in found if each not in xen and "linux" in each]
        return next(iter(xen), ""), next(iter(linux), "")

    def number(self, entry: str) -> int:
        """Return an entry's place in the menu: GRUB 2.06 takes a fallback by that only."""
        top = TOP.findall(self.config.read_text())
        return next(place for place, line in enumerate(top) if f"'{entry}'" in line)

    def saved(self) -> str:
        """Return the ID of the saved entry."""
        told = run(f"{self.command}-editenv", "-", "list")
        values = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        return values.get("saved_entry", "")

    def save(self, entry: str) -> None:
        """Save an entry; an empty ID is none."""
        if entry:
            run(f"{self.command}-set-default", entry)
        else:
            run(f"{self.command}-editenv", "-", "unset", "saved_entry")

    def renew(self) -> None:
        """Have the menu made anew."""
        run(f"{self.command}-mkconfig", "-o", self.config)


def grub() -> Grub:
    """Return this machine's boot loader."""
    for folder, command in (("/boot/grub2", "grub2"), ("/boot/grub", "grub")):
        config = Path(folder) / "grub.cfg"
        if config.is_file():
            return Grub(config, command)
    raise Fault(
        "this machine's boot loader is not GRUB: Xen is not made its default",
        "make it so by other means, and leave store_hypervisor.boot out",
    )


def by_xen(dry: bool) -> Outcome:
    """Have the machine boot Xen by default, and Linux where that cannot be loaded."""
    loader = grub()
    xen, linux = loader.entries()
    if dry and not xen:
        return Outcome("Xen becomes the default boot entry", {"boot": {"old": linux, "new": "Xen"}})
    if not xen:
        loader.renew()
        xen, linux = loader.entries()
    if not xen or not linux:
        raise Fault(
            f"GRUB's menu, made anew, has no entry for {'Linux' if xen else 'Xen'}",
            "see to the packages of Xen, and to a kernel that can be its Dom0",
        )
    wanted = _files(loader, linux)
    saved = loader.saved()
    if saved == xen and all(now(path) == file for path, file in wanted.items()):
        return Outcome(f"Xen is the default boot entry, with {linux} to fall back to")
    if not dry:
        plain = Plan(before(wanted)).plain()
        made.note("boot", {"saved": saved, "before": plain})
        put(wanted)
        loader.renew()
        loader.save(xen)
        if loader.saved() != xen:
            raise Fault(f"GRUB has not saved {xen} as its default", "see to /boot")
    changes = {"boot": {"old": saved or linux, "new": xen}}
    return Outcome(f"Xen is the default boot entry, with {linux} to fall back to", changes)


def taken_back(known: dict[str, Any]) -> str:
    """Let the machine boot by default what it did before; say what was done."""
    loader = grub()
    put(of_plain(known["before"]).files)
    loader.renew()
    loader.save(known["saved"])
    return "boot entry"


def _files(loader: Grub, linux: str) -> dict[str, File | None]:
    fallback = loader.number(linux)
    script = f"#!/bin/sh\n# Made by store-deploy: {linux}\necho 'set fallback={fallback}'\n"
    return {
        loader.defaults: File(_saved(loader), 0o644),
        FALLBACK: File(script, 0o755),
    }


def _saved(loader: Grub) -> str:
    """Return the text that has GRUB boot what is saved."""
    old = now(loader.defaults)
    if loader.command == "grub" or old is None:
        return f"# Made by store-deploy.\n{SAVED}\n"
    if re.search(r"^GRUB_DEFAULT=", old.text, re.MULTILINE):
        return re.sub(r"^GRUB_DEFAULT=.*$", SAVED, old.text, flags=re.MULTILINE)
    return f"{old.text.rstrip()}\n{SAVED}\n"
