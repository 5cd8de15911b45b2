# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Which minion ID a store's server may have."""

from __future__ import annotations

from collections.abc import Iterator

from storelib.errors import Refused
from storemaster.deployment import lifecycle
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record


def check(ledger: Ledger, store: str, minion_id: str) -> None:
    """Raise ``Refused`` if the store cannot have this minion ID."""
    for refused in refusals(ledger, store, minion_id):
        raise refused


def refusals(ledger: Ledger, store: str, minion_id: str) -> Iterator[Refused]:
    """
    Find why the store cannot have this minion ID.

    It may be that of another store's server or hypervisor; or the store has a server under another
    one, which nothing would find any more.
    """
    old = ledger.get(store)
    if old and old.minion_id != minion_id and _has_server(ledger, old):
        yield Refused(
            f"the server of store {store} has the minion ID {old.minion_id}, the pillar now says "
            f"{minion_id}",
            f"set minion_id back in the pillar, or remove that server first: salt-run "
            f"deploy.retire {store} remove=True",
        )
    for other in ledger.of_minion(minion_id):
        if other.store != store:
            yield Refused(
                f"minion ID {minion_id} belongs to store {other.store} or its hypervisor",
                "give each store server a minion ID of its own",
            )


def _has_server(ledger: Ledger, record: Record) -> bool:
    """Say whether there may be a server of the store, or one that was set aside."""
    retired = max(ledger.generations(record.store, lifecycle.RETIRED.name), default=0)
    cancelled = ledger.generations(record.store, lifecycle.CANCELLED.name)
    made = ledger.generations(record.store, "defining")
    return any(number > retired and (record.asides or number not in cancelled) for number in made)
