# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What somebody may do whom the master has authenticated: ``store_deploy:roles`` in its configuration.

Salt's own ``external_auth`` says who may call a runner at all. It cannot hold for arguments: what
it does not list of them passes. So it is looked at here, by the user that Salt has authenticated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from salt.utils.user import get_group_list

from storelib.errors import Refused
from storemaster.deployment import views
from storemaster.deployment.actor import API, acting
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Line
from storemaster.master import settings

ROLES = VIEWER, OPERATOR, OWNER = settings.ROLES

VERBS = {
    VIEWER: ("explain", "history", "list", "plan", "status", "watch", "whoami"),
    OPERATOR: ("approve", "cancel", "hold", "note", "release", "retry", "rollback", "store"),
    OWNER: ("adopt", "doctor", "export", "import", "outbox", "prune", "retire"),
}
"""What each role may do beside what those before it may; no other verb is anybody's."""

GROUP = "%"
"""What the name of a group ends with in the settings, as in Salt's ``external_auth``."""

OF_ALL = ("list", "whoami")
"""Verbs that show of all stores those that somebody may see, or none."""

PATHS = ("file", "folder")
"""Arguments that are files of the master's: nobody who logs in names one."""

BY_PILLAR = ("store", "plan", "adopt")
"""Verbs that are said of a store before it has a record."""


class NotAllowed(Refused):
    """Who calls may not do that."""


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

    def has(self, store: str, group: object) -> bool:
        """Say whether a store, which is in a group, is one of the user's."""
        return (self.groups is None or group in self.groups) and self.of_pattern(store)

    def of_pattern(self, store: str) -> bool:
        """Say whether a store's ID is one of the user's."""
        return self.stores is None or bool(self.stores.fullmatch(store))

    def none_of(self, store: str) -> NotAllowed:
        """Return what is told of a store that is none of the user's, whether it is one or not."""
        return NotAllowed(f"store {store} is none of {self.user}'s", "ask one who has it")

    @property
    def limited(self) -> bool:
        """Whether it is not all stores."""
        return self.groups is not None or self.stores is not None


def rights(opts: dict) -> Rights | None:
    """
    Return the rights of who calls, ``None`` if nothing is limited: by shell, or without roles.

    Raises :class:`NotAllowed` for a user who has no role.
    """
    actor = acting()
    if actor.way != API or (known := settings.roles(opts)) is None:
        return None
    if (told := _told(known, actor.who)) is None:
        raise NotAllowed(
            f"{actor.who or 'who calls'} has no role",
            f"ask for one of {', '.join(ROLES)}: store_deploy:roles in the master's configuration",
        )
    said: dict[str, Any] = {"role": told} if isinstance(told, str) else told
    return Rights(
        user=actor.who,
        role=said["role"],
        groups=tuple(said["groups"]) if "groups" in said else None,
        stores=re.compile(said["stores"]) if "stores" in said else None,
    )


def _told(known: Mapping[str, Any], user: str) -> Any:
    """Return what is told of a user, or else of the first group that the user is in."""
    if user in known and not user.endswith(GROUP):
        return known[user]
    of_groups = [name for name in known if name.endswith(GROUP)]
    # As Salt's own external_auth has them; looked up only where one is named.
    own = {f"{name}{GROUP}" for name in of_groups and get_group_list(user)}
    return next((known[name] for name in of_groups if name in own), None)


def check(opts: dict, verb: str, arguments: Mapping[str, Any]) -> None:
    """
    Raise :class:`NotAllowed` if who calls may not say a verb with these arguments.

    A store that has no record is looked at again when its pillar is known: :func:`check_store`.
    """
    if acting().way == API and any(arguments.get(name) is not None for name in PATHS):
        raise NotAllowed(
            f"deploy.{verb} would read or write a file of the master's as the master",
            "say it on the master itself"
            + (", or leave file and folder out" if verb == "export" else ""),
        )
    own = rights(opts)
    if own is None:
        return
    if not own.may(verb):
        whose = [role for role in ROLES if verb in VERBS[role]]
        raise NotAllowed(
            f"{own.user} may not say deploy.{verb}: the role is {own.role}",
            f"ask one who may: {whose[0]}" if whose else "it is nobody's but root's on the master",
        )
    if not own.limited or verb in OF_ALL:
        return
    store = arguments.get("store")
    if store is None:
        raise NotAllowed(
            f"{own.user} has some of the stores, and deploy.{verb} is about all of them",
            "name a store, or ask one who has all",
        )
    if arguments.get("hypervisor") is not None:
        raise NotAllowed(
            f"{own.user} has some of the stores, and another one may be on that hypervisor",
            "leave hypervisor= out, or ask one who has all stores",
        )
    with Ledger(settings.ledger_path(opts)) as ledger:
        record = ledger.get(store)
    if record is None:
        theirs = verb in BY_PILLAR and own.of_pattern(store)
    else:
        theirs = own.has(store, record.group)
    if not theirs:
        raise own.none_of(store)


def check_store(opts: dict, store: str, group: object) -> None:
    """Raise :class:`NotAllowed` if a store, which is in a group, is none of the caller's."""
    own = rights(opts)
    if own is not None and not own.has(store, group):
        raise own.none_of(store)


def seen(opts: dict, lines: Iterable[Line]) -> list[Line]:
    """Return those of a list that who calls may see."""
    own = rights(opts)
    return [line for line in lines if own is None or own.has(line.store, line.group)]


def limited(opts: dict) -> bool:
    """Say whether who calls has not all stores."""
    own = rights(opts)
    return own is not None and own.limited


def may(opts: dict) -> Callable[[str], bool]:
    """Return what says whether who calls may say a verb."""
    own = rights(opts)
    return own.may if own else views.anything


def whoami(opts: dict) -> dict[str, Any]:
    """Say who calls, and what they may do."""
    own, actor = rights(opts), acting()
    verbs = sorted(verb for named in VERBS.values() for verb in named)
    told: dict[str, Any] = {"user": actor.who, "way": actor.way}
    if own is None:
        return {**told, "role": OWNER, "verbs": verbs, "groups": None, "stores": None}
    return {
        **told,
        "role": own.role,
        "verbs": [verb for verb in verbs if own.may(verb)],
        "groups": list(own.groups) if own.groups is not None else None,
        "stores": own.stores.pattern if own.stores else None,
    }
