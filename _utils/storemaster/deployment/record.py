# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The record of a store's deployment, as the ledger keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from storelib import orders
from storemaster.deployment import lifecycle
from storemaster.deployment.evidence import NOTHING, Evidence

ANY_MACHINE = ""
"""Key of what any hypervisor may have noted."""


@dataclass(frozen=True)
class Job:
    """A Salt job that a deployment waits for."""

    jid: str
    minion: str
    function: str
    at: float
    """By the record's own clock, as ``probe_at``."""
    earlier: tuple[str, ...] = ()
    """JIDs of the same question that were not answered in time."""
    probe: str = ""
    """JID of the ``saltutil.find_job`` that asks after it, if one is under way."""
    probe_at: float = 0
    rung: bool = False
    """Whether a bell has said since then that the minion is there."""


@dataclass(frozen=True)
class Record:
    """The deployment of one store. Times are seconds since the epoch."""

    store: str
    generation: int
    state: str
    since: float
    deadline: float | None
    hypervisor: str
    minion_id: str
    spec: dict[str, Any]
    began: float
    requested_by: str
    """``operator`` or ``event``."""
    redeploy: bool = False
    attempts: int = 0
    evidence: Evidence = NOTHING
    job: Job | None = None
    failed_in: str = ""
    resumes: str = ""
    """The state that a retry goes on in, once it has a slot again."""
    held_in: str = ""
    """The state to go on in when the hold is released."""
    left_s: float | None = None
    """Seconds that a held state had left."""
    spent_s: float = 0
    """Seconds of the state's limit that are used up: those in which the master was there."""
    clock_s: float = 0
    """
    The record's own clock, by which it waits for minions. The first step sets it, each step
    moves it on; nothing else does, so it never jumps.
    """
    rests_until: float = 0
    """By that clock: until then nobody is asked again, unless a bell rings."""
    looked: dict[str, Any] = field(default_factory=dict)
    """When the last step was: the kernel's boot ID, seconds since that boot, the time of day."""
    reason: str = ""
    asked: str = ""
    """The question whose answer the reason is about, if it is about one."""
    next_action: str = ""
    due: float | None = None
    revision: int = 0
    others: dict[str, str] = field(default_factory=dict)
    """Public keys of the other hypervisors that the store's server was made on, by minion ID."""
    asides: dict[str, dict[str, str]] = field(default_factory=dict)
    """Where the server of each deployment (its number as text) was set aside."""
    deployment: str = ""
    """ID of the deployment, unlike its number of no other one, of another ledger neither."""
    attempt: int = 1
    """Raised whenever the deployment goes on in another way than by its next step."""
    ordered: tuple[int, str] = orders.NOWHERE
    """The furthest attempt and step that a hypervisor was ordered."""
    noted: dict[str, list[str]] = field(default_factory=dict)
    """IDs of the deployments one of which a hypervisor may have noted, by machine ID."""
    candidate: dict[str, Any] = field(default_factory=dict)
    """A hypervisor that says it is ready for this store: minion, key, until when it is asked."""

    @property
    def minions(self) -> set[str]:
        """All minion IDs that this record is about."""
        named = (self.minion_id, self.hypervisor, self.candidate.get("minion"), *self.others)
        return {name for name in named if name}

    def key_of(self, minion: str) -> str:
        """Return the public key with which the minion is believed; empty if there is none."""
        if minion == self.minion_id:
            # Until it is set aside, the old server is the store's.
            return self.evidence.public_key or self.evidence.serving_key
        if minion == self.candidate.get("minion"):
            return str(self.candidate["key"])
        if minion == self.hypervisor:
            return self.evidence.hypervisor_key
        return self.others.get(minion, "")

    @property
    def group(self) -> str | None:
        """The store's region or line, if it has one."""
        group: str | None = self.spec.get("group")
        return group

    @property
    def machine(self) -> str:
        """ID of the machine that the hypervisor is, empty as long as it is not known."""
        return str(self.evidence.hypervisor.get("machine_id") or "")

    def may_be_noted(self, machine: str) -> list[str]:
        """Return the deployments before this one that the machine may have noted."""
        machines = (machine, ANY_MACHINE) if machine else self.noted
        known = [each for name in machines for each in self.noted.get(name, ())]
        return [each for each in dict.fromkeys(known) if each != self.deployment]

    @property
    def outage_s(self) -> float | None:
        """How long the store was without a server when it was last replaced, if that is known."""
        this = self.evidence.outage_s
        return self.evidence.last_outage_s if this is None else this

    @property
    def is_new(self) -> bool:
        """Whether its server has its first states still before it, which reboot it."""
        booted = len(self.evidence.boot_ids or ())
        return (
            bool(self.evidence.public_key) and booted < 2 and self.state != lifecycle.DEPLOYED.name
        )

    @property
    def active(self) -> bool:
        """Whether the deployment moves by itself."""
        return self.state in lifecycle.ACTIVE


@dataclass(frozen=True)
class Line:
    """What a list has of a record: to read all of each would take long where there are many."""

    store: str
    generation: int
    state: str
    since: float
    hypervisor: str
    minion_id: str
    reason: str
    failed_in: str
    group: str | None


@dataclass(frozen=True)
class Change:
    """One line of history."""

    id: int
    store: str
    generation: int
    state: str
    previous: str
    reason: str
    at: float
    actor: str = ""
    """Who made it; empty if it came by itself, or before that was noted."""
    way: str = ""
