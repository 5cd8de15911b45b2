# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The store's old server: set aside as a whole, and put back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor import (
    disks,
    domains,
    guards,
    in_use,
    preparation,
    removal,
    seed_iso,
    set_aside,
)
from storelib.hypervisor.host import Facts, Host, Order, Spec
from storelib.hypervisor.place import Place, folder, read_json, write


def clear(host: Host, spec: Spec, order: Order, public_key: str | None) -> Facts:
    """Set the old server aside, see ``store_hypervisor.clear``."""
    with guards.at_work(host, spec, order, "clear") as (connection, place):
        known = guards.clearable(connection, spec, place)
        set_aside.taken_back(place)
        left = place.disk.exists() or place.nvram.exists() or set_aside.begun(place)
        if known["exists"] or left:
            _set_aside(connection, spec, place, known, order["deployment"], public_key)
        removal.swept(spec, place)
        whole = [each for each in set_aside.listing(place) if each["complete"]]
        put = [each for each in whole if each["cleared_for"] == order["deployment"]]
        return {
            "domain": domains.facts(connection, spec, place),
            "disk": disks.facts(place.disk),
            "seed": seed_iso.facts(place),
            "set_aside": put[-1] if put else None,
            "set_asides": whole,
            **(set_aside.ended(Path(put[-1]["path"])) if put else {}),
        }


def _set_aside(
    connection: Any,
    spec: Spec,
    place: Place,
    known: Mapping[str, Any],
    deployment: str,
    public_key: str | None,
) -> None:
    domain = domains.lookup(connection, spec["minion_id"])
    of = known.get("generation") or (read_json(place.intent) or {}).get("generation") or 0
    partial = set_aside.opened(
        place, {"store": spec["store"], "generation": of, "cleared_for": deployment}
    )
    key = known.get("public_key")
    # The argument is of the server that ran last, not of one that a killed restore has left.
    if key := key or (public_key if not (partial / set_aside.PUBLIC_KEY).exists() else None):
        write(partial / set_aside.PUBLIC_KEY, key)
    if domain:
        domain = domains.kept(connection, domain)
        definition = domains.definition(domain)
        write(partial / set_aside.DOMAIN, definition)
        # Or a hypervisor that restarts meanwhile would start it again.
        domain.setAutostart(False)
        ran = domain.isActive()
        domains.switch_off(domain)
        if ran:
            set_aside.note_end(partial)
    set_aside.move(set_aside.nvram(partial, place), partial / set_aside.NVRAM)
    set_aside.move(place.disk, partial / set_aside.DISK)
    if domain:
        if (partial / set_aside.DOMAIN).read_text(encoding="utf-8") != definition:
            raise Fault(
                f"{partial / set_aside.DOMAIN} does not read back as written", "check the disk"
            )
        domains.undefine(domain)
    set_aside.closed(partial)


def restore(host: Host, spec: Spec, order: Order, of: int) -> Facts:
    """Put a server that was set aside back, see ``store_hypervisor.restore``."""
    with guards.at_work(host, spec, order, "restore") as (connection, place):
        known = guards.ours(connection, spec, place)
        note = read_json(place.restored)
        if not (note and known["exists"] and note["generation"] == known["generation"] == of):
            note = _put_back(connection, spec, place, known, of)
        preparation.swept(preparation.of(place))
        if begun := set_aside.restoring(place):
            set_aside.removed(begun)
        known = domains.facts(connection, spec, place)
        return {
            "domain": known,
            "disk": disks.facts(place.disk),
            "public_key": known["public_key"] or note["public_key"],
            "set_aside": note["set_aside"],
        }


def _put_back(
    connection: Any, spec: Spec, place: Place, known: Mapping[str, Any], of: int
) -> dict[str, Any]:
    aside = set_aside.restoring(place) or set_aside.newest(spec, place, known, of)
    # Of a restore that goes on the domain may be there already.
    domain = domains.lookup(connection, spec["minion_id"])
    in_use.refuse(connection, place, [aside, place.disk], domain, loose=False)
    set_aside.check(connection, aside, spec, place, known, of)
    removal.swept(spec, place)
    place.restored.unlink(missing_ok=True)
    begun = set_aside.taken_out(aside)
    definition = (begun / set_aside.DOMAIN).read_text(encoding="utf-8")
    set_aside.move(begun / set_aside.NVRAM, set_aside.nvram(begun, place))
    set_aside.move(begun / set_aside.DISK, place.disk)
    domain = connection.defineXML(definition)
    # Set aside before it was finished, it would look for a seed that is gone.
    domains.detach(domain, place.seed)
    domain.setAutostart(True)
    known = domains.facts(connection, spec, place)
    if not (known["ours"] and known["generation"] == of and known["autostart"]):
        raise Fault(f"the domain {spec['minion_id']} does not read back as restored")
    folder(place.restored.parent)
    note = {
        "generation": of,
        "set_aside": str(set_aside.path_of(begun)),
        "public_key": (begun / set_aside.PUBLIC_KEY).read_text(),
    }
    write(place.restored, json.dumps(note))
    return note
