# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The lifecycle of a deployment: its states, what ends each, and what may follow.

This table is the truth; diagram and table in the docs are made from it (``make diagram``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from storemaster.deployment.times import DAY, HOUR, MINUTE

NO_GUEST = "remove the autosign entry, purge the key, destroy the domain"
"""What takes back all that a guest has done since it may call."""


@dataclass(frozen=True)
class State:
    """One state of a deployment."""

    name: str
    happens: str
    """What is going on."""
    over: str = ""
    """The facts, read back, that end it."""
    limit_s: int = 0
    """Seconds until it fails; 0 for the queue, and for a state that only an operator leaves."""
    undo: str = ""
    """What takes back what it did."""


QUEUED_S = 24 * HOUR
"""After this time in the queue that is told."""


PATH = (
    State(
        "awaiting_hypervisor",
        "waits for the hypervisor and its configuration",
        "it answers and its libvirt, pool, bridges, memory and disk suffice",
        24 * HOUR,
        "nothing was done",
    ),
    State(
        "queued",
        "waits for a slot",
        "no other deployment on this hypervisor, fewer than max_active in all",
        0,
        "nothing was done",
    ),
    State(
        "staging",
        "brings the image to the hypervisor",
        "the cached image has the pillar's sha256",
        45 * MINUTE,
        "the image stays in the cache",
    ),
    State(
        "preparing",
        "makes the new server ready beside the old one",
        "disks, key pair and seed are there, libvirt took a trial definition, the autosign file "
        "could be written",
        10 * MINUTE,
        "delete the prepared disks and seed",
    ),
    State(
        "clearing",
        "sets the old server aside and purges its key",
        "domain, disk and key are gone from their places, the old ones set aside",
        10 * MINUTE,
        "the set-aside server can be put back",
    ),
    State(
        "defining",
        "moves disk and seed into place, defines the domain",
        "the domain is defined, its disk has the right size and backing",
        10 * MINUTE,
        "undefine the domain, delete its disk and seed",
    ),
    State(
        "starting",
        "admits the guest's key and starts the domain",
        "it has run for steady_s without a break",
        5 * MINUTE,
        "remove the autosign entry, destroy the domain",
    ),
    State(
        "booting",
        "waits for the guest to boot and to call",
        "its minion answers, its key is the one that was made for it, the entry is gone",
        15 * MINUTE,
        NO_GUEST,
    ),
    State(
        "rebooting",
        "firstboot reboots the guest",
        "the guest has noted a second boot ID",
        10 * MINUTE,
        NO_GUEST,
    ),
    State(
        "configuring",
        "applies the highstate",
        "the highstate returned, no state failed",
        60 * MINUTE,
        NO_GUEST,
    ),
    State(
        "restarting",
        "makes the network permanent and reboots",
        "the guest has noted a third boot ID, of a boot after it was made permanent",
        10 * MINUTE,
        NO_GUEST,
    ),
    State(
        "verifying",
        "runs the highstate with test=True, then probes",
        "no state would fail, all probes pass",
        15 * MINUTE,
        NO_GUEST,
    ),
    State(
        "finishing",
        "removes seed and bootstrap data, autostart on",
        "all of it was read back as gone",
        5 * MINUTE,
        NO_GUEST,
    ),
)
"""The states that a deployment passes, in order."""

CANCELLING = State(
    "cancelling",
    "removes what was made of the new server",
    "domain, disk, seed, key and autosign entry of this deployment are gone",
    7 * DAY,
    "nothing is left to undo",
)
ROLLING_BACK = State(
    "rolling_back",
    "puts the set-aside server back in its place",
    "it runs from its own disk, with its own key, and its minion answers",
    20 * MINUTE,
    "the server that was there is set aside, deploy.rollback puts it back",
)
RETIRING = State(
    "retiring",
    "removes the store's servers for good",
    "domain, disks, set-aside servers, key and autosign entry are gone",
    7 * DAY,
    "nothing brings them back",
)
DEPLOYED = State("deployed", "the store server is verified")
FAILED = State("failed", "it stopped; failed_in and reason say where and why")
CANCELLED = State("cancelled", "nothing of the new server is left")
HELD = State("held", "waits for deploy.release, its deadline stopped")
RETIRED = State("retired", "the store has no server any more")

BESIDE = (ROLLING_BACK, CANCELLING, RETIRING)
"""States that move by themselves, to another end than a deployment."""

STATES = {
    state.name: state for state in (*PATH, *BESIDE, DEPLOYED, FAILED, CANCELLED, HELD, RETIRED)
}
FIRST = PATH[0].name
PASSED = frozenset(state.name for state in PATH)
"""States on the way to ``deployed``."""

ACTIVE = PASSED | {state.name for state in BESIDE}
"""States that move by themselves."""

OPEN = ACTIVE | {HELD.name}
"""States of a deployment that is not over."""


def _from(name: str) -> list[str]:
    """Return the states of the path from that one on."""
    names = [state.name for state in PATH]
    return names[names.index(name) :]


SLOT = frozenset((*_from("staging"), ROLLING_BACK.name))
"""States that hold a slot: work is being done on the hypervisor or in its guest."""

WITH_GUEST = frozenset(_from("booting"))
"""States in which a guest runs, whose console may say why it goes no further."""

LEAVING = frozenset({CANCELLING.name, RETIRING.name})
"""States in which what there is of a server is removed."""

ADMITTING = frozenset({"starting", "booting"})
"""States in which the autosign entry of the guest may be there."""

FOLLOWS = {
    state.name: following.name
    for state, following in (
        *zip(PATH, (*PATH[1:], DEPLOYED), strict=True),
        (ROLLING_BACK, DEPLOYED),
        (CANCELLING, CANCELLED),
        (RETIRING, RETIRED),
    )
}
"""The state after each state that moves by itself."""

RESUMES = {
    **{state.name: state.name for state in PATH},
    # The guest may have lost its key, or be off: it is let in and started anew.
    "booting": "starting",
    ROLLING_BACK.name: ROLLING_BACK.name,
}
"""Where a retry goes on, by the state that failed: steps can be repeated, earlier ones held."""

AT_REST = (DEPLOYED.name, FAILED.name, CANCELLED.name)
"""States from which a store can be rolled back or retired."""


STEP, FAULT, ANEW = "step", "fault", "anew"
"""What changes a state by itself: its step, a fault, a hypervisor that is another machine."""

ANOTHER_WAY = (ANEW, "cancel", "release", "retry")
"""Whoever goes on by one of these gives his orders as another attempt than before."""


@dataclass(frozen=True)
class Transition:
    """One change of state that is allowed."""

    before: str
    """Empty for a store that has no record."""
    after: str
    verb: str
    """Who asks for it: an operator's verb, or one of those that need nobody."""
    why: str


def _transitions() -> Iterator[Transition]:
    passed = [state.name for state in PATH]
    for name, following in FOLLOWS.items():
        yield Transition(name, following, STEP, STATES[name].over)
    for name in FOLLOWS:
        yield Transition(name, FAILED.name, FAULT, "a fault, or its limit passed")
    for name in (*passed, ROLLING_BACK.name):
        yield Transition(name, HELD.name, "hold", "deploy.hold")
        yield Transition(HELD.name, name, "release", "deploy.release")
    for name in passed:
        yield Transition(name, FIRST, ANEW, "the hypervisor is another machine")
    # A retry takes a slot again, and goes on where it failed.
    for name in _from("preparing"):
        yield Transition("queued", name, STEP, "deploy.retry")
    yield Transition("queued", ROLLING_BACK.name, STEP, "a slot is free")
    for name in AT_REST:
        yield Transition(name, "queued", "rollback", "deploy.rollback, as a new generation")
        yield Transition(name, RETIRING.name, "retire", "deploy.retire remove=True")
    for name in (*passed, HELD.name, FAILED.name):
        yield Transition(name, CANCELLING.name, "cancel", "deploy.cancel")
    for name in ("queued", FIRST):
        yield Transition(FAILED.name, name, "retry", "deploy.retry")
    for name in ("", FAILED.name, CANCELLED.name, RETIRED.name):
        yield Transition(name, FIRST, "store", "deploy.store, as a new generation")
    again = "deploy.store redeploy=True or new hardware, as a new generation"
    yield Transition(DEPLOYED.name, FIRST, "store", again)
    resting = (*AT_REST, RETIRED.name)
    for name in ("", *resting):
        for found in resting:
            yield Transition(name, found, "adopt", "deploy.adopt apply=True")


TRANSITIONS = tuple(_transitions())
"""Each allowed change. What a verb refuses, what explain offers and the diagram are made of it."""


def said_in(verb: str) -> list[str]:
    """Return the states in which a verb can be said."""
    return [each.before for each in TRANSITIONS if each.verb == verb]


def whys(before: str, after: str) -> list[str]:
    """Return why ``after`` may come after ``before``; empty if it may not."""
    return [each.why for each in TRANSITIONS if (each.before, each.after) == (before, after)]


def check(before: str, after: str, verb: str) -> None:
    """Raise ``ValueError`` unless that verb may make ``after`` of ``before``."""
    if not any((before, after, verb) == (t.before, t.after, t.verb) for t in TRANSITIONS):
        raise ValueError(f"{before or 'nothing'} cannot become {after} by {verb}")


def limit_s(state: str, timeouts: dict[str, int]) -> int:
    """Return the seconds that ``state`` may last, given the pillar's ``timeouts``; 0: for ever."""
    return timeouts.get(state, STATES[state].limit_s)


def diagram() -> str:
    """Return the lifecycle as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {FIRST}"]
    lines += [f"    {state} --> {following}" for state, following in FOLLOWS.items()]
    left = {
        (each.before, each.after): whys(each.before, each.after)
        for each in TRANSITIONS
        if each.before not in ("", *OPEN) and each.verb != "adopt"
    }
    lines += [
        f"    {before} --> {after}: {' or '.join(why)}" for (before, after), why in left.items()
    ]
    lines += [
        f"    note right of {FIRST}",
        "        any state before deployed can become failed, held or cancelling",
        "        deploy.release goes on where it was held",
        "        deploy.retry goes on, with a slot, where it failed",
        "        deploy.rollback waits for a slot, too, and can be held",
        "        where the hypervisor is another machine, it begins at the top again",
        "        deploy.adopt puts what is at rest into the state in which it was found",
    ]
    return "\n".join([*lines, "    end note", f"    {DEPLOYED.name} --> [*]"])
