# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Takes into the ledger what a hypervisor really has of a store: for a ledger that was lost or is old.

The server, its deployment and its key are the hypervisor's word, sealed; the spec is the pillar's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from storelib import commands, orders
from storelib.errors import Refused
from storemaster.deployment import lifecycle
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.record import Record

MIDST = {"define": "starting", "start": "booting"}
"""Where a deployment with a server goes on, by the last step that is noted of it."""

BEFORE = {"stage": "staging", "prepare": "staging"}
"""Where one without a server goes on, if nothing was set aside for it yet."""


@dataclass(frozen=True)
class Found:
    """What there is, and what the ledger knows."""

    spec: dict[str, Any]
    hypervisor: str
    hypervisor_key: str
    facts: dict[str, Any]
    accepted: str
    """The key that is accepted for the server's minion ID, empty if none is."""
    same_key: bool
    """Whether that is the key that the server's definition carries."""
    record: Record | None
    fingerprint: Callable[[str], str]
    """What a key is shown as."""

    @property
    def domain(self) -> dict[str, Any]:
        """Return the facts of the store's own server, empty if it has none there."""
        domain = self.facts["domain"] or {}
        return domain if domain.get("ours") else {}

    @property
    def note(self) -> dict[str, Any] | None:
        """Return what the hypervisor has noted, if it can be read."""
        note: dict[str, Any] | None = self.facts["note"]
        return None if note is None or "unreadable" in note else note

    @property
    def asides(self) -> list[dict[str, Any]]:
        """Return the servers that were set aside whole."""
        return [each for each in self.facts["set_asides"] if each["complete"]]

    def check(self) -> None:
        """Raise :class:`Refused` if what there is cannot be the store's."""
        name, minion = self.hypervisor, self.spec["minion_id"]
        if self.facts["domain"] is None:
            raise Refused(f"{name}: {self.facts['libvirt']['why']}", "start libvirtd there")
        if self.facts["domain"]["exists"] and not self.domain:
            raise Refused(
                f"the domain {minion} on {name} does not belong to store {self.spec['store']}",
                f"{commands.rename(minion)}; or choose another minion_id in the pillar",
            )
        key = self.domain.get("public_key")
        if self.domain and not key:
            raise Refused(
                f"the domain {minion} on {name} carries no key of ours, accepted for {minion} is "
                f"{self._shown(self.accepted)}",
                "nothing proves which server it is: deploy.retire it, then deploy.store anew",
            )
        if key and self.accepted and not self.same_key:
            raise Refused(
                f"the server of {minion} on {name} has the key {self._shown(key)}, accepted is "
                f"{self._shown(self.accepted)}",
                f"find out whose that is; if the server's is right: salt-key -d {minion}, then "
                "deploy.adopt again",
            )
        if not self.domain and not self.note and not self.asides:
            raise Refused(
                f"{name} has nothing of store {self.spec['store']}",
                f"deploy it: salt-run deploy.store {self.spec['store']}",
            )

    def becomes(self, now: float) -> Record:
        """Return the record of what there is."""
        state, failed_in = self._state()
        numbers = [each["generation"] for each in (*self.asides, *filter(None, [self.domain]))]
        number = max([self.record.generation if self.record else 1, *numbers])
        deployment = self.domain.get("deployment") or (self.note or {}).get("deployment", "")
        noted = self.note or {"deployment": deployment, "attempt": 1, "step": "finish"}
        ours = noted["deployment"] == deployment
        facts, machine = self.facts, self.facts["machine_id"]
        seen = ("machine_id", "boot_id", "virt_type", "libvirt", "marker")
        there = self.domain.get("generation", number)
        evidence = Evidence(
            hypervisor={key: facts[key] for key in seen},
            hypervisor_key=self.hypervisor_key,
            public_key=self.domain.get("public_key", ""),
            disk=facts["disk"],
            rolls_back_to=there if there != number else None,
        )
        where = {"hypervisor": self.hypervisor, "machine_id": machine}
        failed = state == lifecycle.FAILED.name
        old = self.record
        return Record(
            store=self.spec["store"],
            generation=number,
            state=state,
            since=now,
            deadline=None,
            hypervisor=self.hypervisor,
            minion_id=self.spec["minion_id"],
            spec=self.spec,
            began=now,
            requested_by="operator",
            redeploy=True,
            evidence=evidence,
            failed_in=failed_in,
            reason=f"taken over in the midst: {orders.told(self.note)}" if failed else "",
            revision=old.revision if old else 0,
            others=old.others if old else {},
            asides={
                str(each["generation"]): {**where, "path": each["path"]} for each in self.asides
            },
            deployment=deployment or orders.new_id(number),
            attempt=noted["attempt"] if ours else 1,
            ordered=orders.position(noted) if ours else orders.NOWHERE,
            noted={**(old.noted if old else {}), machine: [noted["deployment"]]},
        )

    def _state(self) -> tuple[str, str]:
        """Return the state of what there is, and in which one it is taken to have failed."""
        step = self.note["step"] if self.note else ""
        if self.domain:
            ours = self.note is not None and self.note["deployment"] == self.domain["deployment"]
            midst = MIDST.get(step, "") if ours else ""
            return (lifecycle.FAILED.name, midst) if midst else (lifecycle.DEPLOYED.name, "")
        if step in ("retire", "discard"):
            ended = lifecycle.RETIRED if step == "retire" else lifecycle.CANCELLED
            return ended.name, ""
        return lifecycle.FAILED.name, BEFORE.get(step, "clearing")

    def told(self, now: float) -> dict[str, Any]:
        """Return what the operator sees: what is there, what the ledger says, what it would say."""
        domain, record, new = self.domain, self.record, self.becomes(now)
        server: dict[str, Any] | None = None
        if domain:
            server = {key: domain[key] for key in ("state", "generation", "deployment")}
            server["key"] = self._shown(domain["public_key"])
        return {
            "store": self.spec["store"],
            "hypervisor": self.hypervisor,
            "there": {
                "server": server,
                "noted": orders.told(self.note),
                "set_asides": [each["path"] for each in self.asides],
                "accepted_key": self._shown(self.accepted),
            },
            "ledger": _line(record) if record else "nothing",
            "becomes": _line(new),
            "differences": list(self._differences()),
        }

    def _shown(self, pem: str) -> str:
        return self.fingerprint(pem) if pem else "none"

    def _differences(self) -> Iterator[str]:
        """Yield in what the server is not as the pillar says."""
        if self.domain:
            wanted = {
                "memory_mib": self.spec["memory_mib"],
                "cpus": self.spec["cpus"],
                "system disk": self.facts["disk"]["path"],
            }
            disks = self.domain.get("disks") or [None]
            there = {**self.domain, "system disk": disks[0]}
            for key, value in wanted.items():
                if there.get(key, value) != value:
                    yield f"{key} is {there[key]}, the pillar says {value}"


def _line(record: Record) -> dict[str, Any]:
    keys = ("state", "failed_in", "generation", "deployment", "hypervisor")
    return {key: getattr(record, key) for key in keys if getattr(record, key)}
