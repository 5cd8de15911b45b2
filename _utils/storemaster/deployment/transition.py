# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a record changes its state: the one door, and what is taken along."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from storelib import orders
from storemaster.deployment import lifecycle
from storemaster.deployment.evidence import Evidence, Found
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import MasterApi
from storemaster.deployment.record import Change, Record
from storemaster.deployment.step_context import StepContext

log = logging.getLogger(__name__)

EVENT_VERSION = 1
"""Of the event's schema: raised when a key goes or means something else, not when one comes."""


def deadline(now: float, state: str, spec: dict[str, Any], spent_s: float = 0) -> float | None:
    """Return when ``state`` fails, as far as can be said: if its master is there until then."""
    limit_s = lifecycle.limit_s(state, spec["timeouts"]) if state in lifecycle.ACTIVE else 0
    return now + limit_s - spent_s if limit_s else None


def new(
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
        deadline=deadline(now, state, spec),
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
    without = old.state in (lifecycle.FAILED.name, lifecycle.CANCELLED.name)
    evidence = Evidence(
        # The old server is the store's until it is set aside.
        serving_key=old.key_of(old.minion_id),
        last_outage_s=old.outage_s,
        # The store has been without a server since then.
        old_ended_at=old.evidence.old_ended_at if without else None,
    )
    return dataclasses.replace(
        record,
        revision=old.revision,
        noted=old.noted,
        others=others(old),
        asides=old.asides,
        evidence=evidence,
    )


def others(old: Record) -> dict[str, str]:
    """Return the keys of all hypervisors that the store was ever deployed on."""
    key = old.evidence.hypervisor_key
    return {**old.others, old.hypervisor: key} if key else old.others


def moved(record: Record, state: str, verb: str, now: float, **changes: Any) -> Record:
    """
    Return the record as it enters a state.

    changes
        What is not as it is for whoever enters that state: with its whole time, nothing under way,
        nothing to tell.
    """
    usual: dict[str, Any] = {
        "since": now,
        "due": now if state in lifecycle.ACTIVE else None,
        "deadline": deadline(now, state, record.spec, changes.get("spent_s", 0)),
        "spent_s": 0,
        "rests_until": 0,
        "attempt": record.attempt + (verb in lifecycle.ANOTHER_WAY),
        # What is at rest meanwhile is not looked at, which would then be missing.
        "looked": record.looked if record.active else {},
        "job": None,
        "left_s": None,
        **dict.fromkeys(("asked", "failed_in", "held_in", "next_action", "reason", "resumes"), ""),
    }
    return dataclasses.replace(record, state=state, **{**usual, **changes})


def enter(
    ledger: Ledger, old: Record | None, new: Record, verb: str, why: str, most: int | None = None
) -> Record:
    """
    Write a record with its next state, and the line of history: the one way to change a state.

    old, new
        The store's record, if it has one, and what it becomes.
    verb
        Who asks for that: a verb of the lifecycle's table.
    why
        For the history.
    most
        How many deployments may have a slot, if this one takes one.

    Raises :class:`Conflict` if the record was changed in the meantime or the slot is taken.
    """
    before = old.state if old else ""
    lifecycle.check(before, new.state, verb)
    takes = before == "queued" and new.state in lifecycle.SLOT
    saved = ledger.save(new, change=why, max_active=most if takes else None)
    log.info("%s: %s -> %s %s", new.store, before, new.state, why)
    return saved


def step(context: StepContext, state: str, verb: str, found: Found, **changes: Any) -> Record:
    """Enter a state that comes by itself, with what was found out; wake who waits for a slot."""
    old, now, found = context.record, context.master.now(), dict(found)
    told = changes.get("reason") or found.pop("told", "")
    changes["attempts"] = found.pop("attempts", old.attempts)
    changes["evidence"] = dataclasses.replace(old.evidence, **found)
    new = moved(old, state, verb, now, **changes)
    saved = enter(context.ledger, old, new, verb, told, context.max_active)
    if state not in (*lifecycle.SLOT, "queued"):
        context.ledger.wake_next(now, context.max_active)
    announce(context.master, context.ledger, old.store)
    return saved


def announce(master: MasterApi, ledger: Ledger, store: str) -> None:
    """Fire the events of changes that were not told yet: at least once each, in order."""
    changes = ledger.unannounced(store)
    try:
        for change in changes:
            master.announce(f"store/{store}/deploy/{change.state}", event(change))
    except Exception as err:
        log.warning("%s: not told, tried again later: %s", store, err)
    else:
        if changes:
            ledger.announced(changes)


def event(change: Change) -> dict[str, Any]:
    """Return what tells a change: the event's data, and a webhook's (docs/event.schema.json)."""
    keys = ("store", "generation", "state", "previous", "reason", "at", "actor", "way")
    return {"version": EVENT_VERSION, **{key: getattr(change, key) for key in keys}}
