# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The step that puts a server back that was set aside."""

from __future__ import annotations

import dataclasses

from storelib.errors import Fault
from storemaster.deployment import jobs, lifecycle, twin_check
from storemaster.deployment.evidence import Found
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.step_context import StepContext
from storemaster.deployment.steps.installing import note_asides


def rolling_back(context: StepContext) -> Found:
    """Over when the server that was set aside runs again and its minion answers."""
    master, minion = context.master, context.record.minion_id
    twin_check.refuse(context)
    of = context.once("rolls_back_to", lambda: _set_aside(context))
    present = master.keys(minion).get(ACCEPTED) or None
    room = context.once(
        "made_room", lambda: jobs.on_hypervisor(context, "clear", public_key=present).facts
    )
    note_asides(context, room)
    facts = context.once("restored", lambda: jobs.on_hypervisor(context, "restore", of=of).facts)
    key = facts["public_key"]
    known = master.keys(minion)
    if set(known) != {ACCEPTED} or not master.same_key(known[ACCEPTED], key):
        # Only now: a guest that still ran would call again and leave a new pending key.
        master.purge_key(minion)
        master.accept_key(minion, key)
    if context.evidence.public_key != key:
        evidence = dataclasses.replace(context.evidence, public_key=key, serving_key="")
        context.save(evidence=evidence)
    context.once("started", lambda: jobs.on_hypervisor(context, "start", of=of).facts)
    server = jobs.in_guest(context, "facts", quick=True).facts
    asides = {number: aside for number, aside in context.record.asides.items() if number != str(of)}
    context.save(asides=asides)
    return {"disk": facts["disk"], "set_aside": room["set_aside"], "server": server}


def _set_aside(context: StepContext) -> int:
    """Return which deployment's server is put back: the newest one that was ever verified."""
    record = context.record
    verified = set(context.ledger.generations(record.store, lifecycle.DEPLOYED.name))
    verified -= {record.evidence.replaces}
    facts = jobs.on_hypervisor(context, "facts", quick=True).facts
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
