# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""All that is wrong with a store list: each store by the field table, then all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storemaster.deployment import formats, spec
from storemaster.deployment.store_list import columns, spreadsheets, together, yaml_file
from storemaster.deployment.store_list.columns import GROUP, HYPERVISOR, HYPERVISOR_MAC
from storemaster.deployment.store_list.rows import Fault, Row, StoreList
from storemaster.deployment.store_list.targets import Progress, Target, Tell
from storemaster.deployment.store_list.together import Member

DUMMY = {"store": "0"}
"""What a group is read with: it has no store ID of its own."""


def check(stores: StoreList, target: Target, shared_networks: bool, tell: Tell) -> list[Fault]:
    """
    Return all faults of a list, with those that were found when it was read.

    shared_networks
        Whether stores may be in one network.
    """
    faults = list(stores.faults)
    for name, row in stores.groups.items():
        faults += _of_a_group(name, row, target)
    shared: dict[str, list[Row]] = {}
    members = []
    length = spreadsheets.digits(map(_store, stores.rows)) if stores.bare else 0
    progress = Progress(tell, "checked", len(stores.rows))
    for row in stores.rows:
        faults += _beside(row)
        hurt = spreadsheets.damage(_store(row)) or spreadsheets.lost_zeros(_store(row), length)
        if hurt:
            faults.append(row.fault("store", hurt))
        faults += [row.fault(path, told) for path, told in target.faults(row)]
        values, told_of = spec.read(target.whole(row))
        given = columns.flat(row.own)
        of_its_group = columns.flat(stores.groups[row.group].own) if _grouped(row, stores) else {}
        for path, told in told_of:
            if hurt and (path == "store" or not _is_in(path, given)):
                # A consequence.
                continue
            if _is_in(path, given) or path == "store":
                faults.append(row.fault(path, told))
            elif not _is_in(path, of_its_group):
                shared.setdefault(told, []).append(row)
        members.append(Member(row, values, given))
        progress.step()
    faults += _of_many(shared)
    listed = [row.hypervisor for row in stores.rows if isinstance(row.hypervisor, str)]
    others = [
        Member(row, spec.read(target.whole(row))[0], columns.flat(row.own), listed=False)
        for row in target.others(listed).values()
    ]
    return faults + list(together.faults([*members, *others], shared_networks))


def _store(row: Row) -> Any:
    return row.own.get("store")


def _grouped(row: Row, stores: StoreList) -> bool:
    return isinstance(row.group, str) and row.group in stores.groups


def _is_in(path: str, given: Mapping[str, Any]) -> bool:
    """Say whether a fault's value, or part of it, is among the given ones."""
    return any(
        path == column
        or path.startswith((f"{column}.", f"{column}["))
        or column.startswith(f"{path}.")
        for column in given
    )


def _beside(row: Row) -> Iterator[Fault]:
    """Find what is wrong with the columns that are no fields."""
    name, group, mac = row.hypervisor, row.group, row.mac
    if name is None or name == "":
        told = f"{HYPERVISOR} is missing, allowed: the minion ID of the store's hypervisor"
        yield row.fault(HYPERVISOR, told)
    elif not (isinstance(name, str) and formats.MINION_ID.fullmatch(name)):
        told = "up to 128 letters, digits, . _ -, in quotes where that is YAML's"
        yield row.fault(HYPERVISOR, f"{HYPERVISOR} is {formats.shown(name)}, allowed: {told}")
    if not isinstance(group, str):
        yield row.fault(GROUP, f"{GROUP} is {formats.shown(group)}, allowed: a name, in quotes")
    right = isinstance(mac, str) and (not mac or formats.MAC.fullmatch(mac))
    wrong = formats.wrong_mac(mac) if right and mac else ""
    if not right or wrong:
        because = f", {wrong}" if wrong else ""
        told = f"{HYPERVISOR_MAC} is {formats.shown(mac)}{because}, allowed: six lower-case pairs"
        yield row.fault(HYPERVISOR_MAC, told)
    if odd := yaml_file.plain(row.own.get(columns.GUEST_PILLAR)):
        yield row.fault(columns.GUEST_PILLAR, f"guest_pillar cannot be written as it is: {odd}")


def _of_a_group(name: str, row: Row, target: Target) -> Iterator[Fault]:
    """Find what is wrong with a group, whatever its stores have."""
    given = columns.flat(row.own)
    for path in ("store", "minion_id", "hostname"):
        if path in given:
            yield row.fault(path, f"{path} is a store's own, not one of group {name}")
    for path, told in target.faults(row):
        yield row.fault(path, told)
    for path, told in spec.read({**target.whole(row), **DUMMY})[1]:
        if path and _is_in(path, given):
            yield row.fault(path, told)


def _of_many(shared: Mapping[str, list[Row]]) -> Iterator[Fault]:
    """Tell what is wrong with what a store has not said itself, once for all of them."""
    for told, rows in shared.items():
        path = told.partition(" is ")[0]
        if len(rows) == 1:
            yield rows[0].fault(path, told)
        else:
            more = f"{told} (so in {len(rows):,} stores: it is what they share, or lack)"
            yield Fault(more, rows[0].find(path) or rows[0].place)
