# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The steps to a store's new server: its image is brought, it is made ready, it is defined.

Between the last two the old one is set aside (:mod:`storelib.hypervisor.old_server`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storelib import commands
from storelib.errors import Fault, NotNow
from storelib.hypervisor import (
    disks,
    domains,
    guards,
    images,
    preparation,
    seed_iso,
    set_aside,
    transfer,
    virt_init,
)
from storelib.hypervisor.host import Facts, Host, Order, Spec
from storelib.hypervisor.place import Place, folder, write

STAGING_S = 45 * 60
"""How long a deployment waits for its image, unless the spec says otherwise."""


def stage(host: Host, spec: Spec, order: Order) -> Facts:
    """Bring the image into the hypervisor's cache, see ``store_hypervisor.stage``."""
    with guards.at_work(host, spec, order, "stage") as (_, place):
        # The transfer takes its time, and has a lock of its own.
        pass
    # What went wrong is to be told before the master loses its patience.
    limit_s = 0.9 * spec.get("timeouts", {}).get("staging", STAGING_S)
    images.stage(
        *(spec["image"]["source"], place.image, place.sha256),
        *(host.get_file, host.access, limit_s),
    )
    # An image that was in the cache before may have been looked at less closely then.
    disks.whole(place.image, transfer.shown(spec["image"]["source"]))
    disks.fit(place.image, spec["disk_gib"], spec["clone"])
    ready = preparation.facts(preparation.of(place))
    disks.room(place.image, place.pool, spec["clone"], ready["size"])
    return {"image": {**disks.facts(place.image), "sha256": images.recorded(place.image)}}


def prepare(
    host: Host,
    spec: Spec,
    generation: int,
    order: Order,
    master_public_key: str,
    expected: list[str] | None,
) -> Facts:
    """Make the new server ready beside the old one, see ``store_hypervisor.prepare``."""
    keys = _registration(host, expected)
    with guards.at_work(host, spec, order, "prepare") as (connection, place):
        # What clear would refuse is told here.
        known = guards.clearable(connection, spec, place)
        preparation.data_disks_usable(spec, place)
        prepared = preparation.of(place)
        intent = guards.intent(spec, generation, order)
        note = preparation.note_of(intent, spec, master_public_key, keys)
        public, took_s = preparation.public_key(prepared, note), dict[str, float]()
        made = preparation.there(prepared, prepared)
        if not (public and made and preparation.data_disks_there(prepared, place, spec)):
            preparation.swept(prepared)
            public, took_s = _prepared(host, connection, spec, place, note, master_public_key, keys)
        trial = domains.lookup(connection, prepared.trial)
        return {
            "domain": known,
            "disk": disks.facts(prepared.disk),
            "data_disks": preparation.data_disks(prepared, place, spec),
            "seed": seed_iso.facts(prepared),
            "public_key": public,
            "trial": trial and trial.name(),
            "registration": sorted(keys),
            "took_s": took_s,
        }


def _prepared(
    host: Host,
    connection: Any,
    spec: Spec,
    place: Place,
    note: preparation.Note,
    master_public_key: str,
    keys: Mapping[str, str],
) -> tuple[str, dict[str, float]]:
    """Return the public key, and how long it took to look at what was given and to try it."""
    prepared, began = preparation.of(place), time.monotonic()
    virt_type = _virt_type(host, connection, spec)
    _staged(spec, place)
    preparation.check(connection, spec, virt_type)
    checked = time.monotonic()

    def define(name: str) -> Any:
        arguments = virt_init.arguments({**spec, "minion_id": name}, prepared, virt_type)
        return _init(host, connection, arguments)

    try:
        public = preparation.make(
            prepared, place, spec, note, host.key_bits, master_public_key, keys
        )
        made = time.monotonic()
        preparation.tried(connection, spec, prepared, note, public, define)
        tried = time.monotonic()
        preparation.made(prepared, note, public)
    except Exception:
        # Files first: libvirt may be what is gone.
        preparation.swept(prepared)
        preparation.untried(connection, spec, prepared)
        raise
    return public, {"check": round(checked - began, 2), "trial": round(tried - made, 2)}


def _registration(host: Host, expected: list[str] | None) -> Mapping[str, str]:
    """Return the keys for Uyuni that go into the seed; all that are expected."""
    keys = host.registration() if expected is not None else {}
    if missing := set(expected or ()) - set(keys):
        raise NotNow(f"its pillar has no {', '.join(sorted(missing))} yet")
    return keys


def define(
    host: Host,
    spec: Spec,
    generation: int,
    order: Order,
    master_public_key: str,
    expected: list[str] | None,
) -> Facts:
    """Put the prepared server into its place and define it, see ``store_hypervisor.define``."""
    keys = _registration(host, expected)
    with guards.at_work(host, spec, order, "define") as (connection, place):
        known = guards.ours(connection, spec, place)
        intent = guards.intent(spec, generation, order)
        prepared = preparation.of(place)
        anew = f"to set aside what is there: {commands.anew(spec['store'])}"
        if begun := set_aside.restoring(place):
            raise Fault(f"the restore that began {begun.name} is not over", anew)
        if known["exists"]:
            if known["deployment"] != order["deployment"] or known["state"] != "shut off":
                raise Fault(
                    f"the domain {spec['minion_id']} of deployment {known['generation']} is there "
                    f"({known['state']})",
                    anew,
                )
            files = [*map(Path, known["disks"]), place.seed]
            if known["public_key"] and all(file.exists() for file in files):
                place.intent.unlink(missing_ok=True)
                preparation.swept(prepared)
                return _defined(connection, spec, place)
            if known["public_key"] and place.disk.exists():
                # It may have run: a disk with a server on it is never overwritten.
                raise Fault(f"the domain {spec['minion_id']} lacks a file", anew)
        elif place.disk.exists() and domains.intended(place) != intent:
            raise Fault(f"there is a disk {place.disk} already", anew)
        virt_type = _virt_type(host, connection, spec)
        _staged(spec, place)

        folder(place.intent.parent)
        write(place.intent, json.dumps(intent))
        if known["exists"]:
            domains.undefine(domains.lookup(connection, spec["minion_id"]))
        note = preparation.note_of(intent, spec, master_public_key, keys)
        public = preparation.public_key(prepared, note)
        if not public or not preparation.there(prepared, place):
            # What is in the place is this deployment's, as the intent says, and has never run.
            place.disk.unlink(missing_ok=True)
            seed_iso.remove_seed(place)
            public = preparation.make(
                prepared, place, spec, note, host.key_bits, master_public_key, keys
            )
            preparation.made(prepared, note, public)
        preparation.moved(prepared, place, spec)
        # Of a deployment that began before an update, none may be prepared.
        for data in spec["data_disks"]:
            disks.keep(place.data_disk(data["name"]), data["size_gib"])
        folder(place.console.parent)
        domain = _init(host, connection, virt_init.arguments(spec, place, virt_type))
        domains.complete(connection, domain, intent, public, place.console)
        place.intent.unlink()
        preparation.swept(prepared)
        return _defined(connection, spec, place)


def _virt_type(host: Host, connection: Any, spec: Spec) -> str:
    if not host.has_virt():
        raise Fault(
            "Salt's module virt is not loaded on the hypervisor",
            "on Salt 3008 install saltext-virt and libvirt-python, then restart the minion",
        )
    usable = domains.virt_types(connection, spec["os_type"])
    virt_type = domains.resolved(spec["virt_type"], usable)
    if virt_type not in usable:
        raise Fault(
            f"the hypervisor cannot run {spec['virt_type']} guests of OS type {spec['os_type']}; "
            f"it can run: {', '.join(usable) or 'none'}",
            "correct virt_type or os_type in the pillar",
        )
    return virt_type


def _staged(spec: Spec, place: Place) -> None:
    """Raise a fault if the image is not in the cache, whole."""
    if not place.image.exists() or not images.checked(place.image, place.sha256):
        raise Fault(
            f"the image {place.sha256} is not in the cache",
            f"to bring it: {commands.anew(spec['store'])}",
        )
    disks.whole(place.image, transfer.shown(spec["image"]["source"]))


def _init(host: Host, connection: Any, arguments: dict[str, Any]) -> Any:
    """Define a domain with Salt's virt.init and return it."""
    try:
        host.virt_init(**arguments)
    except Fault as err:
        # Salt says no more than the text of what libvirt said: raises if libvirt is gone.
        domains.lookup(connection, arguments["name"])
        raise domains.refused(str(err)) from None
    domain = domains.lookup(connection, arguments["name"])
    if domain is None:
        raise Fault(f"virt.init did not define the domain {arguments['name']}")
    return domain


def _defined(connection: Any, spec: Spec, place: Place) -> Facts:
    known = domains.facts(connection, spec, place)
    return {
        "domain": known,
        "disk": disks.facts(place.disk),
        "data_disks": [disks.facts(place.data_disk(each["name"])) for each in spec["data_disks"]],
        "seed": {**seed_iso.facts(place), "mode": f"{place.seed.stat().st_mode & 0o777:04o}"},
        "public_key": known["public_key"],
    }
