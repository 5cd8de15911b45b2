# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""wicked: the port's configuration becomes the bridge's, the port is left with none of its own."""

from __future__ import annotations

from pathlib import Path

from storelib.errors import Fault
from storelib.hypervisor.place import run
from storelib.hypervisor.setup.network.plan import Bridge, File, Plan, now

NAME = "wicked"
FOLDER = Path("/etc/sysconfig/network")


def has(port: str) -> bool:
    """Say whether it runs and configures this port."""
    try:
        run("systemctl", "is-active", "--quiet", "wickedd.service")
    except Fault:
        return False
    return (FOLDER / f"ifcfg-{port}").is_file()


def plan(bridge: Bridge) -> Plan:
    """Return the change that makes the bridge."""
    own, routes = (now(str(FOLDER / f"{kind}-{bridge.port}")) for kind in ("ifcfg", "ifroute"))
    assert own
    files: dict[str, File | None] = {
        str(FOLDER / f"ifcfg-{bridge.name}"): File(
            own.text.rstrip("\n") + _bridge(bridge), own.mode
        ),
        str(FOLDER / f"ifcfg-{bridge.port}"): File(
            "# Made by store-deploy.\nBOOTPROTO='none'\nSTARTMODE='auto'\n", own.mode
        ),
    }
    if routes:
        text = routes.text.replace(bridge.port, bridge.name)
        files[str(FOLDER / f"ifroute-{bridge.name}")] = File(text, routes.mode)
        files[str(FOLDER / f"ifroute-{bridge.port}")] = None
    return Plan(
        files=files,
        down=(("wicked", "ifdown", bridge.port),),
        up=(("wicked", "ifup", bridge.name),),
        undo_down=(("wicked", "ifdown", bridge.name, bridge.port),),
        undo_up=(("wicked", "ifup", bridge.port),),
    )


def _bridge(bridge: Bridge) -> str:
    # The last word counts where a name is set twice.
    return (
        "\n# Made by store-deploy.\n"
        f"STARTMODE='auto'\nBRIDGE='yes'\nBRIDGE_PORTS='{bridge.port}'\nBRIDGE_STP='off'\n"
        f"BRIDGE_FORWARDDELAY='0'\nLLADDR='{bridge.mac}'\n"
    )
