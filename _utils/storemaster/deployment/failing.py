# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a deployment ends that cannot go on, or begins again; nobody is let in any more."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from storelib.errors import LedgerError, StoreDeployError
from storemaster.deployment import admission, ledger_check, lifecycle, transition, verbs
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.master_api import MasterApi
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import StepContext

log = logging.getLogger(__name__)


def shut(master: MasterApi, record: Record) -> str:
    """Let nobody in any more; return what is in the way, which is told when it fails, too."""
    return tried(record, lambda: admission.disarm(master, record))[0]


def tried(record: Record, act: Callable[[], str | None]) -> tuple[str, str]:
    """
    Return what an act tells, or why it could not be done and what to do about that.

    Whatever it was, it must not keep a deployment from its end.
    """
    try:
        return act() or "", ""
    except LedgerError:
        # Its end could not be written either.
        raise
    except StoreDeployError as err:
        log.error("%s: %s; %s", record.store, err.reason, err.hint)
        return err.reason, err.hint
    except Exception as err:
        log.exception("%s: %s", record.store, record.state)
        return " ".join(f"{type(err).__name__}: {err}".split()), ""


def begin_again(context: StepContext, why: str) -> Record:
    """Go back to the beginning of the deployment: what was done is on a machine that is gone."""
    record = context.record
    if record.state not in lifecycle.PASSED or record.resumes:
        anew = verbs.command(record, "store")
        return fail(context, why, f"find out which machine is meant; then: {anew}")
    # A ledger that may be from a backup knows of no key to purge.
    for act in (
        lambda: admission.disarm(context.master, record),
        lambda: admission.lock_out(context) if ledger_check.compared(context) else None,
    ):
        told, hint = tried(record, act)
        if told:
            return fail(context, f"{why}; {told}", hint)
    # The guest may have used its key there.
    context.master.forget_registration(record)
    known = record.evidence
    evidence = Evidence(
        serving_key=known.serving_key,
        last_outage_s=known.last_outage_s,
        old_ended_at=known.old_ended_at,
    )
    context.record = dataclasses.replace(record, evidence=evidence)
    return transition.step(context, lifecycle.FIRST, lifecycle.ANEW, {}, reason=why)


def fail(context: StepContext, reason: str, hint: str) -> Record:
    """Fail the deployment, for that reason; ``hint`` is what to do about it."""
    record = context.record
    way_out = _way_out(record, hint)
    # Somebody may have come in since it was looked last; a ledger that may be from a backup knows
    # nothing of that.
    for act in (
        lambda: admission.disarm(context.master, record),
        lambda: admission.intruder(context) if ledger_check.compared(context) else None,
    ):
        told, mend = tried(record, act)
        if told and told not in reason:
            reason = f"{reason}; {told}"
            way_out = f"{mend}; {way_out}" if mend else way_out
    found = {}
    if record.state in lifecycle.LEAVING:
        left = [f"{record.hypervisor}: whatever it has of {record.minion_id}"]
        found = {"cleanup_failed": context.evidence.cleanup_failed or left}
    return transition.step(
        *(context, lifecycle.FAILED.name, lifecycle.FAULT, found),
        reason=" ".join(reason.split()),
        # A retry that never got its slot is one of what it was to go on with.
        failed_in=record.resumes or record.state,
        next_action=way_out,
    )


def _way_out(record: Record, hint: str) -> str:
    """Return what to do about a failure, with the command that goes on afterwards."""
    if "deploy." in hint:
        return hint
    again = verbs.again(record)
    if record.state in lifecycle.PASSED and not record.resumes:
        # A retry has the spec that was frozen.
        again += f", or, if you changed the pillar: {verbs.command(record, 'store')}"
    return f"{hint or 'find the cause'}, then: {again}"
