# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What moves the deployments on a master: bells that ring, and rounds in which what is due advances.

The engine does one round after the other, and hears the bus itself; the schedule does one now and
then, which needs neither bells nor engine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator

from storelib.errors import LedgerError, StoreDeployError
from storemaster.deployment import engine
from storemaster.deployment.doorbell import Bell, Ring
from storemaster.deployment.formats import MINION_ID
from storemaster.deployment.ledger import BUSY_S, Ledger
from storemaster.deployment.record import Record
from storemaster.master import heartbeat, pillar_cache, ready, registration, settings
from storemaster.master.salt_master import SaltMaster

log = logging.getLogger(__name__)

BELL_S = 1.0
"""How long a bell waits for the ledger: a reactor has ten threads for all of them."""

PUT_OFF_S = 60.0
"""When a deployment is looked at again whose step broke in a way that was not foreseen."""

READY_AT_ONCE = 5
"""How many hypervisors that say they are ready are looked at in one round of the pump."""

OPEN_S = 1.0
"""How long the engine keeps the ledger open after the last bell: each close costs two syncs."""

AT_ONCE = 4
"""How many stores the engine advances beside each other: most of a step is waiting until one of the
master's workers has taken a job."""

Advanced = tuple[str, str | None]
"""A store, and the state that it is in; ``None``: another process is at it; empty: it broke."""


class Pump:
    """What the engine keeps from one round to the next: what it has opened."""

    def __init__(self, opts: dict) -> None:
        self.opts = opts
        self.master = SaltMaster(opts)
        self._ledger: Ledger | None = None
        self._used = 0.0
        self._threads = concurrent.futures.ThreadPoolExecutor(AT_ONCE, "store_pump")
        self._own = threading.local()

    def ring(self, rings: Collection[Ring]) -> bool:
        """Ring for all that is known, and say whether there was anything."""
        with self._opened() as ledger:
            self._used = time.monotonic()
            return ring(ledger, rings)

    def open_jobs(self) -> set[str]:
        """Return the JIDs of the jobs that deployments wait for."""
        with self._opened() as ledger:
            return ledger.open_jobs()

    def round(self) -> dict[str, str]:
        """Advance what is due or was rung for; return the states by store."""
        with self._opened() as ledger:
            states = _round(self.opts, self.master, ledger, False, self._side_by_side)
        if states:
            self._used = time.monotonic()
        elif time.monotonic() - self._used >= OPEN_S:
            self._close()
        return states

    def _side_by_side(
        self, opts: dict, master: SaltMaster, ledger: Ledger, turns: dict[str, bool]
    ) -> list[Advanced]:
        if len(turns) < 2:
            return _one_by_one(opts, master, ledger, turns)
        return list(self._threads.map(self._beside, turns, turns.values()))

    def _beside(self, store: str, eager: bool) -> Advanced:
        """Advance a store in a thread, which has a ledger and a way to the master of its own."""
        if not hasattr(self._own, "master"):
            self._own.master = self.master.beside()
        with Ledger(settings.ledger_path(self.opts)) as ledger:
            return _advanced(self.opts, self._own.master, ledger, store, eager)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Ledger]:
        """Open the ledger, if it is not; after a fault it is opened anew."""
        if self._ledger is None:
            self._ledger = Ledger(settings.ledger_path(self.opts))
        try:
            yield self._ledger
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        """Close the ledger: another one may be put in its place."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()


def notify(
    opts: dict, store: str | None, minion: str | None, ready: bool, eager: bool = True
) -> bool:
    """
    Ring the doorbell of what is known by these names, and say whether it was.

    See :class:`Ring` for the arguments.
    """
    # A ready hypervisor may have no record that the sweeper would find without the bell.
    busy_s = BUSY_S if ready else BELL_S
    with Ledger(settings.ledger_path(opts), busy_s) as ledger:
        return ring(ledger, [Ring(store, minion, ready, eager)])


def ring(ledger: Ledger, rings: Collection[Ring]) -> bool:
    """Ring for all that is known, and say whether there was anything."""
    bells = [bell for each in dict.fromkeys(rings) for bell in known(ledger, each)]
    if bells:
        ledger.ring_all(bells)
    return bool(bells)


def known(ledger: Ledger, told: Ring) -> list[Bell]:
    """Return the bells of what the ledger knows; a ready hypervisor's if it does not, too."""
    names = [told.store] if told.store and ledger.knows(told.store) else []
    minion = told.minion
    if minion and MINION_ID.fullmatch(minion) and (told.ready or ledger.knows(minion)):
        names.append(minion)
    now = time.time()
    return [Bell(name, now, told.eager, told.ready and name == minion) for name in names]


def reconcile(opts: dict, master: SaltMaster, sweep: bool) -> dict[str, str]:
    """
    Advance what is due, and with ``sweep`` whatever is under way; return the states by store.

    A deployment that another process is advancing is left to it.
    """
    with Ledger(settings.ledger_path(opts)) as ledger:
        return _round(opts, master, ledger, sweep)


def _one_by_one(
    opts: dict, master: SaltMaster, ledger: Ledger, turns: dict[str, bool]
) -> list[Advanced]:
    return [_advanced(opts, master, ledger, store, eager) for store, eager in turns.items()]


def _round(
    opts: dict,
    master: SaltMaster,
    ledger: Ledger,
    sweep: bool,
    advance_all: Callable[..., list[Advanced]] = _one_by_one,
) -> dict[str, str]:
    heartbeat.beat(opts, heartbeat.SWEEPER if sweep else heartbeat.PUMP)
    for fault, mend in settings.faults(opts) if sweep else ():
        # What can be done without the setting goes on.
        log.error("%s; %s", fault, mend)
    rung = [bell for bell in ledger.rung() if not bell.rests(time.time())]
    # Each of these takes a pillar; those that are under way must not wait for all of them.
    later = [bell for bell in rung if bell.ready][READY_AT_ONCE:]
    asked_for = {
        bell: ready.stores_of(opts, master, ledger, bell) for bell in rung if bell not in later
    }
    bells = {bell: named for bell, named in asked_for.items() if named is not None}
    stores = dict.fromkeys(store for named in bells.values() for store in named)
    eager = {store for bell, named in bells.items() if bell.eager for store in named}
    stores.update(dict.fromkeys(ledger.due(time.time())))
    if sweep:
        # Answers of which no event told. What only waits for its time is left alone.
        stores.update(dict.fromkeys(ledger.asked()))
        # Whoever gave back a slot may have been killed before it woke the next.
        stores.update(dict.fromkeys(ledger.next_in_queue(settings.max_active(opts))))
        # A master that was killed may have left its last change untold.
        stores.update(dict.fromkeys(ledger.untold()))
    turns = {store: store in eager for store in stores}
    states = dict(advance_all(opts, master, ledger, turns))
    busy = {store for store, state in states.items() if state is None}
    # Only now: a bell must not be lost with a process that is killed.
    answered = [bell for bell, named in bells.items() if not busy.intersection(named)]
    if answered:
        ledger.answered(*answered)
    for bell in answered:
        if bell.ready:
            ready.acknowledge(master, bell.name)
    if sweep:
        pillar_cache.forget_strangers(opts, ledger)
        registration.forget_the_rest(opts, ledger)
    return {store: state for store, state in states.items() if state}


def _advanced(opts: dict, master: SaltMaster, ledger: Ledger, store: str, eager: bool) -> Advanced:
    """Advance a store, whose faults keep no other from its turn."""
    try:
        record = advance(opts, master, ledger, store, eager)
    except StoreDeployError as err:
        log.error("%s: %s; %s", store, err.reason, err.hint)
        if not isinstance(err, LedgerError):
            _put_off(ledger, store)
        return store, ""
    except Exception:
        log.exception("%s", store)
        _put_off(ledger, store)
        return store, ""
    return store, record.state if record else None


def _put_off(ledger: Ledger, store: str) -> None:
    """Look at a store later, whose step cannot even fail; the pump has others to see to."""
    with contextlib.suppress(StoreDeployError):
        record = ledger.get(store)
        if record and record.due is not None:
            ledger.save(dataclasses.replace(record, due=time.time() + PUT_OFF_S))


def advance(
    opts: dict, master: SaltMaster, ledger: Ledger, store: str, rung: bool = False
) -> Record | None:
    """Advance one deployment; return ``None`` if another process is at it, or if there is none."""
    with engine.locked(settings.state_dir(opts) / "locks", store) as held:
        if not held:
            return None
        return engine.advance(master, ledger, store, settings.max_active(opts), rung)
