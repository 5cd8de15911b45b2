# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
NetworkManager: two profiles are added; the port's own stays, but is not chosen by itself.

The bridge's profile has the addresses and routes of the port's.
"""

from __future__ import annotations

import configparser
import io
import re
import uuid
from pathlib import Path

from storelib.errors import Fault
from storelib.hypervisor.place import run
from storelib.hypervisor.setup.network.plan import Bridge, File, Plan

NAME = "NetworkManager"
FOLDER = Path("/etc/NetworkManager/system-connections")
OF_ADDRESSES = ("ipv4", "ipv6", "proxy")
NAMESPACE = uuid.UUID("5f0c2a6e-6c0f-4d0b-9f0e-0b5a4c1d7e21")


def has(port: str) -> bool:
    """Say whether it runs and has a profile active on this port."""
    return bool(_profile(port))


def plan(bridge: Bridge) -> Plan:
    """Return the change that makes the bridge."""
    profile = _profile(bridge.port)
    listed = run("nmcli", "--terse", "--fields", "UUID,FILENAME", "connection", "show")
    files = dict(line.split(":", 1) for line in listed.splitlines() if ":" in line)
    file = Path(re.sub(r"\\(.)", r"\1", files.get(profile, "")))
    if file.suffix != ".nmconnection" or not file.is_file():
        raise Fault(
            f"the profile {profile} of {bridge.port} is in no keyfile",
            "have NetworkManager keep it in one: nmcli connection migrate",
        )
    return made(bridge, file.read_text(), profile)


def made(bridge: Bridge, own: str, profile: str) -> Plan:
    """
    Return the change.

    own
        Text of the port's profile, a keyfile.
    profile
        UUID of that.
    """
    known = _parser()
    known.read_string(own)
    ours = f"store-deploy-{bridge.name}"
    whole: dict[str, dict[str, str]] = {
        "connection": {
            "id": ours,
            "uuid": str(uuid.uuid5(NAMESPACE, ours)),
            "type": "bridge",
            "interface-name": bridge.name,
            "autoconnect-slaves": "1",
        },
        "ethernet": {"cloned-mac-address": bridge.mac},
        "bridge": {"stp": "false"},
        **{name: dict(known[name]) for name in OF_ADDRESSES if name in known},
    }
    port = {
        "connection": {
            "id": f"{ours}-port",
            "uuid": str(uuid.uuid5(NAMESPACE, f"{ours}-port")),
            "type": "ethernet",
            "interface-name": bridge.port,
            # Before the port's own, and before those that are made where there is none.
            "autoconnect-priority": "100",
            "master": bridge.name,
            "slave-type": "bridge",
        }
    }
    return Plan(
        files={
            str(FOLDER / f"{ours}.nmconnection"): File(_text(whole), 0o600),
            str(FOLDER / f"{ours}-port.nmconnection"): File(_text(port), 0o600),
        },
        up=(
            ("nmcli", "connection", "reload"),
            ("nmcli", "--wait", "45", "connection", "up", ours),
        ),
        undo_down=(("nmcli", "connection", "down", ours),),
        undo_up=(
            ("nmcli", "connection", "reload"),
            ("nmcli", "--wait", "45", "connection", "up", "uuid", profile),
        ),
    )


def _profile(port: str) -> str:
    """Return the UUID of the profile that is active on a port, if one is."""
    try:
        return run("nmcli", "--get-values", "GENERAL.CON-UUID", "device", "show", port).strip()
    except Fault:
        return ""


def _parser() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    return parser


def _text(sections: dict[str, dict[str, str]]) -> str:
    parser = _parser()
    parser.read_dict(sections)
    text = io.StringIO()
    parser.write(text, space_around_delimiters=False)
    return f"# Made by store-deploy.\n{text.getvalue()}"
