# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The faults, each suffered by a deployment of its own once in every state, and who injects them.

The master's processes tell at which place of a deployment they are (shim/sitecustomize.py) and wait
there for the answer, with the lock of the store held: a fault that is injected meanwhile happens
in that state and in no other.
"""

import contextlib
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import socketserver
import subprocess
import threading
import time
import traceback
import types

import libvirt
import salt.client
import salt.config
import salt.utils.jid
import stand_in
import store_site
from store_site import until

from storelib import ledger, lifecycle, orders
from storelib.hypervisor import domains
from storelib.master import office

log = logging.getLogger(__name__)
SOCKET = pathlib.Path("/srv/faults.sock")
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
    return ledger.Record(
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
        noted={ledger.ANY_MACHINE: earlier},
    )


class Redeployed(Fault):
    """Its deployment replaces a server."""

    redeploy = True

    def prepare(self):
        # So that there is a server to set aside, and a key to purge.
        with office.ledger(master_opts()) as books:
            spec, hypervisor = office.wanted(master_opts(), books, self.store, None)
            books.save(deployed(spec.as_dict(), hypervisor), change="it was deployed")
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
        office.notify(master_opts(), None, name, ready=False, eager=True)


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
        told = [office_returned(jid, self.minions[0]) for jid in self.again]
        refused = [each for each in told if each and each["facts"].get("behind")]
        wrong = [] if refused else ["no late order was refused"]
        return [*wrong, *super().lost()]


def office_returned(jid, minion):
    """Return the report with which a job was answered, ``None`` if there is none yet."""
    with office.world(master_opts()) as world:
        returned = world.returned(jid, minion)
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
                    path = SOCKET.with_name(f"{self.store}-{at.state}.sqlite")
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


def master_opts():
    return salt.config.master_config("/etc/salt/master")


class Answers(socketserver.StreamRequestHandler):
    """Answers one process of the master that is at some place."""

    def handle(self):
        asked = self.rfile.readline()
        if not asked.endswith(b"\n"):
            return  # Who asks was killed, with the others of the master, before it had said where.
        at = types.SimpleNamespace(**json.loads(asked))
        answer = self.server.answer(at)
        # Who asked may have been killed by the answer.
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class Injector(socketserver.ThreadingUnixStreamServer):
    """Listens to the master's processes on behalf of the faults that are under way."""

    daemon_threads = True

    def __init__(self):
        SOCKET.unlink(missing_ok=True)
        super().__init__(str(SOCKET), Answers)
        self.faults = {}
        self.broken = []
        """Faults of the harness itself."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        self.broken.append(traceback.format_exc())

    def of_minion(self, minion):
        return next((each for each in self.faults.values() if minion in each.minions), None)

    def answer(self, at):
        if at.point == "return":
            fault = self.of_minion(at.minion)
            return {"lost": bool(fault and fault.loses(at))}
        if at.point == "bell":
            store, minion = at.bells
            fault = self.faults.get(store) or self.of_minion(minion)
            return {"times": fault.rings(minion or store) if fault else 1}
        fault = self.faults.get(getattr(at, "store", None))
        if fault and at.point == "lock":
            return {"busy": fault.locks(at)}
        if fault:
            fault.reached(at)
        return {}


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
            office.request(master_opts(), fault.store, None, fault.redeploy)
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
        office.adopt(master_opts(), fault.store, None, True)
        if site.record(fault.store).state == "failed":
            office.change(master_opts(), fault.store, office.flow.retry)
        return False
    if record.state == "failed" and record.failed_in not in fault.failed:
        fault.failed[record.failed_in] = record.reason
        office.change(master_opts(), fault.store, office.flow.retry)
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
        legal = (change.previous, change.state) in lifecycle.TRANSITIONS or not change.previous
        if change.previous != previous or not legal:
            wrong.append(f"{change.previous} became {change.state} after {previous}")
        previous = change.state
    if record.job:
        wrong.append(f"its record waits for {record.job.function}")
    with office.ledger(master_opts()) as books:
        with contextlib.suppress(AssertionError):
            until(lambda: not books.unannounced(fault.store), 10, "all is told")
        wrong += [f"{change.state} was never told" for change in books.unannounced(fault.store)]
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
        booted = len(record.evidence.get("boot_ids", ()))
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
