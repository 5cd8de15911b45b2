# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the master gives to minions and keeps of them, found by asking as a minion would.

Salt's own file server is asked, with all its back ends and the master's settings: whether a file
is on the disk says little of whether a minion gets it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import salt.channel.client
import salt.exceptions
import salt.fileserver
import salt.loader
import salt.utils.network
import salt.version

from storemaster.deployment import views
from storemaster.master import heartbeat
from storemaster.master.config_files import RESTART
from storemaster.master.configuration import Fault, install

BASE = "base"
"""The environment of minions that have none of their own."""

STATES = ("provisioning_helper/firstboot.sls", "store_hypervisor/ready.sls")
"""Beside the modules, what must be ours; other states a site may replace by its own."""

SERVED = (".jinja", ".py", ".sls", ".yaml")

KEPT_S = 3600
"""A job's return must be kept for as long as a job may take, and then for a while."""

REQUEST_S = 10
"""How long a worker may take for a request that asks nothing."""


def faults(opts: dict) -> Iterator[Fault]:
    """Find what of our code the master's user cannot read, and what a minion does not get."""
    yield from _readable(opts)
    yield from _copied(opts)
    yield from _served(opts)
    yield from kept(opts)
    yield from _caches(opts)


def _readable(opts: dict) -> Iterator[Fault]:
    names = ("_engines", "_pillar", "_runners", "_utils", "reactor", "salt")
    tops = [heartbeat.CHECKOUT / name for name in names]
    paths = [path for top in tops if os.path.lexists(top) for path in _walk(top)]
    closed = [path for path in paths if not _may_read(path)]
    if closed:
        yield (
            f"{opts['user']} cannot read {views.some(closed, 1)}",
            f"chmod -R go+rX {heartbeat.CHECKOUT}; {RESTART}",
        )


def _walk(top: Path) -> Iterator[Path]:
    yield top
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(folder, name) for name in [*folders, *sorted(files)])


def _may_read(path: Path) -> bool:
    needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    return os.access(path, needed, effective_ids=True)


def _copied(opts: dict) -> Iterator[Fault]:
    """Find the copy of what minions get that ``salt-run saltutil.sync_all`` has made here."""
    copy = Path(opts["extension_modules"], "utils", "storelib")
    if copy.exists():
        yield (
            f"{copy} is a copy that salt-run saltutil.sync_all has made of what minions get; Salt "
            "takes it first, so that the next upgrade will end with its error",
            f"rm -r {copy}; {RESTART}",
        )


def _served(opts: dict) -> Iterator[Fault]:
    found: dict[Fault, list[str]] = {}
    try:
        for path in missing(opts, BASE):
            found.setdefault(_why(opts, BASE, path), []).append(path)
    except salt.exceptions.SaltException as err:
        yield f"the master's file server does not work: {err}", f"mend that, then {RESTART}"
    for (why, mend), paths in found.items():
        yield f"minions do not get salt://{views.some(paths, 1)}: {why}", mend


def missing(opts: dict, environment: str) -> list[str]:
    """Return which of our files a minion of that environment does not get as they are."""
    # Not from the list of the last seconds: what was mended just now is looked at.
    server = salt.fileserver.Fileserver({**opts, "fileserver_list_cache_time": 0})
    # Minions look for modules in the list, and then ask for each.
    listed = set(server.file_list({"saltenv": environment, "prefix": ""}))
    return [
        path
        for path, content in _ours().items()
        if path not in listed or not _same(path, content, _fetched(server, environment, path))
    ]


def _ours() -> dict[str, bytes]:
    """Return the files that minions must get, by their path under ``salt://``."""
    top = heartbeat.CHECKOUT / "salt"
    files = [path for path in _walk(top) if path.suffix in SERVED and _may_read(path)]
    return {str(path.relative_to(top)): path.read_bytes() for path in files}


def _same(path: str, ours: bytes, theirs: bytes | None) -> bool:
    fixed = path.startswith("_") or path in STATES
    return theirs == ours if fixed else theirs is not None


def _fetched(server: Any, environment: str, path: str) -> bytes | None:
    """Fetch a file as a minion does, piece by piece; ``None`` if the master has none for it."""
    content = b""
    while True:
        load = {"path": path, "saltenv": environment, "loc": len(content)}
        try:
            piece = server.serve_file(load)
        except OSError:
            return None
        if not piece.get("dest"):
            return None
        if not piece.get("data"):
            return content
        content += piece["data"]


def _why(opts: dict, environment: str, path: str) -> Fault:
    """Say why a minion does not get a file of ours, and what to do."""
    if "roots" not in opts["fileserver_backend"]:
        return (
            f"fileserver_backend is {opts['fileserver_backend']}, without roots",
            f"add roots to fileserver_backend; {RESTART}",
        )
    roots = _roots(opts, environment)
    there = [each for root in roots if os.path.isfile(each := os.path.join(root, path))]
    if not there:
        return (
            f"no file root of {environment} has it",
            install(opts, "50-store-deploy-modules.conf"),
        )
    for key, entry in _ignored(opts, there[0], path):
        return f"{key} has {entry!r}", f"take {entry!r} out of {key}; {RESTART}"
    if not os.access(there[0], os.R_OK, effective_ids=True):
        return f"{opts['user']} cannot read it", f"chmod -R go+rX {there[0]}"
    own = heartbeat.CHECKOUT / "salt" / path
    if os.path.exists(own) and not os.path.samefile(there[0], own):
        return f"{there[0]} is before it and is another", f"remove {there[0]}"
    if not opts["fileserver_followsymlinks"]:
        return (
            "it is behind a link, and fileserver_followsymlinks is False",
            f"remove fileserver_followsymlinks: False; {RESTART}",
        )
    return (
        f"Salt {salt.version.__version__} refuses links that lead out of a file root, or another "
        "back end of fileserver_backend has an older one",
        f"name {heartbeat.CHECKOUT}/salt itself in file_roots, and roots first in "
        f"fileserver_backend; {RESTART}",
    )


def _roots(opts: dict, environment: str) -> list[str]:
    roots = opts.get("file_roots") or {}
    named = roots.get(environment) or [
        root.replace("__env__", environment) for root in roots.get("__env__") or []
    ]
    return [str(root) for root in named]


def _ignored(opts: dict, path: str, relative: str) -> Iterator[tuple[str, str]]:
    """Salt compares the whole path when it serves a file, the relative one when it lists it."""
    for entry in opts.get("file_ignore_glob") or []:
        if fnmatch.fnmatch(path, entry) or fnmatch.fnmatch(relative, entry):
            yield "file_ignore_glob", entry
    for entry in opts.get("file_ignore_regex") or []:
        if re.search(entry, path) or re.search(entry, relative):
            yield "file_ignore_regex", entry


def kept(opts: dict) -> Iterator[Fault]:
    """Find why the master would not keep what minions return."""
    if not opts["job_cache"]:
        yield (
            "job_cache is False: what minions return is lost, so no deployment can go on",
            f"remove job_cache: False; {RESTART}",
        )
    if external := opts.get("ext_job_cache"):
        yield (
            f"ext_job_cache is {external}: minions return there, and nothing reaches this master",
            f"remove ext_job_cache; {RESTART} (master_job_cache has the master itself write there)",
        )
    name = opts["master_job_cache"]
    returners = salt.loader.returners(opts, {})
    if f"{name}.get_jid" not in returners:
        yield (
            f"master_job_cache is {name}, which Salt cannot load",
            f"remove master_job_cache, or install what {name} needs for Salt's Python; {RESTART}",
        )
    seconds = opts.get("keep_jobs_seconds")
    if isinstance(seconds, int) and 0 < seconds < KEPT_S:
        yield (
            f"keep_jobs_seconds is {seconds}: a job's return may be gone before it is read",
            f"set keep_jobs_seconds to {KEPT_S} or more; {RESTART}",
        )


def _caches(opts: dict) -> Iterator[Fault]:
    if not opts.get("minion_data_cache"):
        yield (
            "minion_data_cache is False: pillar that depends on grains is compiled without them "
            "here, so a store may be another one than its hypervisor's pillar says",
            f"remove minion_data_cache: False; {RESTART}; salt '*' saltutil.refresh_pillar",
        )

    if (
        opts.get("pillar_cache")
        and opts.get("memcache_expire_seconds")
        # Salt 3006 keeps pillar in files of its own.
        and "pillar.cache_driver" in opts
    ):
        yield (
            "memcache_expire_seconds and pillar_cache are set: for that long the master's workers "
            "remember a pillar, so who takes over a guest's minion ID gets its guest_pillar",
            f"remove memcache_expire_seconds; {RESTART}",
        )


def workers(opts: dict) -> Iterator[Fault]:
    """Find out whether one of the running master's workers leaves requests unanswered."""
    master = f"tcp://{salt.utils.network.ip_bracket(opts['interface'])}:{opts['ret_port']}"
    factory = salt.channel.client.ReqChannel.factory
    with factory({**opts, "master_uri": master}, crypt="clear") as channel:
        # Requests go round the workers, those of minions and pump too.
        for asked in range(3 * int(opts["worker_threads"])):
            try:
                channel.send({"cmd": "ping"}, timeout=REQUEST_S, tries=1)
            except salt.exceptions.SaltException:
                yield (
                    f"salt-master left a request unanswered for {REQUEST_S} s, after {asked} that "
                    "it answered: a worker of it is stuck or dead",
                    f"{RESTART}; its log says why, with a Traceback",
                )
                return
