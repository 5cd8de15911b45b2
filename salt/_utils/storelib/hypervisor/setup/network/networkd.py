# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
systemd-networkd: files are added that come before the port's own, which stays as it is.

The bridge's file is a copy of the port's, with another match.
"""

from __future__ import annotations

import json
from pathlib import Path

from storelib.errors import Fault
from storelib.hypervisor.place import run
from storelib.hypervisor.setup.network.plan import Bridge, File, Plan

NAME = "systemd-networkd"
FOLDER = Path("/etc/systemd/network")
LEASES = Path("/run/systemd/netif/leases")


def has(port: str) -> bool:
    """Say whether it runs and configures this port."""
    try:
        return _status(port)["AdministrativeState"] not in ("unmanaged", "pending")
    except (Fault, KeyError, ValueError):
        return False


def plan(bridge: Bridge) -> Plan:
    """Return the change that makes the bridge."""
    status = _status(bridge.port)
    files = [status["NetworkFile"], *status.get("NetworkFileDropins", [])]
    lease = LEASES / str(status["Index"])
    client = _client(lease.read_text()) if lease.is_file() else ""
    own = "".join(f"{Path(file).read_text()}\n" for file in files)
    return made(bridge, own, client)


def made(bridge: Bridge, own: str, client: str) -> Plan:
    """
    Return the change.

    own
        Text of the port's file.
    client
        By which number it asks for its lease, as that is made of the interface's name otherwise.
    """
    head = "# Made by store-deploy.\n"
    iaid = f"[DHCPv4]\nIAID={client}\n" if client else ""
    prefix = FOLDER / f"00-store-deploy-{bridge.name}"
    return Plan(
        files={
            f"{prefix}.netdev": File(
                f"{head}[NetDev]\nName={bridge.name}\nKind=bridge\nMACAddress={bridge.mac}\n\n"
                "[Bridge]\nSTP=no\nForwardDelaySec=0\n"
            ),
            f"{prefix}-port.network": File(
                f"{head}[Match]\nName={bridge.port}\n\n[Network]\nBridge={bridge.name}\n"
            ),
            f"{prefix}.network": File(
                f"{head}[Match]\nName={bridge.name}\n\n{_without_match(own)}{iaid}"
            ),
        },
        up=(("networkctl", "reload"),),
        undo_down=(("ip", "link", "delete", "dev", bridge.name),),
        undo_up=(("networkctl", "reload"), ("networkctl", "reconfigure", bridge.port)),
    )


def _status(port: str) -> dict[str, str]:
    told = json.loads(run("networkctl", "--json=short", "status", port))
    return dict(told)


def _client(lease: str) -> str:
    """Return the IAID in the client identifier of a lease: type 255, four bytes, then the DUID."""
    identifiers = [line[9:] for line in lease.splitlines() if line.startswith("CLIENTID=")]
    if identifiers and identifiers[0].lower().startswith("ff") and len(identifiers[0]) >= 10:
        return str(int(identifiers[0][2:10], 16))
    return ""


def _without_match(text: str) -> str:
    kept, section = [], ""
    for line in text.splitlines():
        if line.strip().startswith("["):
            section = line.strip()
        if section != "[Match]":
            kept.append(f"{line}\n")
    return "".join(kept)
