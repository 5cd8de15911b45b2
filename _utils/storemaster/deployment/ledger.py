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
from pathlib import Path
from typing import Any

from storelib import orders
from storelib.errors import Conflict, LedgerError
from storemaster.deployment import lifecycle
from storemaster.deployment.actor import acting
from storemaster.deployment.approvals import Request
from storemaster.deployment.doorbell import PUT_OFF_S, Bell
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.record import ANY_MACHINE, Change, Job, Line, Record
from storemaster.deployment.schema import MIGRATIONS

SCHEMA_VERSION = len(MIGRATIONS)

LOOK_AGAIN_S = 60.0
"""While its master is there a deployment is looked at at least this often."""

BUSY_S = 10
"""How long a writer waits for another one."""

NOW = "(julianday('now') - 2440587.5) * 86400"
"""SQLite's words for the time, in seconds since the epoch."""

_OF_GROUP = "json_extract(record, '$.spec.group')"
_LINES = (
    "SELECT store, generation, state, since, hypervisor, minion_id, "
    "json_extract(record, '$.reason'), json_extract(record, '$.failed_in'), "
    f"{_OF_GROUP}, changed FROM deployments"
)
"""What a :class:`Line` has, and when it was written."""


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
        self.close()

    def close(self) -> None:
        """Give the file back."""
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
            with self.writing() as db:
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
            "check the file's owner, mode and disk space, or restore it: docs/recover.md, The "
            "ledger",
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction; what breaks it leaves nothing of it."""
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

    def read(self, query: str, *values: object) -> list[Any]:
        """Return the rows that a query finds."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as err:
            raise self._broken(err) from err

    def _records(self, where: str, *values: object) -> list[Record]:
        rows = self.read(f"SELECT record, revision, due FROM deployments {where}", *values)
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

    def knows(self, name: str) -> bool:
        """Say whether there is a store or a minion of that name."""
        query = "SELECT 1 FROM {} WHERE {} = ? LIMIT 1"
        named = (("minions", "minion"), ("deployments", "store"))
        return any(self.read(query.format(*each), name) for each in named)

    def due(self, now: float) -> list[str]:
        """Return the stores that are due, the longest waiting first."""
        # What lies further ahead than any pause is from before the clock was set back. Who waits in
        # the queue has no pause.
        rows = self.read(
            "SELECT due, store FROM deployments WHERE due <= ? UNION ALL "
            "SELECT due, store FROM deployments WHERE due > ? AND state != 'queued' ORDER BY due",
            *(now, now + LOOK_AGAIN_S),
        )
        return [store for _, store in rows]

    def lines(self, state: str | None = None, group: str | None = None) -> list[Line]:
        """Return what a list has of each deployment, or of those in a state or group, by store."""
        rows = self.read(
            f"{_LINES} WHERE (?1 IS NULL OR state = ?1) "
            f"AND (?2 IS NULL OR {_OF_GROUP} = ?2) ORDER BY store",
            *(state, group),
        )
        return [Line(*row[:-1]) for row in rows]

    def changed(self, since: int, most: int) -> tuple[list[Line], int]:
        """Return up to so many lines that were written after this revision, and their revision."""
        rows = self.read(f"{_LINES} WHERE changed > ? ORDER BY changed LIMIT ?", since, most)
        last = rows[-1][-1] if rows else self.revision()
        return [Line(*row[:-1]) for row in rows], last

    def revision(self) -> int:
        """Return a number that grows with each record that is written."""
        return int(self.read("SELECT coalesce(max(changed), 0) FROM deployments")[0][0])

    def stores(self) -> list[str]:
        """Return the stores that have a record."""
        return [store for (store,) in self.read("SELECT store FROM deployments ORDER BY store")]

    def asked(self) -> list[str]:
        """Return the stores under way for which a job is, by store; who is queued has none."""
        states = lifecycle.ACTIVE - {"queued"}
        marks = ", ".join("?" * len(states))
        rows = self.read(
            f"SELECT store FROM deployments WHERE state IN ({marks}) "
            "AND json_extract(record, '$.job') IS NOT NULL ORDER BY store",
            *states,
        )
        return [store for (store,) in rows]

    def open_jobs(self) -> set[str]:
        """Return the JIDs of the jobs that deployments wait for."""
        rows = self.read(
            "SELECT json_extract(record, '$.job'), json_extract(record, '$.evidence.look') "
            "FROM deployments WHERE due IS NOT NULL AND state != 'queued'"
        )
        jids: set[str] = set()
        for job, look in ([json.loads(each or "{}") for each in row] for row in rows):
            jids.update([*job.get("earlier", ()), *look.get("jids", ())])
            jids.update([job.get("jid", ""), job.get("probe", ""), look.get("mend", "")])
        return jids - {""}

    def slot_free(self, record: Record, max_active: int) -> bool:
        """Say whether ``record``, which is queued, gets a slot now."""
        return record.store in self.next_in_queue(max_active)

    def next_in_queue(self, max_active: int) -> list[str]:
        """
        Return the stores in the queue for which a slot is free, the longest waiting first.

        However many wait, no more of them are looked at than that takes.
        """
        marks = ", ".join("?" * len(lifecycle.SLOT))
        taken = self.read(
            f"SELECT hypervisor FROM deployments WHERE state IN ({marks}) UNION ALL "
            # What is held keeps its slot.
            f"SELECT hypervisor FROM deployments WHERE state = 'held' AND held_in IN ({marks})",
            *(*lifecycle.SLOT, *lifecycle.SLOT),
        )
        blocked, free = {hypervisor for (hypervisor,) in taken}, max_active - len(taken)
        found: list[str] = []
        # What lies in the future is from before the clock was set back: it waits longest.
        for since in (">", "<="):
            if len(found) < free:
                self._take(found, free, blocked, since)
        return found

    def _take(self, found: list[str], free: int, blocked: set[str], since: str) -> None:
        """Add stores of the queue, one of each hypervisor, until there are as many as are free."""
        query = (
            "SELECT store, hypervisor FROM deployments WHERE state = 'queued' "
            f"AND since {since} {NOW} ORDER BY since, store"
        )
        try:
            with contextlib.closing(self._db.execute(query)) as rows:
                for store, hypervisor in rows:
                    if hypervisor not in blocked:
                        found.append(store)
                        blocked.add(hypervisor)
                    if len(found) == free:
                        return
        except sqlite3.Error as err:
            raise self._broken(err) from err

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
        with self.writing() as db:
            before = self.get(record.store)
            if (before.revision if before else 0) != record.revision:
                raise Conflict(f"{record.store}: somebody else changed the record")
            if max_active is not None and before and not self.slot_free(before, max_active):
                raise Conflict(f"{record.store}: no slot is free")
            saved = dataclasses.replace(record, revision=record.revision + 1)
            db.execute(
                "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
                "(SELECT coalesce(max(changed), 0) + 1 FROM deployments))",
                (
                    saved.store,
                    saved.generation,
                    saved.state,
                    saved.hypervisor,
                    saved.minion_id,
                    saved.due,
                    saved.revision,
                    _text(saved),
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
                at, by = saved.since if noted is None else noted, acting()
                what = (saved.store, saved.generation, saved.state, previous, change)
                db.execute(
                    "INSERT INTO history "
                    "(store, generation, state, previous, reason, at, announced, actor, way) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*what, at, noted is not None, by.who, by.way),
                )
        return saved

    def version(self) -> int:
        """Return a number that is another one after each change that was made elsewhere."""
        return int(self.read("PRAGMA data_version")[0][0])

    def history(self, store: str) -> list[Change]:
        """Return the store's history, the oldest change first."""
        return self._changes("WHERE store = ? ORDER BY id", store)

    def unannounced(self, store: str) -> list[Change]:
        """Return the changes that no event has told yet."""
        return self._changes("WHERE announced = 0 AND store = ? ORDER BY id", store)

    def untold(self) -> list[str]:
        """Return the stores with a change that no event has told yet."""
        rows = self.read("SELECT DISTINCT store FROM history WHERE announced = 0 ORDER BY store")
        return [store for (store,) in rows]

    def announced(self, changes: Sequence[Change]) -> None:
        """Note that events have told these changes."""
        with self.writing() as db:
            db.executemany(
                "UPDATE history SET announced = 1 WHERE id = ?", [(c.id,) for c in changes]
            )

    def generations(self, store: str, state: str) -> list[int]:
        """Return the deployments of the store that were ever in ``state``, oldest first."""
        rows = self.read(
            "SELECT DISTINCT generation FROM history WHERE store = ? AND state = ? "
            "ORDER BY generation",
            store,
            state,
        )
        return [generation for (generation,) in rows]

    def reached(self, store: str, generation: int, state: str) -> bool:
        """Say whether that deployment of the store was ever in ``state``."""
        return bool(
            self.read(
                "SELECT 1 FROM history WHERE store = ? AND generation = ? AND state = ? LIMIT 1",
                store,
                generation,
                state,
            )
        )

    def _changes(self, where: str, *values: object) -> list[Change]:
        columns = ", ".join(f.name for f in dataclasses.fields(Change))
        return [
            Change(*row) for row in self.read(f"SELECT {columns} FROM history {where}", *values)
        ]

    def ring(self, name: str, now: float, eager: bool = False, ready: bool = False) -> None:
        """
        Ring the doorbell of a store or a minion, so that the pump looks at it at once.

        eager
            The minion is there now: what it did not answer so far is asked again.
        ready
            The minion says that it is a hypervisor that has reached its highstate.
        """
        self.ring_all([Bell(name, now, eager, ready)])

    def ring_all(self, bells: Collection[Bell]) -> None:
        """Ring several of them, in one transaction."""
        with self.writing() as db:
            db.executemany(
                "INSERT INTO bells (name, at, eager, ready) VALUES (?1, ?2, ?3, ?4) "
                "ON CONFLICT (name) "
                "DO UPDATE SET at = ?2, eager = max(eager, ?3), ready = max(ready, ?4)",
                [(bell.name, bell.at, bell.eager, bell.ready) for bell in bells],
            )

    def wake_next(self, now: float, max_active: int) -> None:
        """Ring for those in the queue for which a slot is free."""
        if next_ones := self.next_in_queue(max_active):
            self.ring_all([Bell(store, now, eager=False, ready=False) for store in next_ones])

    def rung(self) -> list[Bell]:
        """Return the bells that were rung, the oldest first."""
        rows = self.read("SELECT name, at, eager, ready, tries FROM bells ORDER BY at")
        return [
            Bell(name, at, bool(eager), bool(ready), tries)
            for name, at, eager, ready, tries in rows
        ]

    def put_off(self, bell: Bell, now: float) -> None:
        """Keep a bell that cannot be decided on yet, and look at it later, unless it rings."""
        rest = PUT_OFF_S[min(bell.tries, len(PUT_OFF_S) - 1)]
        with self.writing() as db:
            db.execute(
                "UPDATE bells SET at = ?, tries = tries + 1 WHERE name = ? AND at = ?",
                (now + rest, bell.name, bell.at),
            )

    def answered(self, *bells: Bell) -> None:
        """Take bells off the list, but for those that were rung again."""
        with self.writing() as db:
            db.executemany(
                "DELETE FROM bells WHERE name = ? AND at = ?",
                [(bell.name, bell.at) for bell in bells],
            )

    def ask(self, request: Request, now: float) -> None:
        """Write down what waits for a second person; what is void goes."""
        row = (request.id, request.store, request.generation, request.verb)
        more = (json.dumps(request.arguments), request.who, request.until)
        with self.writing() as db:
            db.execute("DELETE FROM requests WHERE until <= ?", (now,))
            db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, *more))

    def requests(self, record: Record, now: float) -> list[Request]:
        """Return what waits for a second person of this very deployment, the oldest first."""
        rows = self.read(
            "SELECT verb, arguments, who, until, id FROM requests "
            "WHERE store = ? AND generation = ? AND until > ? ORDER BY until",
            *(record.store, record.generation, now),
        )
        return [
            Request(record.store, record.generation, verb, json.loads(told), who, until, number)
            for verb, told, who, until, number in rows
        ]

    def take(self, request: Request) -> bool:
        """Take a request off the list; say whether it was still there."""
        with self.writing() as db:
            return db.execute("DELETE FROM requests WHERE id = ?", (request.id,)).rowcount == 1

    def names(self, store: str) -> list[str]:
        """Return the names of the DNS that may be the store's by our doing."""
        rows = self.read("SELECT name FROM names WHERE store = ? ORDER BY name", store)
        return [name for (name,) in rows]

    def note_name(self, store: str, name: str) -> None:
        """Note a name that is about to be the store's."""
        with self.writing() as db:
            db.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (store, name))

    def forget_name(self, store: str, name: str) -> None:
        """Forget a name that is the store's no more."""
        with self.writing() as db:
            db.execute("DELETE FROM names WHERE store = ? AND name = ?", (store, name))


def _text(record: Record) -> str:
    # Not by dataclasses.asdict: it copies each value, which took longer than all else of a step.
    parts = {"evidence": record.evidence.plain(), "job": record.job and vars(record.job)}
    return json.dumps({**vars(record), **parts}, sort_keys=True)


def _record(text: str, revision: int, due: float | None) -> Record:
    data = json.loads(text)
    job = data.pop("job")
    if job:
        job = Job(**{**job, "earlier": tuple(job.get("earlier", ()))})
    if "deployment" not in data:
        # Of a version that had no IDs: any of its servers, and nothing noted, on whatever machine.
        earlier = [orders.old_id(number + 1) for number in range(data["generation"])]
        data |= {"deployment": earlier[-1], "noted": {ANY_MACHINE: earlier}}
    data["evidence"] = Evidence.read(data["evidence"])
    data["ordered"] = tuple(data.get("ordered", orders.NOWHERE))
    return Record(**{**data, "revision": revision, "due": due}, job=job)
