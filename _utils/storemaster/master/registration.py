# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What Uyuni is told of a store's server before it calls, and when it is gone for good.

A server that is deployed again is another machine with a known name. To Uyuni it is then
"migrated": it keeps its profile, but gets neither initial states nor what its activation key has
got since. A reactivation key has it onboarded anew, into the same profile.

Each call is made in a thread of its own: Uyuni may take its time, and neither a step nor the ledger
waits for it. What came of it is in a file, since the next look may be another process's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storelib import files
from storelib.errors import Fault, StoreDeployError, one_line
from storemaster.deployment import lifecycle, verbs
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.deployment.spec import KEEP, StoreSpec
from storemaster.deployment.step_context import Waiting
from storemaster.master import settings, uyuni

log = logging.getLogger(__name__)

Act = Callable[[uyuni.Session, Record], dict[str, str]]

MANAGEMENT_KEY = "management_key"
FAILED = lifecycle.FAILED.name

CALLS = 4
"""How many may wait for Uyuni at once: its API is no place for a crowd."""

SOON_S, LATER_S = 3.0, 30.0
"""When to look again: for an answer, and for a Uyuni that gave none."""

ORPHANED_S = 600
"""After that a file whose deployment is over is nobody's any more; no call lasts as long."""

_calls: dict[Path, threading.Thread] = {}


def done(opts: dict, record: Record, act: Act) -> None:
    """
    Return if it is done; else see that it is under way.

    Raises :class:`Waiting` as long as that takes, and :class:`Fault` if Uyuni refuses.
    """
    path = _path(opts, record, act)
    told = _read(path)
    if told is None:
        raise Waiting("Uyuni is asked", _begun(opts, record, act, path))
    if "failed" not in told:
        return
    # Told once: whoever looks again has it tried again.
    path.unlink(missing_ok=True)
    if told["failed"] == "away":
        raise Waiting(f"{told['reason']}; {told['hint']}", LATER_S)
    raise Fault(told["reason"], f"{told['hint']}; then: {verbs.again(record)}")


def faults(opts: dict, spec: StoreSpec) -> Iterator[tuple[str, str]]:
    """Find what would keep a deployment of that spec from calling Uyuni, by calling it."""
    if spec.registration == KEEP:
        return
    try:
        with uyuni.session(opts) as server:
            server.call("system.getMinionIdMap")
    except StoreDeployError as err:
        yield f"registration is {spec.registration}, and {err.reason}", err.hint


def arranged(server: uyuni.Session, record: Record) -> dict[str, str]:
    """Return the reactivation key of the server's profile, or make a profile where none is."""
    minion, spec = record.minion_id, record.spec
    known = server.call("system.getMinionIdMap").get(minion)
    if known and spec["registration"] == "reactivation":
        return {MANAGEMENT_KEY: str(server.call("system.obtainReactivationKey", known))}
    if not known:
        sid = _profile(server, record)
        for group in spec["system_groups"]:
            server.call("systemgroup.addOrRemoveSystems", group, [sid], True)
    return {}


def ended(server: uyuni.Session, record: Record) -> dict[str, str]:
    """Delete the server's profile, an empty one, too; the minion is not there to be cleaned up."""
    sid = server.call("system.getMinionIdMap").get(record.minion_id)
    empty = [each["id"] for each in _profiles(server) if each["name"] == record.minion_id]
    for number in [sid, *empty] if sid else empty:
        server.call("system.deleteSystem", number, "NO_CLEANUP")
    return {}


def management_key(opts: dict, record: Record) -> str:
    """Return the reactivation key that was obtained for a deployment; empty if none was."""
    return str((_read(_path(opts, record, arranged)) or {}).get(MANAGEMENT_KEY, ""))


def forget(opts: dict, record: Record) -> None:
    """Delete what is known of it."""
    for act in (arranged, ended):
        _path(opts, record, act).unlink(missing_ok=True)


def forget_the_rest(opts: dict, ledger: Ledger) -> None:
    """Delete what is known of deployments that are over, which another one replaced, say."""
    folder = _folder(opts)
    old = [path for path in folder.iterdir() if _is_old(path)] if folder.is_dir() else []
    if not old:
        # As nearly always: all records take long to read where there are many.
        return
    records = ledger.all()
    wanted = {each.deployment for each in records if each.state in (*lifecycle.OPEN, FAILED)}
    for path in old:
        # A half-written one begins with a dot.
        if path.name.lstrip(".").partition(".")[0] not in wanted:
            path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > ORPHANED_S
    return False


def _profiles(server: uyuni.Session) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.call("system.listEmptySystemProfiles")
    return found


def _profile(server: uyuni.Session, record: Record) -> int:
    """Return the empty profile that the server will be taken for; make it if there is none."""
    minion, mac = record.minion_id, record.spec["interfaces"][0]["mac"].lower()
    if sid := _known_profile(server, minion, mac):
        return sid
    try:
        return int(server.call("system.createSystemProfile", minion, {"hwAddress": mac}))
    except uyuni.Denied as err:
        # The answer to an earlier try may not have come.
        sid = _known_profile(server, minion, mac) if err.code == uyuni.EXISTS else None
        if sid is None:
            raise
        return sid


def _known_profile(server: uyuni.Session, minion: str, mac: str) -> int | None:
    """Return the one with that name and address; Uyuni would take one with either."""
    for each in _profiles(server):
        macs = {str(address).lower() for address in each.get("hw_address") or () if address}
        if each["name"] == minion and (mac in macs or not macs):
            return int(each["id"])
        if each["name"] == minion or mac in macs:
            raise uyuni.Denied(
                f"Uyuni has an empty profile {each['name']} with the address {', '.join(macs)}, "
                f"and would take {minion} with {mac} for that",
                "correct the pillar's mac, or that profile, or delete it",
            )
    return None


def _begun(opts: dict, record: Record, act: Act, path: Path) -> float:
    """Have it called, unless it is under way or too many are; return when to look again."""
    for known, thread in list(_calls.items()):
        if not thread.is_alive():
            _calls.pop(known, None)
    if path in _calls or len(_calls) >= CALLS:
        return LATER_S if len(_calls) >= CALLS else SOON_S
    # No daemon: a process that only sweeps waits for it at its end, for nobody else would.
    _calls[path] = threading.Thread(
        target=_called, args=(opts, record, act, path), name=f"uyuni {record.store}"
    )
    _calls[path].start()
    return SOON_S


def _called(opts: dict, record: Record, act: Act, path: Path) -> None:
    """Call Uyuni, and leave what came of it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.locked(path.with_suffix(".lock"), wait_s=0) as held:
            # Another process calls, or has just done so: a second key would end the first one.
            if not held or path.exists():
                return
            told = _outcome(opts, record, act)
            with Ledger(settings.ledger_path(opts)) as ledger:
                now = ledger.get(record.store)
            if now and (now.deployment, now.state) == (record.deployment, record.state):
                files.write(path, json.dumps(told), 0o600)
    except Exception:
        log.exception("%s: Uyuni", record.store)


def _outcome(opts: dict, record: Record, act: Act) -> dict[str, str]:
    try:
        with uyuni.session(opts) as server:
            return act(server, record)
    except StoreDeployError as err:
        kind = "away" if isinstance(err, uyuni.Away) else "denied"
        return {"failed": kind, "reason": err.reason, "hint": err.hint}
    except Exception as err:
        log.exception("%s: Uyuni", record.store)
        told = f"what Uyuni answered cannot be used: {type(err).__name__}: {err}"
        return {"failed": "denied", "reason": one_line(told), "hint": "see the master's log"}


def _read(path: Path) -> dict[str, str] | None:
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(path.read_text())
        if isinstance(told, dict):
            return told
    return None


def _folder(opts: dict) -> Path:
    return settings.state_dir(opts) / "registration"


def _path(opts: dict, record: Record, act: Any) -> Path:
    return _folder(opts) / f"{record.deployment}.{act.__name__}"
