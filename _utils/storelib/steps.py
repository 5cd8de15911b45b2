# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The steps: one function for each state that moves by itself.

A step returns the evidence that its state is over, raises ``Waiting`` as long as it is not, and
``Fault`` if it never will be. It can be called again after a crash at any of its lines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from storelib import judge, lifecycle, seed, verbs
from storelib.domain_states import RUNNING
from storelib.errors import Fault, Refused, StoreDeployError
from storelib.ledger import Ledger, Record
from storelib.turn import Replaced, Turn, Waiting
from storelib.world import ACCEPTED, World

log = logging.getLogger(__name__)

PROBE_TRIES = 5
"""How often the probes are run before a failing one fails the deployment."""

PROBE_PAUSE_S = 10.0

Evidence = dict[str, Any]


def awaiting_hypervisor(turn: Turn) -> Evidence:
    """Over when the hypervisor answers and its facts suffice."""
    name = turn.record.hypervisor
    keys = turn.world.keys(name)
    key = keys.get(ACCEPTED)
    if key is None:
        state = f"its key is {', '.join(keys)}" if keys else "no minion of that name has called"
        raise Waiting(f"{name} has no accepted key on this master yet: {state}", 30)
    # From now on only who has this key is believed to be the hypervisor. If another is accepted
    # while it is waited for, it was installed anew.
    known = turn.record.evidence.get("hypervisor_key")
    if known is None or not turn.world.same_key(known, key):
        new = {"hypervisor_key": key, "mended": []}
        turn.save(evidence={**turn.record.evidence, **new}, job=None)
    facts = turn.on_hypervisor("facts", quick=True).facts
    look = turn.compare(facts)
    # Not before it answers: a pillar takes long to compile, and may change while nobody is there.
    wanted = turn.wanted(name, facts.get("environment")).as_dict()
    if wanted["store"] != turn.record.store:
        raise Fault(
            f"the pillar of {name} now names store {wanted['store']}",
            f"correct the pillar, or name the store's hypervisor: "
            f"{verbs.command(turn.record, 'store')} hypervisor=MINION",
        )
    check_minion_id(turn.ledger, wanted["store"], wanted["minion_id"])
    if wanted != turn.spec:
        turn.save(spec=wanted, minion_id=wanted["minion_id"], job=None)
        facts = turn.on_hypervisor("facts", quick=True).facts
    marker = facts["marker"] or {}
    configured = marker.get("boot_id") == facts["boot_id"] and marker.get("result") is True
    if turn.record.requested_by == "event" and not configured:
        raise Waiting(f"{name} has not reached its highstate since it booted")
    faults = judge.hypervisor(wanted, facts) + _unknown_server(turn, facts)
    if faults and configured:
        anew = verbs.command(turn.record, "store")
        raise Fault(f"{name}: {'; '.join(faults)}", f"mend it, then: {anew}")
    if faults:
        raise Waiting(f"{name}: {'; '.join(faults)}")
    return {
        "look": look,
        "hypervisor": {
            key: facts[key] for key in ("machine_id", "boot_id", "virt_type", "libvirt", "marker")
        },
    }


def check_minion_id(ledger: Ledger, store: str, minion_id: str) -> None:
    """
    Raise ``Refused`` if the store cannot have this minion ID.

    It may be that of another store's server or hypervisor; or the store has a server under another
    one, which nothing would find any more.
    """
    old = ledger.get(store)
    if old and old.minion_id != minion_id and _has_server(ledger, old):
        raise Refused(
            f"the server of store {store} has the minion ID {old.minion_id}, the pillar now says "
            f"{minion_id}",
            f"set minion_id back in the pillar, or remove that server first: salt-run "
            f"deploy.retire {store} remove=True",
        )
    for other in ledger.of_minion(minion_id):
        if other.store != store:
            raise Refused(
                f"minion ID {minion_id} belongs to store {other.store} or its hypervisor",
                "give each store server a minion ID of its own",
            )


def _has_server(ledger: Ledger, record: Record) -> bool:
    """Say whether there may be a server of the store, or one that was set aside."""
    retired = max(ledger.generations(record.store, lifecycle.RETIRED.name), default=0)
    cancelled = ledger.generations(record.store, lifecycle.CANCELLED.name)
    made = ledger.generations(record.store, "defining")
    return any(number > retired and (record.asides or number not in cancelled) for number in made)


def _unknown_server(turn: Turn, facts: dict[str, Any]) -> list[str]:
    """Find a server of this store that nobody gave leave to replace."""
    domain = facts["domain"] or {}
    if turn.record.redeploy or not domain.get("ours"):
        return []
    generation = domain["generation"]
    reached = turn.ledger.reached
    # Only what this ledger saw being made is known: a lost one begins at 1 again.
    if (
        generation <= turn.record.generation
        and reached(turn.record.store, generation, "defining")
        and not reached(turn.record.store, generation, lifecycle.DEPLOYED.name)
    ):
        return []
    return [
        f"it has a server of this store (deployment {generation}): say redeploy=True to replace it"
    ]


def queued(turn: Turn) -> Evidence:
    """Over when a slot is free; taking it is part of leaving the state."""
    return {}


def staging(turn: Turn) -> Evidence:
    """Over when the cached image has the pillar's checksum."""
    facts = turn.on_hypervisor("stage").facts
    if waits := facts.get("waits"):
        # A job of an earlier attempt, which ends by itself.
        raise Waiting(f"{turn.record.hypervisor}: {waits}")
    image = facts["image"]
    if image["sha256"] != turn.spec["image"]["sha256"]:
        raise Fault(
            f"the image on {turn.record.hypervisor} has sha256 {image['sha256']}, the pillar says "
            f"{turn.spec['image']['sha256']}",
            "correct image.sha256 or the image",
        )
    return {"image": image}


def preparing(turn: Turn) -> Evidence:
    """Over when all is there that can be made, and known, while the old server still runs."""
    if turn.spec["admission"] == "autosign":
        # By the writer that will add the line. No line that admits anybody is ever a trial.
        first(turn, "autosign_tried", turn.world.rewrite_autosign)
    turn.once("suffices", lambda: _suffices(turn))
    key = turn.world.master_public_key()
    facts = turn.on_hypervisor("prepare", master_public_key=key).facts
    if not _disk_as_asked(turn, facts["disk"]) or not facts["public_key"] or facts["trial"]:
        raise Fault(
            f"what was prepared for {turn.record.minion_id} is not what was asked for: {facts}",
            f"look at it on {turn.record.hypervisor}",
        )
    return {"prepared": {"disk": facts["disk"]}}


def _suffices(turn: Turn) -> bool:
    """Judge the hypervisor once more: there may have been hours since it was awaited."""
    faults = judge.hypervisor(turn.spec, turn.on_hypervisor("facts", quick=True).facts)
    if faults:
        raise Fault(f"{turn.record.hypervisor}: {'; '.join(faults)}", "mend it")
    return True


def _disk_as_asked(turn: Turn, disk: Evidence) -> bool:
    grown: bool = disk.get("virtual_size") == turn.spec["disk_gib"] * judge.GIB
    return grown and bool(disk.get("backing")) == (turn.spec["clone"] == "cow")


def clearing(turn: Turn) -> Evidence:
    """Over when the old server's domain, disk and key are gone from their places."""
    world, minion = turn.world, turn.record.minion_id
    _no_twin(turn)
    old_key = turn.once("old_public_key", lambda: world.keys(minion).get(ACCEPTED, ""))
    facts = turn.once("cleared", lambda: _cleared(turn, old_key or None))
    if facts["domain"]["exists"] or facts["disk"]["exists"]:
        raise Fault(
            f"the old server of {minion} is still there after it was set aside",
            f"look at domain and disk on {turn.record.hypervisor}",
        )
    # Only now: a guest that still ran would call again and leave a new pending key.
    world.purge_key(minion)
    if world.keys(minion):
        raise Waiting(f"the old key of {minion} is not gone yet", 1)
    _note_asides(turn, facts)
    return {"set_aside": facts["set_aside"], "serving_key": ""}


def _cleared(turn: Turn, old_key: str | None) -> Evidence:
    """Have the old server set aside, and note by our own clock when it ended, if it ran."""
    facts = turn.on_hypervisor("clear", public_key=old_key).facts
    evidence = turn.record.evidence
    if "off_for_s" in facts and "old_ended_at" not in evidence:
        ago_s, then = facts["off_for_s"], turn.moment
        ended = {**then, "up": then["up"] - ago_s, "now": then["now"] - ago_s}
        turn.save(evidence={**evidence, "old_ended_at": ended}, job=None)
    return facts


def _no_twin(turn: Turn) -> None:
    """Look at the store's other hypervisors, once until the deployment is held or retried."""
    if twin := turn.twin(turn.record.hypervisor):
        raise Fault(
            f"{twin} still runs the server of store {turn.record.store}: a second one would be its "
            "twin",
            f"shut it down there, or deploy there: salt-run deploy.store {turn.record.store} "
            f"hypervisor={twin} redeploy=True",
        )


def _note_asides(turn: Turn, facts: Evidence) -> None:
    """Remember where the servers are that were set aside."""
    where = {
        "hypervisor": turn.record.hypervisor,
        "machine_id": turn.record.evidence.get("hypervisor", {}).get("machine_id", ""),
    }
    new = {str(each["generation"]): {**where, "path": each["path"]} for each in facts["set_asides"]}
    if new:
        turn.save(asides={**turn.record.asides, **new})


def defining(turn: Turn) -> Evidence:
    """Over when the domain is defined and its disk has the right size and backing."""
    facts = turn.on_hypervisor("define", master_public_key=turn.world.master_public_key()).facts
    domain, disk = facts["domain"], facts["disk"]
    right = (
        domain["exists"]
        and domain["ours"]
        and domain["generation"] == turn.record.generation
        and _disk_as_asked(turn, disk)
    )
    if not right or not facts["public_key"]:
        raise Fault(
            f"the domain of {turn.record.minion_id} is not what was asked for: {facts}",
            f"look at it on {turn.record.hypervisor}",
        )
    return {"public_key": facts["public_key"], "disk": disk}


def awake(turn: Turn) -> None:
    """Start the guest of a deployment that is retried, if it is off or paused: none else would."""

    def runs() -> bool:
        domain = turn.on_hypervisor("facts", quick=True).facts["domain"]
        if domain is None:
            raise Waiting(f"{turn.record.hypervisor} cannot say whether the guest is on")
        return domain.get("state") in RUNNING

    if not turn.once("runs", runs):
        _no_twin(turn)
        turn.once("started", lambda: turn.on_hypervisor("start").facts)


def starting(turn: Turn) -> Evidence:
    """Over when the domain has run for ``steady_s`` without a break."""
    _no_twin(turn)
    _admit(turn)
    facts = turn.on_hypervisor("start").facts
    _admit(turn)
    return {"start": facts, "attempts": facts["attempts"]}


def booting(turn: Turn) -> Evidence:
    """Over when the guest's minion answers, with the key that was made for it."""
    minion = turn.record.minion_id
    if not _admit(turn):
        knocks = turn.world.keys(minion) and turn.without_key(minion)
        raise Waiting(knocks or f"{minion} has not called yet")
    facts = turn.in_guest("boots", quick=True).facts
    if not facts["cleaned"] and (told := seed.outvoted(turn.spec, facts["config"])):
        raise Fault(
            f"{minion} does not go by its seed, but by {told}",
            "take that out of the image's own minion configuration",
        )
    found = {"boot_ids": facts["boots"]}
    ended = turn.record.evidence.get("old_ended_at")
    if ended is None:
        return found
    outage_s = round(turn.since_s(ended), 1)
    return {
        **found,
        "outage_s": outage_s,
        "told": f"the store was without a server for {outage_s} s",
    }


def _admit(turn: Turn) -> bool:
    """Let in the guest and nobody else; return whether it is in."""
    world, minion = turn.world, turn.record.minion_id
    if "intrusion" not in turn.record.evidence:
        if turn.spec["admission"] == "pinned" and ACCEPTED not in world.keys(minion):
            world.accept_key(minion, turn.record.evidence["public_key"])
        if ACCEPTED not in world.keys(minion):
            if not turn.over:
                world.arm(minion)
            return False
        disarm(world, turn.record)
    if told := intruder(turn):
        raise Fault(
            told,
            "find out who called from where (salt/auth events, master log); then, with admission: "
            f"pinned in the pillar: {verbs.command(turn.record, 'store')}",
        )
    return True


def readmit(turn: Turn) -> None:
    """Let in the guest's own key again, which somebody deleted or rejected; after a retry."""
    world, minion = turn.world, turn.record.minion_id
    ours, known = turn.record.evidence.get("public_key"), world.keys(minion)
    own = any(world.same_key(pem, ours) for pem in known.values()) if ours else False
    # Before its start nobody has called; an accepted one is looked at elsewhere.
    if ours and ACCEPTED not in known and (own or turn.record.state != "starting"):
        world.accept_key(minion, ours)


def disarm(world: World, record: Record) -> None:
    """Remove the autosign entry; what is in the way of that does not concern who is pinned."""
    try:
        world.disarm(record.minion_id)
    except StoreDeployError as err:
        if record.spec["admission"] == "autosign":
            raise
        log.warning("%s: %s; %s", record.store, err.reason, err.hint)


def intruder(turn: Turn) -> str:
    """Revoke an accepted key that is not the guest's, and say so; empty if there is none."""
    world, minion = turn.world, turn.record.minion_id
    if "intrusion" not in turn.record.evidence:
        ours, accepted = turn.record.evidence.get("public_key"), world.keys(minion).get(ACCEPTED)
        if not ours or not accepted or world.same_key(accepted, ours):
            return ""
        # On record first: after a crash the revoked key would tell nothing.
        turn.once("intrusion", lambda: True)
    world.purge_key(minion)
    return (
        f"intrusion: the key that was accepted for {minion} is not the one that its hypervisor "
        "made; it was revoked"
    )


def rebooting(turn: Turn) -> Evidence:
    """Over when the guest has noted a second boot ID."""
    return _boots(turn, turn.in_guest("boots", quick=True).facts, 2)


def configuring(turn: Turn) -> Evidence:
    """Over when the highstate held."""
    return {"highstate": turn.in_guest("highstate").facts}


def restarting(turn: Turn) -> Evidence:
    """Over when the guest has noted a third boot ID, and booted since it was made permanent."""
    settled = turn.once("settled", lambda: turn.in_guest("settle").facts)
    # However often it booted before, it has to boot once more from what is permanent now. Only a
    # deployment that began before an update has no boot ID there.
    before = settled.get("boot_id") or turn.record.evidence["boot_ids"][-1]
    # Reboots only while that boot lasts, so asking is the same as looking.
    facts = turn.in_guest("reboot", quick=True, after=before).facts
    noted = facts["cleaned"] or facts["boots"][-1:] == [facts["boot_id"]]
    if facts["boot_id"] == before or not noted:
        raise Waiting(f"{turn.record.minion_id} has not come back from its reboot yet", 20)
    return _boots(turn, facts, 3)


def _boots(turn: Turn, facts: Evidence, wanted: int) -> Evidence:
    if facts["cleaned"]:
        # It has been at the end already, though the ledger, from a backup, does not know.
        return {}
    if len(facts["boots"]) < wanted:
        told = f"{turn.record.minion_id} has noted {len(facts['boots'])} boots, not yet {wanted}"
        raise Waiting(told, 20)
    return {"boot_ids": facts["boots"]}


def verifying(turn: Turn) -> Evidence:
    """Over when all probes pass and no state would fail."""
    checks = turn.spec["verify"]
    tries = turn.record.evidence.get("probe_tries", 0)
    if "probes" not in turn.record.evidence:
        answer = turn.try_in_guest("probe", checks=checks)
        if not answer.ok and tries + 1 >= PROBE_TRIES:
            turn.save(evidence={**turn.record.evidence, "failure": answer.facts})
            raise Fault(answer.error, answer.hint)
        if not answer.ok:
            turn.save(evidence={**turn.record.evidence, "probe_tries": tries + 1})
            raise Waiting(answer.error, PROBE_PAUSE_S)
        turn.save(evidence={**turn.record.evidence, "probes": answer.facts})
    return {"highstate_test": turn.in_guest("highstate", test=True).facts}


def finishing(turn: Turn) -> Evidence:
    """Over when seed and bootstrap data were read back as gone."""
    left = turn.once("cleaned", lambda: turn.in_guest("cleanup").facts)["left"]
    if left:
        raise Fault(
            f"bootstrap data is still in {turn.record.minion_id}: {', '.join(left)}",
            "remove it there by hand",
        )
    facts = turn.on_hypervisor("finish").facts
    return {"finished": {key: facts[key] for key in ("seed", "inserted", "defined", "autostart")}}


def rolling_back(turn: Turn) -> Evidence:
    """Over when the server that was set aside runs again and its minion answers."""
    world, minion = turn.world, turn.record.minion_id
    _no_twin(turn)
    of = turn.once("rolls_back_to", lambda: _set_aside(turn))
    present = world.keys(minion).get(ACCEPTED) or None
    room = turn.once("made_room", lambda: turn.on_hypervisor("clear", public_key=present).facts)
    _note_asides(turn, room)
    facts = turn.once("restored", lambda: turn.on_hypervisor("restore", of=of).facts)
    key = facts["public_key"]
    known = world.keys(minion)
    if set(known) != {ACCEPTED} or not world.same_key(known[ACCEPTED], key):
        # Only now: a guest that still ran would call again and leave a new pending key.
        world.purge_key(minion)
        world.accept_key(minion, key)
    if turn.record.evidence.get("public_key") != key:
        turn.save(evidence={**turn.record.evidence, "public_key": key, "serving_key": ""})
    turn.once("started", lambda: turn.on_hypervisor("start", of=of).facts)
    server = turn.in_guest("facts", quick=True).facts
    asides = {number: aside for number, aside in turn.record.asides.items() if number != str(of)}
    turn.save(asides=asides)
    return {"disk": facts["disk"], "set_aside": room["set_aside"], "server": server}


def _set_aside(turn: Turn) -> int:
    """Return which deployment's server is put back: the newest one that was ever verified."""
    record = turn.record
    verified = set(turn.ledger.generations(record.store, lifecycle.DEPLOYED.name))
    verified.discard(record.evidence["replaces"])
    facts = turn.on_hypervisor("facts", quick=True).facts
    domain = facts["domain"] or {}
    here = [each["generation"] for each in facts["set_asides"]]
    # A clearing that failed at its very beginning has left it where it was.
    here += [domain["generation"]] if domain.get("ours") else []
    found = [generation for generation in here if generation in verified]
    if not found:
        known = ", ".join(
            f"{aside['path']} on {aside['hypervisor']}" for aside in record.asides.values()
        )
        raise Fault(
            f"{record.hypervisor} has no set-aside server of store {record.store} that was ever "
            f"verified; known are: {known or 'none'}",
            f"deploy anew: salt-run deploy.store {record.store} redeploy=True",
        )
    return int(found[-1])


def cancelling(turn: Turn) -> Evidence:
    """Over when nothing is left of the new server: domain, disk, seed, key, autosign entry."""
    record = turn.record
    # From now on it is not let in any more, however long its hypervisor is away. Once: while it
    # runs it calls again, and each deletion makes all minions authenticate anew.
    first(turn, "locked_out", lambda: lock_out(turn))
    # Before these states nothing was made on the hypervisor. A deployment that began before an
    # update never was in the first of them.
    if any(
        turn.ledger.reached(record.store, record.generation, state)
        for state in ("preparing", "clearing")
    ):
        turn.once("quiet", turn.quiet)
        turn.once("discarded", lambda: _gone(turn, lambda: turn.on_hypervisor("discard").facts))
    # What still ran has called again.
    lock_out(turn)
    return {}


def lock_out(turn: Turn) -> None:
    """Purge the key of the server that this deployment makes, if it has come that far."""
    world, minion = turn.world, turn.record.minion_id
    ours, known = turn.record.evidence.get("public_key"), world.keys(minion)
    # Whose key was accepted since ours was made came in by the door that was open for it.
    if ours and (ACCEPTED in known or any(world.same_key(pem, ours) for pem in known.values())):
        world.purge_key(minion)


def first(turn: Turn, name: str, act: Callable[[], None]) -> None:
    """Act once, beside a job that is under way."""
    if name not in turn.record.evidence:
        act()
        turn.save(evidence={**turn.record.evidence, name: True})


def _gone(turn: Turn, remove: Callable[[], Evidence]) -> Evidence:
    """
    Return the facts of a removal, if nothing is left; otherwise name what is.

    What was on a machine that is gone went with it: that is told, and nobody can mend it.
    """
    try:
        turn.check_hypervisor()
        facts = remove()
    except Replaced as err:
        _cleanup_failed(turn, [f"whatever the machine before it had ({err})"])
        return {"removed": [], "kept": []}
    if not facts["left"]:
        return facts
    left = _cleanup_failed(turn, facts["left"])
    raise Fault(
        f"it could not be removed: {', '.join(left)}",
        f"remove it there, then: {verbs.again(turn.record)}",
    )


def _cleanup_failed(turn: Turn, what: list[str]) -> list[str]:
    left = [f"{turn.record.hypervisor}: {each}" for each in what]
    turn.save(evidence={**turn.record.evidence, "cleanup_failed": left})
    return left


def _retired(turn: Turn, data_disks: bool) -> Evidence:
    facts = turn.on_hypervisor("retire", data_disks=data_disks, remove=True).facts
    return {**facts, "left": [each.get("path") or each["name"] for each in facts["left"]]}


def retiring(turn: Turn) -> Evidence:
    """Over when nothing is left of any server of the store."""
    world, record = turn.world, turn.record
    first(turn, "locked_out", lambda: world.purge_key(record.minion_id))
    data_disks = record.evidence["data_disks"]
    facts = turn.once("removed", lambda: _gone(turn, lambda: _retired(turn, data_disks)))
    world.purge_key(record.minion_id)
    return {"retired": {key: facts[key] for key in ("removed", "kept")}}


STEPS: dict[str, Callable[[Turn], Evidence]] = {
    step.__name__: step
    for step in (
        awaiting_hypervisor,
        queued,
        staging,
        preparing,
        clearing,
        defining,
        starting,
        booting,
        rebooting,
        configuring,
        restarting,
        verifying,
        finishing,
        rolling_back,
        cancelling,
        retiring,
    )
}
