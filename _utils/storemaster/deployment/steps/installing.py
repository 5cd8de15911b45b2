# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The steps that bring a store its new server, in their order."""

from __future__ import annotations

import dataclasses
from typing import Any

from storelib import seed
from storelib.domain_states import RUNNING
from storelib.errors import Fault
from storemaster.deployment import (
    admission,
    jobs,
    ledger_check,
    lifecycle,
    minion_ids,
    suitability,
    twin_check,
    verbs,
)
from storemaster.deployment.evidence import Facts, Found
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.record import Record
from storemaster.deployment.spec import KEEP
from storemaster.deployment.step_context import PILLAR_S, NotYet, StepContext, Waiting

PROBE_TRIES = 5
"""How often the probes are run before a failing one fails the deployment."""

PROBE_PAUSE_S = 10.0

FRESH_S = 60.0
"""How long facts of a hypervisor are good for."""

BOOT_S = 20.0
"""When to ask a guest again whether it has booted, if its start was not heard."""


def awaiting_hypervisor(context: StepContext) -> Found:
    """Over when the hypervisor answers and its facts suffice."""
    name = context.record.hypervisor
    keys = context.master.keys(name)
    key = keys.get(ACCEPTED)
    if key is None:
        state = f"its key is {', '.join(keys)}" if keys else "no minion of that name has called"
        raise Waiting(f"{name} has no accepted key on this master yet: {state}", 30)
    # From now on only who has this key is believed to be the hypervisor. If another is accepted
    # while it is waited for, it was installed anew.
    if not context.master.same_key(context.evidence.hypervisor_key, key):
        evidence = dataclasses.replace(context.evidence, hypervisor_key=key, mended=[])
        context.save(evidence=evidence, job=None)
    facts = jobs.on_hypervisor(context, "facts", quick=True).facts
    look = ledger_check.compare(context, facts)
    # Not before it answers: a pillar takes long to compile, and may change while nobody is there.
    wanted = context.wanted(name, facts.get("environment")).as_dict()
    if wanted["store"] != context.record.store:
        raise Fault(
            f"the pillar of {name} now names store {wanted['store']}",
            f"correct the pillar, or name the store's hypervisor: "
            f"{verbs.command(context.record, 'store')} hypervisor=MINION",
        )
    minion_ids.check(context.ledger, wanted["store"], wanted["minion_id"])
    if wanted != context.spec:
        context.save(spec=wanted, minion_id=wanted["minion_id"], job=None)
        facts = jobs.on_hypervisor(context, "facts", quick=True).facts
    marker = facts["marker"] or {}
    configured = marker.get("boot_id") == facts["boot_id"] and marker.get("result") is True
    if context.record.requested_by == "event" and not configured:
        raise Waiting(f"{name} has not reached its highstate since it booted")
    faults = suitability.hypervisor(wanted, facts)
    faults += unknown_server(context.ledger, context.record, facts)
    if faults and configured:
        anew = verbs.command(context.record, "store")
        raise Fault(f"{name}: {'; '.join(faults)}", f"mend it, then: {anew}")
    if faults:
        raise Waiting(f"{name}: {'; '.join(faults)}")
    # As long as it takes: nothing is touched by then.
    _known_to_uyuni(context)
    return {
        "look": look,
        "sufficed_at": context.moment,
        "hypervisor": {
            key: facts[key] for key in ("machine_id", "boot_id", "virt_type", "libvirt", "marker")
        },
    }


def _known_to_uyuni(context: StepContext) -> None:
    """Wait until Uyuni is ready for the guest."""
    if _registers(context):
        context.master.arrange_registration(context.record)


def _registers(context: StepContext) -> bool:
    """Say whether Uyuni is told of the guest; a deployment from before an update knows no such."""
    return bool(context.spec.get("registration", KEEP) != KEEP)


def unknown_server(ledger: Ledger, record: Record, facts: dict[str, Any]) -> list[str]:
    """Find a server of this store that nobody gave leave to replace."""
    domain = facts["domain"] or {}
    if record.redeploy or not domain.get("ours"):
        return []
    generation = domain["generation"]
    reached = ledger.reached
    # Only what this ledger saw being made is known: a lost one begins at 1 again.
    if (
        generation <= record.generation
        and reached(record.store, generation, "defining")
        and not reached(record.store, generation, lifecycle.DEPLOYED.name)
    ):
        return []
    return [
        f"it has a server of this store (deployment {generation}): say redeploy=True to replace it"
    ]


def queued(context: StepContext) -> Found:
    """Over when a slot is free; taking it is part of leaving the state."""
    return {}


def staging(context: StepContext) -> Found:
    """Over when the cached image has the pillar's checksum."""
    facts = jobs.on_hypervisor(context, "stage").facts
    image = facts["image"]
    if image["sha256"] != context.spec["image"]["sha256"]:
        raise Fault(
            f"the image on {context.record.hypervisor} has sha256 {image['sha256']}, the pillar "
            f"says {context.spec['image']['sha256']}",
            "correct image.sha256 or the image",
        )
    return {"image": image}


def preparing(context: StepContext) -> Found:
    """Over when all is there that can be made, and known, while the old server still runs."""
    if context.spec["admission"] == "autosign":
        # By the writer that will add the line. No line that admits anybody is ever a trial.
        context.beside("autosign_tried", context.master.rewrite_autosign)
    context.once("suffices", lambda: _suffices(context))
    key = context.master.master_public_key()
    facts = _with_seed(context, "prepare", key)
    if not _disk_as_asked(context, facts["disk"]) or not facts["public_key"] or facts["trial"]:
        raise Fault(
            f"what was prepared for {context.record.minion_id} is not what was asked for: {facts}",
            f"look at it on {context.record.hypervisor}",
        )
    prepared = {"disk": facts["disk"], "took_s": facts.get("took_s", {})}
    return {"prepared": {**prepared, "registration": facts.get("registration", [])}}


def _with_seed(context: StepContext, step: str, master_public_key: str) -> Facts:
    """Have the hypervisor take a step that may write the guest's seed; return its facts."""
    more: dict[str, Any] = {}
    if _registers(context):
        more = {"registration": context.master.registration_keys(context.record)}
    return jobs.on_hypervisor(context, step, master_public_key=master_public_key, **more).facts


def _suffices(context: StepContext) -> bool:
    """Judge the hypervisor once more if that was long ago: a deployment may have been queued."""
    before = context.evidence.sufficed_at
    if before and context.since_s(before) < FRESH_S:
        return True
    faults = suitability.hypervisor(
        context.spec, jobs.on_hypervisor(context, "facts", quick=True).facts
    )
    if faults:
        raise Fault(f"{context.record.hypervisor}: {'; '.join(faults)}", "mend it")
    return True


def _disk_as_asked(context: StepContext, disk: Facts) -> bool:
    grown: bool = disk.get("virtual_size") == context.spec["disk_gib"] * suitability.GIB
    return grown and bool(disk.get("backing")) == (context.spec["clone"] == "cow")


def clearing(context: StepContext) -> Found:
    """Over when the old server's domain, disk and key are gone from their places."""
    master, minion = context.master, context.record.minion_id
    twin_check.refuse(context)
    old_key = context.once("old_public_key", lambda: master.keys(minion).get(ACCEPTED, ""))
    facts = context.once("cleared", lambda: _cleared(context, old_key or None))
    if facts["domain"]["exists"] or facts["disk"]["exists"]:
        raise Fault(
            f"the old server of {minion} is still there after it was set aside",
            f"look at domain and disk on {context.record.hypervisor}",
        )
    # Only now: a guest that still ran would call again and leave a new pending key.
    master.purge_key(minion)
    if master.keys(minion):
        raise Waiting(f"the old key of {minion} is not gone yet", 1)
    note_asides(context, facts)
    return {"set_aside": facts["set_aside"], "serving_key": ""}


def _cleared(context: StepContext, old_key: str | None) -> Facts:
    """Have the old server set aside, and note by our own clock when it ended, if it ran."""
    facts = jobs.on_hypervisor(context, "clear", public_key=old_key).facts
    if "off_for_s" in facts and context.evidence.old_ended_at is None:
        ago_s, then = facts["off_for_s"], context.moment
        ended = {**then, "up": then["up"] - ago_s, "now": then["now"] - ago_s}
        context.save(evidence=dataclasses.replace(context.evidence, old_ended_at=ended), job=None)
    return facts


def note_asides(context: StepContext, facts: Facts) -> None:
    """Remember where the servers are that were set aside."""
    where = {
        "hypervisor": context.record.hypervisor,
        "machine_id": context.evidence.hypervisor.get("machine_id", ""),
    }
    new = {str(each["generation"]): {**where, "path": each["path"]} for each in facts["set_asides"]}
    if new:
        context.save(asides={**context.record.asides, **new})


def defining(context: StepContext) -> Found:
    """Over when the domain is defined and its disk has the right size and backing."""
    facts = _with_seed(context, "define", context.master.master_public_key())
    domain, disk = facts["domain"], facts["disk"]
    right = (
        domain["exists"]
        and domain["ours"]
        and domain["generation"] == context.record.generation
        and _disk_as_asked(context, disk)
    )
    if not right or not facts["public_key"]:
        raise Fault(
            f"the domain of {context.record.minion_id} is not what was asked for: {facts}",
            f"look at it on {context.record.hypervisor}",
        )
    return {"public_key": facts["public_key"], "disk": disk}


def keep_running(context: StepContext) -> None:
    """Start the guest of a deployment that is retried, if it is off or paused: none else would."""

    def runs() -> bool:
        domain = jobs.on_hypervisor(context, "facts", quick=True).facts["domain"]
        if domain is None:
            raise Waiting(f"{context.record.hypervisor} cannot say whether the guest is on")
        return domain.get("state") in RUNNING

    if not context.once("runs", runs):
        twin_check.refuse(context)
        context.once("started", lambda: jobs.on_hypervisor(context, "start").facts)


def starting(context: StepContext) -> Found:
    """Over when the domain has run for ``steady_s`` without a break."""
    twin_check.refuse(context)
    admission.admit(context)
    facts = jobs.on_hypervisor(context, "start").facts
    admission.admit(context)
    return {"start": facts, "attempts": facts["attempts"]}


def booting(context: StepContext) -> Found:
    """Over when the guest's minion answers, with the key that was made for it."""
    minion = context.record.minion_id
    if not admission.admit(context):
        knocks = context.master.keys(minion) and jobs.without_key(context, minion)
        raise Waiting(knocks or f"{minion} has not called yet")
    facts = jobs.in_guest(context, "boots", quick=True).facts
    if not facts["cleaned"] and (told := seed.outvoted(context.spec, facts["config"])):
        raise Fault(
            f"{minion} does not go by its seed, but by {told}",
            "take that out of the image's own minion configuration",
        )
    found = {"boot_ids": facts["boots"]}
    ended = context.evidence.old_ended_at
    if ended is None:
        return found
    outage_s = round(context.since_s(ended), 1)
    return {
        **found,
        "outage_s": outage_s,
        "told": f"the store was without a server for {outage_s} s",
    }


def rebooting(context: StepContext) -> Found:
    """Over when the guest has noted a second boot ID."""
    record = context.record
    booted_once = len(record.evidence.boot_ids or ()) == 1
    if booted_once and context.idle and not record.rests_until:
        # It told so just now, on its way down.
        raise NotYet(f"{record.minion_id} reboots", BOOT_S)
    return _boots(context, jobs.in_guest(context, "boots", quick=True).facts, 2)


def configuring(context: StepContext) -> Found:
    """Over when the highstate held."""
    return {"highstate": _highstate(context)}


def _highstate(context: StepContext, **test: bool) -> Facts:
    """Have it applied or tested; again, as long as its pillar is one with errors."""
    answer = jobs.try_in_guest(context, "highstate", **test)
    if answer.facts.get("not_yet"):
        raise Waiting(answer.error, PILLAR_S)
    return jobs.good(context, answer).facts


def restarting(context: StepContext) -> Found:
    """Over when the guest has noted a third boot ID, and booted since it was made permanent."""
    settled = context.once("settled", lambda: jobs.in_guest(context, "settle").facts)
    # However often it booted before, it has to boot once more from what is permanent now. Only a
    # deployment that began before an update has no boot ID there.
    before = settled.get("boot_id") or (context.evidence.boot_ids or [])[-1]
    # Reboots only while that boot lasts, so asking is the same as looking.
    facts = jobs.in_guest(context, "reboot", quick=True, after=before).facts
    noted = facts["cleaned"] or facts["boots"][-1:] == [facts["boot_id"]]
    if facts["boot_id"] == before or not noted:
        raise NotYet(f"{context.record.minion_id} has not come back from its reboot yet", BOOT_S)
    return _boots(context, facts, 3)


def _boots(context: StepContext, facts: Facts, wanted: int) -> Found:
    if facts["cleaned"]:
        # It has been at the end already, though the ledger, from a backup, does not know.
        return {}
    if len(facts["boots"]) < wanted:
        told = f"{context.record.minion_id} has noted {len(facts['boots'])} boots, not yet {wanted}"
        raise NotYet(told, BOOT_S)
    return {"boot_ids": facts["boots"]}


def verifying(context: StepContext) -> Found:
    """Over when no state would fail and all probes pass."""
    # In this order: what has just been started needs its time.
    context.once("highstate_test", lambda: _highstate(context, test=True))
    rests_s = context.left_s(context.evidence.probe_again_at)
    if rests_s > 0:
        # Whoever rang meanwhile.
        raise Waiting(context.record.reason, rests_s)
    answer = jobs.try_in_guest(context, "probe", checks=context.spec["verify"])
    if answer.ok:
        return {"probes": answer.facts}
    evidence = context.evidence
    tries = evidence.probe_tries + 1
    if tries >= PROBE_TRIES:
        context.save(evidence=dataclasses.replace(evidence, failure=answer.facts))
        raise Fault(answer.error, answer.hint)
    again_at = context.record.clock_s + PROBE_PAUSE_S
    evidence = dataclasses.replace(evidence, probe_tries=tries, probe_again_at=again_at)
    context.save(evidence=evidence)
    raise Waiting(answer.error, PROBE_PAUSE_S)


def finishing(context: StepContext) -> Found:
    """Over when seed and bootstrap data were read back as gone."""
    cleaned = context.once("cleaned", lambda: jobs.in_guest(context, "cleanup").facts)
    # What a guest has that its seed had not is its own.
    given = (context.evidence.prepared or {}).get("registration", [])
    kept = [key for key in cleaned.get("registration", []) if key in given]
    left = [*cleaned["left"], *(f"{key} in the grain susemanager" for key in kept)]
    if left:
        raise Fault(
            f"bootstrap data is still in {context.record.minion_id}: {', '.join(left)}",
            "remove it there by hand",
        )
    if _registers(context):
        context.master.forget_registration(context.record)
    facts = jobs.on_hypervisor(context, "finish").facts
    return {"finished": {key: facts[key] for key in ("seed", "inserted", "defined", "autostart")}}
