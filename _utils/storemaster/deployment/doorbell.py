# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A doorbell on the master: what an event rings for, and what the ledger keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from storemaster.deployment.formats import MINION_ID, STORE_ID

PUT_OFF_S = (2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""How long a bell that cannot be decided on rests, at its first put-off, its second, and so on."""


@dataclass(frozen=True)
class Ring:
    """Whom a bell is about: hints, looked up in the ledger and believed no further."""

    store: str | None
    minion: str | None
    ready: bool = False
    """The minion says that it is a hypervisor that has reached its highstate."""
    eager: bool = True
    """The minion has just come up, so what it did not answer so far is asked again."""
    jid: str = field(default="", compare=False)
    """The job whose return rings, if one does."""


def of_event(tag: str, data: object) -> Ring | None:
    """
    Return what an event on the master's bus rings for, ``None`` if it is none of ours.

    Any minion can fire any tag; what Salt vouches for is at most the ID in its data.
    """
    told = data.get("id") if isinstance(data, dict) else None
    sender = told if isinstance(told, str) and MINION_ID.fullmatch(told) else None
    match tag.split("/"):
        case ["store", store, "hypervisor", "ready"] if STORE_ID.fullmatch(store):
            return Ring(store, sender, ready=True)
        case ["store", store, "guest", _] if STORE_ID.fullmatch(store):
            return Ring(store, sender)
        case ["salt", "minion", _, "start"] if sender:
            return Ring(None, sender)
        case ["salt", "job", jid, "ret", minion] if MINION_ID.fullmatch(minion):
            return Ring(None, minion, eager=False, jid=jid)
    return None


@dataclass(frozen=True)
class Bell:
    """A doorbell that was rung: of a store or a minion."""

    name: str
    at: float
    """When it was rung, or when it is to be looked at again."""
    eager: bool
    ready: bool
    tries: int = 0
    """How often it was put off."""

    def rests(self, now: float) -> bool:
        """Say whether it is put off until later; further ahead than that, the clock was set."""
        return self.tries > 0 and now < self.at <= now + PUT_OFF_S[-1]
