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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import salt.client
import salt.daemons.masterapi
import salt.exceptions
import salt.loader
import salt.utils.jid
import salt.utils.yaml

from storelib import __version__
from storelib.errors import LedgerError, Refused, SpecError
from storelib.ledger import Ledger
from storelib.master import keys, pulse, salt_world, settings
from storelib.spec import MINION_ID, from_pillar

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

ANSWER_S = 12
"""How long is waited for the next hypervisor's answer."""

TELL_S = 5
"""How often progress is told."""

LOOK_S = 0.25
"""How often is looked for answers."""

SKEW_S = 5
"""More than this between two clocks is told."""

NAMED = 3
"""How many hypervisors a sentence names."""

VIRT_LEFT = 3008
"""The first Salt without the module virt, which is in saltext-virt since."""

HEALTH = {
    "at": float,
    "version": str,
    "salt": int,
    "python": str,
    "virt_module": bool,
    "libvirt": str,
    "hint": str,
}
"""Exactly this, as a job's return is any minion's word."""

RESTART = "systemctl restart salt-master"

Fault = tuple[str, str]

Tell = Callable[[str], None]


def faults(opts: dict, hypervisors: object, tell: Tell) -> list[dict[str, Any]]:
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
    found: list[dict[str, Any]] = [
        {"fault": fault, "mend": mend}
        for check in (_configuration, _reactors, _running, _state_dir, _autosign)
        for fault, mend in check(opts)
    ]
    if hypervisors is True:
        with contextlib.suppress(LedgerError), Ledger(settings.ledger_path(opts)) as ledger:
            named = sorted({record.hypervisor for record in ledger.all()})
    return found + [
        {"fault": f"{_some(minions)}: {fault}", "mend": mend, "hypervisors": minions}
        for (fault, mend), minions in _hypervisors(opts, named, tell).items()
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


def _some(minions: list[str]) -> str:
    more = len(minions) - NAMED
    return ", ".join(minions[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _configuration(opts: dict) -> Iterator[Fault]:
    if "store_pump" not in _engines(opts):
        yield (
            "the engine store_pump is not configured: deployments advance every 30 s only",
            _install(opts, "50-store-deploy-engine.conf"),
        )
    elif "store_pump.start" not in salt.loader.engines(opts, {}, {}, {}):
        yield (
            "the engine store_pump is configured, but Salt cannot load it",
            _install(opts, "50-store-deploy-modules.conf"),
        )
    if not _sweeps(opts):
        yield (
            "no schedule calls deploy.reconcile: deadlines are not enforced, restarts not mended",
            _install(opts, "50-store-deploy-schedule.conf"),
        )
    pillars = [name for entry in opts.get("ext_pillar") or [] for name in entry]
    if "store_deploy" not in pillars:
        yield (
            "ext_pillar store_deploy is not configured: guests get no guest_pillar, and no report "
            "is sealed",
            _install(opts, "50-store-deploy-pillar.conf"),
        )
    elif "store_deploy" not in salt.loader.pillars(opts, {}):
        yield (
            "ext_pillar store_deploy is configured, but Salt cannot load it",
            _install(opts, "50-store-deploy-modules.conf"),
        )
    roots = [Path(root) for env in (opts.get("file_roots") or {}).values() for root in env]
    for needed in ("provisioning_helper/firstboot.sls", "_modules/store_hypervisor.py"):
        if not any((root / needed).is_file() for root in roots):
            yield f"no file root has {needed}", _install(opts, "50-store-deploy-modules.conf")
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


def _install(opts: dict, name: str) -> str:
    """Say how to get the settings of a shipped file, which may be there and yet not count."""
    there = Path(opts.get("conf_file") or "/etc/salt/master").parent / "master.d" / name
    if there.exists():
        return (
            f"{there} is there: look in it for the path of your checkout, in /etc/salt/master for "
            "another default_include, and in other files for the same key"
        )
    return f"install master.d/{name}, restart salt-master"


def _reactors(opts: dict) -> Iterator[Fault]:
    conf = "50-store-deploy-reactor.conf"
    entries = _reactor_map(opts)
    for tag, name in TAGS.items():
        ours = [each for each, sls in entries if sls.endswith(f"/{name}")]
        if not any(each == tag for each, _ in entries) and not any(_meet(tag, g) for g in ours):
            yield f"no reactor for {tag}", _install(opts, conf)
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
        yield "salt-master does not run", "systemctl start salt-master; its log says why it ended"
        return
    now, different = time.time(), set()
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
    if "code" in different:
        yield "salt-master runs other code of store-deploy than the one on the disk", RESTART
    if settings_changed := sorted(different - {"code"}):
        yield (
            f"salt-master was started with other settings than its files now have: "
            f"{', '.join(settings_changed)}",
            RESTART,
        )


def _started(opts: dict) -> float | None:
    """Return when the running master was started, ``None`` if none runs."""
    path = Path(opts["sock_dir"]) / "master_event_pub.ipc"
    try:
        with socket.socket(socket.AF_UNIX) as bus:
            bus.connect(str(path))
        return path.stat().st_mtime
    except OSError:
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
        yield "auto_accept lets every minion in", "set auto_accept: False, restart salt-master"
    if opts.get("open_mode"):
        yield "open_mode lets every minion in", "set open_mode: False, restart salt-master"
    path = opts.get("autosign_file")
    if not path:
        yield (
            "no autosign_file is set: only admission: pinned works",
            _install(opts, "40-store-deploy-autosign.conf"),
        )
    elif not os.path.exists(path):
        if not os.access(os.path.dirname(path), os.W_OK):
            yield (
                f"{path} is not there and {opts['user']} cannot make it",
                f"make its folder, belonging to {opts['user']}, or name another autosign_file",
            )
    elif not salt.daemons.masterapi.AutoKey(opts).check_permissions(path):
        yield f"{path} can be written by others, so Salt ignores it", f"chmod go-w {path}"
    elif not (os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)):
        yield (
            f"{opts['user']} cannot write {path}",
            f"chown {opts['user']}: {path} {os.path.dirname(path)}",
        )


def _hypervisors(opts: dict, names: list[str], tell: Tell) -> dict[Fault, list[str]]:
    """Return what is wrong with which of the hypervisors."""
    found: dict[Fault, list[str]] = {}
    accepted = keys.accepted(opts) if names else set()
    let_in = [name for name in names if name in accepted]
    if keyless := sorted(set(names) - accepted):
        mend = (
            "salt-key -a MINION, once the key is known to be its own; behind a syndic, deploy from "
            "the master that it calls"
        )
        found["no accepted key", mend] = keyless
    for check in (_answers, _pillars) if let_in and _started(opts) else ():
        for name, fault in check(opts, let_in, _now_and_then(tell)):
            found.setdefault(fault, []).append(name)
    return found


def _now_and_then(tell: Tell) -> Tell:
    """Return ``tell``, but for what comes within ``TELL_S`` of the line before."""
    told = time.monotonic()

    def seldom(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_S:
            told = time.monotonic()
            tell(line)

    return seldom


def _answers(opts: dict, names: list[str], tell: Tell) -> Iterator[tuple[str, Fault]]:
    """Ask all of them at once; what they answer is the doctor's to tell and moves nothing."""
    jid, asked = str(salt.utils.jid.gen_jid(opts)), time.time()
    seen: set[str] = set()
    with salt.client.get_local_client(mopts=opts) as client:
        try:
            client.pub(names, "store_hypervisor.health", tgt_type="list", jid=jid, timeout=10)
        except salt.exceptions.SaltException as err:
            yield names[0], (f"the master did not take the job that asks it: {err}", RESTART)
            return
        until = time.monotonic() + ANSWER_S
        while len(seen) < len(names) and time.monotonic() < until:
            time.sleep(LOOK_S)
            returned = client.returners[f"{opts['master_job_cache']}.get_jid"](jid)
            for name in set(returned).intersection(names) - seen:
                until = time.monotonic() + ANSWER_S
                seen.add(name)
                for fault in _health(returned[name].get("return"), asked):
                    yield name, fault
            tell(f"{len(seen)} of {len(names)} hypervisors have answered")
    for name in sorted(set(names) - seen):
        yield (
            name,
            (
                f"no answer in {ANSWER_S} s",
                "is it on, does salt-minion run there, can it reach ports 4505 and 4506 of this "
                "master? salt MINION test.ping",
            ),
        )


def _health(told: Any, asked: float) -> Iterator[Fault]:
    types = {key: type(value) for key, value in told.items()} if isinstance(told, dict) else {}
    if types != HEALTH or told["version"] != __version__:
        yield (
            f"its modules are missing or not those of version {__version__}",
            "salt MINION saltutil.sync_all; if that brings no other, see file_roots",
        )
        return
    skew = max(asked - told["at"], told["at"] - time.time())
    if skew > SKEW_S:
        yield (
            f"its clock is wrong by more than {SKEW_S} s",
            "have chrony or systemd-timesyncd set it",
        )
    if not told["virt_module"]:
        yield "Salt's module virt is not loaded", _virt_package(told)
    if told["libvirt"]:
        yield told["libvirt"], told["hint"]


def _virt_package(told: dict) -> str:
    if "venv-salt-minion" in told["python"]:
        return "install libvirt-libs there, restart venv-salt-minion"
    packages = "libvirt-python" if told["salt"] < VIRT_LEFT else "saltext-virt libvirt-python"
    return f"{told['python']}/bin/pip install {packages} there, restart salt-minion"


def _pillars(opts: dict, names: list[str], tell: Tell) -> Iterator[tuple[str, Fault]]:
    for done, name in enumerate(names):
        tell(f"{done} of {len(names)} pillars are compiled")
        try:
            data = salt_world.store_server(opts, name)
            if data is None:
                yield name, ("its pillar has no store_server", "describe its store there")
            else:
                from_pillar(data, name)
        except SpecError as err:
            yield name, (err.reason, err.hint)
