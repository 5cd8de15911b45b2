# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Who is let in: the guest with the key that its hypervisor made, and nobody else."""

from __future__ import annotations

import logging

from storelib.errors import Fault, StoreDeployError
from storemaster.deployment import verbs
from storemaster.deployment.master_api import ACCEPTED, MasterApi
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import StepContext

log = logging.getLogger(__name__)


def admit(context: StepContext) -> bool:
    """Let in the guest and nobody else; return whether it is in."""
    master, minion = context.master, context.record.minion_id
    if not context.evidence.intrusion:
        if context.spec["admission"] == "pinned" and ACCEPTED not in master.keys(minion):
            master.accept_key(minion, context.evidence.public_key)
        if ACCEPTED not in master.keys(minion):
            if not context.over:
                master.arm(minion)
            return False
        disarm(master, context.record)
    if told := intruder(context):
        raise Fault(
            told,
            "find out who called from where (salt/auth events, master log); then, with admission: "
            f"pinned in the pillar: {verbs.command(context.record, 'store')}",
        )
    return True


def readmit(context: StepContext) -> None:
    """Let in the guest's own key again, which somebody deleted or rejected; after a retry."""
    master, minion = context.master, context.record.minion_id
    ours, known = context.evidence.public_key, master.keys(minion)
    own = any(master.same_key(pem, ours) for pem in known.values()) if ours else False
    # Before its start nobody has called; an accepted one is looked at elsewhere.
    if ours and ACCEPTED not in known and (own or context.record.state != "starting"):
        master.accept_key(minion, ours)


def disarm(master: MasterApi, record: Record) -> None:
    """Remove the autosign entry; what is in the way of that does not concern who is pinned."""
    try:
        master.disarm(record.minion_id)
    except StoreDeployError as err:
        if record.spec["admission"] == "autosign":
            raise
        log.warning("%s: %s; %s", record.store, err.reason, err.hint)


def intruder(context: StepContext) -> str:
    """Revoke an accepted key that is not the guest's, and say so; empty if there is none."""
    master, minion = context.master, context.record.minion_id
    if not context.evidence.intrusion:
        ours, accepted = context.evidence.public_key, master.keys(minion).get(ACCEPTED)
        if not ours or not accepted or master.same_key(accepted, ours):
            return ""
        # On record first: after a crash the revoked key would tell nothing.
        context.once("intrusion", lambda: True)
    master.purge_key(minion)
    return (
        f"intrusion: the key that was accepted for {minion} is not the one that its hypervisor "
        "made; it was revoked"
    )


def lock_out(context: StepContext) -> None:
    """Purge the key of the server that this deployment makes, if it has come that far."""
    master, minion = context.master, context.record.minion_id
    ours, known = context.evidence.public_key, master.keys(minion)
    # Whose key was accepted since ours was made came in by the door that was open for it.
    if ours and (ACCEPTED in known or any(master.same_key(pem, ours) for pem in known.values())):
        master.purge_key(minion)
