# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The steps on a server that is defined: it is started, finished, listened to, adopted."""

from __future__ import annotations

import datetime
import logging
import os
import time
from pathlib import Path
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor import domains, fence, guards, seed_iso
from storelib.hypervisor.host import Facts, Host, Order, Spec
from storelib.hypervisor.place import Place

log = logging.getLogger(__name__)


def start(host: Host, spec: Spec, generation: int, order: Order, of: int | None) -> Facts:
    """Start the server and see that it keeps running, see ``store_hypervisor.start``."""
    name, plan = spec["minion_id"], spec["start"]
    found: Facts = {"attempts": 0, "errors": [], "started_at": None}
    with guards.at_work(host, spec, order, "start") as (connection, place):
        ours = order["deployment"] if of is None else None
        number = generation if of is None else of
        domain = guards.defined_by(connection, spec, place, number, ours)
        while found["attempts"] < plan["attempts"]:
            if found["errors"]:
                time.sleep(plan["backoff_s"][: found["attempts"]][-1])
            found["attempts"] += 1
            error = _attempt(host, connection, name, plan["steady_s"], found)
            known = domains.facts(connection, spec, place)
            found |= {"state": known.get("state"), "id": known.get("id")}
            if not error:
                # A power cut in the midst of the deployment then costs no more than a boot.
                domain.setAutostart(True)
                return found
            log.warning("%s: start %s: %s", spec["store"], found["attempts"], error)
            found["errors"].append(error)
    raise Fault(
        f"the domain {name} did not start in {found['attempts']} attempts: {error}",
        f"see /var/log/libvirt/qemu/{name}.log on the hypervisor and mend it",
        found,
    )


def _attempt(host: Host, connection: Any, name: str, steady_s: float, found: Facts) -> str:
    """Start the domain unless it runs, and return what went wrong."""
    if domains.running_as(connection, name) is None:
        try:
            if not domains.woken(connection, name):
                host.virt_start(name)
        except Exception as err:  # virt.start lets libvirt's own exceptions through
            return str(err)
        found["started_at"] = datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        )
    run = domains.running_as(connection, name)
    if run is None or domains.awaited(
        lambda: domains.running_as(connection, name) != run, steady_s
    ):
        stands = domains.stands(connection, name)
        return stands or f"it did not run for {steady_s} s without a break"
    return ""


def finish(host: Host, spec: Spec, generation: int, order: Order) -> Facts:
    """Take the seed away for good, see ``store_hypervisor.finish``."""
    with guards.at_work(host, spec, order, "finish") as (connection, place):
        domain = guards.defined_by(connection, spec, place, generation, order["deployment"])
        domains.detach(domain, place.seed)
        seed_iso.remove_seed(place)
        domain.setAutostart(True)
        known = domains.facts(connection, spec, place)
        found = {
            "domain": known,
            "seed": seed_iso.facts(place),
            "inserted": bool(domains.attached(domains.running(domain), place.seed)),
            "defined": bool(domains.attached(domains.description(domain), place.seed)),
            "autostart": known["autostart"],
        }
        if found["inserted"] or found["defined"] or not found["autostart"]:
            raise Fault(f"the seed of {spec['minion_id']} is still there", facts=found)
        return found


def console(spec: Spec, lines: int) -> Facts:
    """Return the last lines of the server's serial console."""
    path = Place(Path(spec["pool"]), spec["minion_id"], spec["image"]["sha256"]).console
    if not path.exists():
        return {"path": str(path), "lines": []}
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 256 * lines), os.SEEK_END)
        text = file.read().decode(errors="replace")
    return {"path": str(path), "lines": text.splitlines()[-lines:]}


def adopt(host: Host, spec: Spec) -> Facts:
    """Note the deployment of the server that is there, if nothing is noted of the store."""
    store, machine = spec["store"], fence.machine_id()
    with guards.at_work(host, spec) as (connection, place):
        known = guards.ours(connection, spec, place)
        if "deployment" not in (fence.shown(store, machine) or {}):
            fence.forget(store, machine)
            if known["exists"]:
                last = {"deployment": known["deployment"], "attempt": 1, "step": "finish"}
                fence.put(store, machine, last)
        return {"domain": known}
