# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of states holds together."""

import itertools

import pytest

from storemaster.deployment import lifecycle
from storemaster.deployment.steps import STEPS

NAMES = [state.name for state in lifecycle.PATH]
ENDS = {
    "deployed": ["awaiting_hypervisor", "queued", "retiring"],
    "failed": ["cancelling", "queued", "awaiting_hypervisor", "retiring"],
    "cancelled": ["awaiting_hypervisor", "queued", "retiring"],
    "held": [*NAMES, "cancelling", "rolling_back"],
    "retired": ["awaiting_hypervisor"],
}
"""States that only an operator leaves, and for which ones."""

PAIRS = {(row.before, row.after) for row in lifecycle.TRANSITIONS if row.before}
ADOPTED_AS = {"deployed", "failed", "cancelled", "retired"}
"""As what a store is taken over."""


def test_the_path_is_the_one_that_the_design_promises():
    assert [
        *("awaiting_hypervisor", "queued", "staging", "preparing", "clearing", "defining"),
        *("starting", "booting", "rebooting", "configuring", "restarting", "verifying"),
        "finishing",
    ] == NAMES


def test_names_do_not_repeat():
    assert len(lifecycle.STATES) == len(NAMES) + len(lifecycle.BESIDE) + len(ENDS)


@pytest.mark.parametrize("name", lifecycle.STATES)
def test_every_state_can_be_reached_from_the_first(name):
    reached = {lifecycle.FIRST}
    for _ in lifecycle.STATES:
        reached |= {to for start, to in PAIRS if start in reached}
    assert name in reached


@pytest.mark.parametrize("state", [*lifecycle.PATH, *lifecycle.BESIDE], ids=lambda s: s.name)
def test_every_passing_state_has_a_limit_an_end_an_undo_and_a_way_to_failed(state):
    # Whoever waits for a slot is never failed for it.
    assert bool(state.limit_s) is (state.name != "queued")
    assert state.happens
    assert state.over
    assert state.undo
    lifecycle.check(state.name, lifecycle.FAILED.name, lifecycle.FAULT)


@pytest.mark.parametrize(("name", "following"), ENDS.items())
def test_an_end_lasts_until_an_operator_leaves_it(name, following):
    assert lifecycle.STATES[name].limit_s == 0
    assert name not in lifecycle.ACTIVE
    left = [to for start, to in PAIRS if start == name]
    assert sorted(set(left) - ADOPTED_AS) == sorted(set(following) - ADOPTED_AS)
    # Whatever the ledger says, something else may really be there.
    assert name == "held" or set(left) >= ADOPTED_AS
    assert all("deploy." in why for to in following for why in lifecycle.whys(name, to))


@pytest.mark.parametrize("name", NAMES)
def test_every_state_before_the_end_can_be_held_released_and_cancelled(name):
    lifecycle.check(name, "held", "hold")
    lifecycle.check("held", name, "release")
    lifecycle.check(name, "cancelling", "cancel")


def test_a_cancelling_ends_as_cancelled_or_failed_and_can_be_said_again():
    assert {to for start, to in PAIRS if start == "cancelling"} == {"cancelled", "failed"}
    lifecycle.check("failed", "cancelling", "cancel")


@pytest.mark.parametrize("name", NAMES)
def test_a_retry_leads_to_a_state_of_the_path_not_behind_the_one_that_failed(name):
    wanted = lifecycle.RESUMES[name]
    assert NAMES.index(wanted) <= NAMES.index(name)
    first = "queued" if wanted in lifecycle.SLOT else wanted
    lifecycle.check("failed", first, "retry")
    if first != wanted:
        lifecycle.check(first, wanted, lifecycle.STEP)


def test_the_path_leads_through_all_states_to_deployed():
    walked = [lifecycle.FIRST]
    while walked[-1] in lifecycle.FOLLOWS:
        walked.append(lifecycle.FOLLOWS[walked[-1]])
    assert walked == [*NAMES, "deployed"]


ALL_PAIRS = set(itertools.product(lifecycle.STATES, repeat=2))


VERBS = sorted({row.verb for row in lifecycle.TRANSITIONS})


@pytest.mark.parametrize(("state", "following"), sorted(ALL_PAIRS - PAIRS))
def test_a_change_that_is_not_in_the_table_is_refused(state, following):
    for verb in VERBS:
        with pytest.raises(ValueError, match=f"^{state} cannot become {following} by {verb}$"):
            lifecycle.check(state, following, verb)


@pytest.mark.parametrize("row", lifecycle.TRANSITIONS, ids=str)
def test_a_change_is_allowed_by_its_own_verb_and_has_a_reason(row):
    lifecycle.check(row.before, row.after, row.verb)
    assert row.why
    others = {
        each.verb
        for each in lifecycle.TRANSITIONS
        if (each.before, each.after) == (row.before, row.after)
    }
    for verb in set(VERBS) - others:
        with pytest.raises(ValueError, match="cannot become"):
            lifecycle.check(row.before, row.after, verb)


def test_no_passing_state_can_be_skipped_or_repeated():
    forward = [
        (row.before, row.after)
        for row in lifecycle.TRANSITIONS
        if row.before in NAMES and row.after in (*NAMES, "deployed")
        if row.verb == lifecycle.STEP and row.why != "deploy.retry"
    ]
    assert forward == list(itertools.pairwise([*NAMES, "deployed"]))


def test_a_slot_is_held_from_the_first_work_on_the_hypervisor_to_the_end():
    assert [name for name in NAMES if name not in lifecycle.SLOT] == NAMES[:2]
    assert NAMES[1] == "queued"


def test_the_pillar_may_set_another_limit():
    assert lifecycle.limit_s("booting", {}) == 15 * 60
    assert lifecycle.limit_s("booting", {"booting": 1800}) == 1800
    assert lifecycle.limit_s("rebooting", {"booting": 1800}) == 10 * 60


@pytest.mark.parametrize("name", lifecycle.STATES)
def test_the_diagram_names_every_state(name):
    words = lifecycle.diagram().replace(":", " ").split()
    assert name in words


def test_the_diagram_draws_only_changes_that_are_allowed():
    arrows = [
        line.split(":")[0].split() for line in lifecycle.diagram().splitlines() if "-->" in line
    ]
    drawn = {(start, to) for start, _, to in arrows if "[*]" not in (start, to)}
    assert drawn <= PAIRS
    ends = {pair for pair in PAIRS if pair[0] in ("failed", "cancelled")}
    assert {pair for pair in ends if pair[1] not in ADOPTED_AS} <= drawn
    told = {
        *itertools.product(ADOPTED_AS, ADOPTED_AS),
        *((name, to) for name in NAMES for to in ("failed", "held", "cancelling")),
        *(("held", to) for to in (*NAMES, "cancelling")),
        *(("queued", name) for name in NAMES[3:]),
        *((name, "awaiting_hypervisor") for name in NAMES),
        *((state.name, "failed") for state in lifecycle.BESIDE),
        ("queued", "rolling_back"),
        ("rolling_back", "held"),
        ("held", "rolling_back"),
    }
    assert PAIRS - drawn == told, "the note tells all of these"
    assert "can become failed, held or cancelling" in lifecycle.diagram()


def test_every_state_of_the_path_has_its_step_and_no_other_has_one():
    assert list(STEPS) == [*NAMES, *(state.name for state in lifecycle.BESIDE)]
    assert set(STEPS) == lifecycle.ACTIVE
