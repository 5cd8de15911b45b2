# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Which orders a hypervisor carries out, and which come too late."""

import itertools

import pytest

from storelib import orders

ALL = [(attempt, step) for attempt in (1, 2, 3) for step in orders.STEPS]


def note(deployment="new", attempt=1, step="clear"):
    return {"deployment": deployment, "attempt": attempt, "step": step, "at": 0}


def order(deployment="new", attempt=1, replaces=(), after=orders.NOWHERE):
    return orders.made(deployment, attempt, replaces, after)


def refused(*args):
    with pytest.raises(orders.Behind) as caught:
        orders.check(*args)
    return str(caught.value)


def test_no_two_deployments_have_one_id():
    assert len({orders.new_id(1) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("step", orders.STEPS)
def test_where_nothing_is_noted_and_no_server_is_there_any_order_is_carried_out(step):
    orders.check(None, order(), step, None)


def test_a_server_of_which_nothing_is_noted_must_be_known_to_the_ledger():
    assert "no note of it" in refused(None, order(replaces=["older"]), "stage", "old")
    orders.check(None, order(replaces=["old"]), "stage", "old")
    orders.check(None, order("new"), "start", "new")


@pytest.mark.parametrize("step", orders.STEPS)
def test_a_deployment_begins_only_over_the_one_that_it_names(step):
    orders.check(note("old", 7, "finish"), order(replaces=["old"]), step, "old")
    assert "of deployment other" in refused(note("other"), order(replaces=["old"]), step, None)
    assert "of deployment other" in refused(note("other"), order(), step, None)


@pytest.mark.parametrize("late", orders.STEPS)
def test_no_order_of_a_deployment_that_was_replaced_is_carried_out(late):
    began_over = order("old", 1, replaces=["before"], after=(1, "start"))
    assert "of deployment new" in refused(note("new"), began_over, late, "new")


@pytest.mark.parametrize(("noted", "asked"), list(itertools.product(ALL, ALL)))
def test_within_a_deployment_steps_only_go_forward(noted, asked):
    """As long as the ledger knows of what is noted."""
    given = order(attempt=asked[0], after=max(noted, asked, key=ALL.index))
    if ALL.index(asked) < ALL.index(noted):
        assert "ordered was" in refused(note("new", *noted), given, asked[1], None)
    else:
        orders.check(note("new", *noted), given, asked[1], None)


@pytest.mark.parametrize(("noted", "after"), list(itertools.product(ALL, ALL)))
def test_a_ledger_that_is_behind_orders_nothing(noted, after):
    """Though it raises the attempt, as a retry or a cancelling does."""
    given = order(attempt=after[0] + 1, after=after)
    asked = (after[0] + 1, "discard")
    if ALL.index(noted) > ALL.index(after) and noted != asked:
        assert refused(note("new", *noted), given, "discard", None)
    else:
        orders.check(note("new", *noted), given, "discard", None)
