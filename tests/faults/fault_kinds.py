# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The faults, each suffered by a deployment of its own once in every state."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import threading
import time

import libvirt
import salt.client
import salt.utils.jid
import stand_in
import store_site
from fault import ACTS, AWAY, CONNECTED, QUICK, STATES, Fault, master_opts
from store_site import until

from storelib import orders
from storelib.hypervisor import domains
from storemaster.deployment import lifecycle
from storemaster.deployment.record import ANY_MACHINE, Record
from storemaster.master import operator_requests, pump

OLD = f"""<domain type='qemu'>
  <name>{{guest}}</name><memory>1024</memory><os><type>hvm</type></os>
  <metadata><d:deployment xmlns:d='{domains.NAMESPACE}' store='{{store}}' generation='7'>
    <d:public-key>its key</d:public-key></d:deployment></metadata>
  <devices><disk type='file' device='disk'>
    <driver type='qcow2'/><source file='{{disk}}'/><target dev='vda'/></disk></devices>
</domain>"""
"""A server of the store, as far as the hypervisor knows it: it is from before an update."""


def deployed(spec, hypervisor):
    """Return the ledger's record of that server."""
    earlier = [orders.old_id(7)]
    return Record(
        store=spec["store"],
        generation=7,
        state="deployed",
        since=time.time(),
        deadline=None,
        hypervisor=hypervisor,
        minion_id=spec["minion_id"],
        spec=spec,
        began=time.time(),
        requested_by="operator",
        deployment=earlier[0],
        noted={ANY_MACHINE: earlier},
    )


class Redeployed(Fault):
    """Its deployment replaces a server."""

    redeploy = True

    def prepare(self):
        # So that there is a server to set aside, and a key to purge.
        with operator_requests.open_ledger(master_opts()) as ledger:
            spec, hypervisor = operator_requests.wanted(master_opts(), ledger, self.store, None)
            ledger.save(deployed(spec.as_dict(), hypervisor), change="it was deployed")
        guest = self.minions[1]
        disk = store_site.POOL / f"{guest}.qcow2"
        shutil.copy(self.site.image, disk)
        with contextlib.closing(libvirt.open(stand_in.URI)) as connection:
            connection.defineXML(OLD.format(guest=guest, store=self.store, disk=disk))
        keys = store_site.PKI / "minions"
        shutil.copy(keys / self.minions[0], keys / guest)

    def lost(self):
        folder = store_site.POOL / ".store-deploy/set-aside" / self.minions[1]
        asides = {
            path.name.split("-")[1]: {file.name for file in path.iterdir()}
            for path in folder.glob("*")
        }
        whole = {"disk.qcow2", "domain.xml", "minion.pub", "set-aside.json"}
        return [] if asides == {"g7": whole} else [f"set aside is {asides}"]


class MasterKilled(Redeployed):
    """The master is killed with all its processes, and started again."""

    point = ""
    one_at_a_time = threading.Lock()

    def place(self, at):
        if self.point == "after":
            return (at.point, at.act) == ("after", "record")
        return (at.point, at.act) == (self.point, ACTS.get(at.state, at.act))

    def inject(self, at):
        # Another deployment may have had the master killed while this process waited.
        with self.one_at_a_time:
            if pathlib.Path(f"/proc/{at.pid}").exists():
                self.alone()
                self.note(at)
                self.site.master.kill()
                self.site.master.start(**self.site.configuration)


class Before(MasterKilled):
    about = "the master is killed before the act"
    point = "before"


class Between(MasterKilled):
    about = "the master is killed between the act and the record"
    point = "between"


class After(MasterKilled):
    about = "the master is killed after the record"
    point = "after"


class Engine(Fault):
    about = "the engine's process is killed; Salt starts it again"

    def locks(self, at):
        # The sweeper would pass the states while there is no engine.
        return not at.process.startswith("Engine")

    def inject(self, at):
        self.alone()
        self.note(at)
        os.kill(at.pid, signal.SIGKILL)


class Away(Fault):
    """Something is gone for a while: longer than a job of a stand-in takes."""

    seconds = 4.0

    def __init__(self, site, store):
        super().__init__(site, store)
        self.lock = threading.Lock()
        self.timer = None
        self.whose = self.minions[:1]
        """The minions whose jobs it hits."""

    def go(self, minion):
        raise NotImplementedError

    def come_back(self):
        raise NotImplementedError

    def inject(self, at):
        with self.lock:
            seen = AWAY
            if self.timer is None:
                minion = getattr(at, "minion", None)
                seen = self.job_runs(at) if minion in self.whose else ""
                self.go(minion)
            else:
                # The deployment went on without it: it stays away in this state, too.
                self.timer.cancel()
            self.note(at, seen)
            self.timer = threading.Timer(self.seconds, self.back)
            self.timer.start()

    def back(self):
        with self.lock:
            if threading.current_thread() is self.timer:
                self.come_back()
                self.timer = None


class Hypervisor(Away):
    about = "the hypervisor's minion is killed at its job, and started again after 4 s"
    hits = "starting"

    def go(self, minion):
        self.site.hypervisors[self.minions[0]].kill()

    def come_back(self):
        self.site.hypervisors[self.minions[0]].start()


class Network(Away):
    about = "the hypervisor's cable is pulled for 6 s, longer than a job takes"
    seconds = 6.0
    hits = "starting"

    def minion(self):
        """Make it a network of its own, whose other end the master has."""
        for words in (
            f"netns add {self.store}",
            f"link add {self.store} type veth peer name eth0 netns {self.store}",
            f"addr add 10.99.0.1/24 dev {self.store}",
            f"link set {self.store} up",
            f"-n {self.store} addr add 10.99.0.2/24 dev eth0",
            f"-n {self.store} link set lo up",
            f"-n {self.store} link set eth0 up",
        ):
            store_site.run("ip", *words.split())
        minion = store_site.Hypervisor(self.minions[0], master="10.99.0.1", **QUICK)
        minion.argv = ("ip", "netns", "exec", self.store, *minion.argv)
        return minion

    def go(self, minion):
        store_site.run("ip", "-n", self.store, "link", "set", "eth0", "down")

    def come_back(self):
        store_site.run("ip", "-n", self.store, "link", "set", "eth0", "up")


class Frozen(Away):
    about = "the minion that works stands still, with its job, for 6 s, and both go on"
    seconds = 6.0
    hits = "starting"

    def __init__(self, site, store):
        super().__init__(site, store)
        self.whose = self.minions
        self.guest = False

    def go(self, minion):
        self.guest = minion == self.minions[1]
        self.send(signal.SIGSTOP)

    def come_back(self):
        self.send(signal.SIGCONT)

    def send(self, how):
        if self.guest:
            self.site.stand_ins.signal_minion(self.minions[1], how)
        else:
            self.site.hypervisors[self.minions[0]].signal(how)


class Libvirtd(Fault):
    about = "libvirtd is killed while a job is connected to it, and started again by its system"
    hits = "starting"
    others = 0

    def reached(self, at):
        if at.point == "before":
            self.others = connections()
        super().reached(at)

    def inject(self, at):
        seen = ""
        with contextlib.suppress(AssertionError):
            if getattr(at, "minion", None) == self.minions[0]:
                connected = lambda: connections() > self.others  # noqa: E731
                until(connected, self.patience(at), "the job is connected", every=0.002)
                seen = CONNECTED
        self.note(at, seen)
        self.site.libvirtd.kill()
        self.site.libvirtd.start()
        self.site.stand_ins.follow()


def connections():
    """Count who is connected to libvirt."""
    lines = pathlib.Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith("/libvirt-sock") for line in lines)


class Guest(Fault):
    about = "the guest's minion is killed at its job, and started again by its system"
    states = tuple(state for state in STATES if state in lifecycle.WITH_GUEST)
    hits = "configuring"

    def inject(self, at):
        # In the last state the hypervisor is asked, too, but not first.
        self.note(at, self.job_runs(at))
        self.site.stand_ins.kill_minion(self.minions[1])


class Dropped(Fault):
    about = "every event is dropped: no engine, no reactor, the schedule alone"

    def inject(self, at):
        self.note(at)

    def rings(self, name):
        self.left.append(f"a bell rang: {name}")
        return 1


class Bells(Fault):
    """Bells that do not ring as they should: Salt's own, and one more in each state."""

    def inject(self, at):
        self.note(at)
        for _ in range(self.rings(self.minions[0])):
            self.ring(self.minions[0])

    def ring(self, name):
        pump.notify(master_opts(), None, name, ready=False, eager=True)


class Doubled(Bells):
    about = "every bell rings twice"

    def rings(self, name):
        return 2


class Delayed(Bells):
    about = "every bell is delayed past its state"

    def __init__(self, site, store):
        super().__init__(site, store)
        self.held = []

    def rings(self, name):
        record = self.site.record(self.store)
        if record is None:
            return 1
        self.held.append((record.state, name))
        return 0

    def locks(self, at):
        self.release()
        return False

    def release(self):
        now, held = self.site.record(self.store).state, self.held
        self.held = [bell for bell in held if bell[0] == now]
        for state, name in held:
            if state != now:
                self.ring(name)


class Shuffled(Delayed):
    about = "bells come in any order, with some of before among them"

    def release(self):
        held, self.held = self.held, []
        if held:
            bells = [*(name for _, name in held), *self.minions]
            random.Random(len(held)).shuffle(bells)
            for name in bells:
                self.ring(name)


class Lost(Fault):
    about = "a job is done, and its return never arrives"
    states = tuple(state for state in STATES if state != "queued")

    def __init__(self, site, store):
        super().__init__(site, store)
        self.once = set()

    def place(self, at):
        return False

    def loses(self, at):
        record = self.site.record(self.store)
        job = record.job if record else None
        # On a busy machine it is asked anew before it answers: an earlier question counts, too.
        asked = (job.jid, *job.earlier) if job else ()
        if at.jid not in asked or (record.state, job.function) in self.once:
            return False
        self.once.add((record.state, job.function))
        self.injected.setdefault(record.state, f"return of {job.function} from {at.minion}")
        return True


class Late(Redeployed):
    about = "every order of the states before comes once more"

    def __init__(self, site, store):
        super().__init__(site, store)
        self.orders = {}
        """Function and arguments by the ID of the job."""
        self.again = []
        """The IDs of the jobs that came once more."""

    def reached(self, at):
        super().reached(at)
        function = at.act.partition(".")[2]
        if at.point == "between" and function in orders.STEPS and hasattr(at, "jid"):
            self.orders.setdefault(at.jid, at.act)

    def inject(self, at):
        self.note(at, f", {len(self.orders)} orders")
        client = salt.client.LocalClient("/etc/salt/master")
        try:
            for jid, function in self.orders.items():
                load = client.returners[f"{master_opts()['master_job_cache']}.get_load"](jid)
                again = salt.utils.jid.gen_jid(master_opts())
                self.again.append(again)
                client.pub(load["tgt"], function, load["arg"], tgt_type="list", jid=again)
        finally:
            client.destroy()

    def lost(self):
        told = [report_of(jid, self.minions[0]) for jid in self.again]
        refused = [each for each in told if each and each["facts"].get("behind")]
        wrong = [] if refused else ["no late order was refused"]
        return [*wrong, *super().lost()]


def report_of(jid, minion):
    """Return the report with which a job was answered, ``None`` if there is none yet."""
    with operator_requests.open_master(master_opts()) as master:
        returned = master.returned(jid, minion)
    return returned and returned.value


class Restored(Fault):
    """
    Where the ledger is behind, the deployment fails, and is adopted; in whatever state it is then,
    it goes on.
    """

    about = "the ledger of the state before is put back; where it is behind, the store is adopted"
    boots = None

    def __init__(self, site, store):
        super().__init__(site, store)
        self.backups = {}
        self.busy = threading.Lock()

    def reached(self, at):
        if self.busy.acquire(blocking=False):
            try:
                if at.state not in self.backups:
                    path = pathlib.Path("/srv", f"{self.store}-{at.state}.sqlite")
                    store_site.back_up(path)
                    self.backups[at.state] = path
                super().reached(at)
            finally:
                self.busy.release()

    def inject(self, at):
        before = STATES[max(STATES.index(at.state) - 1, 0)]
        self.note(at, f", {before}")
        store_site.restore(self.site, self.backups[before], **self.site.configuration)


class Clock(Fault):
    """The master's clock is set, in one state by hours, in the next by a year."""

    jumps_s = ()

    def inject(self, at):
        jump_s = self.jumps_s[len(self.injected) % len(self.jumps_s)]
        self.note(at, f", {jump_s} s")
        store_site.set_clock(jump_s)


class Ahead(Clock):
    about = "the master's clock jumps on, by 3 hours or a year"
    jumps_s = (3 * 3600, 365 * 24 * 3600)


class Behind(Clock):
    about = "the master's clock is set back, by 3 hours or a year"
    jumps_s = (-3 * 3600, -365 * 24 * 3600)


FAULTS = {
    kind.__name__.lower(): kind
    for kind in (
        *(Before, Between, After, Engine, Hypervisor, Libvirtd, Guest, Network, Frozen),
        *(Dropped, Doubled, Delayed, Shuffled, Lost, Ahead, Behind, Late, Restored),
    )
}
