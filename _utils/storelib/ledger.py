# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The ledger: one SQLite file with a record for each store, its history, and doorbells.

A record carries a revision number. :meth:`Ledger.save` writes only over the revision that was
read (compare-and-set), together with the line of history, in one transaction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storelib import lifecycle, orders
from storelib.doorbell import PUT_OFF_S, Bell
from storelib.errors import Conflict, LedgerError

MIGRATIONS = (
    """
CREATE TABLE deployments (
    store TEXT PRIMARY KEY, generation INTEGER NOT NULL, state TEXT NOT NULL,
    hypervisor TEXT NOT NULL, minion_id TEXT NOT NULL, due REAL, revision INTEGER NOT NULL,
    record TEXT NOT NULL);
CREATE INDEX deployments_due ON deployments (due);
CREATE INDEX deployments_state ON deployments (state);
CREATE INDEX deployments_minion ON deployments (minion_id);
CREATE INDEX deployments_hypervisor ON deployments (hypervisor);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, store TEXT NOT NULL, generation INTEGER NOT NULL,
    state TEXT NOT NULL, previous TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    announced INTEGER NOT NULL DEFAULT 0);
CREATE INDEX history_store ON history (store, generation);
CREATE INDEX history_unannounced ON history (announced) WHERE announced = 0;
CREATE TABLE bells (name TEXT PRIMARY KEY, at REAL NOT NULL, eager INTEGER NOT NULL)
""",
    """
ALTER TABLE bells ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
CREATE TABLE minions (minion TEXT, store TEXT, PRIMARY KEY (minion, store)) WITHOUT ROWID;
CREATE INDEX minions_store ON minions (store);
INSERT INTO minions
    SELECT minion_id, store FROM deployments UNION SELECT hypervisor, store FROM deployments;
DROP INDEX deployments_minion;
DROP INDEX deployments_hypervisor
""",
    """
ALTER TABLE deployments ADD COLUMN since REAL;
ALTER TABLE deployments ADD COLUMN held_in TEXT;
UPDATE deployments SET
    since = json_extract(record, '$.since'), held_in = json_extract(record, '$.held_in')
""",
    """
ALTER TABLE bells ADD COLUMN tries INTEGER NOT NULL DEFAULT 0
""",
)
"""What makes each schema of the one before; the ledger's version is how many were applied."""

SCHEMA_VERSION = len(MIGRATIONS)

ANY_MACHINE = ""
"""Key of what any hypervisor may have noted."""

TURN_S = 60.0
"""While its master is there a deployment has its turn at least this often; no pause is longer."""

BUSY_S = 10
"""How long a writer waits for another one."""

NOW = "(julianday('now') - 2440587.5) * 86400"
"""SQLite's words for the time, in seconds since the epoch."""


@dataclass(frozen=True)
class Job:
    """A Salt job that a deployment waits for."""

    jid: str
    minion: str
    function: str
    at: float
    """By the record's own clock, as ``probe_at``."""
    earlier: tuple[str, ...] = ()
    """JIDs of the same question that were not answered in time."""
    probe: str = ""
    """JID of the ``saltutil.find_job`` that asks after it, if one is under way."""
    probe_at: float = 0
    rung: bool = False
    """Whether a bell has said since then that the minion is there."""


@dataclass(frozen=True)
class Record:
    """The deployment of one store. Times are seconds since the epoch."""

    store: str
    generation: int
    state: str
    since: float
    deadline: float | None
    hypervisor: str
    minion_id: str
    spec: dict[str, Any]
    began: float
    requested_by: str
    """``operator`` or ``event``."""
    redeploy: bool = False
    attempts: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)
    job: Job | None = None
    failed_in: str = ""
    resumes: str = ""
    """The state that a retry goes on in, once it has a slot again."""
    held_in: str = ""
    """The state to go on in when the hold is released."""
    left_s: float | None = None
    """Seconds that a held state had left."""
    spent_s: float = 0
    """Seconds of the state's limit that are used up: those in which the master was there."""
    clock_s: float = 0
    """
    The record's own clock, by which it waits for minions. Its first turn sets it, each turn moves
    it on; nothing else does, so it never jumps.
    """
    looked: dict[str, Any] = field(default_factory=dict)
    """When the last turn was: the kernel's boot ID, seconds since that boot, the time of day."""
    reason: str = ""
    asked: str = ""
    """The question whose answer the reason is about, if it is about one."""
    next_action: str = ""
    due: float | None = None
    revision: int = 0
    others: dict[str, str] = field(default_factory=dict)
    """Public keys of the other hypervisors that the store's server was made on, by minion ID."""
    asides: dict[str, dict[str, str]] = field(default_factory=dict)
    """Where the server of each deployment (its number as text) was set aside."""
    deployment: str = ""
    """ID of the deployment, unlike its number of no other one, of another ledger neither."""
    attempt: int = 1
    """Raised whenever the deployment goes on in another way than by its next step."""
    ordered: tuple[int, str] = orders.NOWHERE
    """The furthest attempt and step that a hypervisor was ordered."""
    noted: dict[str, list[str]] = field(default_factory=dict)
    """IDs of the deployments one of which a hypervisor may have noted, by machine ID."""
    candidate: dict[str, Any] = field(default_factory=dict)
    """A hypervisor that says it is ready for this store: minion, key, until when it is asked."""

    @property
    def minions(self) -> set[str]:
        """All minion IDs that this record is about."""
        named = (self.minion_id, self.hypervisor, self.candidate.get("minion"), *self.others)
        return {name for name in named if name}

    def key_of(self, minion: str) -> str:
        """Return the public key with which the minion is believed; empty if there is none."""
        if minion == self.minion_id:
            # Until it is set aside, the old server is the store's.
            return str(self.evidence.get("public_key") or self.evidence.get("serving_key") or "")
        if minion == self.candidate.get("minion"):
            return str(self.candidate["key"])
        if minion == self.hypervisor:
            return str(self.evidence.get("hypervisor_key", ""))
        return self.others.get(minion, "")

    @property
    def machine(self) -> str:
        """ID of the machine that the hypervisor is, empty as long as it is not known."""
        return str(self.evidence.get("hypervisor", {}).get("machine_id") or "")

    def may_be_noted(self, machine: str) -> list[str]:
        """Return the deployments before this one that the machine may have noted."""
        machines = (machine, ANY_MACHINE) if machine else self.noted
        known = [each for name in machines for each in self.noted.get(name, ())]
        return [each for each in dict.fromkeys(known) if each != self.deployment]

    @property
    def outage_s(self) -> float | None:
        """How long the store was without a server when it was last replaced, if that is known."""
        known: float | None = self.evidence.get("last_outage_s")
        return self.evidence.get("outage_s", known)

    @property
    def active(self) -> bool:
        """Whether the deployment moves by itself."""
        return self.state in lifecycle.ACTIVE


@dataclass(frozen=True)
class Change:
    """One line of history."""

    id: int
    store: str
    generation: int
    state: str
    previous: str
    reason: str
    at: float


class Ledger:
    """The file, opened. Use it as a context manager."""

    def __init__(self, path: Path, busy_s: float = BUSY_S) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Born private: SQLite gives its side files the mode of the main one. One that is there
            # is not opened: the close would drop the locks of this process's other connections.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._db = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
            try:
                self._db.execute("PRAGMA synchronous=FULL")
                self._migrate()
            except BaseException:
                # Whoever keeps the exception, as Salt's reactor does, would keep the file open.
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as err:
            raise self._broken(err) from err

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger {self.path} has schema {version}, this code knows {SCHEMA_VERSION}",
                "install the version of store-deploy that wrote it, or a newer one",
            )
        if version < SCHEMA_VERSION:
            self._switch_to_wal()
            with self._writing() as db:
                # Another process may have been first.
                (version,) = db.execute("PRAGMA user_version").fetchone()
                for migration in MIGRATIONS[version:]:
                    for statement in migration.split(";"):
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _switch_to_wal(self) -> None:
        until = time.monotonic() + BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                # Alone of all statements it does not wait for another process that writes.
                if time.monotonic() >= until:
                    raise
                time.sleep(0.02)

    def _broken(self, err: Exception) -> LedgerError:
        return LedgerError(
            f"the ledger {self.path} cannot be used: {err}",
            "check the file's owner, mode and disk space; the README's operations chapter "
            "says how to restore it",
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as err:
            raise self._broken(err) from err

    def _read(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as err:
            raise self._broken(err) from err

    def _records(self, where: str, *values: object) -> list[Record]:
        rows = self._read(f"SELECT record, revision, due FROM deployments {where}", *values)
        try:
            return [_record(*row) for row in rows]
        except (KeyError, TypeError, ValueError) as err:
            raise self._broken(err) from err

    def get(self, store: str) -> Record | None:
        """Return the store's record."""
        return next(iter(self._records("WHERE store = ?", store)), None)

    def all(self) -> list[Record]:
        """Return every record, by store."""
        return self._records("ORDER BY store")

    def of_minion(self, minion: str) -> list[Record]:
        """Return the records that are about ``minion``: as guest, or as a hypervisor."""
        return self._records(
            "WHERE store IN (SELECT store FROM minions WHERE minion = ?) ORDER BY store", minion
        )

    def due(self, now: float) -> list[str]:
        """Return the stores that are due, the longest waiting first."""
        # What lies further ahead than any pause is from before the clock was set back.
        rows = self._read(
            "SELECT store FROM deployments WHERE due <= ? OR due > ? ORDER BY due",
            *(now, now + TURN_S),
        )
        return [store for (store,) in rows]

    def in_states(self, states: Collection[str]) -> list[Record]:
        """Return the records that are in one of ``states``, by store."""
        marks = ", ".join("?" * len(states))
        return self._records(f"WHERE state IN ({marks}) ORDER BY store", *states)

    def slot_free(self, record: Record, max_active: int) -> bool:
        """Say whether ``record``, which is queued, gets a slot now."""
        return record.store in self.next_in_queue(max_active)

    def next_in_queue(self, max_active: int) -> list[str]:
        """Return the stores in the queue for which a slot is free, the longest waiting first."""
        states = (*lifecycle.SLOT, "queued", lifecycle.HELD.name)
        marks = ", ".join("?" * len(states))
        rows = self._read(
            f"SELECT store, hypervisor, state, held_in FROM deployments WHERE state IN ({marks}) "
            # What lies in the future is from before the clock was set back: it waits longest.
            f"ORDER BY since <= {NOW}, since, store",
            *states,
        )
        # What is held keeps its slot.
        taken = [name for _, name, state, held_in in rows if (held_in or state) in lifecycle.SLOT]
        blocked, free = set(taken), max_active - len(taken)
        found: list[str] = []
        for store, hypervisor, state, _ in rows:
            if len(found) < free and state == "queued" and hypervisor not in blocked:
                found.append(store)
                blocked.add(hypervisor)
        return found

    def save(
        self,
        record: Record,
        change: str | None = None,
        max_active: int | None = None,
        noted: float | None = None,
    ) -> Record:
        """
        Write ``record`` over the revision that it was read at, and return it as written.

        change
            If given, a line of history is written too: why the state is what it now is.
        max_active
            If given, the record takes a slot: it is written only if one is still free.
        noted
            Time of a line of history in the midst of a state, which no event tells.

        Raises :class:`Conflict` if the record was changed in the meantime or the slot is taken.
        """
        with self._writing() as db:
            before = self.get(record.store)
            if (before.revision if before else 0) != record.revision:
                raise Conflict(f"{record.store}: somebody else changed the record")
            if max_active is not None and before and not self.slot_free(before, max_active):
                raise Conflict(f"{record.store}: no slot is free")
            saved = dataclasses.replace(record, revision=record.revision + 1)
            db.execute(
                "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    saved.store,
                    saved.generation,
                    saved.state,
                    saved.hypervisor,
                    saved.minion_id,
                    saved.due,
                    saved.revision,
                    json.dumps(dataclasses.asdict(saved), sort_keys=True),
                    saved.since,
                    saved.held_in,
                ),
            )
            if before is None or before.minions != saved.minions:
                db.execute("DELETE FROM minions WHERE store = ?", (saved.store,))
                db.executemany(
                    "INSERT INTO minions VALUES (?, ?)",
                    [(minion, saved.store) for minion in saved.minions],
                )
            if change is not None:
                previous = before.state if before else ""
                row = (saved.store, saved.generation, saved.state, previous, change)
                db.execute(
                    "INSERT INTO history "
                    "(store, generation, state, previous, reason, at, announced) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row, saved.since if noted is None else noted, noted is not None),
                )
        return saved

    def history(self, store: str) -> list[Change]:
        """Return the store's history, the oldest change first."""
        return self._changes("WHERE store = ? ORDER BY id", store)

    def unannounced(self, store: str) -> list[Change]:
        """Return the changes that no event has told yet."""
        return self._changes("WHERE announced = 0 AND store = ? ORDER BY id", store)

    def untold(self) -> list[str]:
        """Return the stores with a change that no event has told yet."""
        rows = self._read("SELECT DISTINCT store FROM history WHERE announced = 0 ORDER BY store")
        return [store for (store,) in rows]

    def announced(self, changes: Sequence[Change]) -> None:
        """Note that events have told these changes."""
        with self._writing() as db:
            db.executemany(
                "UPDATE history SET announced = 1 WHERE id = ?", [(c.id,) for c in changes]
            )

    def generations(self, store: str, state: str) -> list[int]:
        """Return the deployments of the store that were ever in ``state``, oldest first."""
        rows = self._read(
            "SELECT DISTINCT generation FROM history WHERE store = ? AND state = ? "
            "ORDER BY generation",
            store,
            state,
        )
        return [generation for (generation,) in rows]

    def reached(self, store: str, generation: int, state: str) -> bool:
        """Say whether that deployment of the store was ever in ``state``."""
        return bool(
            self._read(
                "SELECT 1 FROM history WHERE store = ? AND generation = ? AND state = ? LIMIT 1",
                store,
                generation,
                state,
            )
        )

    def _changes(self, where: str, *values: object) -> list[Change]:
        columns = ", ".join(f.name for f in dataclasses.fields(Change))
        return [
            Change(*row) for row in self._read(f"SELECT {columns} FROM history {where}", *values)
        ]

    def ring(self, name: str, now: float, eager: bool = False, ready: bool = False) -> None:
        """
        Ring the doorbell of a store or a minion, so that the pump looks at it at once.

        eager
            The minion is there now: what it did not answer so far is asked again.
        ready
            The minion says that it is a hypervisor that has reached its highstate.
        """
        with self._writing() as db:
            db.execute(
                "INSERT INTO bells (name, at, eager, ready) VALUES (?1, ?2, ?3, ?4) "
                "ON CONFLICT (name) "
                "DO UPDATE SET at = ?2, eager = max(eager, ?3), ready = max(ready, ?4)",
                (name, now, eager, ready),
            )

    def rung(self) -> list[Bell]:
        """Return the bells that were rung, the oldest first."""
        rows = self._read("SELECT name, at, eager, ready, tries FROM bells ORDER BY at")
        return [
            Bell(name, at, bool(eager), bool(ready), tries)
            for name, at, eager, ready, tries in rows
        ]

    def put_off(self, bell: Bell, now: float) -> None:
        """Keep a bell that cannot be decided on yet, and look at it later, unless it rings."""
        rest = PUT_OFF_S[min(bell.tries, len(PUT_OFF_S) - 1)]
        with self._writing() as db:
            db.execute(
                "UPDATE bells SET at = ?, tries = tries + 1 WHERE name = ? AND at = ?",
                (now + rest, bell.name, bell.at),
            )

    def answered(self, bell: Bell) -> None:
        """Take a bell off the list, unless it was rung again."""
        with self._writing() as db:
            db.execute("DELETE FROM bells WHERE name = ? AND at = ?", (bell.name, bell.at))


def _record(text: str, revision: int, due: float | None) -> Record:
    data = json.loads(text)
    job = data.pop("job")
    if job:
        job = Job(**{**job, "earlier": tuple(job.get("earlier", ()))})
    if "deployment" not in data:
        # Of a version that had no IDs: any of its servers, and nothing noted, on whatever machine.
        earlier = [orders.old_id(number + 1) for number in range(data["generation"])]
        data |= {"deployment": earlier[-1], "noted": {ANY_MACHINE: earlier}}
    data["ordered"] = tuple(data.get("ordered", orders.NOWHERE))
    return Record(**{**data, "revision": revision, "due": due}, job=job)
