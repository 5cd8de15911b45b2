# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the runner's verbs do on a master: requests, doorbells and the pump.

Every function takes the master's configuration as ``opts`` and opens the ledger for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from storelib import adoption, flow, lifecycle, orders, report, views
from storelib.errors import Conflict, LedgerError, Refused, StoreDeployError
from storelib.ledger import BUSY_S, Ledger, Record
from storelib.master import asking, keys, pillar_cache, pulse, ready, salt_world, settings
from storelib.master.salt_world import SaltWorld
from storelib.spec import MINION_ID, StoreSpec, from_pillar
from storelib.steps import check_minion_id
from storelib.world import ACCEPTED

log = logging.getLogger(__name__)

BELL_S = 1.0
"""How long a bell waits for the ledger: a reactor has ten threads for all of them."""

WATCH_S = 0.25
"""How often a watched record is read."""

REASON_S = 10.0
"""How long a deployment waits for the same before it is shown."""

CHANGES = 20
"""How often an operator's change is tried while the pump changes the same record."""

PUT_OFF_S = 60.0
"""When a deployment is looked at again whose step broke in a way that was not foreseen."""

READY_AT_ONCE = 5
"""How many hypervisors that say they are ready are looked at in one round of the pump."""


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
        raise Refused(f"store {store} was never deployed", _stores(books, store))
    return record


def _stores(books: Ledger, store: str) -> str:
    """Say which stores there are, to one who may have mistyped."""
    known = [record.store for record in books.all()]
    similar = difflib.get_close_matches(store, known)
    meant = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"{meant}salt-run deploy.list names the stores that are known"


def shown(opts: dict, record: Record) -> dict[str, Any]:
    """Return the public form of a record."""
    public_key = str(record.evidence.get("public_key", ""))
    return views.record(record, keys.fingerprint(opts, record.minion_id, public_key))


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
            "name it: hypervisor=MINION; or set store_deploy:hypervisor_id in the master's "
            f"configuration; {_stores(books, store)}",
        )
    with world(opts) as master:
        pillar = master.store_server(name)
        if pillar is None and (environment := _environment(master, name)):
            pillar = salt_world.store_server(opts, name, environment)
        minion = bool(master.keys(name))
    if pillar is None:
        lacks = "its pillar has no store_server" if minion else "that is no minion of this master"
        raise Refused(
            f"store {store} is unknown: {name} is taken for its hypervisor, and {lacks}",
            f"describe the store in the pillar of its hypervisor, or name that: hypervisor=MINION; "
            f"{_stores(books, store)}",
        )
    spec = from_pillar(pillar, name)
    if spec.store != store:
        raise Refused(
            f"the pillar of {name} describes store {spec.store}, not {store}",
            f"correct store_server:store there, or name the hypervisor of {store}: "
            "hypervisor=MINION",
        )
    return spec, name


def _environment(master: SaltWorld, minion: str) -> dict[str, Any]:
    """Ask for a minion's own environments, in which its pillar is another; empty if it has none."""
    jobs = {key: (minion, "config.get", {"key": key}) for key in ("saltenv", "pillarenv")}
    told = asking.asked_all(master, jobs)
    return {key: value for key, value in told.items() if isinstance(value, str) and value}


def request(opts: dict, store: str, hypervisor: str | None, redeploy: bool) -> Record:
    """Begin a deployment, as an operator asks for it."""
    settings.check(opts, "max_active")
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
    told, reason, shown = 0, ("", 0.0), []
    with ledger(opts) as books:
        while True:
            record = found(books, begun.store)
            if record.generation != begun.generation:
                return record
            changes = [c for c in books.history(begun.store) if c.generation == begun.generation]
            for change in changes[told:]:
                tell(views.progress(change, begun.began))
            told = len(changes)
            if not record.active or record.reason != reason[0]:
                reason = (record.reason, time.monotonic())
            elif reason[0] and time.monotonic() - reason[1] >= REASON_S and reason not in shown:
                # What is over at once is not worth a line.
                shown.append(reason)
                tell(views.waiting(record.reason, time.time() - begun.began))
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
    # A ready hypervisor may have no record that the sweeper would find without the bell.
    busy_s = BUSY_S if ready else BELL_S
    with Ledger(settings.ledger_path(opts), busy_s) as books:
        known = [name for name in (store,) if name and books.get(name)]
        if minion and MINION_ID.fullmatch(minion) and (ready or books.of_minion(minion)):
            known.append(minion)
        for name in known:
            books.ring(name, time.time(), eager, ready and name == minion)
    return bool(known)


def reconcile(opts: dict, master: SaltWorld, sweep: bool) -> dict[str, str]:
    """
    Advance what is due, and with ``sweep`` whatever is under way; return the states by store.

    A deployment that another process is advancing is left to it.
    """
    pulse.beat(opts, pulse.SWEEPER if sweep else pulse.PUMP)
    for fault, mend in settings.faults(opts) if sweep else ():
        # What can be done without the setting goes on.
        log.error("%s; %s", fault, mend)
    with ledger(opts) as books:
        rung = [bell for bell in books.rung() if not bell.rests(time.time())]
        # Each of these takes a pillar; those that are under way must not wait for all of them.
        later = [bell for bell in rung if bell.ready][READY_AT_ONCE:]
        asked_for = {
            bell: ready.stores_of(opts, master, books, bell) for bell in rung if bell not in later
        }
        bells = {bell: named for bell, named in asked_for.items() if named is not None}
        stores = dict.fromkeys(store for named in bells.values() for store in named)
        eager = {store for bell, named in bells.items() if bell.eager for store in named}
        stores.update(dict.fromkeys(books.due(time.time())))
        if sweep:
            # Answers of which no event told. What only waits for its time is left alone.
            asked = [record for record in books.in_states(lifecycle.ACTIVE) if record.job]
            stores.update(dict.fromkeys(record.store for record in asked))
            # A master that was killed may have left its last change untold.
            stores.update(dict.fromkeys(books.untold()))
        states, busy = {}, set()
        for store in stores:
            try:
                record = advance(opts, master, books, store, store in eager)
            except StoreDeployError as err:
                # The others have their turn all the same.
                log.error("%s: %s; %s", store, err.reason, err.hint)
                if not isinstance(err, LedgerError):
                    _put_off(books, store)
                continue
            except Exception:
                log.exception("%s", store)
                _put_off(books, store)
                continue
            if record is None:
                busy.add(store)
            else:
                states[store] = record.state
        for bell, named in bells.items():
            # Only now: a bell must not be lost with a process that is killed.
            if not busy.intersection(named):
                books.answered(bell)
                if bell.ready:
                    ready.acknowledge(master, bell.name)
        if sweep:
            pillar_cache.forget_strangers(opts, books)
        return states


def _put_off(books: Ledger, store: str) -> None:
    """Look at a store later, whose step cannot even fail; the pump has others to see to."""
    with contextlib.suppress(StoreDeployError):
        record = books.get(store)
        if record and record.due is not None:
            books.save(dataclasses.replace(record, due=time.time() + PUT_OFF_S))


def advance(
    opts: dict, master: SaltWorld, books: Ledger, store: str, rung: bool = False
) -> Record | None:
    """Advance one deployment; return ``None`` if another process is at it, or if there is none."""
    with flow.locked(settings.state_dir(opts) / "locks", store) as held:
        if not held:
            return None
        return flow.advance(master, books, store, settings.max_active(opts), rung)


def would_retire(opts: dict, store: str, data_disks: bool) -> dict[str, Any]:
    """Say what the retiring of a store would remove; touch nothing."""
    with ledger(opts) as books, world(opts) as master:
        record = found(books, store)
        arguments = {"generation": record.generation, "spec": record.spec}
        answer = asking.asked(
            master,
            record.hypervisor,
            "store_hypervisor.retire",
            {**arguments, "data_disks": data_disks},
        )
        name = record.hypervisor
        facts = asking.facts(master, answer, name, store, record.generation, "retire")
        with asking.reading(name, "retire"):
            return {
                "store": store,
                "hypervisor": name,
                "would_remove": asking.things(facts["found"]),
                "would_keep": asking.things(facts["kept"]),
                "keys": sorted(master.keys(record.minion_id)),
            }


def prune(opts: dict, older_than_s: float, store: str | None, remove: bool) -> list[dict[str, Any]]:
    """
    Return what each store's hypervisor has set aside for longer than that, removed or not.

    Stores with a deployment under way are left alone.
    """
    with ledger(opts) as books, world(opts) as master:
        return _pruned(books, master, older_than_s, store, remove)


def _pruned(
    books: Ledger, master: SaltWorld, older_than_s: float, store: str | None, remove: bool
) -> list[dict[str, Any]]:
    """See :func:`prune`."""
    records = [found(books, store)] if store else books.all()
    at_rest = [each for each in records if each.state not in lifecycle.OPEN]
    nonce = master.new_jid()
    rest = {"older_than_s": older_than_s, "remove": remove, "nonce": nonce}
    asked = {
        each.store: (
            each.hypervisor,
            "store_hypervisor.prune",
            {"spec": each.spec, "generation": each.generation, "order": _order(each), **rest},
        )
        for each in at_rest
    }
    answers = asking.asked_all(master, asked)
    rows = []
    for each in at_rest:
        row: dict[str, Any] = {"store": each.store, "hypervisor": each.hypervisor}
        try:
            answer = answers.get(each.store)
            name = each.hypervisor
            facts = asking.facts(master, answer, name, each.store, each.generation, "prune")
            with asking.reading(name, "prune"):
                parts = ("found", "removed", "kept", "left")
                row |= {key: asking.things(facts[key]) for key in parts}
            # What is only shown may be anybody's word, what changes the record may not.
            shared = master.secret(each.hypervisor, each.key_of(each.hypervisor))
            if report.believed(answer, (nonce,), shared):
                _forget(books, each.store, {str(part.get("path")) for part in row["removed"]})
        except Refused as err:
            row["error"] = err.reason
        rows.append(row)
    return rows


def _order(record: Record) -> dict[str, Any]:
    """Return the order for what is done at a store at rest."""
    earlier = record.may_be_noted(record.machine)
    return orders.made(record.deployment, record.attempt, earlier, record.ordered)


def _forget(books: Ledger, store: str, paths: set[str]) -> None:
    """Take set-aside servers that are gone out of the store's record; a rollback looks there."""
    if not paths:
        return
    for _ in range(CHANGES):
        record = found(books, store)
        kept = {of: aside for of, aside in record.asides.items() if aside["path"] not in paths}
        with contextlib.suppress(Conflict):
            books.save(dataclasses.replace(record, asides=kept))
            return
    log.warning("%s: the record still names what was pruned: %s", store, ", ".join(sorted(paths)))


def adopt(opts: dict, store: str, hypervisor: str | None, apply: bool) -> dict[str, Any]:
    """
    Say what the hypervisor really has of the store, and with ``apply`` take it into the ledger.

    Raises :class:`Refused` if it cannot be the store's, or does not prove that it is the
    hypervisor's word.
    """
    with ledger(opts) as books, world(opts) as master:
        spec, name = wanted(opts, books, store, hypervisor)
        check_minion_id(books, store, spec.minion_id)
        record = books.get(store)
        if record and record.state in lifecycle.OPEN:
            raise Refused(
                f"store {store} is {record.state}: only a deployment at rest is replaced by what "
                "is there",
                f"see: salt-run deploy.explain {store}",
            )
        key = master.keys(name).get(ACCEPTED, "")
        ask = functools.partial(_sealed_facts, master, name, key, spec.as_dict(), record)
        facts = ask("facts")
        minion, domain = spec.minion_id, facts["domain"] or {}
        accepted = master.keys(minion).get(ACCEPTED, "")
        same = bool(accepted) and master.same_key(accepted, domain.get("public_key") or "")
        shown = functools.partial(keys.fingerprint, opts, minion)
        with asking.reading(name, "facts"):
            there = adoption.Found(spec.as_dict(), name, key, facts, accepted, same, record, shown)
            there.check()
            told = there.told(time.time())
        if apply:
            if not there.note:
                ask("adopt")
            if there.domain and not accepted:
                master.accept_key(minion, there.domain["public_key"])
            books.save(there.becomes(time.time()), change="deploy.adopt apply=True")
            # What is at rest is not due: the bell has the change announced.
            books.ring(store, time.time())
        return {**told, "applied": apply}


def _sealed_facts(
    master: SaltWorld, name: str, key: str, spec: dict, record: Record | None, step: str
) -> dict[str, Any]:
    """Return the facts of a report that the hypervisor has sealed, and nobody else."""
    store, generation = spec["store"], record.generation if record else 1
    ours = record.key_of(name) if record else ""
    if ours and not master.same_key(key, ours):
        raise Refused(
            f"the key of {name} is not the one that it had when it was last used",
            f"if it was installed anew: salt-run deploy.store {store}",
        )
    for _ in range(2):
        nonce = master.new_jid()
        arguments = {"spec": spec, "generation": generation, "nonce": nonce}
        answer = asking.synced(master, name, f"store_hypervisor.{step}", arguments)
        facts = asking.facts(master, answer, name, store, generation, step)
        if report.believed(answer, (nonce,), master.secret(name, key)):
            return facts
        asking.asked(master, name, "saltutil.refresh_pillar", {"wait": True})
    raise Refused(
        f"the report of {name} has no seal: anybody may have sent it",
        f"salt-run deploy.doctor hypervisors={name}",
    )
