# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The guest's highstate, and what of it decides whether the deployment goes on."""

from __future__ import annotations

import os
import time
from typing import Any

from storelib.errors import Fault
from storelib.guest.minion import Facts, Minion

COMMENT_LENGTH = 500
"""How much of a state's or a command's own words is told."""

NOT_YET = ("Pillar failed to render", "packages.packages_")
"""
Part of Salt's words for what comes by itself: a pillar that somebody is at work on, or a part of
which is not to be had; on Uyuni a state of the minion's own, written when it is registered.
"""


def apply(minion: Minion, test: bool) -> Facts:
    """Apply the highstate, or only test it, and return a summary."""
    begun = time.monotonic()
    facts = _summary(minion.highstate(test))
    facts["duration_s"] = round(time.monotonic() - begun, 1)
    # A reboot follows: what is reported outlives a power cut, too.
    os.sync()
    if facts["errors"]:
        raise Fault(
            f"the highstate did not run: {' '.join(facts['errors'][:2])}",
            "mend the states or pillar that it names",
            facts,
        )
    if facts["failed"]:
        first = facts["failed"][0]
        raise Fault(
            f"the highstate failed in {len(facts['failed'])} of {facts['total']} states, first "
            f"{first['id']} ({first['sls']}): {first['comment']}",
            "mend the state",
            facts,
        )
    return facts


def _summary(returned: Any) -> Facts:
    """Shorten what ``state.apply`` returned to what decides whether a deployment goes on."""
    errors: list[str] = []
    chunks: dict[str, Any] = {}
    if isinstance(returned, list):
        errors = [str(error)[:COMMENT_LENGTH] for error in returned]
    elif returned and all(
        isinstance(chunk, dict) and "result" in chunk for chunk in returned.values()
    ):
        chunks = returned
    else:
        errors = [f"it returned {returned!r}"[:COMMENT_LENGTH]]
    named = [
        (chunk.get("__id__", tag), chunk)
        for tag, chunk in sorted(chunks.items(), key=lambda item: item[1].get("__run_num__", 0))
    ]
    return {
        "total": len(chunks),
        "changed": sum(bool(chunk.get("changes")) for _, chunk in named),
        "failed": [
            {
                "id": state_id,
                "sls": chunk.get("__sls__", ""),
                "comment": str(chunk.get("comment", ""))[:COMMENT_LENGTH],
            }
            for state_id, chunk in named
            if chunk["result"] is False
        ],
        "would_change": [state_id for state_id, chunk in named if chunk["result"] is None],
        "errors": errors,
        "not_yet": any(words in error for error in errors for words in NOT_YET),
    }
