# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a store whose hypervisor, another one or a new machine, says that it is ready."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from storelib.errors import StoreDeployError
from storemaster.deployment import failing, jobs, lifecycle, requests, transition, twin_check
from storemaster.deployment.actor import EVENT, Actor, act_as
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED, MasterApi
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import StepContext, Waiting

log = logging.getLogger(__name__)

ANSWER_S = 600.0
"""How long a hypervisor that says it is ready has to answer what it has."""


def note_ready(
    master: MasterApi,
    ledger: Ledger,
    record: Record,
    minion: str,
    auto_deploy: bool,
    max_active: int,
) -> Record:
    """
    Note that a hypervisor, whose pillar names the store, says that it is ready.

    Called for a store that has a record; the next look finds out whether it is new hardware.
    """
    now, key = master.now(), master.keys(minion).get(ACCEPTED, "")
    # One that the store was on before is left alone, unless it was installed anew.
    gone = (
        minion != record.hypervisor
        and not master.same_key(record.others.get(minion, ""), key)
        and ACCEPTED not in master.keys(record.hypervisor)
    )
    if record.active and record.state in lifecycle.PASSED and gone:
        context = StepContext(master, ledger, record, True, max_active)
        context.record = dataclasses.replace(
            record, hypervisor=minion, others=transition.others(record)
        )
        why = f"{record.hypervisor} has no key on this master any more, {minion} is ready"
        return failing.begin_again(context, why)
    if record.state in lifecycle.OPEN:
        # The key of its own hypervisor is compared at each step.
        if minion == record.hypervisor:
            return record
        offered = _offered(minion, f"the deployment is under way on {record.hypervisor}", now)
        evidence = dataclasses.replace(record.evidence, offered=offered)
        return ledger.save(dataclasses.replace(record, evidence=evidence))
    until = (record.clock_s or now) + ANSWER_S
    candidate = {"minion": minion, "key": key, "until": until, "auto": auto_deploy}
    return ledger.save(
        dataclasses.replace(record, candidate=candidate, job=None, looked={}, due=now)
    )


def _offered(minion: str, why: str, now: float) -> dict[str, Any]:
    return {"hypervisor": minion, "why": why, "at": now}


def consider(context: StepContext) -> tuple[Record, bool]:
    """Find out whether a hypervisor that says it is ready is new hardware of a store at rest."""
    record, now = context.record, context.master.now()
    candidate, minion = record.candidate, record.candidate["minion"]
    try:
        if "new" not in candidate:
            facts = jobs.on_hypervisor(context, "facts", quick=True, at=minion).facts
            found = {
                "new": _new_hardware(record, minion, facts),
                "second": _second_server(record, minion, facts),
            }
            context.save(candidate={**candidate, **found})
        new = context.record.candidate["new"]
        twin = twin_check.running(context, minion) if new else ""
        # Before it is forgotten: its pillar may not compile just now.
        wanted = context.wanted(minion) if new and not twin and candidate["auto"] else None
    except Waiting as err:
        if context.left_s(candidate["until"]) > 0:
            context.save(due=now + err.seconds)
            return context.record, False
        new, twin, wanted = "", "", None
    except StoreDeployError as err:
        log.warning("%s: %s says that it is ready: %s", record.store, minion, err.reason)
        new, twin, wanted = "", "", None
    offered = context.evidence.offered
    if second := context.record.candidate.get("second"):
        offered = _offered(minion, second, now)
    elif twin:
        offered = _offered(minion, f"{twin} still runs the store's server", now)
    elif new and not candidate["auto"]:
        offered = _offered(minion, f"{new}; auto_deploy is off", now)
    evidence = dataclasses.replace(context.evidence, offered=offered, fence={}, mended=[])
    context.save(candidate={}, job=None, due=None, evidence=evidence)
    if wanted is None:
        log.info("%s: %s is ready: %s", record.store, minion, offered or "as before")
        return context.record, False
    with act_as(Actor(minion, EVENT)):
        begun = requests.begin(context.ledger, now, wanted, minion, "event", redeploy=True, why=new)
    return begun, True


def _new_hardware(record: Record, minion: str, facts: dict[str, Any]) -> str:
    """Say why the hypervisor is not the machine that the store's server was made on, if so."""
    looked = facts["libvirt"]["reachable"] and facts.get("pool", {}).get("exists")
    there = (facts["domain"] or {}).get("exists") or facts["disk"]["exists"]
    if there:
        return ""
    known = record.evidence.hypervisor.get("machine_id")
    if known is None and record.failed_in == lifecycle.FIRST and looked:
        return f"{minion} is ready, for which deployment {record.generation} had waited"
    if known not in (None, facts["machine_id"]):
        return f"new hardware: {minion} has the machine ID {facts['machine_id']}, not {known}"
    if record.state == lifecycle.DEPLOYED.name and looked:
        return f"domain and disk of the store's server are gone from {minion}"
    return ""


def _second_server(record: Record, minion: str, facts: dict[str, Any]) -> str:
    """Say that another hypervisor than the store's has a server of it, too, if so."""
    domain = facts["domain"] or {}
    if minion == record.hypervisor or not domain.get("ours"):
        return ""
    return (
        f"it has a server of the store, too (deployment {domain['generation']}, "
        f"{domain['state']}); the store's is on {record.hypervisor}"
    )
