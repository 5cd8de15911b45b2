# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What every fault of the matrix has, and what became of the deployment that suffers it."""

import contextlib
import logging
import os
import pathlib

import salt.config
import salt.utils.jid
import store_site
from store_site import until

from storemaster.deployment import lifecycle

log = logging.getLogger(__name__)
STATES = tuple(state.name for state in lifecycle.PATH)

ACTS = {
    "preparing": "store_hypervisor.prepare",
    "clearing": "purge_key",
    "starting": "store_hypervisor.start",
    "booting": "disarm",
    "restarting": "provisioning_helper.reboot",
    "finishing": "store_hypervisor.finish",
}
"""What the master is killed at, where the state's first act is not the one that counts."""

ACTING = set()
"""Which processes of the master are in the midst of an act, each with the store."""


class Fault:
    """A fault, and what became of the deployment that suffers it; the store is named after it."""

    states = STATES
    about = ""
    redeploy = False
    boots = 3
    """How often the guest boots, if that can be said."""
    hits = ""
    """
    The state in which it has to hit the job: there the job takes a second or more. The other jobs
    take tens of milliseconds, and whether the fault is in time for them is chance.
    """

    def __init__(self, site, store):
        self.site = site
        self.store = store
        self.minions = (f"hv-{store}", f"store-{store}")
        self.injected = {}
        """What was going on when it was injected, by state."""
        self.failed = {}
        """Why the deployment failed, by state; it was retried then."""
        self.passed = set()
        """The states that were left."""
        self.left = []
        """What was found in the end that should not be."""
        self.seconds_taken = 0

    def prepare(self):
        """Make ready what the fault takes, before the deployment begins."""

    def lost(self):
        """Return what is wrong in the end with what was made ready."""
        return []

    def minion(self):
        """Return the hypervisor's minion."""
        return store_site.Hypervisor(self.minions[0], **QUICK)

    def place(self, at):
        """Say whether a place is the one to inject the fault at: by default a job is just sent."""
        if at.state == "queued":
            return at.point == "before"
        return at.point == "between" and hasattr(at, "jid")

    def reached(self, at):
        """A process of the master is at a place of the deployment, and waits."""
        # Salt's own are asked for beside the job that counts.
        counts = at.state in self.states and not at.act.startswith("saltutil.")
        if counts and at.state not in self.injected and self.place(at):
            self.inject(at)

    def note(self, at, seen=""):
        self.injected[at.state] = f"{at.point} {at.act}, {at.process.partition('(')[0]}{seen}"
        log.info("%s in %s: %s", self.store, at.state, self.injected[at.state])

    def inject(self, at):
        raise NotImplementedError

    def alone(self):
        """
        Wait until no other deployment is in the midst of an act.

        What is killed there has acted, and nobody tells the harness so: its fault would be missed.
        """

        def others():
            acting = [process for process, store in list(ACTING) if store != self.store]
            return [process for process in acting if pathlib.Path(f"/proc/{process}").exists()]

        # They take a few hundredths of a second; one that broke is told by nobody either.
        with contextlib.suppress(AssertionError):
            until(lambda: not others(), 1, "no other acts", every=0.01)

    def locks(self, at):
        """Return whether to tell the process that another one is at work on the store."""
        return False

    def rings(self, name):
        """Return how often to ring, for one bell of the store."""
        return 1

    def loses(self, at):
        """Return whether to lose the return of a job."""
        return False

    def release(self):
        """Let go what was held back, now that the deployment has ended."""

    def proc(self, at):
        """Return the file that is there while a job runs on its minion."""
        home = {
            self.minions[0]: pathlib.Path("/srv/minions", self.minions[0]),
            self.minions[1]: self.site.stand_ins.disk(self.minions[1]),
        }[at.minion]
        return home / "var/cache/salt/minion/proc" / at.jid

    def job_runs(self, at):
        """Wait until a job runs, if it does so long enough to be seen; say so."""
        ended = return_of(at)
        with contextlib.suppress(AssertionError):
            until(
                lambda: self.proc(at).exists() or ended.exists(),
                self.patience(at),
                "the job runs",
                every=0.01,
            )
        if ended.exists():
            return ", which had ended"
        return RAN if self.proc(at).exists() else UNSEEN

    def patience(self, at):
        """Return the seconds that the fault waits for a job; some minions are just rebooting."""
        return 30 if at.state == self.hits else 2


RAN, CONNECTED, AWAY = ", which ran", ", which was connected", ", still away"
UNSEEN = ", which was not seen to run"
HIT = (RAN, CONNECTED, AWAY, UNSEEN)
"""What is noted where the fault was in time; the last two are jobs that had not come there yet."""


def return_of(at):
    """Return the file that is there when the master has a job's return."""
    opts = master_opts()
    jobs = os.path.join(opts["cachedir"], "jobs")
    folder = salt.utils.jid.jid_dir(at.jid, jobs, opts["hash_type"])
    return pathlib.Path(folder, at.minion, "return.p")


QUICK = {"recon_default": 100, "recon_max": 500}
"""Or a minion may take 11 seconds to come back to a master that was started again."""


def master_opts():
    return salt.config.master_config("/etc/salt/master")
