# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Finds the ways in which an installation is commonly wrong, and says how to mend each."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import itertools
import os
import pwd
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import salt.daemons.masterapi
import salt.loader
import salt.utils.stringutils
import salt.utils.yaml

from storelib import views
from storelib.errors import LedgerError, Refused
from storelib.ledger import Ledger, Record
from storelib.master import configuration, pulse, serving, settings
from storelib.master import hypervisors as fleet
from storelib.master.configuration import RESTART, Fault, install
from storelib.spec import MINION_ID

TAGS = {
    "store/*/hypervisor/ready": "hypervisor_ready.sls",
    "store/*/guest/*": "guest.sls",
    "salt/minion/*/start": "minion_start.sls",
}
"""The reactors, by globs that a site may make wider or narrower."""

SILENT_S = 90
"""Pump and sweeper have run within this time, or do not run."""

ROOM_MIB = 64
"""What the ledger's file system should have left."""


def faults(opts: dict, hypervisors: object, tell: fleet.Tell) -> list[dict[str, Any]]:
    """
    Return each fault as ``{"fault": .., "mend": ..}``; none is an empty list.

    hypervisors
        ``True``: those of the ledger are asked, too. ``False``: none. Or the minion IDs.

    tell
        Called with a line of progress now and then, as many hypervisors take their time.

    One of hypervisors has their minion IDs as ``hypervisors``. Raises :class:`Refused` if the
    argument is something else.
    """
    named = _named(hypervisors)
    wrong = settings.wrong(opts)
    # With the defaults in their place there is more to find.
    ours = opts.get("store_deploy") or {}
    usable = ours.items() if isinstance(ours, dict) else ()
    opts = {**opts, "store_deploy": {key: told for key, told in usable if str(key) not in wrong}}
    checks = (
        *(configuration.faults, _configuration, _reactors, _running, serving.faults),
        *(_state_dir, _autosign),
    )
    found: list[dict[str, Any]] = [
        {"fault": fault, "mend": mend}
        for each in (wrong.values(), *(check(opts) for check in checks))
        for fault, mend in each
    ]
    records = []
    with contextlib.suppress(LedgerError), Ledger(settings.ledger_path(opts)) as ledger:
        records = ledger.all()
    found += [{"fault": fault, "mend": mend} for fault, mend in _rejected(opts, records)]
    if hypervisors is True:
        named = sorted({record.hypervisor for record in records})
    return found + [
        {"fault": f"{views.some(minions)}: {fault}", "mend": mend, "hypervisors": minions}
        for (fault, mend), minions in fleet.faults(opts, named, _started(opts), tell).items()
    ]


def _named(hypervisors: object) -> list[str]:
    if isinstance(hypervisors, bool):
        return []
    names = hypervisors if isinstance(hypervisors, list) else [hypervisors]
    for name in names:
        if not (isinstance(name, str) and MINION_ID.fullmatch(name)):
            raise Refused(
                f"hypervisors is {hypervisors!r}",
                "allowed: True | False | minion ID | list of them",
            )
    return list(dict.fromkeys(names))


def _configuration(opts: dict) -> Iterator[Fault]:
    if "store_pump" not in _engines(opts):
        yield (
            "the engine store_pump is not configured: deployments advance every 30 s only",
            install(opts, "50-store-deploy-engine.conf"),
        )
    elif "store_pump.start" not in salt.loader.engines(opts, {}, {}, {}):
        yield (
            "the engine store_pump is configured, but Salt cannot load it",
            install(opts, "50-store-deploy-modules.conf"),
        )
    if not _sweeps(opts):
        yield (
            "no schedule calls deploy.reconcile: deadlines are not enforced, restarts not mended",
            install(opts, "50-store-deploy-schedule.conf"),
        )
    pillars = [name for entry in opts.get("ext_pillar") or [] for name in entry]
    if "store_deploy" not in pillars:
        yield (
            "ext_pillar store_deploy is not configured: guests get no guest_pillar, and no report "
            "is sealed",
            install(opts, "50-store-deploy-pillar.conf"),
        )
    elif "store_deploy" not in salt.loader.pillars(opts, {}):
        yield (
            "ext_pillar store_deploy is configured, but Salt cannot load it",
            install(opts, "50-store-deploy-modules.conf"),
        )
    if opts.get("order_masters"):
        yield (
            "order_masters is set: what a syndic stands before cannot be deployed from here",
            "install store-deploy on the master that they call; unset order_masters if there is "
            "no syndic",
        )


def _engines(opts: dict) -> set[str]:
    """Return the names of the engines: Salt takes a mapping, or a list of mappings or names."""
    engines = opts.get("engines") or []
    return {name for each in engines for name in ([each] if isinstance(each, str) else each)}


def _sweeps(opts: dict) -> bool:
    jobs = (opts.get("schedule") or {}).values()
    return any(isinstance(j, dict) and j.get("function") == "deploy.reconcile" for j in jobs)


def _reactors(opts: dict) -> Iterator[Fault]:
    conf = "50-store-deploy-reactor.conf"
    entries = _reactor_map(opts)
    for tag, name in TAGS.items():
        ours = [each for each, sls in entries if sls.endswith(f"/{name}")]
        if not any(each == tag for each, _ in entries) and not any(_meet(tag, g) for g in ours):
            yield f"no reactor for {tag}", install(opts, conf)
        if any(_meet(one, other) for one, other in itertools.combinations(ours, 2)):
            yield (
                f"more than one reactor for {tag}",
                f"name {name} once in all of master.d; now it is at {', '.join(ours)}",
            )
        named = [sls for each, sls in entries if each == tag or sls.endswith(f"/{name}")]
        for sls in dict.fromkeys(named):
            if sls.startswith("/") and not Path(sls).is_file():
                yield (
                    f"the reactor {sls} for {tag} is not there",
                    f"put the path of your checkout into {conf}, restart salt-master",
                )


def _reactor_map(opts: dict) -> list[tuple[str, str]]:
    """Return globs of tags and the files for them, in all the forms in which Salt takes them."""
    told, pairs = opts.get("reactor") or [], []
    if isinstance(told, str):
        path, told = Path(told), []
        with contextlib.suppress(OSError, salt.utils.yaml.YAMLError):
            told = salt.utils.yaml.safe_load(path.read_text()) or []
    for entry in told:
        # Salt passes over a mapping of two.
        if isinstance(entry, dict) and len(entry) == 1:
            ((tag, named),) = entry.items()
            for sls in [named] if isinstance(named, str) else named or []:
                pairs += [(tag, file) for file in glob.glob(str(sls)) or [str(sls)]]
    return pairs


def _meet(one: str, other: str) -> bool:
    """Say whether one glob is the other, or within it."""
    return fnmatch.fnmatch(one, other) or fnmatch.fnmatch(other, one)


def _running(opts: dict) -> Iterator[Fault]:
    started = _started(opts)
    if started is None:
        yield "salt-master does not run", f"{RESTART}; if it ends again, its log says why"
        return
    now = time.time()
    different: dict[str, Any] = {}
    for who, configured, what in (
        (pulse.PUMP, "store_pump" in _engines(opts), "the engine store_pump"),
        (pulse.SWEEPER, _sweeps(opts), "the schedule of deploy.reconcile"),
    ):
        at, other = pulse.last(opts, who)
        if at >= started:
            different |= other
        if configured and now - max(at, started) > SILENT_S:
            since = f"for {now - at:.0f} s" if at >= started else "since salt-master started"
            yield (
                f"{what} is configured, but has not run {since}",
                f"{RESTART}; if that does not help, its log says why",
            )
    yield from _different(opts, different)
    if now - started > SILENT_S:
        yield from serving.workers(opts)


def _different(opts: dict, running: dict[str, Any]) -> Iterator[Fault]:
    """Tell what the running master has that is not as on the disk."""
    if "conf_file" in running:
        path = Path(str(running["conf_file"]))
        yield (
            f"salt-master reads {path}, and this is {opts['conf_file']}",
            f"salt-run -c {path.parent} deploy.doctor",
        )
        return
    if "code" in running:
        yield "salt-master runs other code of store-deploy than the one on the disk", RESTART
    if "salt" in running:
        yield f"salt-master runs Salt {running['salt']}, which was replaced on the disk", RESTART
    if changed := sorted(set(running) - {"code", "salt"}):
        yield (
            f"salt-master was started with other settings than its files now have: "
            f"{', '.join(changed)}",
            RESTART,
        )


def _started(opts: dict) -> float | None:
    """Return when the running master was started, ``None`` if none runs."""
    path = Path(opts["sock_dir"]) / "master_event_pub.ipc"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as bus:
        bus.connect(str(path))
        return path.stat().st_mtime
    if opts.get("ipc_mode") == "tcp":
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", opts["tcp_master_pub_port"]), 5).close()
            pidfile = Path(opts["pidfile"])
            return pidfile.stat().st_mtime if pidfile.exists() else 0.0
    return None


def _state_dir(opts: dict) -> Iterator[Fault]:
    folder, path = settings.state_dir(opts), settings.ledger_path(opts)
    user = pwd.getpwnam(opts["user"]).pw_uid
    # First, for a ledger of somebody else cannot be opened, which says less.
    foreign = [
        each for each in (folder, path, folder / "secret") if _owner(each) not in (user, None)
    ]
    for each in foreign:
        yield f"{each} does not belong to {opts['user']}", f"chown {opts['user']} {each}"
    try:
        with Ledger(path) as ledger:
            ledger.rung()
        # Each page, where a look at the ledger reads a few.
        with contextlib.closing(sqlite3.connect(path)) as db:
            (told,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if told != "ok":
            raise sqlite3.DatabaseError(told)
    except LedgerError as err:
        if not foreign:
            yield err.reason, err.hint
        return
    except sqlite3.Error as err:
        yield f"the ledger {path} is damaged: {err}", "restore it: the README, chapter The ledger"
    for each in (folder, path, folder / "secret"):
        if each.exists() and each.stat().st_mode & 0o077:
            yield f"{each} can be read by others", f"chmod go= {each}"
    if (free := shutil.disk_usage(folder).free // 2**20) < ROOM_MIB:
        yield f"{folder} has {free} MiB left", "make room there: a full disk stops all deployments"


def _owner(path: Path) -> int | None:
    """Return whom a file belongs to, ``None`` if it is not there or cannot be seen."""
    with contextlib.suppress(OSError):
        return path.stat().st_uid
    return None


def _autosign(opts: dict) -> Iterator[Fault]:
    if opts.get("auto_accept"):
        yield "auto_accept lets every minion in", f"remove auto_accept: True; {RESTART}"
    if opts.get("open_mode"):
        yield "open_mode lets every minion in", f"remove open_mode: True; {RESTART}"
    path = opts.get("autosign_file")
    if not path:
        yield (
            "no autosign_file is set: only admission: pinned works",
            install(opts, "40-store-deploy-autosign.conf"),
        )
    elif not os.path.exists(path):
        if not os.access(os.path.dirname(path), os.W_OK):
            yield (
                f"{path} is not there and {opts['user']} cannot make it",
                f"install -d -m 700 -o {opts['user']} {os.path.dirname(path)}",
            )
    elif not salt.daemons.masterapi.AutoKey(opts).check_permissions(path):
        yield f"{path} can be written by others, so Salt ignores it", f"chmod go-w {path}"
    elif not (os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)):
        yield (
            f"{opts['user']} cannot write {path}",
            f"chown {opts['user']}: {path} {os.path.dirname(path)}",
        )


def _rejected(opts: dict, records: list[Record]) -> Iterator[Fault]:
    """Find lines of ``autoreject_file`` that lock out minions of ours: they count before ours."""
    path = opts.get("autoreject_file")
    if not path or not os.path.isfile(path):
        return
    if not salt.daemons.masterapi.AutoKey(opts).check_permissions(path):
        return
    names = sorted({name for each in records for name in (each.hypervisor, each.minion_id)})
    for line in Path(path).read_text(errors="replace").splitlines():
        rejected = [name for name in names if salt.utils.stringutils.expr_match(name, line.strip())]
        if rejected and not line.strip().startswith("#"):
            yield (
                f"the line {line.strip()} in {path} has the master reject {views.some(rejected)}",
                f"remove the line {line.strip()} from {path}; salt-key -d those that salt-key -L "
                "has among its rejected keys",
            )
