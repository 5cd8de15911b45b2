# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Spans of time, as people say them."""

from __future__ import annotations

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR

UNITS = ((2 * DAY, DAY, "d"), (HOUR, HOUR, "h"), (2 * MINUTE, MINUTE, "min"), (0, 1, "s"))
"""From how many seconds on a unit is used, its seconds, its name."""


def lasting(seconds: float) -> str:
    """Return a span of time in its unit and, if that is not all, the next one: ``1 h 30 min``."""
    left = max(0, round(seconds))
    place = next(i for i, (since, _, _) in enumerate(UNITS) if left >= since)
    said: list[str] = []
    for _, size, name in UNITS[place : place + 2]:
        count, left = divmod(left, size)
        if count or not said:
            said.append(f"{count} {name}")
    return " ".join(said)
