# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a store list would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storemaster.deployment.formats import shown
from storemaster.deployment.store_list import columns
from storemaster.deployment.store_list.rows import Fault, Row, StoreList
from storemaster.deployment.store_list.targets import Progress, Target, Tell

SECRET, NONE = "(not shown)", "(not given)"


@dataclass(frozen=True)
class Change:
    """A store or group that is to be written."""

    row: Row
    new: bool
    differs: Mapping[str, tuple[str, str]]
    """By their columns what values are now and will be, as they may be seen."""

    @property
    def name(self) -> str:
        """Return its hypervisor, or say which group it is."""
        return name_of(self.row)

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        store, line = self.row.own.get("store", ""), self.row.place.line
        data = {"name": self.name, "store": store, "line": line}
        if self.new:
            return data
        differs = self.differs.items()
        return {
            **data,
            "changes": {key: {"is": was, "becomes": new} for key, (was, new) in differs},
        }


@dataclass
class Comparison:
    """What is to be done, and what is not."""

    changes: list[Change] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    vanished: dict[str, Any] = field(default_factory=dict)
    """Hypervisors of stores that the list does not have, with their store IDs."""
    waiting: dict[str, str] = field(default_factory=dict)
    """What cannot be written yet, and why."""


def name_of(row: Row) -> str:
    """Return a store's hypervisor, or say which group it is."""
    return f"group {row.group}" if row.is_group else str(row.hypervisor)


def compare(stores: StoreList, target: Target, tell: Tell) -> tuple[Comparison, list[Fault]]:
    """Compare a list without faults with what is there; what may not be replaced is a fault."""
    found, faults = Comparison(), []
    rows = [*(stores.groups.values() if target.writes_groups else ()), *stores.rows]
    progress = Progress(tell, "compared", len(rows))
    for row in rows:
        progress.step()
        wanted, had = target.wanted(row), target.had(row)
        if had == wanted:
            found.unchanged.append(name_of(row))
        elif why := target.waits(row):
            found.waiting[name_of(row)] = why
        elif why := target.refuses(row, had is None):
            faults.append(row.fault("", why))
        else:
            found.changes.append(Change(row, had is None, _differing(had or {}, wanted)))
    others = target.others([row.hypervisor for row in stores.rows])
    found.vanished = {name: others[name].own.get("store", "") for name in sorted(others)}
    return found, faults


def _differing(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    names = sorted({*had, *wanted}, key=lambda name: (columns.order(name), name))
    return {
        name: (_seen(name, had), _seen(name, wanted))
        for name in names
        if had.get(name, NONE) != wanted.get(name, NONE)
    }


def _seen(column: str, values: Mapping[str, Any]) -> str:
    if column not in values:
        return NONE
    known = column in columns.BESIDE or not columns.is_secret(column)
    return shown(values[column]) if known else SECRET
