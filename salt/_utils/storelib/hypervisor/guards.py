# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What holds before a step touches a server: nobody else is at work on it, it is the store's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from storelib import commands
from storelib.errors import Fault
from storelib.hypervisor import domains, fence, in_use, preparation
from storelib.hypervisor.host import Facts, Host, Order, Spec
from storelib.hypervisor.place import Place


@contextlib.contextmanager
def at_work(
    host: Host, spec: Spec, order: Order | None = None, step: str = ""
) -> Iterator[tuple[Any, Place]]:
    """
    Give libvirt and the store's files, while no other job works on them.

    order, step
        What is carried out: noted first, and refused if it comes too late.
    """
    store, machine = spec["store"], fence.machine_id()
    with domains.connected(host.uri) as connection:
        place = _place(connection, spec)
        # The pool's own lock, too: several hypervisors may share a pool.
        with fence.at(store, machine), place.lock():
            if order is not None:
                known = domains.facts(connection, spec, place)
                fence.passed(store, machine, order, step, known)
            # Whatever is to be done now, a trial that was killed is over.
            preparation.untried(connection, spec, preparation.of(place))
            yield connection, place


def _place(connection: Any, spec: Spec) -> Place:
    pool = domains.pool_path(connection, spec["pool"])
    if not pool.is_dir():
        raise Fault(
            f"the pool {pool} does not exist",
            commands.make_folder(pool),
        )
    return Place(pool, spec["minion_id"], spec["image"]["sha256"])


def ours(connection: Any, spec: Spec, place: Place) -> Facts:
    """Return the facts of the store's domain; a domain of its name that is not ours is refused."""
    known = domains.facts(connection, spec, place)
    if not known["exists"]:
        in_use.refuse_renamed(connection, place, spec["store"])
    elif not known["ours"]:
        raise Fault(
            f"the domain {spec['minion_id']} on this hypervisor does not belong to "
            f"store {spec['store']}",
            f"{commands.rename(spec['minion_id'])}; or choose another minion_id in the pillar",
        )
    return known


def in_pool(connection: Any, spec: Spec, place: Place) -> Facts:
    """Return the facts of the store's domain, whose disks must be where the pillar says."""
    known = ours(connection, spec, place)
    if known["exists"]:
        in_use.refuse_moved(connection, place, [each["name"] for each in spec["data_disks"]])
    return known


def clearable(connection: Any, spec: Spec, place: Place) -> Facts:
    """Return the facts of the store's domain, whose files nobody else may use."""
    known = in_pool(connection, spec, place)
    domain = domains.lookup(connection, spec["minion_id"])
    going = [place.disk, domains.nvram(domain, place), place.seed]
    # The new server is given these: two guests that write to one disk destroy it.
    shared = [place.data_disk(each["name"]) for each in spec["data_disks"]]
    in_use.refuse(connection, place, [*going, *shared], domain, loose=False)
    return known


def defined_by(
    connection: Any, spec: Spec, place: Place, generation: int, deployment: str | None
) -> Any:
    """Return the store's domain, which must be the one that this deployment defined."""
    known = ours(connection, spec, place)
    # A server that was put back is known by its number only.
    right = known.get("deployment") == deployment if deployment else True
    if not (known["exists"] and right and known["generation"] == generation):
        raise Fault(
            f"the domain {spec['minion_id']} of deployment {generation} is not defined",
            f"{commands.deploy('store', spec['store'])} makes it anew",
        )
    return domains.kept(connection, domains.lookup(connection, spec["minion_id"]))


def intent(spec: Spec, generation: int, order: Order) -> Facts:
    """Return whose the domain is that is being made."""
    return {
        "store": spec["store"],
        "generation": generation,
        "deployment": order["deployment"],
    }
