# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the guest knows of its deployment: whose it is, and which boots it has noted, in order."""

from __future__ import annotations

import json
import os
from typing import Any

from storelib import files, seed
from storelib.errors import Fault
from storelib.guest.root import at, text_of

STATE_DIR = "/var/lib/store-deploy"

BOOTS = f"{STATE_DIR}/boots"

HANDED_OVER = f"{STATE_DIR}/handed-over"


def bootstrap() -> dict[str, Any] | None:
    """Return what the seed says of this deployment, None once the bootstrap data are gone."""
    try:
        data = json.loads(at(seed.BOOTSTRAP).read_text(encoding="utf-8"))
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
    return text_of("/proc/sys/kernel/random/boot_id")


def boots() -> list[str]:
    """Return the IDs of all boots that were noted, in order."""
    return text_of(BOOTS).split()


def note_boot() -> list[str]:
    """Add the current boot to the list, unless it is the last one there; return the list."""
    noted = boots()
    if noted[-1:] != [boot_id()]:
        noted.append(boot_id())
        # What it has booted with, its key and its minion's configuration, outlives a power cut from
        # now on: cloud-init has not synced them, and does not write them again.
        os.sync()
        files.write(at(BOOTS), "".join(f"{boot}\n" for boot in noted))
    return noted


def noted_boots() -> list[str]:
    """Note the current boot, while the deployment lasts, and return all that were noted."""
    return boots() if bootstrap() is None else note_boot()


def handed_over(store: str, generation: int) -> bool:
    """Return whether this deployment's guest has told that it is there."""
    return text_of(HANDED_OVER) == _marker(store, generation)


def note_handing_over(store: str, generation: int) -> None:
    """Remember that this deployment's guest has told that it is there."""
    files.write(at(HANDED_OVER), _marker(store, generation) + "\n")


def _marker(store: str, generation: int) -> str:
    return f"{store} {generation}"
