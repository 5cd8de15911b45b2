# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What has changed of all stores, for who asks again and again, such as the page."""

from __future__ import annotations

import time
from typing import Any

from storemaster.deployment import views
from storemaster.deployment.ledger import Ledger
from storemaster.master import roles

AT_ONCE = 1500
"""Stores of one answer: a runner's return is an event, of which Salt cuts what is over 1 MiB."""

REASON = 200
"""Characters of a reason there."""


def changed(
    opts: dict, ledger: Ledger, since: float, state: str | None, group: str | None
) -> dict[str, Any]:
    """Return what has changed since a revision, and the next one; see ``deploy.list``."""
    if roles.limited(opts):
        # Which of their stores have left them is seen only in all of them.
        lines, revision, anew, more = ledger.lines(), ledger.revision(), True, False
    else:
        # A ledger from a backup begins anew.
        anew = since == 0 or since > ledger.revision()
        lines, revision = ledger.changed(0 if anew else int(since), AT_ONCE)
        more = len(lines) == AT_ONCE
    now = time.time()
    rows = [
        views.row(line, now)
        for line in roles.seen(opts, lines)
        if state in (None, line.state) and group in (None, line.group)
    ]
    for row in rows:
        row["reason"] = row["reason"][:REASON]
    return {"revision": revision, "anew": anew, "more": more, "stores": rows}
