# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether the server serves: its ports, services and commands."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from storelib.errors import Fault
from storelib.guest.highstate import COMMENT_LENGTH
from storelib.guest.minion import Facts, Minion

PROBE_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 5

Found = tuple[bool, str]


def probe(minion: Minion, checks: list[Any]) -> Facts:
    """Make the checks and return their results."""
    for check in checks:
        if not isinstance(check, dict) or len(check) != 1 or not set(check) <= set(PROBES):
            raise Fault(
                f"unknown check {check!r}", f"a check is one of {', '.join(sorted(PROBES))}"
            )
    results = []
    for check in checks:
        ((kind, wanted),) = check.items()
        passed, detail = PROBES[kind](minion, wanted)
        results.append({"check": check, "ok": passed, "detail": detail})
    facts = {"results": results, "addresses": minion.addresses() + minion.addresses6()}
    failed = [result for result in results if not result["ok"]]
    if failed:
        raise Fault(
            f"{len(failed)} of {len(results)} checks failed, first {failed[0]['check']}: "
            f"{failed[0]['detail']}",
            "mend the service in the guest or its states",
            facts,
        )
    return facts


def _tcp(minion: Minion, port: Any) -> Found:
    refusals = []
    ipv6 = [
        address
        for address in minion.addresses6()
        # Means something together with an interface only.
        if not ipaddress.ip_address(address).is_link_local
    ]
    for address in ("127.0.0.1", "::1", *minion.addresses(), *ipv6):
        try:
            socket.create_connection((address, int(port)), CONNECT_TIMEOUT_S).close()
            return True, f"{address} port {port} takes connections"
        except (OSError, OverflowError, ValueError) as err:
            refusals.append(f"{address}: {err}")
    return False, "; ".join(refusals)


def _service(minion: Minion, name: Any) -> Found:
    runs = bool(minion.service_runs(name))
    return runs, f"{name} {'runs' if runs else 'does not run'}"


def _command(minion: Minion, command: Any) -> Found:
    done = minion.run(command, PROBE_TIMEOUT_S)
    said = " ".join(f"{done['stdout']} {done['stderr']}".split())[-COMMENT_LENGTH:]
    return done["retcode"] == 0, f"status {done['retcode']}: {said}"


PROBES: dict[str, Callable[[Minion, Any], Found]] = {
    "tcp": _tcp,
    "service": _service,
    "command": _command,
}
