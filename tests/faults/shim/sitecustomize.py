# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A stub, loaded by Python itself into the processes of the master under test, and into no other.

It changes nothing by itself: where a fault can happen it tells the harness (injector.py) which
place of which deployment was reached, and waits for the answer. A process that is killed while it
waits has died at exactly that place, which no signal from outside could hit. It also shortens how
long the product waits before it asks again: a test has not the time that a store has.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import json
import multiprocessing
import os
import select
import socket
import sys
import threading
import time

SOCKET = "/srv/faults.sock"
ACTS = ("publish", "purge_key", "accept_key", "arm", "disarm", "rewrite_autosign")

if "FAKETIME_TIMESTAMP_FILE" in os.environ:
    # libfaketime takes the time until which Python asks the kernel to sleep for one of its own.
    time.sleep = lambda seconds: select.select([], [], [], seconds)

here = threading.local()


def tell(**place):
    """Tell the harness where this process is; return its answer, empty if nobody listens."""
    place |= {"pid": os.getpid(), "process": multiprocessing.current_process().name}
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as harness:
        harness.connect(SOCKET)
        with harness.makefile("rw") as lines:
            print(json.dumps(place), file=lines, flush=True)
            return json.loads(lines.readline() or "{}")
    return {}


def jobs(module):
    module.RESEND_S, module.PROBE_S, module.SYNC_S = 6, 4, 6


def step_context(module):
    made = module.StepContext.__init__

    @functools.wraps(made)
    def remembered(self, master, ledger, record, *rest):
        here.place = {"store": record.store, "state": record.state}
        made(self, master, ledger, record, *rest)

    module.StepContext.__init__ = remembered


def ledger(module):
    save, writing = module.Ledger.save, module.Ledger.writing

    @functools.wraps(save)
    def told_save(self, record, change=None, **how):
        place = getattr(here, "place", {})
        moves = bool(change is not None and place) and place["store"] == record.store
        if not moves or place["state"] == record.state:
            return save(self, record, change, **how)
        tell(point="before", act="record", **place)
        here.uncommitted = place
        try:
            saved = save(self, record, change, **how)
        finally:
            here.uncommitted = None
        tell(point="after", act="record", **place)
        return saved

    @contextlib.contextmanager
    def told_writing(self):
        with writing(self) as db:
            yield db
            if getattr(here, "uncommitted", None):
                tell(point="between", act="record", **here.uncommitted)

    module.Ledger.save, module.Ledger.writing = told_save, told_writing


def salt_master(module):
    def told(name):
        act = getattr(module.SaltMaster, name)

        @functools.wraps(act)
        def acts(self, *args):
            what = {"act": name, **getattr(here, "place", {})}
            if name == "publish":
                what |= {"act": args[2], "jid": args[0], "minion": args[1]}
            tell(point="before", **what)
            try:
                act(self, *args)
            finally:
                # A job whose publication nobody confirmed in time runs all the same.
                tell(point="between", **what)

        return acts

    for name in ACTS:
        setattr(module.SaltMaster, name, told(name))


def engine(module):
    locked = module.locked

    @contextlib.contextmanager
    def told_locked(folder, store):
        if tell(point="lock", store=store).get("busy"):
            yield False
            return
        with locked(folder, store) as held:
            yield held

    module.locked = told_locked


def pump(module):
    ring = module.ring

    @functools.wraps(ring)
    def told_ring(ledger, rings):
        rung = False
        for each in rings:
            for _ in range(tell(point="bell", bells=[each.store, each.minion]).get("times", 1)):
                rung = ring(ledger, [each]) or rung
        return rung

    module.ring = told_ring


def master(module):
    # 3008 has the workers call the other one.
    name = "_sync_return" if hasattr(module.AESFuncs, "_sync_return") else "_return"
    take = getattr(module.AESFuncs, name)

    @functools.wraps(take)
    def told_return(self, load):
        lost = tell(point="return", jid=load.get("jid"), minion=load.get("id")).get("lost")
        return None if lost else take(self, load)

    setattr(module.AESFuncs, name, told_return)


PATCHES = {
    "salt.master": master,
    "storemaster.deployment.engine": engine,
    "storemaster.deployment.jobs": jobs,
    "storemaster.deployment.ledger": ledger,
    "storemaster.master.pump": pump,
    "storemaster.master.salt_master": salt_master,
    "storemaster.deployment.step_context": step_context,
}


class Finder(importlib.abc.MetaPathFinder):
    """Patches a module as soon as it is imported."""

    def find_spec(self, fullname, path, target=None):
        spec = None
        if fullname in PATCHES:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                PATCHES[fullname](module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
