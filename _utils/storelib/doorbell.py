# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A doorbell on the master, as the ledger keeps it until it is answered."""

from __future__ import annotations

from dataclasses import dataclass

PUT_OFF_S = (2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""How long a bell that cannot be decided on rests, at its first put-off, its second, and so on."""


@dataclass(frozen=True)
class Bell:
    """A doorbell that was rung: of a store or a minion."""

    name: str
    at: float
    """When it was rung, or when it is to be looked at again."""
    eager: bool
    ready: bool
    tries: int = 0
    """How often it was put off."""

    def rests(self, now: float) -> bool:
        """Say whether it is put off until later; further ahead than that, the clock was set."""
        return self.tries > 0 and now < self.at <= now + PUT_OFF_S[-1]
