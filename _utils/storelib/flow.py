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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storelib import lifecycle
from storelib.errors import Conflict, LedgerError, Refused, StoreDeployError
from storelib.ledger import Change, Ledger, Record
from storelib.spec import StoreSpec
from storelib.steps import STEPS, check_minion_id
from storelib.turn import Asking, Turn, Waiting
from storelib.world import World

log = logging.getLogger(__name__)

FOUND_AGAIN = (
    *("cleared", "intrusion", "settled", "probes", "probe_tries", "cleaned", "quiet", "discarded"),
    *("failure", "mended", "late"),
)
"""Evidence that a step takes for granted, or that was of the failure: a retry forgets it."""

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
) -> Record:
    """
    Make the record of a new deployment and return it.

    Raises :class:`Refused` if one is under way, or if the store is deployed and ``redeploy`` is
    not said.
    """
    old = ledger.get(spec.store)
    if old and old.state in lifecycle.OPEN:
        raise Refused(
            f"store {spec.store} is being deployed already: {old.state} since deployment "
            f"{old.generation} began on {old.hypervisor}",
            f"watch it: salt-run deploy.status {spec.store}",
        )
    if old and old.state == lifecycle.DEPLOYED.name and not redeploy:
        raise Refused(
            f"store {spec.store} is deployed",
            f"to replace its server: salt-run deploy.store {spec.store} redeploy=True",
        )
    plain = spec.as_dict()
    check_minion_id(ledger, spec.store, spec.minion_id)
    state = lifecycle.FIRST
    record = Record(
        store=spec.store,
        generation=old.generation + 1 if old else 1,
        state=state,
        since=now,
        deadline=now + lifecycle.limit_s(state, plain["timeouts"]),
        hypervisor=hypervisor,
        minion_id=spec.minion_id,
        spec=plain,
        began=now,
        requested_by=requested_by,
        redeploy=redeploy,
        due=now,
        revision=old.revision if old else 0,
    )
    try:
        return ledger.save(record, change=f"requested by {requested_by}")
    except Conflict as err:
        raise Refused(
            f"store {spec.store} is being deployed already: another request was first",
            f"watch it: salt-run deploy.status {spec.store}",
        ) from err


def cancel(ledger: Ledger, now: float, record: Record) -> Record:
    """Stop a deployment for good; what was made of the new server is removed."""
    state = lifecycle.CANCELLING.name
    _may(record, state)
    return ledger.save(
        dataclasses.replace(
            record,
            state=state,
            since=now,
            deadline=now + lifecycle.limit_s(state, record.spec["timeouts"]),
            due=now,
            evidence=_found_again(record),
            failed_in="",
            resumes="",
            held_in="",
            left_s=None,
            reason="",
            next_action="",
        ),
        change="deploy.cancel",
    )


def hold(ledger: Ledger, now: float, record: Record) -> Record:
    """Let the deployment rest before its next step; a job that is under way goes on."""
    state = lifecycle.HELD.name
    _may(record, state)
    return ledger.save(
        dataclasses.replace(
            record,
            state=state,
            since=now,
            deadline=None,
            due=None,
            held_in=record.state,
            left_s=None if record.deadline is None else record.deadline - now,
            reason="",
        ),
        change="deploy.hold",
    )


def release(ledger: Ledger, now: float, record: Record) -> Record:
    """Let a held deployment go on where it was, with the time that it had left."""
    if record.state != lifecycle.HELD.name:
        raise Refused(
            f"store {record.store} is {record.state}, not held",
            f"see: salt-run deploy.explain {record.store}",
        )
    return ledger.save(
        dataclasses.replace(
            record,
            state=record.held_in,
            since=now,
            deadline=None if record.left_s is None else now + record.left_s,
            due=now,
            held_in="",
            left_s=None,
        ),
        change="deploy.release",
    )


def retry(ledger: Ledger, now: float, record: Record) -> Record:
    """Go on with a failed deployment at the earliest step that is needed."""
    if record.state != lifecycle.FAILED.name or record.failed_in not in lifecycle.RESUMES:
        raise Refused(
            f"store {record.store} is {record.state}: there is nothing to retry",
            f"see what can be done: salt-run deploy.explain {record.store}",
        )
    wanted = lifecycle.RESUMES[record.failed_in]
    # Work needs a slot first; who had none yet goes on without one.
    state, resumes = ("queued", wanted) if wanted in lifecycle.SLOT else (wanted, "")
    return ledger.save(
        dataclasses.replace(
            record,
            state=state,
            since=now,
            deadline=now + lifecycle.limit_s(state, record.spec["timeouts"]),
            due=now,
            resumes=resumes,
            evidence=_found_again(record),
            failed_in="",
            reason="",
            next_action="",
        ),
        change=f"deploy.retry, goes on in {wanted}",
    )


def _found_again(record: Record) -> dict[str, Any]:
    """Return the evidence that still holds when a deployment leaves the state that it was in."""
    return {key: value for key, value in record.evidence.items() if key not in FOUND_AGAIN}


def _may(record: Record, state: str) -> None:
    if (record.state, state) not in lifecycle.TRANSITIONS:
        raise Refused(
            f"store {record.store} is {record.state} and cannot become {state}",
            f"see what can be done: salt-run deploy.explain {record.store}",
        )


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
        if not record.active:
            break
        turn = Turn(world, ledger, record, rung)
        try:
            following, moved = _move(turn, max_active)
        except Conflict as err:
            log.info("%s: %s", store, err)
            break
        record = following
        if not moved:
            break
    return record


def _move(turn: Turn, max_active: int) -> tuple[Record, bool]:
    """Call the state's step; return the record as it now is and whether its state changed."""
    record = turn.record
    now = turn.world.now()
    if "late" in record.evidence:
        return _end(turn)
    try:
        if record.state == "queued" and not turn.ledger.slot_free(record, max_active):
            raise Waiting("all slots are taken, or the hypervisor has another deployment", 30)
        evidence = STEPS[record.state](turn)
        following = record.resumes or lifecycle.FOLLOWS[record.state]
        return _enter(turn, following, "", max_active=max_active, found=evidence), True
    except Waiting as err:
        wait = err
    except LedgerError:
        # Nothing is wrong with the deployment, and its failure could not be written either.
        raise
    except StoreDeployError as err:
        return _fail(turn, err.reason, err.hint), True
    except Exception as err:
        # Nobody watches: what was not foreseen is told, tried again and ended by the deadline.
        log.exception("%s: %s", record.store, record.state)
        wait = Waiting(f"{type(err).__name__}: {err}")
    why = record.reason if isinstance(wait, Asking) and record.reason else wait.why
    if record.deadline is not None and now >= record.deadline:
        # From now on nothing is done any more but to ask for the guest's last words.
        limit = int(record.deadline - record.since)
        why = f"{record.state} was not over after {limit} s: {why}"
        late = {"why": why, "until": now + CONSOLE_S}
        turn.save(evidence={**turn.record.evidence, "late": late}, job=None)
        return _end(turn)
    due = min(now + wait.seconds, record.deadline or now + wait.seconds)
    turn.save(reason=why, due=due)
    return turn.record, False


def _end(turn: Turn) -> tuple[Record, bool]:
    """Fail a deployment whose time is over, with its guest's last words if they come soon."""
    late, now = turn.record.evidence["late"], turn.world.now()
    said = ""
    if turn.record.state in lifecycle.WITH_GUEST:
        try:
            answer = turn.on_hypervisor("console", quick=True, lines=CONSOLE_LINES)
            said = _in_one_line(answer.facts["lines"])
        except Waiting:
            if now < late["until"]:
                turn.save(due=now + 1)
                return turn.record, False
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
    max_active: int | None = None,
    found: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """Write the record with its next state, in one transaction with the line of history."""
    record, now = turn.record, turn.world.now()
    lifecycle.check(record.state, state)
    active = state in lifecycle.ACTIVE
    limit = lifecycle.limit_s(state, record.spec["timeouts"]) if active else 0
    found = dict(found or {})
    saved = turn.ledger.save(
        dataclasses.replace(
            record,
            state=state,
            since=now,
            deadline=now + limit if active else None,
            due=now if active else None,
            attempts=found.pop("attempts", record.attempts),
            evidence={**record.evidence, **found},
            job=None,
            resumes="",
            reason=reason,
            **changes,
        ),
        change=reason,
        max_active=max_active if record.state == "queued" and active else None,
    )
    log.info("%s: %s -> %s %s", record.store, record.state, state, reason)
    if not active:
        for waiting in turn.ledger.in_states({"queued"}):
            turn.ledger.ring(waiting.store, now)
    announce(turn.world, turn.ledger, record.store)
    return saved


def _fail(turn: Turn, reason: str, hint: str) -> Record:
    record = turn.record
    verb = "retry" if record.state in lifecycle.RESUMES else "cancel"
    try:
        turn.world.disarm(record.minion_id)
    except StoreDeployError as err:
        reason = f"{reason}; {err.reason}"
    return _enter(
        turn,
        lifecycle.FAILED.name,
        reason,
        failed_in=record.state,
        next_action=hint or f"find the cause, then: salt-run deploy.{verb} {record.store}",
    )


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
