# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the runner's verbs do on a master: requests, doorbells and the pump.

Every function takes the master's configuration as ``opts`` and opens the ledger for itself.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from storelib import flow, judge, lifecycle, report, views
from storelib.errors import Conflict, Refused, StoreDeployError
from storelib.ledger import Ledger, Record
from storelib.master import pulse, settings
from storelib.master.salt_world import SaltWorld
from storelib.spec import MINION_ID, StoreSpec, from_pillar
from storelib.turn import NO_FUNCTION
from storelib.world import ACCEPTED

log = logging.getLogger(__name__)

WATCH_S = 0.25
"""How often a watched record is read."""

CHANGES = 20
"""How often an operator's change is tried while the pump changes the same record."""

FACTS_S = 20.0
"""How long ``plan`` waits for the hypervisor's facts."""


def ledger(opts: dict) -> Ledger:
    """Open the ledger."""
    return Ledger(settings.ledger_path(opts))


@contextlib.contextmanager
def world(opts: dict) -> Iterator[SaltWorld]:
    """Open the master for one call."""
    opened = SaltWorld(opts)
    try:
        yield opened
    finally:
        opened.close()


def found(books: Ledger, store: str) -> Record:
    """Return the store's record; raise :class:`Refused` if there is none."""
    record = books.get(store)
    if record is None:
        raise Refused(f"store {store} was never deployed", f"salt-run deploy.store {store}")
    return record


def wanted(opts: dict, books: Ledger, store: str, hypervisor: str | None) -> tuple[StoreSpec, str]:
    """
    Return the store's spec, compiled anew, and its hypervisor.

    Raises :class:`Refused` if no hypervisor is known, or its pillar does not describe the store.
    """
    if hypervisor is not None and not MINION_ID.fullmatch(str(hypervisor)):
        raise Refused(f"{hypervisor!r} is no minion ID", "name one hypervisor, without wildcards")
    record = books.get(store)
    name = (
        hypervisor or (record.hypervisor if record else None) or settings.hypervisor_id(opts, store)
    )
    if name is None:
        raise Refused(
            f"no hypervisor is known for store {store}",
            f"name it: salt-run deploy.store {store} hypervisor=MINION; or set "
            "store_deploy:hypervisor_id in the master's configuration",
        )
    with world(opts) as master:
        pillar = master.store_server(name)
    if pillar is None:
        raise Refused(
            f"store {store} is unknown: the pillar of {name}, taken for its hypervisor, has no "
            "store_server",
            f"describe the store there, or name its hypervisor: salt-run deploy.store {store} "
            "hypervisor=MINION",
        )
    spec = from_pillar(pillar, name)
    if spec.store != store:
        raise Refused(
            f"the pillar of {name} describes store {spec.store}, not {store}",
            f"correct store_server:store there, or name the hypervisor of {store}: "
            "hypervisor=MINION",
        )
    return spec, name


def request(opts: dict, store: str, hypervisor: str | None, redeploy: bool) -> Record:
    """Begin a deployment, as an operator asks for it."""
    with ledger(opts) as books:
        spec, name = wanted(opts, books, store, hypervisor)
        return flow.begin(books, time.time(), spec, name, "operator", redeploy)


def watch(
    opts: dict, begun: Record, timeout_s: float | None, tell: Callable[[str], None]
) -> Record:
    """
    Watch a deployment until it ends or ``timeout_s`` has passed, and return its record.

    tell
        Is given each line of progress.
    """
    until = time.monotonic() + timeout_s if timeout_s is not None else None
    told, reason = 0, ""
    with ledger(opts) as books:
        while True:
            record = found(books, begun.store)
            if record.generation != begun.generation:
                return record
            changes = [c for c in books.history(begun.store) if c.generation == begun.generation]
            for change in changes[told:]:
                tell(views.progress(change, begun.began))
            told = len(changes)
            if record.active and record.reason and record.reason != reason:
                tell(f"{time.time() - begun.began:8.1f} s    {record.reason}")
            reason = record.reason
            if not record.active or (until is not None and time.monotonic() >= until):
                return record
            time.sleep(WATCH_S)


def change(opts: dict, store: str, verb: Callable[[Ledger, float, Record], Record]) -> Record:
    """Change a deployment as an operator asks for it, however busy the pump is with it."""
    with ledger(opts) as books:
        for _ in range(CHANGES):
            with contextlib.suppress(Conflict):
                record = verb(books, time.time(), found(books, store))
                # What is at rest is not due: the bell has the change announced.
                books.ring(store, time.time())
                return record
    raise Refused(f"store {store} changes too fast", "try again")


def notify(
    opts: dict, store: str | None, minion: str | None, ready: bool, eager: bool = True
) -> bool:
    """
    Ring the doorbell of what is known by these names, and say whether it was.

    ready
        The minion says that it is a ready hypervisor: it is looked up even if no record names it.
    eager
        The minion has just come up, so what it did not answer is asked again.
    """
    with ledger(opts) as books:
        known = [name for name in (store,) if name and books.get(name)]
        if minion and MINION_ID.fullmatch(minion) and (ready or books.of_minion(minion)):
            known.append(minion)
        for name in known:
            books.ring(name, time.time(), eager)
    return bool(known)


def reconcile(opts: dict, master: SaltWorld, sweep: bool) -> dict[str, str]:
    """
    Advance what is due, and with ``sweep`` whatever is under way; return the states by store.

    A deployment that another process is advancing is left to it.
    """
    pulse.beat(opts, pulse.SWEEPER if sweep else pulse.PUMP)
    with ledger(opts) as books:
        rung: dict[str, tuple[str, bool]] = {}
        for name, eager in books.rung():
            # Off the list first: a bell that rings from now on is heard the next time.
            books.answered(name)
            record = books.get(name)
            records = [record] if record else books.of_minion(name) or _stranger(opts, books, name)
            rung.update({each.store: (name, eager) for each in records})
        stores = dict.fromkeys([*rung, *books.due(time.time())])
        if sweep:
            # Answers of which no event told. What only waits for its time is left alone.
            asked = [record for record in books.in_states(lifecycle.ACTIVE) if record.job]
            stores.update(dict.fromkeys(record.store for record in asked))
        states = {}
        for store in stores:
            name, eager = rung.get(store, ("", False))
            try:
                record = advance(opts, master, books, store, eager)
            except StoreDeployError as err:
                # The others have their turn all the same.
                log.error("%s: %s; %s", store, err.reason, err.hint)
                continue
            if record is not None:
                states[store] = record.state
            elif name:
                books.ring(name, time.time(), eager)
        return states


def advance(
    opts: dict, master: SaltWorld, books: Ledger, store: str, rung: bool = False
) -> Record | None:
    """Advance one deployment; return ``None`` if another process is at it, or if there is none."""
    with flow.locked(settings.state_dir(opts) / "locks", store) as held:
        if not held:
            return None
        return flow.advance(master, books, store, settings.max_active(opts), rung)


def _stranger(opts: dict, books: Ledger, minion: str) -> list[Record]:
    """Look at a minion that says it is a ready hypervisor: what does its pillar say?"""
    with world(opts) as master:
        if ACCEPTED not in master.keys(minion):
            return []
        try:
            pillar = master.store_server(minion)
            spec = from_pillar(pillar, minion) if pillar is not None else None
            if spec is None or not spec.auto_deploy:
                return []
            log.info("%s: %s is ready, auto_deploy", spec.store, minion)
            return [flow.begin(books, time.time(), spec, minion, "event")]
        except StoreDeployError as err:
            log.warning("%s says that it is ready: %s; %s", minion, err.reason, err.hint)
            return []


def plan(opts: dict, store: str, hypervisor: str | None) -> dict[str, Any]:
    """Say what a deployment would do, from the hypervisor's facts; touch nothing."""
    with ledger(opts) as books, world(opts) as master:
        spec, name = wanted(opts, books, store, hypervisor)
        record = books.get(store)
        generation = record.generation + 1 if record else 1
        plain = spec.as_dict()
        arguments = {"spec": plain, "generation": generation}
        answer = _asked(master, name, "store_hypervisor.facts", arguments)
        if answer is not None and NO_FUNCTION in str(answer):
            _asked(master, name, "saltutil.sync_all", {})
            answer = _asked(master, name, "store_hypervisor.facts", arguments)
        try:
            facts = report.opened(answer, store, generation, "facts").facts
            faults = judge.hypervisor(plain, facts)
        except report.NotAReport as err:
            faults = [f"{name} does not answer" if answer is None else str(err)]
        return {
            "store": store,
            "generation": generation,
            "hypervisor": name,
            "now": record.state if record else "never deployed",
            "spec": plain,
            "faults": faults,
            "steps": list(views.steps(plain)),
        }


def _asked(master: SaltWorld, minion: str, function: str, arguments: dict) -> Any:
    """Return what the minion returns for a job, ``None`` if it does not within :data:`FACTS_S`."""
    if ACCEPTED not in master.keys(minion):
        return None
    jid, until = master.new_jid(), time.monotonic() + FACTS_S
    master.publish(jid, minion, function, arguments)
    while time.monotonic() < until:
        returned = master.returned(jid, minion)
        if returned is not None:
            return returned.value
        time.sleep(WATCH_S)
    return None
