# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether the hypervisor knows more of the store than the ledger, as after a restore."""

from __future__ import annotations

import dataclasses
from typing import Any

from storelib import orders
from storemaster.deployment import jobs
from storemaster.deployment.jobs import (
    EAGER_S,
    EARLIER,
    MENDS,
    NO_FUNCTION,
    RESEND_S,
    SYNC_S,
    pause_s,
)
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import Asking, Behind, StepContext, Unheard, Waiting


def look(context: StepContext) -> None:
    """
    Compare with the hypervisor's note, once in each run of the master.

    A master that was restarted may have its ledger from a backup: before it acts, or believes
    what is in its job cache, it looks whether the store has gone on. Raises ``Behind`` then.
    """
    if compared(context):
        return
    run, record = context.master.incarnation(), context.record
    known = record.evidence.look
    now = record.clock_s
    silent = now - known["at"] if known.get("run") == run else RESEND_S
    rung = context.rung or known.get("rung", False)
    if silent >= (EAGER_S if rung else RESEND_S):
        # Beside the job that is under way, which goes on.
        jids = [*known.get("jids", []), context.master.new_jid()][-EARLIER:]
        known = {"run": run, "jids": jids if known.get("run") == run else jids[-1:], "at": now}
        arguments = {"spec": context.spec, "generation": record.generation, "nonce": jids[-1]}
        _send_beside(context, known, jids[-1], "store_hypervisor.noted", arguments)
    elif context.rung and "rung" not in known:
        known = {**known, "rung": True}
        _looking(context, known)
    told = jobs.believed(context, known["jids"], record.hypervisor, "noted")
    if told is None:
        _mend_beside(context, known)
        if gone := jobs.without_key(context, record.hypervisor):
            raise Waiting(gone, SYNC_S)
        why = f"{record.hypervisor} has not said yet how far the store is"
        raise Asking(why, pause_s(rung, silent, SYNC_S))
    _looking(context, compare(context, jobs.good(context, told).facts))


def _mend_beside(context: StepContext, known: dict[str, Any]) -> None:
    """Send what the hypervisor lacks to say it, as after an update; once in each run."""
    returned = context.master.returned(known["jids"][-1], context.record.hypervisor)
    if returned is None or "mend" in known:
        return
    sync = NO_FUNCTION in str(returned.value)
    function = "saltutil.sync_all" if sync else "saltutil.refresh_pillar"
    known = {
        **known,
        "mend": context.master.new_jid(),
        "at": context.record.clock_s - RESEND_S + SYNC_S,
    }
    _send_beside(context, known, known["mend"], function, MENDS[function])


def _send_beside(
    context: StepContext, known: dict[str, Any], jid: str, function: str, arguments: dict[str, Any]
) -> None:
    """Publish beside the deployment's own job, as a step's own is sent."""
    _looking(context, known)
    try:
        context.master.publish(jid, context.record.hypervisor, function, arguments)
    except Unheard:
        _looking(context, {**known, "at": 0})
        raise


def _looking(context: StepContext, known: dict[str, Any]) -> None:
    context.save(evidence=dataclasses.replace(context.evidence, look=known))


def compared(context: StepContext) -> bool:
    """Whether the hypervisor's note was compared in this run of the master."""
    known = context.evidence.look
    return bool(known.get("done")) and known["run"] == context.master.incarnation()


def compare(context: StepContext, facts: dict[str, Any]) -> dict[str, Any]:
    """
    Return the evidence ``look`` that it was compared.

    Raises ``Behind`` if the hypervisor has noted what this ledger does not know of.
    """
    refuse(context.record, facts)
    return {"run": context.master.incarnation(), "done": True}


def refuse(record: Record, facts: dict[str, Any]) -> None:
    """Raise ``Behind`` if the hypervisor has noted what the record does not know of."""
    note = facts["note"]
    if note is None:
        return
    where = f"{record.hypervisor} has noted"
    if "unreadable" in note:
        raise Behind(f"{where}: {note['unreadable']}", _adopt(record))
    ours, earlier = record.deployment, record.may_be_noted(facts["machine_id"])
    if orders.unknown(note, ours, earlier, record.ordered):
        attempt, step = record.ordered
        here = f"{step or 'nothing'} of deployment {ours}, attempt {max(attempt, 1)}"
        raise Behind(
            f"store {record.store} has gone on: {where} {orders.told(note)}; the ledger knows "
            f"of {here}",
            _adopt(record),
        )


def _adopt(record: Record) -> str:
    return (
        "is the ledger from a backup? See what is there, and take it into the ledger: "
        f"salt-run deploy.adopt {record.store}"
    )
