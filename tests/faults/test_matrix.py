# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Every fault in every state: nothing is lost, and nothing is left behind."""

import pytest
from fault import HIT
from fault_kinds import FAULTS
from matrix import PHASES, cell

NAMES = [name for phase in PHASES for name in phase.stores]
CELLS = [(name, state) for name in NAMES for state in FAULTS[name].states]


@pytest.mark.parametrize(("name", "state"), CELLS)
def test_a_deployment_goes_on_after_the_fault(columns, name, state):
    fault = columns[name]
    assert cell(fault, state) == "ok", fault.failed.get(state, fault.injected)


@pytest.mark.parametrize("name", [name for name in NAMES if FAULTS[name].hits])
def test_the_fault_hits_the_job(columns, name):
    """Or the rows above would only show that a minion may be started again between two jobs."""
    assert columns[name].injected[FAULTS[name].hits].endswith(HIT)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_and_nothing_is_left(columns, name):
    assert not columns[name].left


def test_the_harness_had_no_fault_of_its_own(columns):
    assert not columns.injector.broken
