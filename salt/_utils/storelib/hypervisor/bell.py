# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A hypervisor's doorbell, on the hypervisor: rung again until the master says that it was heard.

An event can be lost, and that a hypervisor is ready is told by nothing else. So the end of a
highstate leaves a marker, and beside it a note: how often the bell was rung for the marker's boot,
when it is due again, whether it was acknowledged.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storelib import files

MARKER = Path("/var/lib/store-deploy/highstate.json")
"""Left by the end of the hypervisor's highstate: boot ID, time, result."""

SCHEDULE = "store-deploy-ring"
"""Name of the minion's own schedule that calls ``store_hypervisor.ring``."""

PAUSES_S = tuple(60 * minutes for minutes in (1, 2, 4, 8, 16, 32, 60))
"""Between two rings; the last one is repeated."""

JITTER = 0.5
"""By how much of itself a pause may be longer: many that rang at once must not do so again."""


def ring(
    marker: Path,
    store: str | None,
    send: Callable[[str, dict[str, Any]], object],
    end: Callable[[str], object],
) -> object:
    """
    Ring if it is time, and return whether that was sent; end the schedule once it was heard.

    send, end
        Salt's ``event.send`` and ``schedule.delete``.
    """
    if is_silent(marker):
        end(SCHEDULE)
        return False
    if not store or not is_due(marker, time.time()):
        return False
    # On the disk first: a master that is away must not be rung for each minute.
    rung(marker, time.time())
    return send(f"store/{store}/hypervisor/ready", {})


def rung(marker: Path, now: float) -> None:
    """Note that the bell is rung for the boot that the marker is of."""
    rings = _note(marker).get("rings", 0)
    pause = PAUSES_S[min(rings, len(PAUSES_S) - 1)] * random.uniform(1, 1 + JITTER)
    _write(marker, rings=rings + 1, due=now + pause)


def is_due(marker: Path, now: float) -> bool:
    """Say whether it is time to ring again."""
    ahead = float(_note(marker).get("due", 0)) - now
    # Further ahead than any pause: the clock was set back.
    return not 0 < ahead <= PAUSES_S[-1] * (1 + JITTER)


def is_silent(marker: Path) -> bool:
    """Say whether there is nothing to ring for: no marker, or it was acknowledged."""
    return _boot_id(marker) is None or _note(marker).get("acknowledged") is True


def acknowledge(marker: Path) -> bool:
    """Note that the master has heard the bell; say whether there is a marker that it was for."""
    if _boot_id(marker) is None:
        return False
    if not is_silent(marker):
        _write(marker, acknowledged=True)
    return True


def note(marker: Path) -> Path:
    """Return the path of the note beside a marker."""
    return marker.with_name("bell.json")


def _boot_id(marker: Path) -> str | None:
    boot_id = _read(marker).get("boot_id")
    return boot_id if isinstance(boot_id, str) else None


def _note(marker: Path) -> dict[str, Any]:
    """Return the note, empty if it is of another boot than the marker."""
    known = _read(note(marker))
    return known if known.get("boot_id") == _boot_id(marker) else {}


def _write(marker: Path, **changes: Any) -> None:
    known = {**_note(marker), "boot_id": _boot_id(marker), **changes}
    files.write(note(marker), json.dumps(known) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
