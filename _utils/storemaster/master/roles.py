# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What somebody may do whom the master has authenticated: ``store_deploy:roles`` in its configuration.

Salt's own ``external_auth`` says who may call a runner at all. It cannot hold for arguments: what
it does not list of them passes. So it is looked at here, by the user that Salt has authenticated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from storelib.errors import Refused
from storemaster.deployment.actor import API, acting
from storemaster.deployment.ledger import Ledger
from storemaster.master import settings

ROLES = VIEWER, OPERATOR, OWNER = settings.ROLES

VERBS = {
    VIEWER: ("explain", "history", "list", "plan", "status", "watch"),
    OPERATOR: ("cancel", "hold", "note", "release", "retry", "rollback", "store"),
    OWNER: ("adopt", "doctor", "export", "import", "prune", "retire"),
}
"""What each role may do beside what those before it may; no other verb is anybody's."""

OF_ALL = ("list",)
"""Verbs that show of all stores those that somebody may see."""


@dataclass(frozen=True)
class Rights:
    """What a user may do, and with which stores."""

    user: str
    role: str
    groups: tuple[str, ...] | None = None
    """Groups of the stores; ``None`` for all."""
    stores: re.Pattern[str] | None = None
    """Of their IDs, as a whole; ``None`` for all."""

    def may(self, verb: str) -> bool:
        """Say whether the role has a verb."""
        return any(verb in VERBS[role] for role in ROLES[: ROLES.index(self.role) + 1])

    def has(self, store: str, group: str | None) -> bool:
        """Say whether a store, which is in a group, is one of the user's."""
        in_group = self.groups is None or group in self.groups
        return in_group and (self.stores is None or bool(self.stores.fullmatch(store)))

    @property
    def limited(self) -> bool:
        """Whether it is not all stores."""
        return self.groups is not None or self.stores is not None


def rights(opts: dict) -> Rights | None:
    """
    Return the rights of who calls, ``None`` if nothing is limited: by shell, or without roles.

    Raises :class:`Refused` for a user who has no role.
    """
    actor = acting()
    if actor.way != API or (known := settings.roles(opts)) is None:
        return None
    if actor.who not in known:
        raise Refused(
            f"{actor.who or 'who calls'} has no role",
            f"ask for one of {', '.join(ROLES)}: store_deploy:roles in the master's configuration",
        )
    told = known[actor.who]
    said: dict[str, Any] = {"role": told} if isinstance(told, str) else told
    return Rights(
        user=actor.who,
        role=said["role"],
        groups=tuple(said["groups"]) if "groups" in said else None,
        stores=re.compile(said["stores"]) if "stores" in said else None,
    )


def check(opts: dict, verb: str, store: str | None) -> None:
    """
    Raise :class:`Refused` if who calls may not do that.

    store
        The store that it is about, ``None`` if it is about all of them.
    """
    own = rights(opts)
    if own is None:
        return
    if not own.may(verb):
        whose = [role for role in ROLES if verb in VERBS[role]]
        raise Refused(
            f"{own.user} may not say deploy.{verb}: the role is {own.role}",
            f"ask one who may: {whose[0]}" if whose else "it is nobody's but root's on the master",
        )
    if store is None and own.limited and verb not in OF_ALL:
        raise Refused(
            f"{own.user} has some of the stores, and deploy.{verb} is about all of them",
            "name a store, or ask one who has all",
        )
    if store is not None and own.limited:
        with Ledger(settings.ledger_path(opts)) as ledger:
            record = ledger.get(store)
        if record is not None:
            check_store(opts, store, record.group)


def check_store(opts: dict, store: str, group: str | None) -> None:
    """Raise :class:`Refused` if a store, which is in a group, is none of the caller's."""
    own = rights(opts)
    if own is not None and not own.has(store, group):
        raise Refused(f"store {store} is none of {own.user}'s", "ask one who has it")
