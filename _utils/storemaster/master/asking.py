# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a minion answers to an operator: anybody's word, or another version's, in any shape."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from storelib import report
from storelib.errors import Refused
from storemaster.deployment.master_api import ACCEPTED, MasterApi
from storemaster.deployment.step_context import Waiting

FACTS_S = 20.0
"""How long an operator waits for what a minion tells."""

LOOK_S = 0.25
"""How often it is looked for."""


def facts(
    master: MasterApi, answer: Any, minion: str, store: str, generation: int, step: str
) -> dict[str, Any]:
    """Return the facts of a report that an operator waited for; raise :class:`Refused` if none."""
    if answer is None:
        known = master.keys(minion)
        if not known:
            raise Refused(
                f"{minion} is no minion of this master: it has no key of that name",
                "salt-key -L names the minions; the right one is named by hypervisor=MINION",
            )
        if ACCEPTED not in known:
            raise Refused(
                f"{minion} has no accepted key on this master",
                f"look at it, then accept it: salt-key -f {minion}; salt-key -a {minion}",
            )
        raise Refused(f"{minion} does not answer", f"see: salt {minion} test.ping")
    try:
        told = report.opened(answer, store, generation, step)
    except report.NotAReport as err:
        raise Refused(f"{minion}: {err}", _again(minion)) from err
    if not told.ok:
        raise Refused(told.error, told.hint)
    return told.facts


@contextlib.contextmanager
def reading(minion: str, step: str) -> Iterator[None]:
    """Raise :class:`Refused` where facts have not the shape of ours."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as err:
        raise Refused(
            f"what {minion} tells of {step} cannot be read: {type(err).__name__}: {err}",
            _again(minion),
        ) from err


def things(found: Any) -> list[dict[str, Any]]:
    """Return what a report names: what has a place or a name."""
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TypeError(f"no list of things: {str(found)[:80]}")
    return found


def asked(master: MasterApi, minion: str, function: str, arguments: dict) -> Any:
    """Return what the minion returns for a job, ``None`` if it does not within :data:`FACTS_S`."""
    return asked_all(master, {"": (minion, function, arguments)}).get("")


def synced(master: MasterApi, minion: str, function: str, arguments: dict) -> Any:
    """Return what :func:`asked` does, from a minion that is given our modules if it lacks them."""
    return all_synced(master, {"": (minion, function, arguments)}).get("")


def all_synced(master: MasterApi, asked: dict[str, tuple[str, str, dict]]) -> dict[str, Any]:
    """Return what :func:`asked_all` does, from minions that are given our modules, likewise."""
    answers = asked_all(master, asked)
    # Salt's own word: the minion has not got the function, or an older one.
    lacking = {name: job for name, job in asked.items() if isinstance(answers.get(name), str)}
    if not lacking:
        return answers
    asked_all(master, {name: (job[0], "saltutil.sync_all", {}) for name, job in lacking.items()})
    told = asked_all(master, lacking)
    return {name: told.get(name) if name in lacking else answers[name] for name in answers}


def asked_all(master: MasterApi, asked: dict[str, tuple[str, str, dict]]) -> dict[str, Any]:
    """Return what the minions return for their jobs, of those that do within :data:`FACTS_S`."""
    jids = {}
    for name, (minion, function, arguments) in asked.items():
        if ACCEPTED in master.keys(minion):
            jids[name] = master.new_jid()
            try:
                master.publish(jids[name], minion, function, arguments)
            except Waiting as err:
                raise Refused(err.why, "systemctl status salt-master; then try again") from err
    answers: dict[str, Any] = {}
    until = time.monotonic() + FACTS_S
    while len(answers) < len(jids) and time.monotonic() < until:
        for name in jids.keys() - answers:
            returned = master.returned(jids[name], asked[name][0])
            if returned is not None:
                answers[name] = returned.value
        time.sleep(LOOK_S)
    return answers


def _again(minion: str) -> str:
    return f"salt {minion} saltutil.sync_all; then the same command again"
