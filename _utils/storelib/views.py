# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown: records, timelines and explanations, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

from storelib import lifecycle
from storelib.ledger import Change, Record

HIDDEN = (
    "public_key",
    "old_public_key",
    "hypervisor_key",
    "mended",
    "probe_tries",
    "late",
    "quiet",
    "serving_key",
    "fence",
    "made_room",
    "retried",
    "runs",
    "locked_out",
    "look",
    "autosign_tried",
    "suffices",
    "old_ended_at",
    "last_outage_s",
)
"""Evidence that is for the machine only."""


def when(at: float | None) -> str | None:
    """Return a time as ISO 8601, UTC, seconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def fingerprint(public_key: str) -> str:
    """Return what a key is shown as."""
    body = "".join(public_key.split())
    return "sha256:" + hashlib.sha256(body.encode()).hexdigest()


def record(this: Record) -> dict[str, Any]:
    """Return the public form of a record."""
    evidence = {key: value for key, value in this.evidence.items() if key not in HIDDEN}
    public_key = this.evidence.get("public_key")
    if public_key:
        evidence["key_fingerprint"] = fingerprint(public_key)
    return {
        "store": this.store,
        "generation": this.generation,
        "deployment": this.deployment,
        "attempt": this.attempt,
        "state": this.state,
        "since": when(this.since),
        "deadline": when(this.deadline),
        "hypervisor": this.hypervisor,
        "minion_id": this.minion_id,
        "image": this.spec["image"],
        "attempts": this.attempts,
        "evidence": evidence,
        "failed_in": this.failed_in,
        "reason": this.reason,
        "next_action": this.next_action,
        "cleanup_failed": evidence.pop("cleanup_failed", []),
        "revision": this.revision,
    }


def row(this: Record, now: float) -> dict[str, Any]:
    """Return a record's line in a list."""
    return {
        "store": this.store,
        "generation": this.generation,
        "state": this.state,
        "for_s": max(0, round(now - this.since)),
        "hypervisor": this.hypervisor,
        "minion_id": this.minion_id,
        "reason": this.reason,
    }


def timeline(changes: Sequence[Change], now: float) -> list[dict[str, Any]]:
    """Return the history with the seconds spent in each state."""
    rows = []
    for change, following in zip(changes, [*changes[1:], None], strict=False):
        ended = following.at if following else now if change.state in lifecycle.OPEN else None
        rows.append(
            {
                "generation": change.generation,
                "state": change.state,
                "at": when(change.at),
                # A clock that was set back is no negative time.
                "took_s": round(max(0.0, ended - change.at), 1) if ended else None,
                "reason": change.reason,
            }
        )
    return rows


def explain(this: Record, now: float) -> dict[str, Any]:
    """Say why a deployment is where it is, and what comes next."""
    state = lifecycle.STATES[this.state]
    told: dict[str, Any] = {
        "store": this.store,
        "state": this.state,
        "meaning": state.happens,
        "for_s": max(0, round(now - this.since)),
    }
    if this.active:
        told["over_when"] = state.over
        told["waits_for"] = this.reason or "nothing: its next step is due"
        deadline = when(this.deadline)
        told["at_deadline"] = f"fails at {deadline}" if deadline else "it has no limit"
        told["you_can"] = [f"watch it: salt-run deploy.history {this.store}"]
        if this.state in lifecycle.PASSED:
            told["you_can"] += [
                f"salt-run deploy.{verb} {this.store}" for verb in ("hold", "cancel")
            ]
    elif this.state == lifecycle.FAILED.name:
        told["failed_in"] = f"{this.failed_in}: {lifecycle.STATES[this.failed_in].happens}"
        told["reason"] = this.reason
        told["undo"] = lifecycle.STATES[this.failed_in].undo
        told["you_can"] = [this.next_action]
        if this.failed_in in lifecycle.RESUMES and "deploy.retry" not in this.next_action:
            told["you_can"] += [f"go on where it failed: salt-run deploy.retry {this.store}"]
        if this.failed_in in (*lifecycle.PASSED, lifecycle.CANCELLING.name):
            told["you_can"] += [f"remove what was made: salt-run deploy.cancel {this.store}"]
        told["you_can"] += [f"begin anew: salt-run deploy.store {this.store}", *_backwards(this)]
    elif this.state == lifecycle.HELD.name:
        told["held_in"] = this.held_in
        told["you_can"] = [f"salt-run deploy.{verb} {this.store}" for verb in ("release", "cancel")]
    elif this.state == lifecycle.CANCELLED.name:
        told["you_can"] = [f"deploy anew: salt-run deploy.store {this.store}", *_backwards(this)]
    elif this.state == lifecycle.RETIRED.name:
        told["you_can"] = [f"deploy anew: salt-run deploy.store {this.store}"]
    else:
        told["you_can"] = [
            f"replace it: salt-run deploy.store {this.store} redeploy=True",
            *_backwards(this),
        ]
    if "offered" in this.evidence:
        offered = this.evidence["offered"]
        told["offered"] = f"{offered['hypervisor']} is ready for this store: {offered['why']}"
        told["you_can"] += [
            f"move there: salt-run deploy.store {this.store} "
            f"hypervisor={offered['hypervisor']} redeploy=True"
        ]
    return told


def _backwards(this: Record) -> list[str]:
    """Return what can be typed to have less than there is."""
    back = [f"put the set-aside server back: salt-run deploy.rollback {this.store}"]
    return [
        *(back if this.asides else []),
        f"see what a removal for good would remove: salt-run deploy.retire {this.store}",
    ]


def expected_outage(this: Record | None, all_of_them: Iterable[Record]) -> dict[str, Any]:
    """Say for how long the store will be without a server: as last time, or as the others were."""
    measured = [each.outage_s for each in all_of_them if each.outage_s is not None]
    if this and this.outage_s is not None:
        seconds, why = this.outage_s, "as when its server was last replaced"
    elif measured:
        seconds, why = median(measured), f"the median of {len(measured)} stores"
    else:
        seconds, why = None, "no server was replaced yet, so none was measured"
    return {"outage_s_expected": seconds, "outage_expected": why}


def progress(change: Change, began: float) -> str:
    """Return the line that a change is shown as while it is watched."""
    failed = change.state == lifecycle.FAILED.name
    what = change.reason if failed else lifecycle.STATES[change.state].happens
    return f"{max(0.0, change.at - began):8.1f} s  {change.state:<20}  {what}"


def steps(spec: dict[str, Any]) -> Iterable[str]:
    """Say, state by state, what a deployment would do."""
    for state in lifecycle.PATH:
        limit = lifecycle.limit_s(state.name, spec["timeouts"])
        ends = f"fails after {limit} s" if limit else "it has no limit"
        yield f"{state.name}: {state.happens}; over when {state.over}; {ends}"
