# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Taking back what our states made of this machine, as far as it was noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor import chains, domains
from storelib.hypervisor.setup import boot, bridge, made, pool
from storelib.hypervisor.setup.network import change
from storelib.hypervisor.setup.outcome import Outcome

DEFINITIONS = (Path("/etc/libvirt/qemu"), Path("/etc/libvirt/libxl"))


def cleaned(
    uri: str | None,
    store: Mapping[str, Any],
    masters: Iterable[tuple[str, int]],
    end_service: Callable[[str], object],
    dry: bool,
) -> Outcome:
    """
    Take back what was made; refuse while anything of a server is there.

    store
        The hypervisor's pillar ``store_server``, which may name a pool of its own.
    end_service
        Stops a service for good.
    """
    known = made.noted()
    found = list(_servers(uri, known, store))
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise Fault(
            f"nothing is taken back, for {found[0]} is there{more}",
            "retire the stores first: salt-run deploy.retire STORE remove=True data_disks=True",
        )
    if dry or not known:
        changes = {what: {"old": "made", "new": None} for what in known}
        return Outcome("what was made is taken back" if known else "nothing was made", changes)
    done = []
    # First what can be refused.
    if "bridge" in known:
        done.append(bridge.taken_back(known["bridge"], masters))
        made.forget("bridge")
    if {"pool", "network"} & set(known):
        with domains.connected(uri) as connection:
            for what, back in (("network", pool.network_back), ("pool", pool.forget_pool)):
                if what in known:
                    done.append(back(connection, known[what]))
                    made.forget(what)
    if "boot" in known:
        done.append(boot.taken_back(known["boot"]))
        made.forget("boot")
    for service in known.get("services", []):
        end_service(service)
        done.append(f"service {service}")
    made.forget("services")
    stay = known.get("packages", [])
    made.forget("packages")
    change.undo_now()
    told = f"taken back: {', '.join(done)}" if done else "nothing is left of it"
    if stay:
        told += f"; these packages stay, others may need them by now: {', '.join(stay)}"
    return Outcome(told, {what: {"old": "made", "new": None} for what in known})


def _servers(uri: str | None, known: Mapping[str, Any], store: Mapping[str, Any]) -> Iterator[str]:
    """Yield what there is of servers, of whomever: domains, disks, what was set aside."""
    paths = {known["pool"]["path"]} if "pool" in known else set()
    if str(store.get("pool", "")).startswith("/"):
        paths.add(str(store["pool"]))
    try:
        with domains.connected(uri, 0) as connection:
            yield from (f"the domain {each.name()}" for each in connection.listAllDomains())
            for each in connection.listAllStoragePools():
                try:
                    paths.add(str(domains.pool_path(connection, each.name())))
                except Fault:
                    # Of another type: nothing of ours can be in it.
                    continue
    except Fault:
        for folder in DEFINITIONS:
            yield from (f"the domain {each.stem}" for each in sorted(folder.glob("*.xml")))
    for path in sorted(map(Path, paths)):
        for file in sorted(path.iterdir()) if path.is_dir() else ():
            if file.is_file() and chains.is_qcow2(file):
                yield f"the disk {file}"
        yield from (
            f"the set-aside server {each}"
            for each in sorted((path / ".store-deploy" / "set-aside").glob("*/*"))
        )
