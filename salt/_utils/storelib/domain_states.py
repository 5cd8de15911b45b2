# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The states of a libvirt domain, in words, and what they mean to a store."""

from __future__ import annotations

STATES = (
    *("no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed"),
    "suspended",
)
"""libvirt's domain states by their number."""

RUNNING = frozenset({"running", "blocked"})
"""It does its work. Blocked is what Xen calls a running domain that has nothing to do."""

ON = RUNNING | {"paused", "shutting down", "suspended"}
"""It has its memory and its disks, and may go on at any time."""
