# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Deployments that suffer their faults side by side, and what is left of them in the end."""

import contextlib
import pathlib
import subprocess
import time

import store_site
from fault import master_opts
from fault_kinds import FAULTS
from store_site import until

from storemaster.deployment import lifecycle, requests
from storemaster.master import operator_requests

FILES_KEEP_THEIR_TIMES = {"publish_session": 10**9, "keep_jobs_seconds": 10**9}
"""The kernel dates files by its own clock: without these Salt would find each a year old."""


class Phase:
    """Deployments that suffer their faults side by side, and the master that they need."""

    def __init__(self, *stores, sweep_s=5, without=(), clock=False):
        self.stores = stores
        self.sweep_s = sweep_s
        self.without = without
        self.clock = clock
        """Whether the master has a clock that can be set."""

    def run(self, site, injector, seconds):
        self.configure(site)
        faults = injector.faults = {store: FAULTS[store](site, store) for store in self.stores}
        for store in faults:
            site.describe(f"hv-{store}", store)
        site.start_hypervisors(*(fault.minion() for fault in faults.values()))
        for fault in faults.values():
            fault.prepare()
            operator_requests.request(master_opts(), fault.store, None, fault.redeploy)
        with contextlib.suppress(AssertionError):
            until(lambda: all([over(site, fault) for fault in faults.values()]), seconds, "the end")
        for fault in faults.values():
            fault.release()
            fault.left += leftovers(site, fault) + fault.lost()
            fault.passed = {change.previous for change in site.history(fault.store)}
        for fault in faults.values():
            self.remove(site, fault)
        injector.faults = {}
        return faults

    def configure(self, site):
        schedule = {"function": "deploy.reconcile", "seconds": self.sweep_s, "maxrunning": 1}
        site.configuration = {
            "without": ["50-store-deploy-schedule.conf", *self.without],
            "schedule": {"store-deploy-sweep": schedule},
            # The master has an end of the cable, too.
            "interface": "0.0.0.0",
            **(FILES_KEEP_THEIR_TIMES if self.clock else {}),
        }
        site.master.kill()
        plain = site.master.environment
        with contextlib.ExitStack() as ends:
            if self.clock:
                site.master.environment = plain | store_site.settable_clock()
                ends.callback(setattr, site.master, "environment", plain)
            site.master.start(**site.configuration)

    @staticmethod
    def remove(site, fault):
        """Leave nothing running that would take time from the next."""
        hypervisor, guest = fault.minions
        subprocess.run(["virsh", "destroy", guest], capture_output=True, check=False)
        subprocess.run(["virsh", "undefine", guest], capture_output=True, check=False)
        site.hypervisors.pop(hypervisor).kill()


def over(site, fault):
    """Say whether the deployment has come to its end; one that failed is retried."""
    record = site.record(fault.store)
    if record is None:
        # The ledger is just being put back.
        return False
    if record.state == "failed" and "has gone on" in record.reason:
        operator_requests.adopt(master_opts(), fault.store, None, True)
        if site.record(fault.store).state == "failed":
            operator_requests.change(master_opts(), fault.store, requests.retry)
        return False
    if record.state == "failed" and record.failed_in not in fault.failed:
        fault.failed[record.failed_in] = record.reason
        operator_requests.change(master_opts(), fault.store, requests.retry)
        return False
    if not record.active and not fault.seconds_taken:
        fault.seconds_taken = time.time() - record.began
    return not record.active


def leftovers(site, fault):
    """Return what is wrong with the end, seen from outside as far as it can be."""
    guest = fault.minions[1]
    record, history = site.record(fault.store), site.history(fault.store)
    wrong = []
    if record.state != "deployed":
        wrong.append(f"it is {record.state}: {record.reason}")
    previous = ""
    for change in history:
        legal = bool(lifecycle.whys(change.previous, change.state))
        if change.previous != previous or not legal:
            wrong.append(f"{change.previous} became {change.state} after {previous}")
        previous = change.state
    if record.job:
        wrong.append(f"its record waits for {record.job.function}")
    with operator_requests.open_ledger(master_opts()) as ledger:
        with contextlib.suppress(AssertionError):
            until(lambda: not ledger.unannounced(fault.store), 10, "all is told")
        wrong += [f"{change.state} was never told" for change in ledger.unannounced(fault.store)]
    domains = store_site.run("virsh", "list", "--all", "--name").split()
    if [name for name in domains if name.startswith(guest)] != [guest]:
        wrong.append(f"domains: {domains}")
    elif store_site.run("virsh", "domstate", guest).strip() != "running":
        wrong.append("its domain is off")
    else:
        own = site.stand_ins.disk(guest) / "etc/salt/pki/minion/minion.pub"
        if site.keys(guest) != {"minions": own.read_text().strip()}:
            wrong.append(f"keys: {site.keys(guest)}")
        if "seed" in store_site.run("virsh", "dumpxml", guest):
            wrong.append("its seed is in the drive")
        booted = len(record.evidence.boot_ids or ())
        if booted != 3 and fault.boots:
            wrong.append(f"the guest booted {booted} times")
    if site.armed(guest):
        wrong.append("an autosign entry")
    half_made = {
        *store_site.POOL.rglob(f"*{guest}*seed*"),
        *store_site.POOL.rglob(f".{guest}*"),
        *store_site.POOL.glob(f".store-deploy/defining/{guest}*"),
        *store_site.POOL.glob(f".store-deploy/prepared/{guest}*"),
        *pathlib.Path("/run").glob(f"store-deploy-seed-{guest}*"),
    }
    wrong += sorted(map(str, half_made))
    for minion in fault.minions:
        wrong += [f"{minion} runs {function}" for function in running(site, minion)]
    return wrong


def running(site, minion):
    """Return which functions of the product a minion runs, or what it said instead of a list."""
    said = []

    def told():
        # Salt's function breaks on the half-written file of a job that begins, and then answers
        # with a sentence. A minion that was just started does not answer yet.
        said[:] = [site.ask(minion, "saltutil.running")]
        return isinstance(said[0], list)

    try:
        until(told, 60, "it answers with a list")
    except AssertionError:
        return [f"nobody knows what, it answers {said[0]!r}"]
    modules = ("store_hypervisor", "provisioning_helper")
    return [job["fun"] for job in said[0] if job["fun"].partition(".")[0] in modules]
