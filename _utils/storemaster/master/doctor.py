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

from storelib.errors import Fault as Unwritable
from storelib.errors import LedgerError, Refused
from storemaster.deployment import views
from storemaster.deployment.formats import MINION_ID
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.master import (
    api,
    config_files,
    configuration,
    heartbeat,
    keys,
    serving,
    settings,
    uyuni_pillar,
)
from storemaster.master import hypervisors as hypervisor_checks
from storemaster.master.config_files import RESTART
from storemaster.master.configuration import Fault, install
from storemaster.master.outbox import office

TAGS = {
    "store/*/hypervisor/ready": "hypervisor_ready.sls",
    "store/*/guest/*": "guest.sls",
    "salt/minion/*/start": "minion_start.sls",
}
"""The reactors of a master without the engine, by globs that a site may make wider or narrower."""

ENGINE = "50-store-deploy-engine.conf"
OUTBOX = "60-store-deploy-outbox.conf"

SILENT_S = 90
"""Pump and sweeper have run within this time, or do not run."""

ROOM_MIB = 64
"""What the ledger's file system should have left."""


def faults(opts: dict, hypervisors: object, tell: hypervisor_checks.Tell) -> list[dict[str, Any]]:
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
        *(_state_dir, autosign, uyuni_pillar.faults, api.faults),
        # None of them is a receiver any more, where what names them is wrong.
        *(() if {"dns", "outbox"} & set(wrong) else (office.faults,)),
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
    asked = hypervisor_checks.faults(opts, named, _started(opts), tell)
    return found + [
        {"fault": f"{views.some(minions)}: {fault}", "mend": mend, "hypervisors": minions}
        for (fault, mend), minions in asked.items()
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
        deaf = not any(Path(sls).name in TAGS.values() for _, sls in _reactor_map(opts))
        yield (
            f"the engine store_pump is not configured: {'no event is heard, ' if deaf else ''}"
            "deployments advance every 30 s only, and rest while local time is behind what it was "
            "(summer time ends, a clock is set back)",
            install(opts, ENGINE),
        )
    elif "store_pump.start" not in salt.loader.engines(opts, {}, {}, {}):
        yield (
            "the engine store_pump is configured, but Salt cannot load it",
            install(opts, "50-store-deploy-modules.conf"),
        )
    if settings.outbox(opts) and "store_outbox" not in _engines(opts):
        yield (
            "store_deploy names receivers of changes, and the engine store_outbox is not "
            "configured: nobody is told",
            install(opts, OUTBOX),
        )
    if not _sweeps(opts):
        yield (
            "no schedule calls deploy.reconcile: deadlines are not enforced, restarts not mended",
            install(opts, "50-store-deploy-schedule.conf"),
        )
    pillars = uyuni_pillar.order(opts)
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
            f"remove order_masters, if no syndic calls this master; {RESTART}; else install "
            "store-deploy on the master that the minions call",
        )


def _engines(opts: dict) -> set[str]:
    """Return the names of the engines: Salt takes a mapping, or a list of mappings or names."""
    engines = opts.get("engines") or []
    return {name for each in engines for name in ([each] if isinstance(each, str) else each)}


def _sweeps(opts: dict) -> bool:
    jobs = (opts.get("schedule") or {}).values()
    return any(isinstance(j, dict) and j.get("function") == "deploy.reconcile" for j in jobs)


def _reactors(opts: dict) -> Iterator[Fault]:
    """Find doorbells that nobody hears, or that ring twice."""
    entries, engine = _reactor_map(opts), "store_pump" in _engines(opts)
    yield from _doubled(opts, entries) if engine else _unheard(opts, entries)
    for tag, name in TAGS.items():
        named = [
            sls
            for each, sls in entries
            if (not engine if sls.endswith(f"/{name}") else each == tag)
        ]
        for sls in dict.fromkeys(named):
            if sls.startswith("/") and not Path(sls).is_file():
                yield f"the reactor {sls} for {tag} is not there", _other_file(opts, sls, name)


def _doubled(opts: dict, entries: list[tuple[str, str]]) -> Iterator[Fault]:
    """Find reactors of ours beside the engine."""
    files: dict[str, list[str]] = {}
    for sls in dict.fromkeys(sls for _, sls in entries if Path(sls).name in TAGS.values()):
        where = config_files.naming(opts, "reactor", sls) or "the file that names it"
        files.setdefault(str(where), []).append(sls)
    for where, named in files.items():
        yield (
            f"reactors ring for what the engine store_pump hears by itself, and cost the more the "
            f"more keys are accepted: {', '.join(Path(each).name for each in named)}",
            f"take {', '.join(named)} out of reactor in {where}; {RESTART}",
        )


def _unheard(opts: dict, entries: list[tuple[str, str]]) -> Iterator[Fault]:
    """Find what no reactor hears, or more than one does, on a master without the engine."""
    ours = {
        tag: [each for each, sls in entries if sls.endswith(f"/{name}")]
        for tag, name in TAGS.items()
    }
    for tag, globs in ours.items():
        heard = any(each == tag for each, _ in entries) or any(_meet(tag, glob) for glob in globs)
        # Where there is none at all the missing engine is the fault.
        if any(ours.values()) and not heard:
            yield f"no reactor for {tag}", install(opts, ENGINE)
        if any(_meet(one, other) for one, other in itertools.combinations(globs, 2)):
            yield (
                f"more than one reactor for {tag}",
                f"name {TAGS[tag]} once in all of master.d, where it is at {', '.join(globs)}; "
                f"{RESTART}",
            )


def _other_file(opts: dict, sls: str, name: str) -> str:
    where = config_files.naming(opts, "reactor", sls) or "the file that names it"
    if sls.endswith(f"/{name}"):
        return f"write {heartbeat.CHECKOUT}/reactor/{name} instead of {sls} in {where}; {RESTART}"
    return f"make {sls}, or take it out of reactor in {where}; {RESTART}"


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
        (heartbeat.PUMP, "store_pump" in _engines(opts), "the engine store_pump"),
        (heartbeat.SWEEPER, _sweeps(opts), "the schedule of deploy.reconcile"),
        (heartbeat.OUTBOX, "store_outbox" in _engines(opts), "the engine store_outbox"),
    ):
        at, other = heartbeat.last(opts, who)
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
    if unusable := list(_no_folder(opts, folder)):
        yield from unusable
        return
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
        yield f"the ledger {path} is damaged: {err}", "restore it: docs/recover.md, The ledger"
    for each in (folder, path, folder / "secret"):
        if each.exists() and each.stat().st_mode & 0o077:
            yield f"{each} can be read by others", f"chmod go= {each}"
    if (free := shutil.disk_usage(folder).free // 2**20) < ROOM_MIB:
        yield f"{folder} has {free} MiB left", "make room there: a full disk stops all deployments"


def _no_folder(opts: dict, folder: Path) -> Iterator[Fault]:
    made = f"install -d -m 700 -o {opts['user']} {folder}"
    at = config_files.closed(folder)
    if at not in (None, folder):
        yield f"{opts['user']} cannot come to {folder}", config_files.opened(opts, at, False)
    elif folder.is_file():
        yield f"{folder} is no folder", f"mv {folder} {folder}.old; {made}"
    elif not folder.exists() and not _may_write(str(_nearest(folder))):
        yield f"{folder} is not there and {opts['user']} cannot make it", made


def _nearest(path: Path) -> Path:
    """Return the first folder above that is there."""
    return next(each for each in path.parents if each.exists())


def _owner(path: Path) -> int | None:
    """Return whom a file belongs to, ``None`` if it is not there or cannot be seen."""
    with contextlib.suppress(OSError):
        return path.stat().st_uid
    return None


def autosign(opts: dict) -> Iterator[Fault]:
    """Find what keeps an autosign entry from being written, or Salt from reading it."""
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
        if not _may_write(os.path.dirname(path)):
            yield (
                f"{path} is not there and {opts['user']} cannot make it",
                f"install -d -m 700 -o {opts['user']} {os.path.dirname(path)}",
            )
    elif not salt.daemons.masterapi.AutoKey(opts).check_permissions(path):
        yield f"{path} can be written by others, so Salt ignores it", f"chmod go-w {path}"
    elif not (_may_write(path) and _may_write(os.path.dirname(path))):
        yield (
            f"{opts['user']} cannot write {path}",
            f"chown {opts['user']}: {path} {os.path.dirname(path)}",
        )
    elif (state := settings.state_dir(opts)).is_dir():
        try:
            keys.Autosign(opts, state / keys.AUTOSIGN_LOCK).check()
        except Unwritable as err:
            yield err.reason, err.hint


def _may_write(path: str) -> bool:
    needed = os.W_OK | os.X_OK if os.path.isdir(path) else os.W_OK
    return os.access(path, needed, effective_ids=True)


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
