# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Jobs of minions: published, asked after, sent again when they were lost, and what came back.

A job is in the record before it is published, so that it is not published twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from typing import Any

from storelib import __version__, orders, report
from storelib.errors import Fault
from storemaster.deployment import verbs
from storemaster.deployment.master_api import ACCEPTED, Returned
from storemaster.deployment.record import Job
from storemaster.deployment.step_context import (
    Asking,
    Behind,
    NotYet,
    Replaced,
    StepContext,
    Unheard,
    Waiting,
)

log = logging.getLogger(__name__)

RESEND_S = 60.0
"""A job that only asks is sent again after this silence: the minion may have been away."""

SYNC_S = 20.0
"""When to look again whether a minion has got its modules."""

PROBE_S = 30.0
"""After this silence the minion is asked whether a job that acts is still running."""

EAGER_S = 3.0
"""In place of both, when a bell says that the minion is there."""

EARLIER = 5
"""How many earlier jobs of the same question may still be answered: a slow guest is late."""

MENDS: dict[str, dict[str, Any]] = {
    "saltutil.sync_all": {},
    "saltutil.refresh_pillar": {"wait": True},
}
"""What brings a minion the modules, and the secret that its pillar holds."""

MEND_AGAIN = 5
"""After so many refused reports they are sent once more."""

FIRST_STATE_S = 300.0
"""How long a guest has to get its modules from its first state, before it is told to."""

NO_FUNCTION = "is not available"
"""Salt's words for a module that the minion has not got yet."""


def on_hypervisor(
    context: StepContext, step: str, quick: bool = False, at: str | None = None, **arguments: Any
) -> report.Report:
    """
    Return the report of ``store_hypervisor.<step>``; raise ``Fault`` if it is not ok, and
    ``Waiting`` if it could not be taken yet.

    at
        Minion ID of another hypervisor than the record's.
    """
    minion = at or context.record.hypervisor
    if step in orders.STEPS:
        arguments["order"] = _order(context, step)
    answer = _report(
        context, minion, f"store_hypervisor.{step}", quick, spec=context.spec, **arguments
    )
    known = context.evidence.hypervisor.get("machine_id")
    if at is None and known not in (None, answer.facts.get("machine_id", known)):
        raise Replaced(f"{minion} is another machine: its ID is {answer.facts['machine_id']}")
    if step in orders.STEPS:
        _carried_out(context, answer)
    if waits := good(context, answer).facts.get("waits"):
        raise Waiting(f"{minion}: {waits}")
    return answer


def _carried_out(context: StepContext, answer: report.Report) -> None:
    """Note what the machine has noted; raise ``Behind`` if it refuses because of that."""
    record, note = context.record, answer.facts.get("note") or {}
    if answer.facts.get("behind"):
        raise Behind(f"{record.hypervisor}: {answer.error}", answer.hint)
    if note.get("deployment") == record.deployment:
        noted = {**record.noted, answer.facts["machine_id"]: [record.deployment]}
        context.record = dataclasses.replace(record, noted=noted)


def _order(context: StepContext, step: str) -> dict[str, Any]:
    """Return the order for a step, and note that it is given, with the record's next saving."""
    record = context.record
    ours, machine, asked = record.deployment, record.machine, (record.attempt, step)
    order = orders.made(ours, record.attempt, record.may_be_noted(machine), after=record.ordered)
    noted = [each for each in record.noted.get(machine, ()) if each != ours]
    context.record = dataclasses.replace(
        record,
        ordered=asked if orders.beyond(asked, record.ordered) else record.ordered,
        noted={**record.noted, machine: [*noted, ours]},
    )
    return order


def in_guest(
    context: StepContext, step: str, quick: bool = False, **arguments: Any
) -> report.Report:
    """Return the report of ``provisioning_helper.<step>``; raise ``Fault`` if it is not ok."""
    return good(context, try_in_guest(context, step, quick, **arguments))


def try_in_guest(
    context: StepContext, step: str, quick: bool = False, **arguments: Any
) -> report.Report:
    """Return the report of ``provisioning_helper.<step>``, ok or not."""
    return _report(
        context,
        context.record.minion_id,
        f"provisioning_helper.{step}",
        quick,
        store=context.record.store,
        **arguments,
    )


def _report(
    context: StepContext, minion: str, function: str, quick: bool, **arguments: Any
) -> report.Report:
    arguments["generation"] = context.record.generation
    context.asked = f"{minion} {function}"
    job = context.record.job
    if job and job.minion == minion and job.function in MENDS:
        _answer(context, job, quick=True, arguments=MENDS[job.function])
        job = None
    if job is None or (job.minion, job.function) != (minion, function):
        job = _publish(context, minion, function, arguments)
    returned = _answer(context, job, quick, arguments)
    try:
        answer = _believed(context, job, returned.value)
    except report.Unsealed as err:
        raise _refused(context, minion, str(err), "saltutil.refresh_pillar") from err
    except report.NotAReport as err:
        raise _refused(context, minion, str(err), "saltutil.sync_all") from err
    if _numbers(answer.version) > _numbers(__version__):
        # Its modules come from the disk: so does what this master would run after a restart.
        context.save(job=None)
        raise Waiting(
            f"{minion} has version {answer.version} of store-deploy, the running master still "
            f"{__version__}: systemctl restart salt-master",
            SYNC_S,
        )
    if answer.version != __version__:
        raise _mending(context, minion, "saltutil.sync_all") or Fault(
            f"{minion} has version {answer.version} of store-deploy, not {__version__}",
            f"salt {minion} saltutil.sync_all, then: {verbs.again(context.record)}",
        )
    # The answer is used up: what asks again, asks anew.
    context.record = dataclasses.replace(context.record, job=None)
    return answer


def _believed(context: StepContext, job: Job, value: Any) -> report.Report:
    """Return the report, if it is one and sealed by the minion with the key that we know."""
    record, step = context.record, job.function.partition(".")[2]
    shared = context.master.secret(job.minion, record.key_of(job.minion))
    answer = report.opened(value, record.store, record.generation, step)
    if not report.believed(value, (job.jid, *job.earlier), shared):
        raise report.Unsealed(f"{job.minion} sent a report on {step} without its seal")
    return answer


def _refused(context: StepContext, minion: str, why: str, mend: str) -> Waiting:
    """Put aside what may be forged: it neither moves the deployment nor fails it."""
    waiting = _first_state(context, minion, mend) or _mending(context, minion, mend)
    if waiting is not None:
        return waiting
    record = context.record
    # A stranger's text, on its way to a log and a terminal.
    why = "".join(char if char.isprintable() else " " for char in why)
    log.warning("%s: refused: %s", record.store, why)
    before, now = record.evidence.refused, context.master.now()
    refused = {"count": before.get("count", 0) + 1, "last": why, "at": now, "state": record.state}
    # One line of history in each state: a flood of them must not bury the rest.
    line = f"refused: {why}" if before.get("state") != record.state else None
    # What was to mend it may never have come there.
    mended = record.evidence.mended if refused["count"] % MEND_AGAIN else []
    evidence = dataclasses.replace(record.evidence, refused=refused, mended=mended)
    context.save(line, noted=now, job=None, evidence=evidence)
    return Waiting(f"refused: {why}", SYNC_S)


def _first_state(context: StepContext, minion: str, mend: str) -> Waiting | None:
    """Wait for what a new guest's first startup state brings; a second run only slows it down."""
    record = context.record
    if record.state != "booting" or mend != "saltutil.sync_all":
        return None
    since = record.evidence.without_modules or record.clock_s
    evidence = dataclasses.replace(record.evidence, without_modules=since)
    context.save(job=None, evidence=evidence)
    if record.clock_s - since >= FIRST_STATE_S:
        return None
    return NotYet(f"{minion} gets its modules from its first state", SYNC_S)


def _mending(context: StepContext, minion: str, mend: str) -> Waiting | None:
    """Send what an honest minion may lack; ``None`` if it was sent in this state."""
    record = context.record
    mended = record.evidence.mended
    this = [record.state, minion, mend]
    if this in mended:
        return None
    context.save(evidence=dataclasses.replace(record.evidence, mended=[*mended, this]))
    _publish(context, minion, mend, MENDS[mend])
    return Waiting(f"{minion} is new to us: {mend}", SYNC_S)


def _publish(context: StepContext, minion: str, function: str, arguments: dict[str, Any]) -> Job:
    old = context.record.job
    again = old is not None and (old.minion, old.function) == (minion, function)
    earlier = (*old.earlier, old.jid)[-EARLIER:] if old and again else ()
    job = Job(context.master.new_jid(), minion, function, context.record.clock_s, earlier)
    # The JID is new with each question: it is the nonce, too.
    nonce = {} if function in MENDS else {"nonce": job.jid}
    _send(context, job, job.jid, function, {**arguments, **nonce})
    return job


def _send(
    context: StepContext, job: Job, jid: str, function: str, arguments: dict[str, Any]
) -> None:
    """Publish what is in the record by now; what the master refuses is due again at once."""
    context.save(job=job)
    try:
        context.master.publish(jid, job.minion, function, arguments)
    except Unheard:
        context.save(job=dataclasses.replace(job, at=0, probe_at=0))
        raise


def _answer(context: StepContext, job: Job, quick: bool, arguments: dict[str, Any]) -> Returned:
    """Return what came back for ``job``; otherwise see to it that it will, and wait."""
    returned = _first_return(context, job)
    if returned is not None:
        return returned
    told = without_key(context, job.minion)
    silent = context.record.clock_s - max(job.at, job.probe_at)
    rung = context.rung or job.rung
    if 0 < silent < EAGER_S and rung and not job.rung:
        # Asked a moment before the bell, it may not have been there yet: the bell is kept.
        job = dataclasses.replace(job, rung=True)
        context.save(job=job)
    if quick:
        if silent >= (EAGER_S if rung else RESEND_S):
            _publish(context, job.minion, job.function, arguments)
    elif _lost(context, job, silent):
        _publish(context, job.minion, job.function, arguments)
    seconds = pause_s(rung, silent, PROBE_S)
    if told:
        raise Waiting(told, seconds)
    raise Asking(f"{job.minion} has not answered {job.function} yet", seconds)


def without_key(context: StepContext, minion: str) -> str:
    """Say why a minion cannot answer: what became of its key; empty if that is accepted."""
    ours, known = context.record.key_of(minion), context.master.keys(minion)
    if ACCEPTED in known:
        return ""
    if not known:
        return (
            f"{minion} has no key on this master any more; once it has called again: "
            f"salt-key -a {minion}"
        )
    own = [state for state, pem in known.items() if ours and context.master.same_key(pem, ours)]
    if ours and not own:
        return f"another machine calls itself {minion}: its key is {', '.join(known)}"
    state = (own or list(known))[0]
    include = "" if state == "pending" else f"--include-{state} "
    mend = f"salt-key {include}-a {minion} lets it in"
    if state == "rejected" and context.master.autorejected(minion):
        mend = f"the master's autoreject_file names it; take it out there, then {mend}"
    return f"{minion}'s own key is {state}: {mend}"


def job_ended(context: StepContext) -> bool:
    """Wait until the hypervisor's job that was under way at the cancelling has ended."""
    job = context.record.job
    # A guest's job ends with the guest.
    if job is None or job.minion != context.record.hypervisor:
        return True
    silent = context.record.clock_s - max(job.at, job.probe_at)
    if _first_return(context, job) is None and not _lost(context, job, silent):
        raise Waiting(f"{job.minion} is still at work: {job.function}", PROBE_S)
    return True


def _lost(context: StepContext, job: Job, silent: float) -> bool:
    """Say whether a job is not running though nothing came back; else ask, if it is time."""
    told = believed(context, [job.probe], job.minion, "job") if job.probe else None
    if told is not None:
        good(context, told)
    if told is not None and told.facts.get("running") is False:
        return _first_return(context, job) is None
    if told is not None:
        context.save(job=dataclasses.replace(job, probe=""))
    elif silent >= (EAGER_S if context.rung or job.rung else PROBE_S):
        _probe(context, job)
    return False


def believed(context: StepContext, jids: list[str], minion: str, step: str) -> report.Report | None:
    """Return what a job beside the deployment's own returned, if it is to be believed."""
    record = context.record
    shared = context.master.secret(minion, record.key_of(minion))
    for jid in jids:
        returned = context.master.returned(jid, minion)
        if returned and report.believed(returned.value, (jid,), shared):
            with contextlib.suppress(report.NotAReport):
                return report.opened(returned.value, record.store, record.generation, step)
    return None


def _first_return(context: StepContext, job: Job) -> Returned | None:
    jids = (job.jid, *job.earlier)
    returns = (context.master.returned(jid, job.minion) for jid in jids)
    return next((returned for returned in returns if returned is not None), None)


def _probe(context: StepContext, job: Job) -> None:
    """Ask whether a job is running; only a sealed answer counts, as anybody can send one."""
    probe = context.master.new_jid()
    probed = dataclasses.replace(job, probe=probe, probe_at=context.record.clock_s, rung=False)
    module, whose = "store_hypervisor", dict[str, Any](spec=context.spec)
    if job.minion == context.record.minion_id:
        module, whose = "provisioning_helper", {"store": context.record.store}
    arguments = {**whose, "generation": context.record.generation, "jid": job.jid}
    _send(context, probed, probe, f"{module}.job", {**arguments, "nonce": probe})


def good(context: StepContext, answer: report.Report) -> report.Report:
    """Return a report that is ok; raise ``Fault`` if it is not, with its facts as evidence."""
    if not answer.ok:
        evidence = dataclasses.replace(context.evidence, failure=answer.facts)
        context.record = dataclasses.replace(context.record, evidence=evidence)
        raise Fault(answer.error, answer.hint)
    return answer


def pause_s(rung: bool, silent: float, otherwise: float) -> float:
    """Return when to look again for an answer: soon, if a bell rang too early to ask anew."""
    return EAGER_S - silent if rung and silent < EAGER_S else otherwise


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]
