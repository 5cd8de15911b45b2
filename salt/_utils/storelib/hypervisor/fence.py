# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The hypervisor's own note of how far each store is, which outlives its pool and its servers.

It is kept by machine, so that a disk that was moved to other hardware brings no note along.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storelib import commands, orders
from storelib.errors import Fault
from storelib.files import locked
from storelib.hypervisor.place import folder, read_json, write

NOTES = Path("/var/lib/store-deploy/stores")


def machine_id() -> str:
    """Return the ID of this machine; empty if it has none."""
    with contextlib.suppress(OSError, UnicodeError):
        return Path("/etc/machine-id").read_text().strip()
    return ""


def noted(store: str, machine: str) -> dict[str, Any] | None:
    """
    Return what is noted of the store: ``deployment``, ``attempt``, ``step``, ``at``.

    Raises :class:`Fault` if there is a note that cannot be read: it is never taken for none.
    """
    path = _path(store, machine)
    note = read_json(path)
    if isinstance(note, dict) and {"deployment", "attempt", "step"} <= note.keys():
        return note
    if path.exists():
        raise Fault(f"the note {path} cannot be read", commands.adopt(store))
    return None


def passed(
    store: str,
    machine: str,
    order: Mapping[str, Any],
    step: str,
    domain: Mapping[str, Any],
) -> None:
    """
    Note that the order is being carried out; raise :class:`Fault` if it comes too late.

    Called under the store's lock. ``domain`` are the facts of the store's domain.
    """
    note = noted(store, machine)
    server = domain["deployment"] if domain.get("ours") else None
    try:
        orders.check(note, order, step, server)
    except orders.Behind as err:
        raise _gone_on(store, str(err)) from None
    now = {"deployment": order["deployment"], "attempt": order["attempt"], "step": step}
    if note is None or now != {key: note[key] for key in now}:
        put(store, machine, now)


def present(store: str, machine: str, order: Mapping[str, Any]) -> None:
    """Raise :class:`Fault` if what is noted is not known to who sent the order."""
    note = noted(store, machine)
    attempt, step = order["after"]
    known = order["deployment"], order["replaces"], (attempt, step)
    if note and orders.unknown(note, *known):
        raise _gone_on(store, f"noted is {orders.told(note)}")


def _gone_on(store: str, why: str) -> Fault:
    return Fault(f"store {store} has gone on: {why}", commands.adopt(store), {"behind": True})


def shown(store: str, machine: str) -> dict[str, Any] | None:
    """Return what is noted, or why that cannot be told as ``unreadable``."""
    try:
        return noted(store, machine)
    except (Fault, OSError) as err:
        return {"unreadable": str(err)}


@contextlib.contextmanager
def at(store: str, machine: str) -> Iterator[None]:
    """Keep two jobs from acting on the same store at once, in whichever pools."""
    path = _path(store, machine).with_suffix(".lock")
    folder(path.parent)
    with locked(path):
        yield


def put(store: str, machine: str, note: Mapping[str, Any]) -> None:
    """Write the note; it is on the disk when this returns."""
    path = _path(store, machine)
    folder(path.parent)
    write(path, json.dumps({**note, "at": int(time.time())}))


def forget(store: str, machine: str) -> None:
    """Remove the note, if there is one."""
    _path(store, machine).unlink(missing_ok=True)


def _path(store: str, machine: str) -> Path:
    return NOTES / (machine or "unknown") / f"{store}.json"
