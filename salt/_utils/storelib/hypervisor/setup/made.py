# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What our states have made of this machine, noted before it is made, so that it can be taken back.

One JSON file: what was made, and how it was before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storelib import files
from storelib.hypervisor.place import read_json

NOTE = Path("/var/lib/store-deploy/made.json")


def noted() -> dict[str, Any]:
    """Return all that is noted."""
    return read_json(NOTE) or {}


def note(what: str, how: Any) -> None:
    """Note that this is about to be made, unless it is noted already."""
    known = noted()
    if what not in known:
        _write({**known, what: how})


def forget(what: str) -> None:
    """Note that this was taken back."""
    known = noted()
    if known.pop(what, None) is not None:
        _write(known)


def lacking(what: str, names: list[str]) -> list[str]:
    """Return which of these are not noted as made."""
    known = noted().get(what, [])
    return [name for name in names if name not in known]


def note_names(what: str, names: list[str]) -> None:
    """Note that these are about to be made, beside those that are noted already."""
    if new := lacking(what, names):
        known = noted()
        _write({**known, what: [*known.get(what, []), *new]})


def _write(known: dict[str, Any]) -> None:
    if known:
        files.write(NOTE, json.dumps(known, indent=1) + "\n", 0o600)
    else:
        NOTE.unlink(missing_ok=True)
