# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The outbox: which changes of state each receiver has still to be told, in the ledger.

The history is what there is to tell. Of each receiver the ledger keeps up to where it was looked
through, and of each change that is the receiver's a notice, until it is told. A change costs a
deployment nothing more for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Change

PAUSES_S = (5, 10, 20, 40, 80, 160, 300, 600)
"""How long a receiver, and a notice, rests after each try that failed; then as the last one."""

GIVEN_UP_S = 24 * 3600.0
"""How long a notice is tried again, from the first try that failed; then it is set aside."""

LEAST_TRIES = len(PAUSES_S)
"""How often at least: a master that was off for a day has tried nothing meanwhile."""

AT_ONCE = 500
"""How many lines of history, and notices, are looked at in one go."""

_CHANGE = ", ".join(f"h.{field.name}" for field in dataclasses.fields(Change))
_FIRST = "(SELECT min(b.id) FROM history b WHERE b.store = h.store AND b.generation = h.generation)"
_TOLD = (
    f"SELECT {_CHANGE}, json_extract(d.record, '$.spec.group'), "
    f"(SELECT a.actor FROM history a WHERE a.id = {_FIRST}), h.id = {_FIRST} "
)
_RESTS = "({0} > ?2 AND {0} <= ?2 + ?3)"
"""What lies further ahead than any pause is from before the clock was set back."""


@dataclass(frozen=True)
class Notice:
    """A change that somebody is to be told."""

    change: Change
    group: str | None
    """That of the store, as it is now."""
    asked_by: str
    """Who asked for the deployment; empty if that was nobody."""
    begins: bool
    """Whether it is the first one of its deployment."""
    tried: float = 0
    """Until when its store rested, after a try that failed."""

    @property
    def key(self) -> str:
        """What tells this notice from any other one, however often it is sent."""
        change = self.change
        parts = (change.id, change.store, change.generation, change.state, change.at)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class Outbox:
    """What of the ledger belongs to one receiver."""

    def __init__(self, ledger: Ledger, receiver: str) -> None:
        self._ledger, self.receiver = ledger, receiver

    def collect(self, wants: Callable[[Notice], bool]) -> bool:
        """
        Note what came into the history since the last time; say whether there may be more.

        A receiver that is new is told what comes from now on.
        """
        last = "SELECT coalesce(max(id), 0) FROM history"
        seen = self._ledger.read("SELECT seen FROM receivers WHERE name = ?", self.receiver)
        if not seen:
            with self._ledger.writing() as db:
                db.execute(
                    f"INSERT OR IGNORE INTO receivers (name, seen) VALUES (?, ({last}))",
                    (self.receiver,),
                )
            return False
        rows = self._ledger.read(
            f"{_TOLD} FROM history h LEFT JOIN deployments d ON d.store = h.store "
            "WHERE h.id > ? ORDER BY h.id LIMIT ?",
            *(seen[0][0], AT_ONCE),
        )
        if not rows:
            return False
        found = [_notice(row) for row in rows]
        # In the midst of a state it is nothing new.
        told = [
            each.change
            for each in found
            if each.begins or each.change.state != each.change.previous
        ]
        chosen = {each.change.id for each in found if wants(each)}
        with self._ledger.writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO notices (receiver, change, store) VALUES (?, ?, ?)",
                [(self.receiver, c.id, c.store) for c in told if c.id in chosen],
            )
            db.execute(
                "UPDATE receivers SET seen = ? WHERE name = ?",
                (found[-1].change.id, self.receiver),
            )
        return len(rows) == AT_ONCE

    def due(self, now: float) -> list[Notice]:
        """
        Return what can be told now, the oldest first, but last of the stores where a try failed.

        Of each store nothing comes out of order.
        """
        rows = self._ledger.read(
            f"{_TOLD}, n.tried FROM (SELECT * FROM (SELECT change, receiver, "
            "max(due) OVER (PARTITION BY store ORDER BY change) AS tried FROM notices "
            f"WHERE receiver = ?1 AND NOT aside) WHERE NOT {_RESTS.format('tried')} "
            "ORDER BY tried, change LIMIT ?4) n "
            "JOIN receivers r ON r.name = n.receiver "
            "JOIN history h ON h.id = n.change LEFT JOIN deployments d ON d.store = h.store "
            f"WHERE NOT {_RESTS.format('r.due')} ORDER BY n.tried, n.change",
            *(self.receiver, now, PAUSES_S[-1], AT_ONCE),
        )
        return [_notice(row) for row in rows]

    def forget(self, notices: Sequence[Notice]) -> None:
        """Take off the list what the receiver does not want any more."""
        with self._ledger.writing() as db:
            self._delete(db, notices)

    def _delete(self, db: sqlite3.Connection, notices: Sequence[Notice]) -> None:
        db.executemany(
            "DELETE FROM notices WHERE receiver = ? AND change = ?",
            [(self.receiver, each.change.id) for each in notices],
        )

    def told(self, notices: Sequence[Notice], rests_until: float = 0) -> None:
        """Take off the list what was told; the receiver is well again."""
        with self._ledger.writing() as db:
            self._delete(db, notices)
            db.execute(
                "UPDATE receivers SET tries = 0, due = ?, failing_since = NULL, fault = '' "
                "WHERE name = ?",
                (rests_until, self.receiver),
            )

    def failed(
        self, notices: Sequence[Notice], fault: str, now: float, alone: bool = False
    ) -> None:
        """
        Let notices that could not be told rest, each for longer after each try.

        What was tried for a day is set aside.

        alone
            It is for them that they are not taken, and the receiver is there: others are told.
        """
        pause = "CASE tries " + " ".join(
            f"WHEN {tries} THEN {pause}" for tries, pause in enumerate(PAUSES_S)
        )
        pause = f"({pause} ELSE {PAUSES_S[-1]} END)"
        with self._ledger.writing() as db:
            db.executemany(
                "UPDATE notices SET tries = tries + 1, fault = ?1, "
                f"failing_since = min(coalesce(failing_since, ?2), ?2), due = ?2 + {pause}, "
                "aside = tries + 1 >= ?3 AND coalesce(failing_since, ?2) <= ?2 - ?4 "
                "WHERE receiver = ?5 AND change = ?6",
                [
                    (fault, now, LEAST_TRIES, GIVEN_UP_S, self.receiver, each.change.id)
                    for each in notices
                ],
            )
            if alone:
                return
            db.execute(
                "UPDATE receivers SET tries = tries + 1, fault = ?2, "
                "failing_since = min(coalesce(failing_since, ?1), ?1), "
                # A digest that was sent a moment ago still has its minute.
                f"due = max(?1 + {pause}, CASE WHEN due <= ?1 + 60 THEN due ELSE 0 END) "
                "WHERE name = ?3",
                (now, fault, self.receiver),
            )
            # Of many not each has had its try.
            db.execute(
                "UPDATE notices SET aside = 1, fault = ?2, failing_since = ?1 - ?4 "
                "WHERE receiver = ?3 AND NOT aside AND (SELECT tries >= ?5 AND "
                "failing_since <= ?1 - ?4 FROM receivers WHERE name = ?3) "
                "AND change IN (SELECT id FROM history WHERE at <= ?1 - ?4)",
                (now, fault, self.receiver, GIVEN_UP_S, LEAST_TRIES),
            )

    def again(self) -> int:
        """Have all that waits, and what was set aside, tried at once; say how much that is."""
        with self._ledger.writing() as db:
            db.execute(
                "UPDATE receivers SET due = 0, tries = 0, failing_since = NULL WHERE name = ?",
                (self.receiver,),
            )
            return db.execute(
                "UPDATE notices SET due = 0, tries = 0, aside = 0, failing_since = NULL "
                "WHERE receiver = ?",
                (self.receiver,),
            ).rowcount

    def drop(self, everything: bool) -> int:
        """Forget what was set aside, or all of a receiver that is none any more; say how much."""
        with self._ledger.writing() as db:
            if everything:
                db.execute("DELETE FROM receivers WHERE name = ?", (self.receiver,))
            return db.execute(
                "DELETE FROM notices WHERE receiver = ? AND (aside OR ?)",
                (self.receiver, everything),
            ).rowcount

    def waiting(self) -> list[dict[str, Any]]:
        """Return what has not been told, in order."""
        rows = self._ledger.read(
            "SELECT h.store, h.generation, h.state, h.at, n.tries, n.due, n.fault, n.aside "
            "FROM notices n JOIN history h ON h.id = n.change WHERE n.receiver = ? "
            "ORDER BY n.change",
            self.receiver,
        )
        keys = ("store", "generation", "state", "at", "tries", "next_try", "fault", "set_aside")
        found = [dict(zip(keys, row, strict=True)) for row in rows]
        return [each | {"set_aside": bool(each["set_aside"])} for each in found]


def fault_of(ledger: Ledger, store: str, generation: int, receiver: str) -> str:
    """Return why a receiver has not taken what there is of a deployment; empty if it has."""
    rows = ledger.read(
        "SELECT coalesce(nullif(n.fault, ''), r.fault) FROM notices n "
        "JOIN receivers r ON r.name = n.receiver JOIN history h ON h.id = n.change "
        "WHERE n.receiver = ? AND n.store = ? AND h.generation = ? ORDER BY n.change DESC LIMIT 1",
        *(receiver, store, generation),
    )
    return str(rows[0][0]) if rows else ""


def receivers(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return what waits for each receiver that was ever there, how much, and since when."""
    rows = ledger.read(
        "SELECT r.name, r.due, coalesce(nullif(r.fault, ''), max(n.fault), ''), "
        "count(n.change) - coalesce(sum(n.aside), 0), "
        "coalesce(sum(n.aside), 0), min(h.at), min(n.failing_since) "
        "FROM receivers r LEFT JOIN notices n ON n.receiver = r.name "
        "LEFT JOIN history h ON h.id = n.change GROUP BY r.name ORDER BY r.name"
    )
    keys = ("next_try", "fault", "waiting", "set_aside", "oldest", "failing_since")
    return {name: dict(zip(keys, told, strict=True)) for name, *told in rows}


def _notice(row: Sequence[Any]) -> Notice:
    count = len(dataclasses.fields(Change))
    group, asked_by, begins, *tried = row[count:]
    return Notice(Change(*row[:count]), group, asked_by or "", bool(begins), *tried)
