# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What was read of a store list: rows, groups and faults, all with their places in the file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from storelib.errors import Refused, one_line
from storemaster.deployment.store_list.columns import GROUP, HYPERVISOR, HYPERVISOR_MAC, Own

LAST_PART = re.compile(r"(\[\d+\]|\.[^.\[]*|^[^.\[]*)$")


@dataclass(frozen=True)
class Place:
    """Where something is in the file."""

    line: int
    column: str = ""
    """As a spreadsheet names it, or the number of the character."""

    def __str__(self) -> str:
        return f"line {self.line}" + (f", column {self.column}" if self.column else "")


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one sentence."""

    told: str
    place: Place

    def __str__(self) -> str:
        return f"{self.place}: {one_line(self.told)}"

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        place = {"line": self.place.line, "column": self.place.column}
        return {**place, "fault": one_line(self.told)}


@dataclass(frozen=True)
class Row:
    """A store of the list, or a group."""

    place: Place
    own: Own
    """Keys of ``store_server``, lists of mappings by name."""
    beside: dict[str, Any]
    """Values of the columns that are no keys of it."""
    at: dict[str, Place] = field(default_factory=dict)
    """Where values are, by their paths."""
    is_group: bool = False

    @property
    def hypervisor(self) -> Any:
        """Return the minion ID of its hypervisor, as it was read."""
        return self.beside.get(HYPERVISOR)

    @property
    def group(self) -> Any:
        """Return the name of its group, as it was read; empty if none is named."""
        return self.beside.get(GROUP) or ""

    @property
    def mac(self) -> Any:
        """Return the hypervisor's hardware address, as it was read; empty if none is given."""
        return self.beside.get(HYPERVISOR_MAC) or ""

    def find(self, path: str) -> Place | None:
        """Return where a value is, or the nearest one that it is in; ``None`` for neither."""
        while path:
            if path in self.at:
                return self.at[path]
            path = LAST_PART.sub("", path)
        return None

    def fault(self, path: str, told: str) -> Fault:
        """Make a fault of a value, at its place."""
        return Fault(told, self.find(path) or self.place)


@dataclass
class StoreList:
    """What a file says."""

    rows: list[Row] = field(default_factory=list)
    groups: dict[str, Row] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    bare: bool = False
    """Whether nothing in the file says that 0417 is a text: it is CSV."""
    note: str = ""
    """What an operator may want to know of how it was read."""


class Faulty(Refused):
    """The list has faults; nothing was done."""

    def __init__(self, file: str, faults: list[Fault]) -> None:
        self.faults = sorted(faults, key=lambda each: (each.place.line, each.place.column))
        what = "1 fault" if len(faults) == 1 else f"{len(faults):,} faults"
        super().__init__(
            f"{file} has {what}; nothing was written", "mend the list, then the same command again"
        )
