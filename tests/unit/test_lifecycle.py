# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of states holds together."""

import itertools

import pytest

from storelib import lifecycle
from storelib.steps import STEPS

NAMES = [state.name for state in lifecycle.PATH]
ENDS = [lifecycle.DEPLOYED.name, lifecycle.FAILED.name]


def test_the_path_is_the_one_that_the_design_promises():
    assert [
        *("awaiting_hypervisor", "queued", "staging", "clearing", "defining", "starting"),
        *("booting", "rebooting", "configuring", "restarting", "verifying", "finishing"),
    ] == NAMES


def test_names_do_not_repeat():
    assert len(lifecycle.STATES) == len(NAMES) + len(ENDS)


@pytest.mark.parametrize("name", lifecycle.STATES)
def test_every_state_can_be_reached_from_the_first(name):
    reached = {lifecycle.FIRST}
    for _ in lifecycle.STATES:
        reached |= {to for start, to in lifecycle.TRANSITIONS if start in reached}
    assert name in reached


@pytest.mark.parametrize("state", lifecycle.PATH, ids=NAMES)
def test_every_passing_state_has_a_limit_an_end_an_undo_and_a_way_to_failed(state):
    assert state.limit_s > 0
    assert state.happens
    assert state.over
    assert state.undo
    lifecycle.check(state.name, lifecycle.FAILED.name)


@pytest.mark.parametrize("state", [lifecycle.DEPLOYED, lifecycle.FAILED], ids=ENDS)
def test_an_end_lasts_until_an_operator_leaves_it(state):
    assert state.limit_s == 0
    assert state.name not in lifecycle.ACTIVE
    assert [to for start, to in lifecycle.TRANSITIONS if start == state.name] == [lifecycle.FIRST]


def test_the_path_leads_through_all_states_to_deployed():
    walked = [lifecycle.FIRST]
    while walked[-1] in lifecycle.FOLLOWS:
        walked.append(lifecycle.FOLLOWS[walked[-1]])
    assert walked == [*NAMES, "deployed"]


ALL_PAIRS = set(itertools.product(lifecycle.STATES, repeat=2))


@pytest.mark.parametrize(("state", "following"), sorted(ALL_PAIRS - set(lifecycle.TRANSITIONS)))
def test_a_change_that_is_not_in_the_table_is_refused(state, following):
    with pytest.raises(ValueError, match=f"^{state} cannot become {following}$"):
        lifecycle.check(state, following)


@pytest.mark.parametrize(("state", "following"), lifecycle.TRANSITIONS)
def test_a_change_that_is_in_the_table_is_allowed_and_has_a_reason(state, following):
    lifecycle.check(state, following)
    assert lifecycle.TRANSITIONS[state, following]


def test_no_passing_state_can_be_skipped_or_repeated():
    forward = [
        pair for pair in lifecycle.TRANSITIONS if pair[1] not in ("failed", "awaiting_hypervisor")
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
    assert drawn <= set(lifecycle.TRANSITIONS)
    missing = set(lifecycle.TRANSITIONS) - drawn
    assert missing == {(name, "failed") for name in NAMES}, "one note tells all of these"
    assert "any state before deployed can become failed" in lifecycle.diagram()


def test_every_state_of_the_path_has_its_step_and_no_other_has_one():
    assert list(STEPS) == NAMES
