# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Orders: what the master gives with each act on a hypervisor, and when an act comes too late.

The hypervisor notes how far each store is: which deployment, which attempt, which step. An order is
carried out only if it is not behind that note, and if its sender is not: a job that comes late or
twice, and a master whose ledger is from a backup, do no harm.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

STEPS = ("stage", "prepare", "clear", "restore", "define", "start", "finish", "discard", "retire")
"""The steps that act on a store's server, in the order in which one deployment may take them."""

Position = tuple[int, str]
"""Attempt and step; attempt 0 is before all of them."""

NOWHERE: Position = (0, "")


class Behind(Exception):
    """The store has gone on, and who sent the order does not know it."""


def new_id(generation: int) -> str:
    """Return an ID for a deployment that no other has, not of a ledger that was lost either."""
    return f"g{generation}-{secrets.token_hex(6)}"


def old_id(generation: int) -> str:
    """Return the ID of a deployment that began before deployments had IDs."""
    return f"g{generation}"


def made(deployment: str, attempt: int, replaces: Iterable[str], after: Position) -> dict[str, Any]:
    """
    Return an order, as the acting functions of ``store_hypervisor`` get it.

    deployment
        ID of the deployment that it is part of.
    attempt
        Number of the attempt, from 1 up.
    replaces
        IDs of the deployments one of which the hypervisor must have noted if it has not noted this
        one: what the ledger says, never what the hypervisor told.
    after
        The furthest position at which this deployment was ever ordered anything.
    """
    return {
        "deployment": deployment,
        "attempt": attempt,
        "replaces": list(replaces),
        "after": list(after),
    }


def position(note: Mapping[str, Any]) -> Position:
    """Return where a note says that the store is."""
    return int(note["attempt"]), str(note["step"])


def beyond(one: Position, other: Position) -> bool:
    """Say whether ``one`` is further than ``other``."""
    return _rank(one) > _rank(other)


def _rank(at: Position) -> tuple[int, int]:
    return at[0], STEPS.index(at[1]) if at[1] in STEPS else -1


def unknown(
    note: Mapping[str, Any], deployment: str, replaces: Iterable[str], after: Position
) -> bool:
    """Say whether a note is of what a ledger does not know of, which orders as in :func:`made`."""
    if note["deployment"] != deployment:
        return note["deployment"] not in replaces
    return beyond(position(note), after)


def check(
    noted: Mapping[str, Any] | None, order: Mapping[str, Any], step: str, server: str | None
) -> None:
    """
    Raise :class:`Behind` unless the order may be carried out.

    noted
        What the hypervisor has noted of the store, ``None`` if nothing.
    step
        What is ordered.
    server
        ID of the deployment that made the store's server which is there, ``None`` if there is none.
    """
    ours, replaces = order["deployment"], order["replaces"]
    if noted is None:
        if server is not None and server not in (ours, *replaces):
            raise Behind(
                f"there is a server of deployment {server} and no note of it; ordered was {step} "
                f"of deployment {ours}"
            )
        return
    same, at, asked = noted["deployment"] == ours, position(noted), (order["attempt"], step)
    # A repeat of the present step is carried out; its sender knows no more and no less.
    if same and at == asked:
        return
    attempt, last = order["after"]
    if (same and beyond(at, asked)) or unknown(noted, ours, replaces, (attempt, last)):
        of = f"its attempt {order['attempt']}" if same else f"deployment {ours}"
        raise Behind(f"noted is {told(noted)}; ordered was {step} of {of}")


def told(note: Mapping[str, Any] | None) -> str:
    """Return a note in words."""
    if note is None:
        return "nothing"
    return f"{note['step']} of deployment {note['deployment']}, attempt {note['attempt']}"
