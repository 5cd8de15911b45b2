# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The storage pool that servers are kept in, and libvirt's own network, which nobody needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib.errors import Fault
from storelib.hypervisor import domains
from storelib.hypervisor.setup import made
from storelib.hypervisor.setup.outcome import Outcome

PATIENCE_S = 30
"""How long libvirt is waited for: it may have been started just now."""


def pool(uri: str | None, name: str, path: Path, dry: bool) -> Outcome:
    """Have a pool of type dir, active and started with libvirt; its folder is made if needed."""
    if path.exists() and not path.is_dir():
        raise Fault(f"{path} is no folder", "correct pool.path in the pillar")
    with _connected(uri, dry) as connection:
        found = _lookup(connection.listAllStoragePools() if connection else [], name)
        if found is not None:
            leads = domains.pool_path(connection, name)
            if leads != path:
                raise Fault(
                    f"libvirt's pool {name} is {leads}, not {path}",
                    "correct pool in the pillar",
                )
        changes = {
            what: {"old": False, "new": True}
            for what, there in (
                ("folder", path.is_dir()),
                ("defined", found is not None),
                ("active", found is not None and bool(found.isActive())),
                ("autostart", found is not None and bool(found.autostart())),
            )
            if not there
        }
        if not changes:
            return Outcome(f"the pool {name} is {path}")
        if not dry:
            made.note(
                "pool",
                {
                    "name": name,
                    "path": str(path),
                    **{what: what in changes for what in ("folder", "defined")},
                },
            )
            _make(connection, found, name, path)
    return Outcome(f"the pool {name} is {path}, active and started with libvirt", changes)


def _make(connection: Any, found: Any, name: str, path: Path) -> None:
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    if found is None:
        described = ElementTree.Element("pool", {"type": "dir"})
        ElementTree.SubElement(described, "name").text = name
        target = ElementTree.SubElement(described, "target")
        ElementTree.SubElement(target, "path").text = str(path)
        text = ElementTree.tostring(described, encoding="unicode")
        found = connection.storagePoolDefineXML(text)
    if not found.isActive():
        found.create()
    found.setAutostart(1)


def forget_pool(connection: Any, known: dict[str, Any]) -> str:
    """Take the pool back that was made, never a file of it; say what was done."""
    found = _lookup(connection.listAllStoragePools(), known["name"])
    if known["defined"] and found is not None:
        if found.isActive():
            found.destroy()
        found.undefine()
    path = Path(known["path"])
    if known["folder"] and path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    return f"pool {known['name']}"


def network_off(uri: str | None, name: str, dry: bool) -> Outcome:
    """Stop a network of libvirt's, and let it not be started again; it stays defined."""
    with _connected(uri, dry) as connection:
        found = _lookup(connection.listAllNetworks() if connection else [], name)
        if connection is None:
            return Outcome(f"the network {name} is switched off if there is one", {name: "off"})
        before = _running(found)
        if not any(before.values()):
            return Outcome(f"the network {name} is off")
        if users := _users(connection, name):
            raise Fault(
                f"the network {name} is needed by the domain {users[0]}",
                "set default_network: true in the pillar, or give the domain a bridge",
            )
        if found is not None and not dry:
            made.note("network", {"name": name, **before})
            if before["active"]:
                found.destroy()
            found.setAutostart(0)
    changes = {what: {"old": True, "new": False} for what, was in before.items() if was}
    return Outcome(f"the network {name} is off", changes)


def network_back(connection: Any, known: dict[str, Any]) -> str:
    """Let the network run again as it did; say what was done."""
    found = _lookup(connection.listAllNetworks(), known["name"])
    if found is not None:
        if known["active"] and not found.isActive():
            found.create()
        if known["autostart"]:
            found.setAutostart(1)
    return f"network {known['name']}"


def _running(network: Any) -> dict[str, bool]:
    if network is None:
        return {"active": False, "autostart": False}
    return {"active": bool(network.isActive()), "autostart": bool(network.autostart())}


def _users(connection: Any, network: str) -> list[str]:
    return [
        domain.name()
        for domain in connection.listAllDomains()
        for source in domains.description(domain).iterfind("devices/interface/source")
        if source.get("network") == network
    ]


@contextlib.contextmanager
def _connected(uri: str | None, dry: bool) -> Iterator[Any]:
    """Connect to libvirt; nothing where a dry run comes before libvirt is installed."""
    with contextlib.ExitStack() as stack:
        connection = None
        with contextlib.suppress(Fault) if dry else contextlib.nullcontext():
            connection = stack.enter_context(domains.connected(uri, 0 if dry else PATIENCE_S))
        yield connection


def _lookup(all_of_them: list[Any], name: str) -> Any | None:
    return next((each for each in all_of_them if each.name() == name), None)
