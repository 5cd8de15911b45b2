# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Acts for which a site wants two persons: one asks for it, another one approves."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LIFETIME_S = 24 * 3600
"""How long a request waits."""

ACTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cancel": ("cancel", {}),
    "prune": ("prune", {"remove": True}),
    "redeploy": ("store", {"redeploy": True}),
    "retire": ("retire", {"remove": True}),
    "rollback": ("rollback", {}),
}
"""What takes something away: the verb, and the arguments that have it do so."""

LETTERS = "bcdfghjkmnpqrstvwxz"
"""Of IDs: no word comes of them, and no number, which Salt would read as one."""


def act(verb: str, arguments: Mapping[str, Any]) -> str:
    """Return which of the acts a verb with these arguments is; an empty string for none."""
    for name, (of, needed) in ACTS.items():
        if verb == of and all(arguments.get(key) is value for key, value in needed.items()):
            return name
    return ""


@dataclass(frozen=True)
class Request:
    """An act that somebody asked for, and that waits for another person."""

    store: str
    generation: int
    """Of the deployment that it is about: it is void for the next one."""
    verb: str
    arguments: dict[str, Any]
    who: str
    until: float
    """When it is void, in seconds since the epoch."""
    id: str = field(default_factory=lambda: "".join(secrets.choice(LETTERS) for _ in range(8)))

    @property
    def words(self) -> str:
        """Return what was asked for, as it is typed."""
        more = (f" {key}={value}" for key, value in self.arguments.items() if key != "store")
        return f"deploy.{self.verb} {self.store}{''.join(more)}"

    def is_of(self, who: str) -> bool:
        """Say whether somebody asked for it; directories do not tell capitals apart."""
        return self.who.casefold() == who.casefold()
