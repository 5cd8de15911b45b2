# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Which deployments run side by side, what came of each state and fault, and the table of it."""

from fault import STATES
from fault_kinds import FAULTS
from phase import Phase

PHASES = (
    Phase("libvirtd"),
    Phase(
        "dropped",
        sweep_s=1,
        without=["50-store-deploy-engine.conf", "50-store-deploy-reactor.conf"],
    ),
    Phase("engine", "hypervisor", "guest", "network", "frozen"),
    Phase("doubled", "delayed", "shuffled", "lost"),
    Phase("before", "between", "after"),
    Phase("late"),
    # Who puts a ledger back, puts it back for all.
    Phase("restored"),
    # Each has the clock for itself.
    Phase("ahead", clock=True),
    Phase("behind", clock=True),
)
PHASE_S = 900
"""How long the deployments of a phase may take."""

BEGUN = []
"""The phases that were begun; none is begun again."""

COLUMNS = {}
"""The faults that were suffered so far, by name."""


class Columns:
    """The faults by name; a phase runs when one of its faults is asked for."""

    def __init__(self, site, injector):
        self.site = site
        self.injector = injector

    def __getitem__(self, name):
        (phase,) = (phase for phase in PHASES if name in phase.stores)
        assert phase not in BEGUN or name in COLUMNS, "this phase broke; see its first failure"
        if phase not in BEGUN:
            BEGUN.append(phase)
            COLUMNS.update(phase.run(self.site, self.injector, PHASE_S))
        return COLUMNS[name]


def cell(fault, state):
    """Return in a word what came of a fault in a state."""
    if state not in fault.states:
        return "-"
    if state in fault.failed:
        return "FAILED"
    if state not in fault.injected:
        return "missed"
    return "ok" if state in fault.passed else "STUCK"


def places(columns):
    """Return as text at which place each fault was injected."""
    lines = [
        f"{name} in {state}: {fault.injected[state]}"
        for name, fault in columns.items()
        for state in STATES
        if state in fault.injected
    ]
    return "\n".join([*lines, ""])


def table(columns):
    """Return the matrix as text: states as rows, faults as columns."""
    names = [name for name in FAULTS if name in columns]
    rows = [["", *names]]
    rows += [[state, *(cell(columns[name], state) for name in names)] for state in STATES]
    rows += [["in the end", *("bad" if columns[name].left else "ok" for name in names)]]
    rows += [["seconds", *(f"{columns[name].seconds_taken:.0f}" for name in names)]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += ["", *(f"{name}: {FAULTS[name].about}" for name in names), ""]
    lines += [f"{name}: {why}" for name in names for why in columns[name].left]
    lines += [
        f"{name}: failed in {state}: {why}"
        for name in names
        for state, why in columns[name].failed.items()
    ]
    return "\n".join([*lines, ""])
