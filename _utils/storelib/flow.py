# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
How a deployment begins, moves and ends: the only code that changes a record's state.

The caller holds the store's lock (:func:`locked`), so one turn at a time is taken for each store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storelib import lifecycle, orders, verbs
from storelib.errors import Conflict, LedgerError, Refused, StoreDeployError
from storelib.ledger import TURN_S, Change, Ledger, Record
from storelib.spec import StoreSpec
from storelib.steps import (
    STEPS,
    awake,
    check_minion_id,
    disarm,
    first,
    intruder,
    lock_out,
    readmit,
)
from storelib.times import lasting
from storelib.turn import PROBE_S, Asking, Replaced, Turn, Unheard, Waiting
from storelib.world import ACCEPTED, World

log = logging.getLogger(__name__)

FOUND_AGAIN = (
    *("cleared", "intrusion", "settled", "probes", "probe_tries", "cleaned", "quiet", "discarded"),
    *("failure", "mended", "late", "fence", "runs", "started", "removed", "cleanup_failed"),
    *("locked_out", "autosign_tried", "suffices", "readmitted", "without_modules"),
)
"""Evidence that a step takes for granted, or that was of the failure: a retry forgets it."""

QUEUE_S = 50.0
"""When to look again for a slot at the latest; whoever gives one back wakes the next."""

LEAVING = (lifecycle.CANCELLING.name, lifecycle.RETIRING.name)
"""States in which what there is of a server is removed."""

CANDIDATE_S = 600.0
"""How long a hypervisor that says it is ready has to answer what it has."""

CONSOLE_LINES = 5
CONSOLE_S = 15.0
"""How long a deployment whose time is over waits for the last words of its guest."""


@contextlib.contextmanager
def locked(folder: Path, store: str) -> Iterator[bool]:
    """Hold the store's lock, if nobody else does; yield whether it is held. Dies with its owner."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{store}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


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
    old = check_begin(ledger, now, spec, redeploy)
    plain = spec.as_dict()
    record = _new(old, now, lifecycle.FIRST, plain, hypervisor, requested_by, redeploy)
    try:
        return ledger.save(record, change=why or f"requested by {requested_by}")
    except Conflict as err:
        raise Refused(
            f"a deployment of store {spec.store} is under way: another request was first",
            f"watch it: salt-run deploy.watch {spec.store}",
        ) from err


def check_begin(ledger: Ledger, now: float, spec: StoreSpec, redeploy: bool) -> Record | None:
    """Return the record that a new one replaces; raise :class:`Refused` if none can begin now."""
    old = ledger.get(spec.store)
    if old:
        verbs.store(old, now, redeploy)
    check_minion_id(ledger, spec.store, spec.minion_id)
    return old


def _new(
    old: Record | None,
    now: float,
    state: str,
    spec: dict[str, Any],
    hypervisor: str,
    requested_by: str,
    redeploy: bool,
) -> Record:
    """Return the record of a new deployment, with what it takes over from the one before."""
    generation = old.generation + 1 if old else 1
    record = Record(
        store=spec["store"],
        generation=generation,
        deployment=orders.new_id(generation),
        state=state,
        since=now,
        deadline=_deadline(now, state, spec),
        hypervisor=hypervisor,
        minion_id=spec["minion_id"],
        spec=spec,
        began=now,
        requested_by=requested_by,
        redeploy=redeploy,
        due=now,
    )
    if old is None:
        return record
    return dataclasses.replace(
        record,
        revision=old.revision,
        noted=old.noted,
        others=_others(old),
        asides=old.asides,
        # The old server is the store's until it is set aside.
        evidence={"serving_key": old.key_of(old.minion_id), **_outages(old)},
    )


def _deadline(now: float, state: str, spec: dict[str, Any], spent_s: float = 0) -> float | None:
    """Return when ``state`` fails, as far as can be said: if its master is there until then."""
    limit_s = lifecycle.limit_s(state, spec["timeouts"]) if state in lifecycle.ACTIVE else 0
    return now + limit_s - spent_s if limit_s else None


def _outages(old: Record) -> dict[str, Any]:
    """Return how long the store was last without a server, and since when it still is."""
    last, ended = old.outage_s, old.evidence.get("old_ended_at")
    found: dict[str, Any] = {} if last is None else {"last_outage_s": last}
    if ended is not None and old.state in (lifecycle.FAILED.name, lifecycle.CANCELLED.name):
        found["old_ended_at"] = ended
    return found


def _others(old: Record) -> dict[str, str]:
    """Return the keys of all hypervisors that the store was ever deployed on."""
    key = str(old.evidence.get("hypervisor_key", ""))
    return {**old.others, old.hypervisor: key} if key else old.others


def rollback(ledger: Ledger, now: float, record: Record) -> Record:
    """Begin to put the store's set-aside server back: the newest one that was ever verified."""
    present = verbs.rollback(record, ledger)
    new = _new(record, now, "queued", record.spec, record.hypervisor, "operator", redeploy=True)
    found = ("hypervisor", "hypervisor_key")
    evidence = {
        **new.evidence,
        **{key: record.evidence[key] for key in found if key in record.evidence},
        "replaces": present,
    }
    new = dataclasses.replace(new, resumes=verbs.ROLLING_BACK, evidence=evidence)
    return ledger.save(new, change="deploy.rollback")


def retire(ledger: Ledger, now: float, record: Record, data_disks: bool = False) -> Record:
    """Begin to remove the store's servers for good, set-aside ones too."""
    state = lifecycle.RETIRING.name
    verbs.retire(record)
    evidence = {**_found_again(record), "data_disks": data_disks}
    leaving = dataclasses.replace(
        _leaving(record, state, now, evidence),
        # A removal for good is a deployment of its own: no order of the one before outlives it.
        deployment=orders.new_id(record.generation),
        attempt=1,
        ordered=orders.NOWHERE,
    )
    return ledger.save(leaving, change="deploy.retire remove=True")


def cancel(ledger: Ledger, now: float, record: Record) -> Record:
    """Stop a deployment for good; what was made of the new server is removed."""
    state = lifecycle.CANCELLING.name
    verbs.cancel(record)
    return ledger.save(_leaving(record, state, now, _found_again(record)), change="deploy.cancel")


def _leaving(record: Record, state: str, now: float, evidence: dict[str, Any]) -> Record:
    """Return the record as it leaves whatever it was at for ``state``."""
    return dataclasses.replace(
        record,
        state=state,
        attempt=record.attempt + 1,
        since=now,
        deadline=_deadline(now, state, record.spec),
        spent_s=0,
        # What is at rest meanwhile has no turns, which would then be missing.
        looked={},
        due=now,
        evidence=evidence,
        failed_in="",
        resumes="",
        held_in="",
        left_s=None,
        reason="",
        next_action="",
    )


def hold(ledger: Ledger, now: float, record: Record) -> Record:
    """Let the deployment rest before its next step; a job that is under way goes on."""
    verbs.hold(record)
    limit_s = lifecycle.limit_s(record.state, record.spec["timeouts"])
    return ledger.save(
        dataclasses.replace(
            record,
            state=lifecycle.HELD.name,
            since=now,
            deadline=None,
            due=None,
            held_in=record.state,
            left_s=limit_s - record.spent_s if limit_s else None,
            reason="",
        ),
        change="deploy.hold",
    )


def release(ledger: Ledger, now: float, record: Record) -> Record:
    """Let a held deployment go on where it was, with the time that it had left."""
    verbs.release(record)
    evidence = dict(record.evidence)
    if record.job is None:
        # Another hypervisor may have come back meanwhile; but what is under way goes on.
        evidence.pop("fence", None)
    limit_s = lifecycle.limit_s(record.held_in, record.spec["timeouts"])
    spent_s = record.spent_s if record.left_s is None else limit_s - record.left_s
    return ledger.save(
        dataclasses.replace(
            record,
            state=record.held_in,
            attempt=record.attempt + 1,
            since=now,
            deadline=_deadline(now, record.held_in, record.spec, spent_s),
            spent_s=spent_s,
            looked={},
            due=now,
            held_in="",
            left_s=None,
            evidence=evidence,
        ),
        change="deploy.release",
    )


def retry(ledger: Ledger, now: float, record: Record) -> Record:
    """Go on with a failed deployment at the earliest step that is needed."""
    verbs.retry(record)
    wanted = lifecycle.RESUMES[record.failed_in]
    # Work needs a slot first; who had none yet goes on without one.
    state, resumes = ("queued", wanted) if wanted in lifecycle.SLOT else (wanted, "")
    # Whoever comes by `starting` is started there.
    retried = {"retried": wanted in lifecycle.WITH_GUEST}
    leaving = _leaving(record, state, now, {**_found_again(record), **retried})
    return ledger.save(
        dataclasses.replace(leaving, resumes=resumes),
        change=f"deploy.retry, goes on in {wanted}",
    )


def _found_again(record: Record) -> dict[str, Any]:
    """Return the evidence that still holds when a deployment leaves the state that it was in."""
    return {key: value for key, value in record.evidence.items() if key not in FOUND_AGAIN}


def advance(
    world: World, ledger: Ledger, store: str, max_active: int, rung: bool = False
) -> Record | None:
    """
    Take the deployment as far as it goes without waiting, and return its record.

    rung
        Whether somebody rang: then silent minions are asked at once, not only after a while.
    """
    record = ledger.get(store)
    while record is not None:
        announce(world, ledger, store)
        if record.state == lifecycle.HELD.name:
            # Nobody looks meanwhile who calls; a released deployment opens the door again.
            told = _shut(world, record)
            if told and told != record.reason:
                record = ledger.save(dataclasses.replace(record, reason=told))
        if not record.active and not record.candidate:
            break
        turn = Turn(world, ledger, record, rung, max_active)
        if turn.away and record.state in lifecycle.ADMITTING:
            # Nobody knows for how long the door was open: a step opens it again if it goes on.
            _shut(world, record)
        try:
            following, moved = _move(turn) if record.active else _consider(turn)
        except Conflict as err:
            log.info("%s: %s", store, err)
            break
        record = following
        if not moved:
            break
    return record


def _move(turn: Turn) -> tuple[Record, bool]:
    """Call the state's step; return the record as it now is and whether its state changed."""
    record = turn.record
    now = turn.world.now()
    if "late" in record.evidence:
        return _end(turn)
    try:
        if record.state == "queued" and not turn.ledger.slot_free(record, turn.max_active):
            raise Waiting(_no_slot(turn), QUEUE_S)
        if record.state in LEAVING:
            disarm(turn.world, record)
        elif record.state != lifecycle.FIRST:
            turn.check_hypervisor()
        untouched = record.state == lifecycle.CANCELLING.name and record.ordered == orders.NOWHERE
        if record.state not in (lifecycle.FIRST, "queued") and not untouched:
            turn.look()
        if record.state in (*lifecycle.WITH_GUEST, "starting") and "retried" in record.evidence:
            first(turn, "readmitted", lambda: readmit(turn))
        if record.state in lifecycle.WITH_GUEST and record.evidence.get("retried"):
            awake(turn)
        evidence = STEPS[record.state](turn)
        following = record.resumes or lifecycle.FOLLOWS[record.state]
        return _enter(turn, following, "", found=evidence), True
    except Waiting as err:
        wait = err
        if isinstance(err, Unheard):
            turn.uncount()
    except Replaced as err:
        return _begin_again(turn, str(err)), True
    except LedgerError:
        # Nothing is wrong with the deployment, and its failure could not be written either.
        raise
    except StoreDeployError as err:
        return _fail(turn, err.reason, err.hint), True
    except Exception as err:
        # Nobody watches: what was not foreseen is told, tried again and ended by the deadline.
        log.exception("%s: %s", record.store, record.state)
        if record.state in LEAVING:
            # Theirs is a week away, and whoever typed the verb is there now.
            return _fail(turn, f"{type(err).__name__}: {err}", ""), True
        wait = Waiting(f"{type(err).__name__}: {err}")
    # What the last answer to this question lacked says more than that it is asked again.
    known = record.reason if turn.asked == record.asked else ""
    why = known if isinstance(wait, Asking) and known else wait.why
    if turn.over and not _just_asked(turn):
        # From now on nobody is let in any more, and the guest is only asked for its last words.
        _shut(turn.world, record)
        why = f"{record.state} was not over after {lasting(turn.limit_s)}: {why}"
        late = {"why": why, "until": turn.record.clock_s + CONSOLE_S}
        turn.save(evidence={**turn.record.evidence, "late": late}, job=None)
        return _end(turn)
    deadline = _deadline(now, record.state, turn.spec, turn.record.spent_s)
    pauses = (TURN_S, wait.seconds, *([deadline - now] if deadline and deadline > now else []))
    turn.save(reason=why, asked=turn.asked, deadline=deadline, due=now + min(pauses))
    return turn.record, False


def _just_asked(turn: Turn) -> bool:
    """Say whether a question is so new that its answer is waited for: not again and again."""
    record = turn.record
    look = record.evidence.get("look", {})
    asked = max(look.get("at", 0), record.job.at if record.job else 0)
    # A gap before took a minute at most, and so may questions that never end.
    return record.clock_s - asked < PROBE_S and record.spent_s < turn.limit_s + 2 * TURN_S


def _no_slot(turn: Turn) -> str:
    """Say that there is no slot; after a long time once in log and history, too."""
    record = turn.record
    why = "all slots are taken, or the hypervisor has another deployment"
    if record.spent_s < lifecycle.QUEUED_S:
        return why
    why += f"; it has waited for {lasting(lifecycle.QUEUED_S)}: salt-run deploy.list"
    if record.reason != why:
        log.warning("%s: %s", record.store, why)
        turn.save(why, noted=turn.world.now(), reason=why)
    return why


def _shut(world: World, record: Record) -> str:
    """Let nobody in any more; return what is in the way, which is told when it fails, too."""
    return _tried(record, lambda: disarm(world, record))[0]


def _tried(record: Record, act: Callable[[], str | None]) -> tuple[str, str]:
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


def _begin_again(turn: Turn, why: str) -> Record:
    """Go back to the beginning of the deployment: what was done is on a machine that is gone."""
    record = turn.record
    if record.state not in lifecycle.PASSED or record.resumes:
        anew = verbs.command(record, "store")
        return _fail(turn, why, f"find out which machine is meant; then: {anew}")
    # A ledger that may be from a backup knows of no key to purge.
    for act in (
        lambda: disarm(turn.world, record),
        lambda: lock_out(turn) if turn.compared else None,
    ):
        told, hint = _tried(record, act)
        if told:
            return _fail(turn, f"{why}; {told}", hint)
    kept = ("serving_key", "last_outage_s", "old_ended_at")
    evidence = {key: record.evidence[key] for key in kept if key in record.evidence}
    turn.record = dataclasses.replace(record, evidence=evidence, attempt=record.attempt + 1)
    return _enter(turn, lifecycle.FIRST, why)


def offer(
    world: World, ledger: Ledger, record: Record, minion: str, auto_deploy: bool, max_active: int
) -> Record:
    """
    Note that a hypervisor, whose pillar names the store, says that it is ready.

    Called for a store that has a record; the next turn looks whether it is new hardware.
    """
    now, key = world.now(), world.keys(minion).get(ACCEPTED, "")
    # One that the store was on before is left alone, unless it was installed anew.
    gone = (
        minion != record.hypervisor
        and not world.same_key(record.others.get(minion, ""), key)
        and ACCEPTED not in world.keys(record.hypervisor)
    )
    if record.active and record.state in lifecycle.PASSED and gone:
        turn = Turn(world, ledger, record, True, max_active)
        turn.record = dataclasses.replace(record, hypervisor=minion, others=_others(record))
        why = f"{record.hypervisor} has no key on this master any more, {minion} is ready"
        return _begin_again(turn, why)
    if record.state in lifecycle.OPEN:
        # The key of its own hypervisor is compared at each turn.
        if minion == record.hypervisor:
            return record
        offered = _offered(minion, f"the deployment is under way on {record.hypervisor}", now)
        return ledger.save(
            dataclasses.replace(record, evidence={**record.evidence, "offered": offered})
        )
    until = (record.clock_s or now) + CANDIDATE_S
    candidate = {"minion": minion, "key": key, "until": until, "auto": auto_deploy}
    return ledger.save(
        dataclasses.replace(record, candidate=candidate, job=None, looked={}, due=now)
    )


def _offered(minion: str, why: str, now: float) -> dict[str, Any]:
    return {"hypervisor": minion, "why": why, "at": now}


def _consider(turn: Turn) -> tuple[Record, bool]:
    """Find out whether a hypervisor that says it is ready is new hardware of a store at rest."""
    record, now = turn.record, turn.world.now()
    candidate, minion = record.candidate, record.candidate["minion"]
    try:
        if "new" not in candidate:
            facts = turn.on_hypervisor("facts", quick=True, at=minion).facts
            found = {
                "new": _new_hardware(record, minion, facts),
                "second": _second_server(record, minion, facts),
            }
            turn.save(candidate={**candidate, **found})
        new = turn.record.candidate["new"]
        twin = turn.twin(minion) if new else ""
        # Before the candidate is forgotten: its pillar may not compile just now.
        wanted = turn.wanted(minion) if new and not twin and candidate["auto"] else None
    except Waiting as err:
        if turn.left_s(candidate["until"]) > 0:
            turn.save(due=now + err.seconds)
            return turn.record, False
        new, twin, wanted = "", "", None
    except StoreDeployError as err:
        log.warning("%s: %s says that it is ready: %s", record.store, minion, err.reason)
        new, twin, wanted = "", "", None
    evidence = {
        key: value for key, value in turn.record.evidence.items() if key not in ("fence", "mended")
    }
    if second := turn.record.candidate.get("second"):
        evidence["offered"] = _offered(minion, second, now)
    elif twin:
        evidence["offered"] = _offered(minion, f"{twin} still runs the store's server", now)
    elif new and not candidate["auto"]:
        evidence["offered"] = _offered(minion, f"{new}; auto_deploy is off", now)
    turn.save(candidate={}, job=None, due=None, evidence=evidence)
    if wanted is None:
        log.info("%s: %s is ready: %s", record.store, minion, evidence.get("offered", "as before"))
        return turn.record, False
    return begin(turn.ledger, now, wanted, minion, "event", redeploy=True, why=new), True


def _new_hardware(record: Record, minion: str, facts: dict[str, Any]) -> str:
    """Say why the hypervisor is not the machine that the store's server was made on, if so."""
    looked = facts["libvirt"]["reachable"] and facts.get("pool", {}).get("exists")
    there = (facts["domain"] or {}).get("exists") or facts["disk"]["exists"]
    if there:
        return ""
    known = record.evidence.get("hypervisor", {}).get("machine_id")
    if known is None and record.failed_in == lifecycle.FIRST and looked:
        return f"{minion} is ready, for which deployment {record.generation} had waited"
    if known not in (None, facts["machine_id"]):
        return f"new hardware: {minion} has the machine ID {facts['machine_id']}, not {known}"
    if record.state == lifecycle.DEPLOYED.name and looked:
        return f"domain and disk of the store's server are gone from {minion}"
    return ""


def _second_server(record: Record, minion: str, facts: dict[str, Any]) -> str:
    """Say that another hypervisor than the store's has a server of it, too, if so."""
    domain = facts["domain"] or {}
    if minion == record.hypervisor or not domain.get("ours"):
        return ""
    return (
        f"it has a server of the store, too (deployment {domain['generation']}, "
        f"{domain['state']}); the store's is on {record.hypervisor}"
    )


def _end(turn: Turn) -> tuple[Record, bool]:
    """Fail a deployment whose time is over, with its guest's last words if they come soon."""
    late, now = turn.record.evidence["late"], turn.world.now()
    said = ""
    if turn.record.state in lifecycle.WITH_GUEST:
        try:
            answer = turn.on_hypervisor("console", quick=True, lines=CONSOLE_LINES)
            said = _in_one_line(answer.facts["lines"])
        except Waiting:
            if turn.left_s(late["until"]) > 0:
                turn.save(due=now + 1)
                return turn.record, False
        except Replaced as err:
            return _begin_again(turn, str(err)), True
        except LedgerError:
            raise
        except Exception as err:
            # They are a help, no more: without them it ends, too.
            log.warning("%s: no console: %s", turn.record.store, err)
    console = f"; its console ended with: {said}" if said else ""
    return _fail(turn, late["why"] + console, ""), True


def _in_one_line(lines: list[str]) -> str:
    printable = ("".join(filter(str.isprintable, line)).strip() for line in lines)
    return " | ".join(filter(None, printable))


def _enter(
    turn: Turn,
    state: str,
    reason: str,
    found: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """Write the record with its next state, in one transaction with the line of history."""
    record, now = turn.record, turn.world.now()
    lifecycle.check(record.state, state)
    active = state in lifecycle.ACTIVE
    found = dict(found or {})
    told = reason or found.pop("told", "")
    saved = turn.ledger.save(
        dataclasses.replace(
            record,
            state=state,
            since=now,
            deadline=_deadline(now, state, record.spec),
            spent_s=0,
            due=now if active else None,
            attempts=found.pop("attempts", record.attempts),
            evidence={**record.evidence, **found},
            job=None,
            resumes="",
            reason=reason,
            asked="",
            **changes,
        ),
        change=told,
        max_active=turn.max_active
        if record.state == "queued" and state in lifecycle.SLOT
        else None,
    )
    log.info("%s: %s -> %s %s", record.store, record.state, state, reason)
    if state not in (*lifecycle.SLOT, "queued"):
        for store in turn.ledger.next_in_queue(turn.max_active):
            turn.ledger.ring(store, now)
    announce(turn.world, turn.ledger, record.store)
    return saved


def _fail(turn: Turn, reason: str, hint: str) -> Record:
    record = turn.record
    way_out = _way_out(record, hint)
    # Somebody may have come in since it was looked last; a ledger that may be from a backup knows
    # nothing of that.
    for act in (
        lambda: disarm(turn.world, record),
        lambda: intruder(turn) if turn.compared else None,
    ):
        told, mend = _tried(record, act)
        if told and told not in reason:
            reason = f"{reason}; {told}"
            way_out = f"{mend}; {way_out}" if mend else way_out
    found = {}
    if record.state in LEAVING:
        left = [f"{record.hypervisor}: whatever it has of {record.minion_id}"]
        found = {"cleanup_failed": turn.record.evidence.get("cleanup_failed", left)}
    return _enter(
        turn,
        lifecycle.FAILED.name,
        " ".join(reason.split()),
        found=found,
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


def announce(world: World, ledger: Ledger, store: str) -> None:
    """Fire the events of changes that were not told yet: at least once each, in order."""
    changes = ledger.unannounced(store)
    try:
        for change in changes:
            world.announce(f"store/{store}/deploy/{change.state}", event(change))
    except Exception as err:
        log.warning("%s: not told, tried again later: %s", store, err)
    else:
        if changes:
            ledger.announced(changes)


def event(change: Change) -> dict[str, Any]:
    """Return the data of the event that tells a change."""
    keys = ("store", "generation", "state", "previous", "reason", "at")
    return {key: getattr(change, key) for key in keys}
