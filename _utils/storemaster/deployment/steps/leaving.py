# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The steps that remove what a store has: of a new server, or all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from storelib.errors import Fault
from storemaster.deployment import admission, jobs, verbs
from storemaster.deployment.evidence import Facts, Found
from storemaster.deployment.step_context import Replaced, StepContext


def cancelling(context: StepContext) -> Found:
    """Over when nothing is left of the new server: domain, disk, seed, key, autosign entry."""
    record = context.record
    # From now on it is not let in any more, however long its hypervisor is away. Once: while it
    # runs it calls again, and each deletion makes all minions authenticate anew.
    context.beside("locked_out", lambda: admission.lock_out(context))
    # Before these states nothing was made on the hypervisor. A deployment that began before an
    # update never was in the first of them.
    if any(
        context.ledger.reached(record.store, record.generation, state)
        for state in ("preparing", "clearing")
    ):
        context.once("quiet", lambda: jobs.job_ended(context))
        context.once("discarded", lambda: _gone(context, lambda: _discarded(context)))
    # What still ran has called again.
    admission.lock_out(context)
    context.master.forget_registration(record)
    return {}


def _gone(context: StepContext, remove: Callable[[], Facts]) -> Facts:
    """
    Return the facts of a removal, if nothing is left; otherwise name what is.

    What was on a machine that is gone went with it: that is told, and nobody can mend it.
    """
    try:
        context.check_hypervisor()
        facts = remove()
    except Replaced as err:
        _cleanup_failed(context, [f"whatever the machine before it had ({err})"])
        return {"removed": [], "kept": []}
    if not facts["left"]:
        return facts
    left = _cleanup_failed(context, facts["left"])
    raise Fault(
        f"it could not be removed: {', '.join(left)}",
        f"remove it there, then: {verbs.again(context.record)}",
    )


def _cleanup_failed(context: StepContext, what: list[str]) -> list[str]:
    left = [f"{context.record.hypervisor}: {each}" for each in what]
    context.save(evidence=dataclasses.replace(context.evidence, cleanup_failed=left))
    return left


def _discarded(context: StepContext) -> Facts:
    return jobs.on_hypervisor(context, "discard").facts


def _retired(context: StepContext, data_disks: bool) -> Facts:
    facts = jobs.on_hypervisor(context, "retire", data_disks=data_disks, remove=True).facts
    return {**facts, "left": [each.get("path") or each["name"] for each in facts["left"]]}


def retiring(context: StepContext) -> Found:
    """Over when nothing is left of any server of the store."""
    master, record = context.master, context.record
    context.beside("locked_out", lambda: master.purge_key(record.minion_id))
    data_disks = bool(record.evidence.data_disks)
    facts = context.once("removed", lambda: _gone(context, lambda: _retired(context, data_disks)))
    master.purge_key(record.minion_id)
    if record.evidence.leaves_uyuni:
        master.end_registration(record)
    master.forget_registration(record)
    return {"retired": {key: facts[key] for key in ("removed", "kept")}}
