# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be refused or go wrong. Each text is for the operator: what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def one_line(text: str) -> str:
    """Return one line for log and terminal, whatever strangers' texts it is made of."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


class StoreDeployError(Exception):
    """Base of all; ``hint`` says what the operator can do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = one_line(reason)
        super().__init__(self.reason)
        self.hint = hint


class Refused(StoreDeployError):
    """The request is wrong or comes at the wrong time; nothing was touched."""


class SpecError(Refused):
    """The store's pillar does not describe a server that can be deployed."""


class PillarError(SpecError):
    """The pillar does not compile, as happens while somebody is at work on it."""


class LedgerError(StoreDeployError):
    """The ledger cannot be read or written."""


class Conflict(LedgerError):
    """Somebody else changed the record first; read it again."""


class Fault(StoreDeployError):
    """
    Something is not as it must be, and the deployment becomes ``failed`` with this reason.

    On a minion it is what its report tells; ``facts`` are what was read back before it went wrong,
    if that helps.
    """

    def __init__(self, reason: str, hint: str = "", facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason, hint)
        self.facts = facts or {}


class NotNow(Fault):
    """A step cannot be taken yet, and nothing is wrong: the reason says what is waited for."""
