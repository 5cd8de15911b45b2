# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Who makes a change, and by what way: each line of history names them.

It is known where a call comes in, and no argument of a call can say otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

SHELL, API, MASTER, REACTOR = "salt-run", "api", "master", "reactor"
EVENT, CLOCK = "event", "clock"
"""Ways. What comes by itself comes by the clock."""


@dataclass(frozen=True)
class Actor:
    """Somebody who makes changes."""

    who: str
    """A person, the minion of an event; empty for the clock."""
    way: str


NOBODY = Actor("", CLOCK)

_acting: ContextVar[Actor] = ContextVar("acting", default=NOBODY)


def acting() -> Actor:
    """Return who makes the changes here and now."""
    return _acting.get()


@contextlib.contextmanager
def act_as(actor: Actor) -> Iterator[None]:
    """Make changes in somebody's name."""
    before = _acting.set(actor)
    try:
        yield
    finally:
        _acting.reset(before)
