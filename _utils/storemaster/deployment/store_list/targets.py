# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a store list can be written to, and compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from storemaster.deployment.store_list import columns
from storemaster.deployment.store_list.rows import Row, StoreList

Tell = Callable[[str], None]
"""Is given each line of progress."""

PAUSE_S = 3.0
"""How often progress is told."""


class Target(Protocol):
    """Where the stores are described: a folder of the pillar, or Uyuni."""

    writes_groups: bool
    """Whether a group is something of its own there."""

    def know(self, stores: StoreList, tell: Tell) -> None:
        """Look up what has to be known of it for this list, before all that is below."""

    def faults(self, row: Row) -> Iterator[tuple[str, str]]:
        """Find what this target cannot take of a store or group, each with its path."""

    def whole(self, row: Row) -> Mapping[str, Any]:
        """Return ``store_server`` as it will be: with what the store shares with others."""

    def wanted(self, row: Row) -> dict[str, Any]:
        """Return the flat values that are to be there for a store or group."""

    def had(self, row: Row) -> dict[str, Any] | None:
        """Return the flat values that are there, ``None`` for one that is not."""

    def others(self, listed: Iterable[str]) -> Mapping[str, Row]:
        """Return the stores that are there, but for the listed ones, by their hypervisors."""

    def waits(self, row: Row) -> str:
        """Say why a store cannot be written yet; an empty text if it can."""

    def refuses(self, row: Row, new: bool) -> str:
        """Say why what is there may not be replaced; an empty text if it may."""

    def write(self, rows: Sequence[Row], tell: Tell) -> int:
        """Write stores and groups and return the bytes that this took."""


@dataclass
class Progress:
    """Tells how far a long work is, now and then."""

    tell: Tell
    what: str
    total: int
    done: int = 0
    told_at: float = field(default_factory=time.monotonic)

    def step(self) -> None:
        """Count one more."""
        self.done += 1
        if time.monotonic() - self.told_at >= PAUSE_S:
            self.told_at = time.monotonic()
            self.tell(f"{self.what}: {self.done:,} of {self.total:,}")


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> columns.Own:
    """Return two mappings as one, of each key what ``above`` has; mappings are merged."""
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            both[key] = merged(below[key], above[key])
    return both
