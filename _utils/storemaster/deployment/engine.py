# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What moves a deployment: one look, as many steps as need no waiting, in the lock of its store."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from storelib import files, orders
from storelib.errors import Conflict, LedgerError, StoreDeployError
from storemaster.deployment import (
    admission,
    failing,
    jobs,
    ledger_check,
    lifecycle,
    new_hardware,
    transition,
)
from storemaster.deployment.actor import NOBODY, act_as
from storemaster.deployment.evidence import Facts, Found
from storemaster.deployment.jobs import PROBE_S
from storemaster.deployment.ledger import LOOK_AGAIN_S, Ledger
from storemaster.deployment.master_api import MasterApi
from storemaster.deployment.record import Record
from storemaster.deployment.step_context import (
    Asking,
    NotYet,
    Replaced,
    StepContext,
    Unheard,
    Waiting,
)
from storemaster.deployment.steps import STEPS, installing
from storemaster.deployment.times import lasting

log = logging.getLogger(__name__)

CONSOLE_LINES = 5

CONSOLE_S = 15.0
"""How long a deployment whose time is over waits for the last words of its guest."""


class NoSlot(Waiting):
    """All slots are taken, or the hypervisor has another deployment."""


@contextlib.contextmanager
def locked(folder: Path, store: str) -> Iterator[bool]:
    """Hold the store's lock, if nobody else does; yield whether it is held. Dies with its owner."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.locked(folder / f"{store}.lock", 0) as held:
        yield held


@act_as(NOBODY)
def advance(
    master: MasterApi, ledger: Ledger, store: str, max_active: int, rung: bool = False
) -> Record | None:
    """
    Take the deployment as far as it goes without waiting, and return its record.

    rung
        Whether somebody rang: then silent minions are asked at once, not only after a while.
    """
    record = ledger.get(store)
    while record is not None:
        transition.announce(master, ledger, store)
        if record.state == lifecycle.HELD.name:
            # Nobody looks meanwhile who calls; a released deployment opens the door again.
            told = failing.shut(master, record)
            if told and told != record.reason:
                record = ledger.save(dataclasses.replace(record, reason=told))
        if not record.active and not record.candidate:
            break
        context = StepContext(master, ledger, record, rung, max_active)
        if context.away and record.state in lifecycle.ADMITTING:
            # Nobody knows for how long the door was open: a step opens it again if it goes on.
            failing.shut(master, record)
        try:
            following, moved = _move(context) if record.active else new_hardware.consider(context)
        except Conflict as err:
            log.info("%s: %s", store, err)
            break
        record = following
        if not moved:
            break
    return record


def _move(context: StepContext) -> tuple[Record, bool]:
    """Call the state's step; return the record as it now is and whether its state changed."""
    record = context.record
    now = context.master.now()
    if late := record.evidence.late:
        return _end(context, late)
    try:
        if record.state == "queued" and not context.ledger.slot_free(record, context.max_active):
            raise NoSlot(_no_slot(context), LOOK_AGAIN_S)
        if record.state in lifecycle.LEAVING:
            admission.disarm(context.master, record)
        elif record.state != lifecycle.FIRST:
            context.check_hypervisor()
        untouched = record.state == lifecycle.CANCELLING.name and record.ordered == orders.NOWHERE
        if record.state not in (lifecycle.FIRST, "queued") and not untouched:
            ledger_check.look(context)
        if record.state in (*lifecycle.WITH_GUEST, "starting") and "retried" in record.evidence:
            context.beside("readmitted", lambda: admission.readmit(context))
        if record.state in lifecycle.WITH_GUEST and record.evidence.retried:
            installing.keep_running(context)
        rests_s = context.left_s(record.rests_until)
        if rests_s > 0 and context.idle and not context.over:
            context.asked = record.asked
            raise Waiting(record.reason, rests_s)
        found = _found(context)
        following = record.resumes or lifecycle.FOLLOWS[record.state]
        return transition.step(context, following, lifecycle.STEP, found), True
    except Waiting as err:
        wait = err
        if isinstance(err, Unheard):
            context.uncount()
    except Replaced as err:
        return failing.begin_again(context, str(err)), True
    except LedgerError:
        # Nothing is wrong with the deployment, and its failure could not be written either.
        raise
    except StoreDeployError as err:
        return failing.fail(context, err.reason, err.hint), True
    except Exception as err:
        # Nobody watches: what was not foreseen is told, tried again and ended by the deadline.
        log.exception("%s: %s", record.store, record.state)
        if record.state in lifecycle.LEAVING:
            # Theirs is a week away, and whoever typed the verb is there now.
            return failing.fail(context, f"{type(err).__name__}: {err}", ""), True
        wait = Waiting(f"{type(err).__name__}: {err}")
    # What the last answer to this question lacked says more than that it is asked again.
    known = record.reason if context.asked == record.asked else ""
    why = known if isinstance(wait, Asking) and known else wait.why
    if context.over and not _just_asked(context):
        # From now on nobody is let in any more, and the guest is only asked for its last words.
        failing.shut(context.master, record)
        why = f"{record.state} was not over after {lasting(context.limit_s)}: {why}"
        late = {"why": why, "until": context.record.clock_s + CONSOLE_S}
        context.save(evidence=dataclasses.replace(context.evidence, late=late), job=None)
        return _end(context, late)
    deadline = transition.deadline(now, record.state, context.spec, context.record.spent_s)
    left = [deadline - now] if deadline and deadline > now else []
    pauses = (LOOK_AGAIN_S, wait.seconds, *left)
    if isinstance(wait, NotYet):
        until = context.record.clock_s + wait.seconds
        context.record = dataclasses.replace(context.record, rests_until=until)
    due: float | None = now + min(pauses)
    if isinstance(wait, NoSlot) and not context.limit_s:
        # Whoever gives one back wakes the next, and so does the sweep: it is only to be told.
        told_at = record.since + lifecycle.QUEUED_S
        due = told_at if now < told_at else None
    context.save(reason=why, asked=context.asked, deadline=deadline, due=due)
    return context.record, False


def _found(context: StepContext) -> Found:
    """Return what the state's step is over with."""
    step, asked = STEPS[context.record.state], context.record.job is not None
    try:
        return step(context)
    except NotYet:
        if not context.rung or not asked:
            raise
        # That answer may be from before the bell.
        return step(context)


def _just_asked(context: StepContext) -> bool:
    """Say whether a question is so new that its answer is waited for: not again and again."""
    record = context.record
    asked = max(record.evidence.look.get("at", 0), record.job.at if record.job else 0)
    # A gap before took a minute at most, and so may questions that never end.
    return record.clock_s - asked < PROBE_S and record.spent_s < context.limit_s + 2 * LOOK_AGAIN_S


def _no_slot(context: StepContext) -> str:
    """Say that there is no slot; after a long time once in log and history, too."""
    record = context.record
    why = "all slots are taken, or the hypervisor has another deployment"
    if context.master.now() < record.since + lifecycle.QUEUED_S:
        return why
    why += f"; it has waited for {lasting(lifecycle.QUEUED_S)}: salt-run deploy.list"
    if record.reason != why:
        log.warning("%s: %s", record.store, why)
        context.save(why, noted=context.master.now(), reason=why)
    return why


def _end(context: StepContext, late: Facts) -> tuple[Record, bool]:
    """Fail a deployment whose time is over, with its guest's last words if they come soon."""
    said = ""
    if context.record.state in lifecycle.WITH_GUEST:
        try:
            answer = jobs.on_hypervisor(context, "console", quick=True, lines=CONSOLE_LINES)
            said = _in_one_line(answer.facts["lines"])
        except Waiting:
            if context.left_s(late["until"]) > 0:
                context.save(due=context.master.now() + 1)
                return context.record, False
        except Replaced as err:
            return failing.begin_again(context, str(err)), True
        except LedgerError:
            raise
        except Exception as err:
            # They are a help, no more: without them it ends, too.
            log.warning("%s: no console: %s", context.record.store, err)
    console = f"; its console ended with: {said}" if said else ""
    return failing.fail(context, late["why"] + console, ""), True


def _in_one_line(lines: list[str]) -> str:
    printable = ("".join(filter(str.isprintable, line)).strip() for line in lines)
    return " | ".join(filter(None, printable))
