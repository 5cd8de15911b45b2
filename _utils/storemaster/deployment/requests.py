# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a deployment begins, and what an operator or an event makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from storelib import orders
from storelib.errors import Conflict, Refused
from storemaster.deployment import lifecycle, minion_ids, transition, verbs
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.deployment.spec import StoreSpec


def begin(
    ledger: Ledger,
    now: float,
    spec: StoreSpec,
    hypervisor: str,
    requested_by: str,
    redeploy: bool = False,
    why: str = "",
) -> Record:
    """
    Make the record of a new deployment and return it.

    why
        What made ``requested_by`` ask for it, for the history.

    Raises :class:`Refused` if one is under way, or if the store is deployed and ``redeploy`` is
    not said.
    """
    old = ledger.get(spec.store)
    for refused in refusals(ledger, now, old, spec.store, spec.minion_id, redeploy):
        raise refused
    plain = spec.as_dict()
    record = transition.new(old, now, lifecycle.FIRST, plain, hypervisor, requested_by, redeploy)
    try:
        return transition.enter(ledger, old, record, "store", why or f"requested by {requested_by}")
    except Conflict as err:
        raise Refused(
            f"a deployment of store {spec.store} is under way: another request was first",
            f"watch it: salt-run deploy.watch {spec.store}",
        ) from err


def refusals(
    ledger: Ledger,
    now: float,
    old: Record | None,
    store: str,
    minion_id: str | None,
    redeploy: bool,
) -> Iterator[Refused]:
    """
    Find all that a new deployment is refused for.

    old
        The record that the new one would be written over, as it was read.
    minion_id
        ``None`` if it is not known.
    """
    if old:
        try:
            verbs.store(old, now, redeploy)
        except Refused as err:
            yield err
    if minion_id is not None:
        yield from minion_ids.refusals(ledger, store, minion_id)


def rollback(ledger: Ledger, now: float, record: Record) -> Record:
    """Begin to put the store's set-aside server back: the newest one that was ever verified."""
    present = verbs.rollback(record, ledger)
    new = transition.new(
        record, now, "queued", record.spec, record.hypervisor, "operator", redeploy=True
    )
    evidence = dataclasses.replace(
        new.evidence,
        hypervisor=record.evidence.hypervisor,
        hypervisor_key=record.evidence.hypervisor_key,
        replaces=present,
    )
    new = dataclasses.replace(new, resumes=verbs.ROLLING_BACK, evidence=evidence)
    return transition.enter(ledger, record, new, "rollback", "deploy.rollback")


def note(ledger: Ledger, now: float, record: Record, text: str) -> Record:
    """Write a line into the store's history that changes nothing."""
    return ledger.save(record, f"note: {text}", noted=now)


def retire(
    ledger: Ledger, now: float, record: Record, data_disks: bool = False, uyuni: bool = False
) -> Record:
    """Begin to remove the store's servers for good, set-aside ones too, and in Uyuni if wanted."""
    state = lifecycle.RETIRING.name
    verbs.retire(record)
    leaving = transition.moved(
        *(record, state, "retire", now),
        evidence=dataclasses.replace(
            record.evidence.kept(), data_disks=data_disks, leaves_uyuni=uyuni
        ),
        # A removal for good is a deployment of its own: no order of the one before outlives it.
        deployment=orders.new_id(record.generation),
        attempt=1,
        ordered=orders.NOWHERE,
    )
    return transition.enter(ledger, record, leaving, "retire", "deploy.retire remove=True")


def cancel(ledger: Ledger, now: float, record: Record) -> Record:
    """Stop a deployment for good; what was made of the new server is removed."""
    verbs.cancel(record)
    leaving = transition.moved(
        *(record, lifecycle.CANCELLING.name, "cancel", now),
        evidence=record.evidence.kept(),
        # What is under way has to end first.
        job=record.job,
    )
    return transition.enter(ledger, record, leaving, "cancel", "deploy.cancel")


def hold(ledger: Ledger, now: float, record: Record) -> Record:
    """Let the deployment rest before its next step; a job that is under way goes on."""
    verbs.hold(record)
    limit_s = lifecycle.limit_s(record.state, record.spec["timeouts"])
    held = transition.moved(
        *(record, lifecycle.HELD.name, "hold", now),
        spent_s=record.spent_s,
        left_s=limit_s - record.spent_s if limit_s else None,
        held_in=record.state,
        resumes=record.resumes,
        job=record.job,
    )
    return transition.enter(ledger, record, held, "hold", "deploy.hold")


def release(ledger: Ledger, now: float, record: Record) -> Record:
    """Let a held deployment go on where it was, with the time that it had left."""
    verbs.release(record)
    evidence = record.evidence
    if record.job is None:
        # Another hypervisor may have come back meanwhile; but what is under way goes on.
        evidence = dataclasses.replace(evidence, fence={})
    limit_s = lifecycle.limit_s(record.held_in, record.spec["timeouts"])
    goes_on = transition.moved(
        *(record, record.held_in, "release", now),
        spent_s=record.spent_s if record.left_s is None else limit_s - record.left_s,
        resumes=record.resumes,
        job=record.job,
        evidence=evidence,
    )
    return transition.enter(ledger, record, goes_on, "release", "deploy.release")


def retry(ledger: Ledger, now: float, record: Record) -> Record:
    """Go on with a failed deployment at the earliest step that is needed."""
    verbs.retry(record)
    wanted = lifecycle.RESUMES[record.failed_in]
    # Work needs a slot first; who had none yet goes on without one.
    state, resumes = ("queued", wanted) if wanted in lifecycle.SLOT else (wanted, "")
    # Whoever comes by `starting` is started there.
    retried = wanted in lifecycle.WITH_GUEST
    goes_on = transition.moved(
        *(record, state, "retry", now),
        evidence=dataclasses.replace(record.evidence.kept(), retried=retried),
        resumes=resumes,
    )
    why = f"deploy.retry, goes on in {wanted}"
    return transition.enter(ledger, record, goes_on, "retry", why)
