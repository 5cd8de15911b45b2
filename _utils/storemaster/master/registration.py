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

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from storelib import files
from storelib.errors import Fault, Refused, StoreDeployError
from storemaster.deployment import verbs
from storemaster.deployment.record import Record
from storemaster.deployment.spec import StoreSpec
from storemaster.deployment.step_context import Waiting
from storemaster.master import settings, uyuni

Act = Callable[[uyuni.Session, Record], Mapping[str, str]]

CALLS = 4
"""How many may wait for Uyuni at once: its API is no place for a crowd."""

SOON_S, LATER_S = 3.0, 30.0
"""When to look again: for an answer, and for a Uyuni that gave none."""

_lock = threading.Lock()
_calls: dict[Path, Future[None]] = {}
_pool: list[ThreadPoolExecutor] = []


def done(opts: dict, record: Record, act: Act) -> None:
    """
    Return if it is done; else see that it is under way.

    Raises :class:`Waiting` as long as that takes, and :class:`Fault` if Uyuni refuses.
    """
    path = _path(opts, record, act)
    if path.exists():
        return
    with _lock:
        call = _calls.pop(path, None)
        if call is None or not call.done():
            _calls[path] = call or _begun(opts, record, act, path)
            raise Waiting("Uyuni is asked", SOON_S)
    try:
        call.result()
    except uyuni.Away as err:
        raise Waiting(f"{err.reason}; {err.hint}", LATER_S) from err
    except (uyuni.Denied, Refused) as err:
        again = verbs.again(record)
        raise Fault(err.reason, f"{err.hint}; then: {again}") from err


def faults(opts: dict, spec: StoreSpec) -> Iterator[tuple[str, str]]:
    """Find what would keep a deployment of that spec from calling Uyuni, by calling it."""
    if spec.registration == "keep":
        return
    try:
        with uyuni.session(opts) as server:
            server.call("system.getMinionIdMap")
    except StoreDeployError as err:
        yield f"registration is {spec.registration}, and {err.reason}", err.hint


def arranged(server: uyuni.Session, record: Record) -> Mapping[str, str]:
    """Return the reactivation key of the server's profile, or make a profile where none is."""
    minion, spec = record.minion_id, record.spec
    known = server.call("system.getMinionIdMap").get(minion)
    if known and spec["registration"] == "reactivation":
        return {"management_key": server.call("system.obtainReactivationKey", known)}
    if not known:
        sid = _profile(server, minion, spec["interfaces"][0]["mac"])
        for group in spec["system_groups"]:
            server.call("systemgroup.addOrRemoveSystems", group, [sid], True)
    return {}


def ended(server: uyuni.Session, record: Record) -> Mapping[str, str]:
    """Delete the server's profile; the minion is not there to be cleaned up."""
    sid = server.call("system.getMinionIdMap").get(record.minion_id)
    if sid:
        server.call("system.deleteSystem", sid, "NO_CLEANUP")
    return {}


def management_key(opts: dict, record: Record) -> str:
    """Return the reactivation key that was obtained for a deployment; empty if none was."""
    try:
        return str(json.loads(_path(opts, record, arranged).read_text()).get("management_key", ""))
    except FileNotFoundError:
        return ""


def forget(opts: dict, record: Record) -> bool:
    """Delete what is known of it; return whether a key was among it."""
    known = bool(management_key(opts, record))
    for act in (arranged, ended):
        _path(opts, record, act).unlink(missing_ok=True)
    return known


def _profile(server: uyuni.Session, minion: str, mac: str) -> int:
    """Return the empty profile that a server of that name and address will be taken for."""

    def found() -> int | None:
        for each in server.call("system.listEmptySystemProfiles"):
            addresses = {str(address).lower() for address in each.get("hw_address") or ()}
            if each["name"] == minion or mac.lower() in addresses:
                return int(each["id"])
        return None

    if sid := found():
        return sid
    try:
        return int(server.call("system.createSystemProfile", minion, {"hwAddress": mac}))
    except uyuni.Denied as err:
        # The answer to an earlier try may not have come.
        sid = found() if err.code == uyuni.EXISTS else None
        if sid is None:
            raise
        return sid


def _begun(opts: dict, record: Record, act: Act, path: Path) -> Future[None]:
    def call() -> None:
        with uyuni.session(opts) as server:
            told = act(server, record)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, json.dumps(dict(told)), 0o600)

    # In the process that uses it: threads do not outlive a fork.
    if not _pool:
        _pool.append(ThreadPoolExecutor(CALLS, thread_name_prefix="uyuni"))
    return _pool[0].submit(call)


def _path(opts: dict, record: Record, act: Any) -> Path:
    return settings.state_dir(opts) / "registration" / f"{record.deployment}.{act.__name__}"
