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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from storelib import orders, report
from storelib.errors import Conflict, Refused
from storemaster.deployment import (
    adoption,
    lifecycle,
    minion_ids,
    requests,
    tables,
    transition,
    views,
)
from storemaster.deployment.formats import MINION_ID
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.record import Record
from storemaster.deployment.spec import StoreSpec, from_pillar
from storemaster.master import asking, keys, roles, salt_master, settings
from storemaster.master.salt_master import SaltMaster

log = logging.getLogger(__name__)

WATCH_S = 0.05
"""How often the ledger is asked whether a record that is watched may have changed."""

REASON_S = 10.0
"""How long a deployment waits for the same before it is shown."""

CHANGES = 20
"""How often an operator's change is tried while the pump changes the same record."""

Read = Callable[[object, str], StoreSpec]


def open_ledger(opts: dict) -> Ledger:
    """Open the ledger."""
    return Ledger(settings.ledger_path(opts))


@contextlib.contextmanager
def open_master(opts: dict) -> Iterator[SaltMaster]:
    """Open the master for one call."""
    opened = SaltMaster(opts)
    try:
        yield opened
    finally:
        opened.close()


def found(ledger: Ledger, store: str) -> Record:
    """Return the store's record; raise :class:`Refused` if there is none."""
    record = ledger.get(store)
    if record is None:
        raise Refused(f"store {store} was never deployed", _stores(ledger, store))
    return record


def _stores(ledger: Ledger, store: str, opts: dict | None = None) -> str:
    """
    Say which stores there are, to one who may have mistyped.

    opts
        Given where who calls may have some of them only.
    """
    known = [line.store for line in roles.seen(opts, ledger.lines())] if opts else ledger.stores()
    similar = difflib.get_close_matches(store, known)
    meant = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"{meant}salt-run deploy.list names the stores that are known"


def shown(opts: dict, record: Record) -> dict[str, Any]:
    """Return the public form of a record."""
    public_key = record.evidence.public_key
    return views.record(record, keys.fingerprint(opts, record.minion_id, public_key))


def wanted(
    opts: dict, ledger: Ledger, store: str, hypervisor: str | None, read: Read = from_pillar
) -> tuple[StoreSpec, str]:
    """
    Return the store's spec, compiled anew, and its hypervisor.

    If the pillar is no good in the environments that are known, the hypervisor is asked for its
    own ones. Otherwise it is not waited for: it need not be there yet.

    read
        Makes the spec of ``store_server`` and the hypervisor's minion ID.

    Raises :class:`Refused` if no hypervisor is known, or its pillar does not describe the store.
    """
    if hypervisor is not None and not MINION_ID.fullmatch(str(hypervisor)):
        raise Refused(f"{hypervisor!r} is no minion ID", "name one hypervisor, without wildcards")
    record = ledger.get(store)
    name = (
        hypervisor or (record.hypervisor if record else None) or settings.hypervisor_id(opts, store)
    )
    if name is None:
        raise Refused(
            f"no hypervisor is known for store {store}",
            "name it: hypervisor=MINION; or set store_deploy:hypervisor_id in the master's "
            f"configuration; {_stores(ledger, store, opts)}",
        )
    with open_master(opts) as master:
        described = functools.partial(
            _described, opts, ledger, store, name, bool(master.keys(name)), read
        )
        try:
            return described(master.store_server(name)), name
        except roles.NotAllowed:
            raise
        except Refused:
            environment = _environment(master, name)
            if not environment:
                raise
    return described(salt_master.store_server(opts, name, environment)), name


def wanted_in_its_own(
    opts: dict,
    ledger: Ledger,
    spec: StoreSpec,
    hypervisor: str,
    facts: dict[str, Any],
    read: Read = from_pillar,
) -> StoreSpec:
    """Return the spec in the environments that the hypervisor tells: what is deployed there."""
    told = facts.get("environment")
    if told is None or told == salt_master.environment_of(opts, hypervisor):
        return spec
    pillar = salt_master.store_server(opts, hypervisor, told)
    return _described(opts, ledger, spec.store, hypervisor, True, read, pillar)


def _described(
    opts: dict,
    ledger: Ledger,
    store: str,
    hypervisor: str,
    minion: bool,
    read: Read,
    pillar: object,
) -> StoreSpec:
    # Before anything of it is told.
    roles.check_store(opts, store, pillar.get("group") if isinstance(pillar, Mapping) else None)
    if pillar is None:
        lacks = "its pillar has no store_server" if minion else "that is no minion of this master"
        raise Refused(
            f"store {store} is unknown: {hypervisor} is taken for its hypervisor, and {lacks}",
            f"describe the store in the pillar of its hypervisor, or name that: hypervisor=MINION; "
            f"{_stores(ledger, store, opts)}",
        )
    spec = read(pillar, hypervisor)
    if spec.store != store:
        raise Refused(
            f"the pillar of {hypervisor} describes store {spec.store}, not {store}",
            f"correct store_server:store there, or name the hypervisor of {store}: "
            "hypervisor=MINION",
        )
    return spec


def _environment(master: SaltMaster, minion: str) -> dict[str, Any]:
    """Ask for a minion's own environments, in which its pillar is another; empty if it has none."""
    jobs = {key: (minion, "config.get", {"key": key}) for key in ("saltenv", "pillarenv")}
    told = asking.asked_all(master, jobs)
    return {key: value for key, value in told.items() if isinstance(value, str) and value}


def request(opts: dict, store: str, hypervisor: str | None, redeploy: bool) -> Record:
    """Begin a deployment, as an operator asks for it."""
    settings.check(opts, "max_active")
    with open_ledger(opts) as ledger:
        spec, name = wanted(opts, ledger, store, hypervisor)
        return requests.begin(ledger, time.time(), spec, name, "operator", redeploy)


def watch(
    opts: dict, begun: Record, timeout_s: float | None, tell: Callable[[str], None]
) -> Record:
    """
    Watch a deployment until it ends or ``timeout_s`` has passed, and return its record.

    tell
        Is given each line of progress.
    """
    until = time.monotonic() + timeout_s if timeout_s is not None else None
    told, reason, shown, record, seen = 0, ("", 0.0), [], begun, None
    with open_ledger(opts) as ledger:
        while True:
            if (version := ledger.version()) != seen:
                record, seen = found(ledger, begun.store), version
                if record.generation != begun.generation:
                    return record
                history = ledger.history(begun.store)
                changes = [each for each in history if each.generation == begun.generation]
                for change in changes[told:]:
                    tell(tables.progress(change, begun.began))
                told = len(changes)
            if not record.active or record.reason != reason[0]:
                reason = (record.reason, time.monotonic())
            elif reason[0] and time.monotonic() - reason[1] >= REASON_S and reason not in shown:
                # What is over at once is not worth a line.
                shown.append(reason)
                tell(tables.waiting(record.reason, time.time() - begun.began))
            if not record.active or (until is not None and time.monotonic() >= until):
                return record
            time.sleep(WATCH_S)


def change(opts: dict, store: str, verb: Callable[[Ledger, float, Record], Record]) -> Record:
    """Change a deployment as an operator asks for it, however busy the pump is with it."""
    with open_ledger(opts) as ledger:
        for _ in range(CHANGES):
            with contextlib.suppress(Conflict):
                record = verb(ledger, time.time(), found(ledger, store))
                # What is at rest is not due: the bell has the change announced.
                ledger.ring(store, time.time())
                # Its slot may be free now, for which others wait.
                ledger.wake_next(time.time(), settings.max_active(opts))
                return record
    raise Refused(f"store {store} changes too fast", "try again")


def would_retire(opts: dict, store: str, data_disks: bool, uyuni: bool = False) -> dict[str, Any]:
    """Say what the retiring of a store would remove; touch nothing."""
    with open_ledger(opts) as ledger, open_master(opts) as master:
        record = found(ledger, store)
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
                "uyuni": uyuni,
            }


def prune(opts: dict, older_than_s: float, store: str | None, remove: bool) -> list[dict[str, Any]]:
    """
    Return what each store's hypervisor has set aside for longer than that, removed or not.

    Stores with a deployment under way are left alone.
    """
    with open_ledger(opts) as ledger, open_master(opts) as master:
        return _pruned(ledger, master, older_than_s, store, remove)


def _pruned(
    ledger: Ledger, master: SaltMaster, older_than_s: float, store: str | None, remove: bool
) -> list[dict[str, Any]]:
    """See :func:`prune`."""
    records = [found(ledger, store)] if store else ledger.all()
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
                _forget(ledger, each.store, {str(part.get("path")) for part in row["removed"]})
        except Refused as err:
            row["error"] = err.reason
        rows.append(row)
    return rows


def _order(record: Record) -> dict[str, Any]:
    """Return the order for what is done at a store at rest."""
    earlier = record.may_be_noted(record.machine)
    return orders.made(record.deployment, record.attempt, earlier, record.ordered)


def _forget(ledger: Ledger, store: str, paths: set[str]) -> None:
    """Take set-aside servers that are gone out of the store's record; a rollback looks there."""
    if not paths:
        return
    for _ in range(CHANGES):
        record = found(ledger, store)
        kept = {of: aside for of, aside in record.asides.items() if aside["path"] not in paths}
        with contextlib.suppress(Conflict):
            ledger.save(dataclasses.replace(record, asides=kept))
            return
    log.warning("%s: the record still names what was pruned: %s", store, ", ".join(sorted(paths)))


def adopt(opts: dict, store: str, hypervisor: str | None, apply: bool) -> dict[str, Any]:
    """
    Say what the hypervisor really has of the store, and with ``apply`` take it into the ledger.

    Raises :class:`Refused` if it cannot be the store's, or does not prove that it is the
    hypervisor's word.
    """
    with open_ledger(opts) as ledger, open_master(opts) as master:
        spec, name = wanted(opts, ledger, store, hypervisor)
        minion_ids.check(ledger, store, spec.minion_id)
        record = ledger.get(store)
        if record and record.state in lifecycle.OPEN:
            raise Refused(
                f"store {store} is {record.state}: only a deployment at rest is replaced by what "
                "is there",
                f"see: salt-run deploy.explain {store}",
            )
        key = master.keys(name).get(ACCEPTED, "")
        facts = _sealed_facts(master, name, key, spec.as_dict(), record, "facts")
        with asking.reading(name, "facts"):
            own = wanted_in_its_own(opts, ledger, spec, name, facts)
        if own != spec:
            spec = own
            minion_ids.check(ledger, store, spec.minion_id)
            facts = _sealed_facts(master, name, key, spec.as_dict(), record, "facts")
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
                _sealed_facts(master, name, key, spec.as_dict(), record, "adopt")
            if "environment" in facts:
                # Noted, for the guest's pillar is compiled in them, too.
                master.store_server(name, facts["environment"])
            if there.domain and not accepted:
                master.accept_key(minion, there.domain["public_key"])
            taken = there.becomes(time.time())
            transition.enter(ledger, record, taken, "adopt", "deploy.adopt apply=True")
            # What is at rest is not due: the bell has the change announced.
            ledger.ring(store, time.time())
        return {**told, "applied": apply}


def _sealed_facts(
    master: SaltMaster, name: str, key: str, spec: dict, record: Record | None, step: str
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
