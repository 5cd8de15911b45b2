# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Finds the ways in which an installation is commonly wrong, and says how to mend each."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from storelib.errors import LedgerError
from storelib.ledger import Ledger
from storelib.master import settings

TAGS = ("store/*/hypervisor/ready", "store/*/guest/*")


def faults(opts: dict) -> list[dict[str, str]]:
    """Return each fault as ``{"fault": .., "mend": ..}``; none is an empty list."""
    return [{"fault": fault, "mend": mend} for fault, mend in _faults(opts)]


def _faults(opts: dict) -> Iterator[tuple[str, str]]:
    yield from _configuration(opts)
    yield from _state_dir(opts)
    yield from _autosign(opts)


def _configuration(opts: dict) -> Iterator[tuple[str, str]]:
    reacting = [tag for entry in opts.get("reactor") or [] for tag in entry]
    for tag in TAGS:
        if reacting.count(tag) != 1:
            many = "no reactor" if tag not in reacting else "more than one reactor"
            yield f"{many} for {tag}", "install master.d/50-store-deploy-reactor.conf once"
    engines = [name for entry in opts.get("engines") or [] for name in entry]
    if "store_pump" not in engines:
        yield (
            "the engine store_pump is not configured: deployments advance every 30 s only",
            "install master.d/50-store-deploy-engine.conf",
        )
    jobs = (opts.get("schedule") or {}).values()
    if not any(isinstance(j, dict) and j.get("function") == "deploy.reconcile" for j in jobs):
        yield (
            "no schedule calls deploy.reconcile: deadlines are not enforced, restarts not mended",
            "install master.d/50-store-deploy-schedule.conf",
        )
    pillars = [name for entry in opts.get("ext_pillar") or [] for name in entry]
    if "store_deploy" not in pillars:
        yield (
            "ext_pillar store_deploy is not configured: guests get no guest_pillar",
            "install master.d/50-store-deploy-pillar.conf",
        )
    roots = [Path(root) for env in (opts.get("file_roots") or {}).values() for root in env]
    if not any((root / "provisioning_helper" / "firstboot.sls").is_file() for root in roots):
        yield (
            "no file root has provisioning_helper/firstboot.sls",
            "install master.d/50-store-deploy-modules.conf with the path of your checkout",
        )


def _state_dir(opts: dict) -> Iterator[tuple[str, str]]:
    folder = settings.state_dir(opts)
    try:
        with Ledger(settings.ledger_path(opts)) as ledger:
            ledger.rung()
    except LedgerError as err:
        yield err.reason, err.hint
        return
    user = pwd.getpwnam(opts["user"]).pw_uid
    for path in (folder, settings.ledger_path(opts)):
        if path.stat().st_uid != user:
            yield f"{path} does not belong to {opts['user']}", f"chown {opts['user']} {path}"
        if path.stat().st_mode & 0o077:
            yield f"{path} can be read by others", f"chmod go= {path}"


def _autosign(opts: dict) -> Iterator[tuple[str, str]]:
    if opts.get("auto_accept"):
        yield "auto_accept lets every minion in", "set auto_accept: False, restart salt-master"
    if opts.get("open_mode"):
        yield "open_mode lets every minion in", "set open_mode: False, restart salt-master"
    path = opts.get("autosign_file")
    if not path:
        yield (
            "no autosign_file is set: only admission: pinned works",
            "install master.d/40-store-deploy-autosign.conf, restart salt-master",
        )
    elif os.path.exists(path) and os.stat(path).st_mode & 0o022:
        yield f"{path} can be written by others, so Salt ignores it", f"chmod go-w {path}"
