# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown: records, timelines and explanations, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

from storemaster.deployment import lifecycle, outbox, verbs
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.receivers import DNS
from storemaster.deployment.record import Change, Line, Record
from storemaster.deployment.times import lasting

Told = tuple[str, str]
"""A fault and its mend, which is empty where the sentence says it."""

NAMED = 3
"""How many of many a sentence names."""


def some(names: Sequence[object], named: int = NAMED) -> str:
    """Name the first of many, and say how many more there are."""
    more = len(names) - named
    return ", ".join(map(str, names[:named])) + (f" and {more} more" if more > 0 else "")


def when(at: float | None) -> str | None:
    """Return a time as ISO 8601, UTC, seconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def record(this: Record, fingerprint: str = "") -> dict[str, Any]:
    """Return the public form of a record, with the ``fingerprint`` of its guest's key."""
    evidence = this.evidence.shown()
    if fingerprint:
        evidence["key_fingerprint"] = fingerprint
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
        "group": this.group,
        "image": this.spec["image"],
        "attempts": this.attempts,
        "evidence": evidence,
        "failed_in": this.failed_in,
        "reason": this.reason,
        "next_action": this.next_action,
        "cleanup_failed": evidence.pop("cleanup_failed", []),
        "revision": this.revision,
    }


def outcome(this: Record) -> dict[str, Any]:
    """Return what a watched deployment comes to: nothing is added if its store is deployed."""
    if this.state == lifecycle.DEPLOYED.name:
        return {}
    failed = this.state == lifecycle.FAILED.name
    see = verbs.command(this, "watch" if this.active else "explain")
    still = "still " if this.active else ""
    return {
        "error": this.reason if failed else f"store {this.store} is {still}{this.state}",
        "hint": this.next_action or see,
        "retcode": 1,
    }


def row(this: Line | Record, now: float) -> dict[str, Any]:
    """Return a record's line in a list."""
    return {
        "store": this.store,
        "generation": this.generation,
        "state": this.state,
        "for_s": max(0, round(now - this.since)),
        "hypervisor": this.hypervisor,
        "minion_id": this.minion_id,
        "group": this.group,
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
                "actor": change.actor,
                "way": change.way,
            }
        )
    return rows


def anything(verb: str) -> bool:
    """Say that a verb may be said: nobody limits who asks."""
    return True


def explain(
    this: Record,
    now: float,
    ledger: Ledger,
    may: Callable[[str], bool] = anything,
    people: bool = False,
) -> dict[str, Any]:
    """
    Say why a deployment is where it is, and what comes next.

    may
        Says whether who asks may say a verb: what is offered.
    people
        Whether it is people who read it, who need no data beside the sentences.
    """
    state = lifecycle.STATES[this.state]
    told: dict[str, Any] = {
        "store": this.store,
        "state": this.state,
        "meaning": state.happens,
        "for": lasting(now - this.since),
        "for_s": max(0, round(now - this.since)),
    }
    if this.active:
        told["over_when"] = state.over
        told["waits_for"] = this.reason or "nothing: its next step is due"
        deadline = when(this.deadline)
        told["at_deadline"] = f"fails at {deadline}" if deadline else "it has no limit"
    elif this.state == lifecycle.FAILED.name:
        failed_in = lifecycle.STATES[this.failed_in]
        told["failed_in"] = f"{failed_in.name}: {failed_in.happens}"
        told["reason"] = this.reason
        told["undo"] = failed_in.undo
    elif this.state == lifecycle.HELD.name:
        told["held_in"] = this.held_in
    if fault := outbox.fault_of(ledger, this.store, this.generation, DNS):
        told["dns"] = f"its name is not as it should be: {fault}; salt-run deploy.outbox {DNS}"
    offered_verbs = verbs.offered(this, ledger)
    theirs = {verb: offered_verbs[verb] for verb in filter(may, offered_verbs)}
    told["you_can"] = _you_can(this, theirs)
    if not people:
        told["verbs"] = list(theirs)
    if waiting := ledger.requests(this, now):
        if not people:
            told["requests"] = [
                {"id": each.id, "words": each.words, "who": each.who, "until": when(each.until)}
                for each in waiting
            ]
        told["waits_for_another_person"] = [
            f"{each.words}, asked for by {each.who}: "
            f"salt-run deploy.approve {this.store} {each.id}, until {when(each.until)}"
            for each in waiting
        ]
    if offered := this.evidence.offered:
        told["offered"] = f"{offered['hypervisor']} is ready for this store: {offered['why']}"
        if this.state not in lifecycle.OPEN and may("store"):
            told["you_can"] += [
                f"move there: salt-run deploy.store {this.store} "
                f"hypervisor={offered['hypervisor']} redeploy=True"
            ]
    return told


def _you_can(this: Record, offered: dict[str, str]) -> list[str]:
    """Return what can be typed, a line each, the operator's next step first."""
    failed, deployed = this.state == lifecycle.FAILED.name, this.state == lifecycle.DEPLOYED.name
    why = {
        "hold": "let it rest",
        "release": "let it go on",
        "retry": "go on where it failed",
        "cancel": "remove what was made" if failed else "stop it and remove what was made",
        "store": "replace it" if deployed else "begin anew" if failed else "deploy anew",
        "rollback": "put the set-aside server back",
        "retire": "see what a removal for good would remove",
    }
    said = [this.next_action] if failed and this.next_action else []
    if this.state in lifecycle.OPEN:
        said = [f"watch it: {verbs.command(this, 'watch')}"]
    for verb, command in offered.items():
        # The next step that the failure named is not said twice.
        if not any(line.endswith(command) for line in said):
            said.append(f"{why[verb]}: {command}")
    return said


def expected_outage(this: Record | None, all_of_them: Iterable[Record]) -> dict[str, Any]:
    """Say for how long the store will be without a server: as last time, or as the others were."""
    measured = [each.outage_s for each in all_of_them if each.outage_s is not None]
    if this and this.outage_s is not None:
        seconds, why = this.outage_s, "as when its server was last replaced"
    elif measured:
        seconds, why = median(measured), f"the median of {len(measured)} stores"
    else:
        seconds, why = None, "no server was replaced yet, so none was measured"
    told = why if seconds is None else f"{lasting(seconds)}, {why}"
    return {"outage_s_expected": seconds, "outage_expected": told}


def would(spec: dict[str, Any], facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what a deployment would make, and of what that is there: what it is, then how it is."""
    image, domain = spec["image"], facts.get("domain") or {}
    if facts:
        there = facts["image"].get("sha256") == image["sha256"]
        yield "image", f"{image['source']}: {'in the cache' if there else 'is fetched'}"
    if domain.get("exists"):
        told = f"{spec['minion_id']}, {domain['state']}: is shut down and set aside"
        yield "old server", told
    yield (
        "server",
        f"{spec['minion_id']}: {spec['cpus']} CPUs, {spec['memory_mib']} MiB of memory, "
        f"{spec['disk_gib']} GiB of disk in {spec['pool']}",
    )
    for disk in spec["data_disks"]:
        yield "data disk", f"{disk['name']}: {disk['size_gib']} GiB, unless it is there already"
    for nic in spec["interfaces"]:
        at = f"{nic['type']} {nic['source']}" if nic["source"] else nic["type"]
        yield "interface", f"{nic['name']}: {at}, {nic['address']}"


def steps(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say, state by state, what a deployment would do."""
    for state in lifecycle.PATH:
        limit_s = lifecycle.limit_s(state.name, spec["timeouts"])
        ends = f"fails after {lasting(limit_s)}" if limit_s else "it has no limit"
        yield state.name, f"{state.happens}; over when {state.over}; {ends}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a deployment would do, and what is in its way."""

    store: str
    now: str
    faults: list[Told]
    generation: int = 0
    hypervisor: str = ""
    outage: dict[str, Any] = dataclasses.field(default_factory=dict)
    would: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def about(self) -> Iterator[tuple[str, str]]:
        """Say which deployment it would be, and where."""
        yield "store", self.store
        yield "now", self.now
        if self.would:
            yield "generation", str(self.generation)
            yield "hypervisor", self.hypervisor
            yield "outage", self.outage["outage_expected"]

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data: ``error`` is the fault that matters first."""
        told = [": ".join(filter(None, fault)) for fault in self.faults]
        data: dict[str, Any] = {"store": self.store, "now": self.now, "faults": told}
        if self.faults:
            error, mend = self.faults[0]
            hint = mend or f"mend it, then see again: salt-run deploy.plan {self.store}"
            data |= {"error": error, "hint": hint}
        if self.would:
            data |= {"generation": self.generation, "hypervisor": self.hypervisor, **self.outage}
            data["would"] = [" ".join(each) for each in self.would]
        if self.spec:
            data |= {"spec": self.spec, "steps": [": ".join(each) for each in self.steps]}
        return data
