# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""ifupdown: the port's stanzas become the bridge's, in the files where they are."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from storelib.hypervisor.setup.network.plan import Bridge, File, Plan, now

NAME = "ifupdown"
INTERFACES = Path("/etc/network/interfaces")
STATE = Path("/run/network/ifstate")

# What it starts, such as a DHCP client, must not end with the minion.
APART = ("systemd-run", "--scope", "--quiet", "--collect")


def has(port: str) -> bool:
    """Say whether it has brought up this port."""
    return STATE.is_file() and f"{port}={port}" in STATE.read_text().split()


def plan(bridge: Bridge) -> Plan:
    """Return the change that makes the bridge."""
    files: dict[str, File | None] = {}
    for path in _files(INTERFACES):
        before = now(str(path))
        text = rewritten(before.text, bridge) if before else ""
        if before and text != before.text:
            files[str(path)] = File(text, before.mode)
    return Plan(
        files=files,
        down=((*APART, "ifdown", "--force", bridge.port),),
        up=((*APART, "ifup", bridge.name),),
        undo_down=((*APART, "ifdown", "--force", bridge.name),),
        undo_up=((*APART, "ifup", bridge.port),),
    )


def rewritten(text: str, bridge: Bridge) -> str:
    """Return a file of interfaces in which the bridge has the port's place."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["auto"], ["allow-hotplug"]) and bridge.port in words[1:]:
            # Nothing plugs a bridge in.
            others = [word for word in words[1:] if word != bridge.port]
            lines += [" ".join([words[0], *others])] if others else []
            lines.append(f"auto {bridge.name}")
        elif words[:2] == ["iface", bridge.port]:
            lines.append(" ".join(["iface", bridge.name, *words[2:]]))
            if not any("type bridge" in each for each in lines):
                lines += [f"    {each}" for each in _made_of(bridge)]
        else:
            lines.append(line)
    end = "\n" if text.endswith("\n") or lines else ""
    return "\n".join(lines) + end


def _made_of(bridge: Bridge) -> list[str]:
    name, port = bridge.name, bridge.port
    return [
        f"pre-up test -d /sys/class/net/{name} || "
        f"ip link add name {name} address {bridge.mac} type bridge forward_delay 0",
        f"pre-up ip link set dev {port} master {name} up",
        f"post-down ip link set dev {port} nomaster",
        f"post-down ip link delete dev {name}",
    ]


def _files(path: Path) -> Iterator[Path]:
    """Yield the file and all that it names as its source."""
    if not path.is_file():
        return
    yield path
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) != 2 or words[0] not in ("source", "source-directory"):
            continue
        pattern = os.path.join(path.parent, words[1])
        if words[0] == "source":
            found = sorted(glob.glob(pattern))
        else:
            found = sorted(glob.glob(os.path.join(pattern, "*")))
            found = [each for each in found if re.fullmatch(r"[\w-]+", os.path.basename(each))]
        for each in found:
            yield from _files(Path(each))
