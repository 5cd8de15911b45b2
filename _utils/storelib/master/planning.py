# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Says what a deployment would do, from the hypervisor's facts; touches nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from storelib import flow, judge, views
from storelib.errors import Refused, one_line
from storelib.master import asking, office, settings
from storelib.master.salt_world import SaltWorld


def plan(
    opts: dict, store: str, hypervisor: str | None, redeploy: bool = False, full: bool = False
) -> dict[str, Any]:
    """Return what would be made, and what is in the way: ``error`` is what matters first."""
    settings.check(opts, "max_active")
    with office.ledger(opts) as books, office.world(opts) as master:
        spec, name = office.wanted(opts, books, store, hypervisor)
        record = books.get(store)
        generation = record.generation + 1 if record else 1
        plain = spec.as_dict()
        faults = []
        hint = f"mend it, then see again: salt-run deploy.plan {store}"
        try:
            flow.check_begin(books, time.time(), spec, redeploy)
        except Refused as err:
            faults, hint = [err.reason], err.hint
        would = list(views.would(plain, {}))
        try:
            facts = _facts(master, name, plain, generation)
            with asking.reading(name, "facts"):
                faults += map(one_line, judge.hypervisor(plain, facts))
                faults += _unserved(master, plain, facts)
                would = list(views.would(plain, facts))
        except Refused as err:
            hint = hint if faults else err.hint
            faults.append(err.reason)
        return {
            "store": store,
            "generation": generation,
            **views.expected_outage(record, books.all()),
            "hypervisor": name,
            "now": record.state if record else "never deployed",
            **({"error": faults[0], "hint": hint} if faults else {}),
            "faults": faults,
            "would": would,
            **({"spec": plain, "steps": list(views.steps(plain))} if full else {}),
        }


def _facts(master: SaltWorld, name: str, spec: dict[str, Any], generation: int) -> dict[str, Any]:
    arguments = {"spec": spec, "generation": generation, "source": True}
    answer = asking.synced(master, name, "store_hypervisor.facts", arguments)
    return asking.facts(master, answer, name, spec["store"], generation, "facts")


def _unserved(master: SaltWorld, spec: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    """Find an image that the hypervisor would not get from this master."""
    source, saltenv = spec["image"]["source"], facts.get("saltenv", "base")
    here = facts["image"].get("sha256") == spec["image"]["sha256"]
    if source.startswith("salt://") and not here and not master.serves(source, saltenv):
        yield (
            f"the master does not serve the image {source} to a minion whose environment is "
            f"{saltenv}: put it into file_roots or correct image.source"
        )
