# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether another hypervisor still runs the store's server."""

from __future__ import annotations

import dataclasses
from typing import Any

from storelib.domain_states import ON
from storelib.errors import Fault
from storemaster.deployment import jobs
from storemaster.deployment.master_api import ACCEPTED, MasterApi
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import Asking, StepContext, Waiting

FENCE_S = 45.0
"""How long another hypervisor of the store has to say whether it runs the store's server."""


def running(context: StepContext, hypervisor: str) -> str:
    """
    Return which other hypervisor runs the store's server; empty if none does.

    One that does not answer within :data:`FENCE_S` is gone, and so is one that has not the key
    any more that it had then. One that answers must be able to say it.
    """
    for other in others(context.master, context.record, hypervisor):
        known = context.evidence.fence.get(other)
        if known is None:
            known = {"until": context.record.clock_s + FENCE_S}
            _note(context, other, known)
        if "runs" not in known:
            try:
                facts = jobs.on_hypervisor(context, "facts", quick=True, at=other).facts
                runs = says(other, facts)
            except Asking:
                if context.left_s(known["until"]) > 0:
                    raise
                runs = False
            except Waiting:
                # It is there, and has its time again to say it.
                _note(context, other, {"until": context.record.clock_s + FENCE_S})
                raise
            known = {**known, "runs": runs}
            _note(context, other, known)
        if known["runs"]:
            return other
    return ""


def others(master: MasterApi, record: Record, hypervisor: str) -> list[str]:
    """Return the store's hypervisors beside this one that have the key that they had then."""
    ours = {name: record.key_of(name) for name in (record.hypervisor, *record.others)}
    accepted = {name: master.keys(name).get(ACCEPTED) for name in ours if name != hypervisor}
    return [
        name
        for name, pem in accepted.items()
        if pem and ours[name] and master.same_key(pem, ours[name])
    ]


def says(other: str, facts: dict[str, Any]) -> bool:
    """Say whether it runs the store's server, by its facts; ``Waiting`` if they do not tell."""
    domain = facts["domain"]
    if domain is None:
        why = facts["libvirt"]["why"]
        raise Waiting(
            f"{other} may run the store's server and cannot say so: {why}; if it is no "
            f"hypervisor any more, delete its key: salt-key -d {other}"
        )
    return bool(domain.get("ours") and domain["state"] in ON)


def _note(context: StepContext, other: str, known: dict[str, Any]) -> None:
    fence = {**context.evidence.fence, other: known}
    context.save(evidence=dataclasses.replace(context.evidence, fence=fence))


def refuse(context: StepContext) -> None:
    """Look at the store's other hypervisors, once until the deployment is held or retried."""
    if twin := running(context, context.record.hypervisor):
        raise found(context.record.store, twin)


def found(store: str, twin: str) -> Fault:
    """Return the fault that another hypervisor runs the store's server."""
    return Fault(
        f"{twin} still runs the server of store {store}: a second one would be its twin",
        f"shut it down there, or deploy there: salt-run deploy.store {store} "
        f"hypervisor={twin} redeploy=True",
    )
