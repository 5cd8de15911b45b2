# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The bridge that servers are attached to, made of the machine's network without losing it.

Whatever tool configures the port is told to make the bridge. The change undoes itself unless the
master was reached again from the new network (:mod:`.network.change`).
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor.place import run
from storelib.hypervisor.setup import made
from storelib.hypervisor.setup.network import change, ifupdown, networkd, networkmanager, wicked
from storelib.hypervisor.setup.network.plan import Bridge, File, Plan, before, now, of_plain
from storelib.hypervisor.setup.outcome import Outcome

INTERFACES = Path("/sys/class/net")
LINKS = Path("/etc/systemd/network")
TOOLS: tuple[ModuleType, ...] = (networkmanager, wicked, networkd, ifupdown)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
UNDO_AFTER_S = 120
CONNECT_S = 3

ANSWER_S = 60
"""
How long the minion's daemon waits for an answer that was lost with the network: what the state
returns before that is lost, too.
"""


@dataclass(frozen=True)
class Way:
    """A way to a master: its address and port, and the interface that it is reached over."""

    host: str
    port: int
    interface: str


def bridged(
    name: str, port: str | None, masters: Iterable[tuple[str, int]], undo_after_s: int, dry: bool
) -> Outcome:
    """
    Have a bridge with that port in it, which takes the port's place in the network.

    port
        ``None`` for the interface of the default route.
    masters
        Names or addresses of the minion's masters, with the port that they listen on.
    undo_after_s
        How long the master may take to be reached again.
    """
    check(name, port, undo_after_s)
    if is_made(name, port):
        return Outcome(f"the bridge {name} has its port")
    port = port or default_interfaces()[0]
    tool = tool_of(port)
    bridge = Bridge(name, port, _read(port, "address"))
    plan = _named(bridge, tool.plan(bridge))
    changes = {name: {"old": None, "new": f"bridge of {port}, by {tool.NAME}"}}
    if not dry:
        old = before(plan.files)
        # Before the change, so that a kill after its confirmation does not leave it unknown.
        made.forget("bridge")
        made.note("bridge", _note(bridge, plan, old))
        try:
            _change(plan, {port: name}, masters, undo_after_s, lambda: is_made(name, port))
        except BaseException:
            if not change.pending():
                made.forget("bridge")
            raise
    return Outcome(f"the bridge {name} has the place of {port}", changes)


def taken_back(known: dict[str, Any], masters: Iterable[tuple[str, int]]) -> str:
    """Give the port its place in the network back; say what was done."""
    name, port = known["name"], known["port"]
    plan = of_plain(known["plan"])
    others = [each for each in _ports(name) if each != port]
    if others:
        raise Fault(f"the bridge {name} is in use: {', '.join(others)}", "end what uses it")
    for path, file in plan.files.items():
        if now(path) != file and is_made(name, port):
            raise Fault(
                f"{path} is not as it was made: somebody changed it since",
                f"put back what was written there: it is in {made.NOTE}",
            )
    if is_made(name, port):
        old = of_plain({**known["plan"], "files": known["before"]}).files
        _change(
            plan.reversed(old),
            {name: port},
            masters,
            UNDO_AFTER_S,
            lambda: not (INTERFACES / name).exists(),
        )
    return f"bridge {name}"


def _named(bridge: Bridge, plan: Plan) -> Plan:
    """Return the change in which udev leaves the bridge its name."""
    # A link file that knows the port by its MAC address alone would have udev give the bridge the
    # port's name, which fails, and systemd-networkd wait for the end of that for ever.
    text = f"# Made by store-deploy.\n[Match]\nOriginalName={bridge.name}\n\n[Link]\nNamePolicy=\n"
    link = {str(LINKS / f"00-store-deploy-{bridge.name}.link"): File(text)}
    return replace(plan, files={**link, **plan.files})


def _note(bridge: Bridge, plan: Plan, old: dict[str, File | None]) -> dict[str, Any]:
    plain = Plan(old).plain()["files"]
    return {"name": bridge.name, "port": bridge.port, "plan": plan.plain(), "before": plain}


def _change(
    plan: Plan,
    instead: dict[str, str],
    masters: Iterable[tuple[str, int]],
    undo_after_s: int,
    done: Any,
) -> None:
    """Change the network; the change stays only if the masters are reached as they were."""
    ways = [way for each in masters for way in _ways(*each)]
    if not any(_why_not(way) == "" for way in ways):
        known = ", ".join(f"{way.host}:{way.port}" for way in ways) or "none"
        raise Fault(
            f"the network is not touched, for its master is not reached even now ({known})",
            "see to the minion's master, by which the change is checked",
        )
    ways = [way for way in ways if _why_not(way) == ""]
    after = [Way(way.host, way.port, instead.get(way.interface, way.interface)) for way in ways]
    routes = [instead.get(interface, interface) for interface in default_interfaces()]
    change.make(plan, undo_after_s)
    why = ""
    while change.pending():
        found = "; ".join(_missing(after, routes, done))
        if not found and change.confirm():
            _await(lambda: _through(after), undo_after_s)
            return
        if not change.undoing():
            why = found
        time.sleep(0.5)
    _await(lambda: all(_why_not(way) == "" for way in ways), undo_after_s)
    time.sleep(ANSWER_S)
    raise Fault(
        f"the change of the network was undone, for within {undo_after_s} s {why}",
        "see to the network, then apply the state again",
    )


def _missing(ways: list[Way], routes: list[str], done: Any) -> Iterator[str]:
    if not done():
        yield "the bridge was not as it should be"
        return
    if lost := [each for each in routes if each not in default_interfaces()]:
        yield f"there was no default route over {', '.join(lost)}"
    yield from filter(None, map(_why_not, ways))


def _ways(host: str, port: int) -> Iterator[Way]:
    """Yield how a master is reached now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return
    for address in dict.fromkeys(str(each[4][0]) for each in found):
        try:
            told = json.loads(run("ip", "-json", "route", "get", address))
        except (Fault, ValueError):
            continue
        yield Way(address, port, told[0].get("dev", ""))


def _why_not(way: Way) -> str:
    """Try to connect over that interface; return why that fails, or an empty string."""
    family = socket.AF_INET6 if ":" in way.host else socket.AF_INET
    where = f"{way.host}:{way.port} was not reached over {way.interface}"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.settimeout(CONNECT_S)
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.interface.encode())
            tried.connect((way.host, way.port))
    except OSError as err:
        return f"{where} ({err.strerror or err})"
    return ""


def _through(ways: list[Way]) -> bool:
    """Say whether what was sent to these masters has arrived: the state's own result comes next."""
    try:
        told = [run("ss", "-H", "-t", "-n", "dst", way.host).split("\n") for way in ways]
    except Fault:
        return True
    # State, bytes that came, bytes that were not acknowledged.
    lines = [line.split() for each in told for line in each if line.startswith("ESTAB")]
    return all(line[2] == "0" for line in lines)


def _await(fact: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not fact() and time.monotonic() < until:
        time.sleep(0.5)


def check(name: str, port: str | None = None, undo_after_s: int = UNDO_AFTER_S) -> None:
    """Raise :class:`Fault` unless such a bridge is there or can be made."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Fault(
            f"bridge.name is {name!r}, not a letter and at most 14 letters, digits, '_', '.', '-'"
        )
    whole = isinstance(undo_after_s, int) and not isinstance(undo_after_s, bool)
    if not whole or not 20 <= undo_after_s <= 600:
        raise Fault(f"bridge.undo_after_s is {undo_after_s!r}, not a number from 20 to 600")
    if (INTERFACES / name).exists() and not (INTERFACES / name / "bridge").is_dir():
        raise Fault(f"{name} is there, and is no bridge: choose another bridge.name")
    if is_made(name, port):
        return
    if (INTERFACES / name).exists():
        raise Fault(
            f"the bridge {name} is there without {port or 'a port'}: add that to it, "
            "or choose another bridge.name"
        )
    if port is None:
        found = default_interfaces()
        if len(set(found)) != 1:
            told = ", ".join(found) or "none"
            raise Fault(f"the default route is over {told}, not over one: give bridge.port")
        port = found[0]
    if not isinstance(port, str) or "/" in port or not (INTERFACES / port).exists():
        there = ", ".join(sorted(each.name for each in INTERFACES.iterdir() if each.name != "lo"))
        raise Fault(f"bridge.port is {port!r}; there are {there}")
    if kind := _kind(port):
        raise Fault(
            f"bridge.port {port} is {kind}, not a network card: make the bridge by other means, "
            "and leave bridge out"
        )
    if (INTERFACES / port / "master").exists():
        master = (INTERFACES / port / "master").resolve().name
        raise Fault(f"bridge.port {port} is in {master} already")
    tool_of(port)


def tool_of(port: str) -> ModuleType:
    """Return the tool that configures the port, of which there has to be one."""
    found = [tool for tool in TOOLS if tool.has(port)]
    if len(found) == 1:
        return found[0]
    names = [str(tool.NAME) for tool in (found or TOOLS)]
    told = f"by {' and '.join(names)} at once" if found else f"by none of {', '.join(names)}"
    raise Fault(f"{port} is configured {told}: have one of them do it, or leave bridge out")


def is_made(name: str, port: str | None) -> bool:
    """Say whether the bridge is there, with that port, or any card, in it."""
    return any(port in (None, each) and not _kind(each) for each in _ports(name))


def default_interfaces() -> list[str]:
    """Return the interfaces that the default routes lead over, the preferred one first."""
    told = json.loads(run("ip", "-json", "-4", "route", "show", "default") or "[]")
    return [each["dev"] for each in told if "dev" in each]


def _ports(name: str) -> list[str]:
    folder = INTERFACES / name / "brif"
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def _kind(interface: str) -> str:
    """Return what the interface is, if it is not a network card."""
    found = dict(
        line.split("=", 1) for line in _read(interface, "uevent").splitlines() if "=" in line
    )
    if (INTERFACES / interface / "tun_flags").exists():
        return "a tap"
    if _read(interface, "type") != "1":
        return "no Ethernet"
    return f"a {found['DEVTYPE']}" if found.get("DEVTYPE") else ""


def _read(interface: str, what: str) -> str:
    try:
        return (INTERFACES / interface / what).read_text().strip()
    except OSError:
        return ""
