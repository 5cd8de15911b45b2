# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The real daemons of a site, at their usual paths on a private machine, and how to use them."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import libvirt
import salt.client
import salt.config
import salt.exceptions
import salt.utils.event
import salt.utils.yaml
import stand_in

from storemaster.deployment import ledger
from storemaster.master import serving

HERE = pathlib.Path(__file__).parent
LAB = HERE.parent / "lab" / "root"
MASTER_D = pathlib.Path("/etc/salt/master.d")
CHECKOUT = pathlib.Path("/srv/store-deploy")
SHIPPED = CHECKOUT / "master.d"
PILLAR = pathlib.Path("/etc/salt/lab-pillar")
PKI = pathlib.Path("/etc/salt/pki/master")
STATE_DIR = pathlib.Path("/var/lib/salt/store-deploy")
AUTOSIGN = STATE_DIR / "autosign.conf"
REACTORS = salt.utils.yaml.safe_load(
    re.sub(r"(?m)^#([a-z_]+:|  )", r"\1", (SHIPPED / "50-store-deploy-reactor.conf").read_text())
    if SHIPPED.exists()
    else ""
)
"""Configuration of a master whose reactors hear, in the place of the engine."""
BUS = pathlib.Path("/run/salt/master/master_event_pub.ipc")
"""Made anew at each start of the master."""
POOL = pathlib.Path("/var/lib/libvirt/images")
ADDRESS = "10.0.2.2"
"""The master's, as the stores have it: a loopback address is refused."""
CLOCK = pathlib.Path("/srv/clock")
"""By how many seconds a clock that can be set is wrong."""

OTHERS = ("site-domain", "site-minion", "hv-0815", "store-0815")
"""What a test that deploys another store must not touch."""

# A minion would fetch images through the proxy of the one who runs the tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


def until(fact, seconds, what, every=0.1):
    """Wait for a fact and return it; ``what`` it is is a text, or a function that returns one."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        told = what() if callable(what) else what
        assert time.monotonic() < deadline, f"not within {seconds} s: {told}"
        time.sleep(every)
    return found


def processes(argument):
    """Return the process IDs of those that were given an argument."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            # Salt's processes write a title over their arguments, with blanks between.
            if argument in path.read_text().replace("\0", " ").split(" "):
                yield int(path.parent.name)


def group_runs(group):
    """Say whether any process of a process group still runs."""
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                return True
    return False


def run(*argv, seconds=60):
    """Run a command that has to succeed, and return what it printed."""
    done = subprocess.run(
        argv, text=True, capture_output=True, timeout=seconds, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def settable_clock():
    """Return the environment of a process whose clock :func:`set_clock` sets; it is right now."""
    CLOCK.write_text("+0")
    (library,) = pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(CLOCK),
        "FAKETIME_NO_CACHE": "1",
        # The kernel's other clocks, CLOCK_BOOTTIME too, nobody sets.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(seconds):
    """Have the clock jump by so many seconds more."""
    new = CLOCK.with_suffix(".new")
    new.write_text(f"{int(CLOCK.read_text()) + seconds:+d}")
    new.replace(CLOCK)


class Daemon:
    """A process in the foreground, its output in a file."""

    environment = ENVIRONMENT

    def __init__(self, *argv):
        self.argv = argv
        self.process = None

    def start(self):
        with open(f"/var/log/salt/{self.argv[0]}.out", "a") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def kill(self):
        """End it as a power cut would, with all its processes."""
        group = self.process.pid
        os.killpg(group, signal.SIGKILL)
        self.process.wait()
        # On a busy machine another of them may hold the port a little longer.
        until(lambda: not group_runs(group), 60, f"all of {self.argv[0]} is gone", every=0.02)


class Master(Daemon):
    """The master with the shipped configuration, or with less of it."""

    def __init__(self):
        super().__init__("salt-master")

    @staticmethod
    def configure(without=(), beside=None, user="root", **more):
        """
        Write the configuration.

        without
            Files of the shipped master.d to leave out.
        beside
            A file of another product, after which ours are to sort.
        user
            Whom it runs as.
        more
            Configuration of the site's own.
        """
        if MASTER_D.is_symlink():
            MASTER_D.unlink()
        elif MASTER_D.exists():
            shutil.rmtree(MASTER_D)
        if without or more or beside:
            MASTER_D.mkdir()
            if beside:
                shutil.copy(beside, MASTER_D)
            for path in SHIPPED.glob("*.conf"):
                if path.name not in without:
                    name = path.name.replace("50-", "zz-") if beside else path.name
                    (MASTER_D / name).symlink_to(path)
            (MASTER_D / "90-site.conf").write_text(json.dumps(more))
        else:
            MASTER_D.symlink_to(SHIPPED)
        pathlib.Path("/etc/salt/lab.d/user.conf").write_text(f"user: {user}\ninterface: 0.0.0.0\n")

    def start(self, user="root", **configuration):
        """Start it with a configuration, and wait until it listens."""
        self.configure(user=user, **configuration)
        # salt-run of 3008 wants the proc folder, which only a busy master makes.
        for path in ("/etc/salt/pki/master/minions", "/var/cache/salt/master/proc"):
            pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        owned = ("/etc/salt/pki/master", "/var/cache/salt/master", "/var/lib/salt", "/var/log/salt")
        run("chown", "-R", f"{user}:{user}", *owned, *filter(os.path.exists, ["/run/salt"]))
        super().start()
        until(self._listens, 30, "the master listens")

    @staticmethod
    def age():
        """Have it seem to have been started an hour ago, when all of it answers."""
        opts = salt.config.master_config("/etc/salt/master")
        until(lambda: not list(serving.workers(opts)), 120, "the master's workers answer")
        an_hour_ago = time.time() - 3600
        os.utime(BUS, (an_hour_ago, an_hour_ago))

    def _listens(self):
        assert self.process.poll() is None, "the master ended: see /var/log/salt/master"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 4506), 1):
            return True


class Hypervisor(Daemon):
    """A hypervisor's minion; all of them share this machine's libvirt."""

    def __init__(self, minion_id, **config):
        self.id = minion_id
        self.config = config
        self.home = pathlib.Path("/srv/minions") / minion_id
        self.modules = self.home / "var/cache/salt/minion/extmods"
        super().__init__("salt-minion", "-c", f"{self.home}/etc/salt")

    def enrol(self):
        """Give it a key that the master has accepted, so that nobody has to call first."""
        pki = self.home / "etc/salt/pki/minion"
        pki.mkdir(parents=True)
        config = (LAB / "etc/salt/minion").read_text()
        (self.home / "etc/salt/minion").write_text(
            f"{config}id: {self.id}\nroot_dir: {self.home}\n"
        )
        (self.home / "etc/salt/minion.d").mkdir(exist_ok=True)
        (self.home / "etc/salt/minion.d/90-site.conf").write_text(json.dumps(self.config))
        pem, pub = pki / "minion.pem", pki / "minion.pub"
        run("openssl", "genrsa", "-traditional", "-out", pem, "2048")
        pem.chmod(0o400)
        run("openssl", "pkey", "-in", pem, "-pubout", "-out", pub)
        shutil.copy(pub, PKI / "minions" / self.id)
        shutil.chown(PKI / "minions" / self.id, PKI.stat().st_uid)

    def become_another_machine(self, apart=False):
        """
        Be another machine: with another machine ID and key.

        apart
            With an empty pool and a libvirt of its own, too (libvirt's test driver).
        """
        self.kill()
        machine_id = self.home / "etc/machine-id"
        machine_id.write_text(hashlib.md5(self.id.encode()).hexdigest() + "\n")
        configuration = f"{self.home}/etc/salt"
        script = 'mount --bind "$1" /etc/machine-id && exec salt-minion -c "$2"'
        if apart:
            (self.home / "pool").mkdir()
            script = f"mount --bind {self.home}/pool {POOL} && {script}"
        self.argv = ("unshare", "--mount", "sh", "-c", script, "sh", machine_id, configuration)
        shutil.rmtree(self.home / "etc/salt/pki")
        self.enrol()
        if apart:
            with (self.home / "etc/salt/minion").open("a") as config:
                config.write("virt: {connection: {uri: 'test:///default'}}\n")
        self.start()

    def kill(self):
        """End it with its jobs."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, how):
        """Send a signal to it and to its jobs, which have process groups of their own."""
        for pid in processes(self.argv[-1]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)


class Libvirtd(Daemon):
    """The machine's libvirt."""

    def __init__(self):
        super().__init__("libvirtd")

    def start(self):
        super().start()
        until(self._answers, 30, "libvirtd answers")

    @staticmethod
    def _answers():
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.open(stand_in.URI).close()
            return True


@dataclasses.dataclass
class Done:
    """What came of a ``salt-run``."""

    status: int
    stdout: str
    stderr: str

    @functools.cached_property
    def answer(self):
        return json.loads(self.stdout)

    @property
    def sentences(self):
        """What is wrong and what to do, as the terminal shows it."""
        return self.answer["error"], self.answer["hint"]


class Site:
    """A master, its hypervisors and the stand-ins of its stores' servers."""

    def __init__(self, master, libvirtd, stand_ins, image):
        self.master = master
        self.libvirtd = libvirtd
        self.stand_ins = stand_ins
        self.image = image
        self.hypervisors = {}

    # Pillar.

    def describe(self, hypervisor, store, **changes):
        """Write the hypervisor's pillar: a small store server with ``changes``."""
        self.write_pillar(hypervisor, store_server={**self.store_server(store), **changes})

    def store_server(self, store):
        return {
            "store": store,
            "image": {"source": str(self.image), "sha256": sha256(self.image)},
            "cpus": 1,
            "memory_mib": 128,
            "disk_gib": 2,
            "virt_type": "qemu",
            "interfaces": [{"name": "eth0", "type": "user"}],
            "master": ADDRESS,
            "start": {"attempts": 3, "backoff_s": [0, 1], "steady_s": 1},
            "verify": [{"command": "grep '^Hello' /srv/demo/hello"}],
            "guest_pillar": {"greeting": f"Hello from store {store}"},
        }

    def write_pillar(self, minion, text=None, **pillar):
        (PILLAR / f"{minion}.sls").write_text(text or json.dumps(pillar))
        top = {"base": {path.stem: [path.stem] for path in PILLAR.glob("hv-*.sls")}}
        (PILLAR / "top.sls").write_text(json.dumps(top))

    # Hypervisors.

    def start_hypervisors(self, *minions):
        """Start those of the hypervisors' minions that do not run yet: minion IDs, or more."""
        minions = [Hypervisor(each) if isinstance(each, str) else each for each in minions]
        new = [minion.id for minion in minions if minion.id not in self.hypervisors]
        synced = [each.modules for each in self.hypervisors.values() if each.modules.exists()]
        for minion in minions:
            name = minion.id
            if name not in new:
                continue
            minion.enrol()
            # That it is given its modules is seen with the first one; the others save the time.
            if synced:
                shutil.copytree(synced[0], minion.modules)
            minion.start()
            self.hypervisors[name] = minion
        for name in new:
            until(lambda name=name: self.ask(name, "test.ping"), 120, f"{name} answers")

    def ask(self, minion, function, *arguments, seconds=15):
        """Return what one minion returns, ``None`` if it or the master does not answer."""
        client = salt.client.LocalClient("/etc/salt/master")
        try:
            # Salt says False, or that in words, of a minion that has not answered.
            told = client.cmd(minion, function, arguments, timeout=seconds).get(minion, False)
            silent = told is False or str(told).startswith("Minion did not return")
            return None if silent else told
        except (salt.exceptions.SaltClientError, salt.exceptions.AuthenticationError):
            return None
        finally:
            client.destroy()

    # The runner.

    def salt_run(self, verb, *arguments, seconds=300, salt_logs_a_traceback=False):
        """Run an operator's verb to its end."""
        done = subprocess.run(
            ["salt-run", f"deploy.{verb}", *arguments, "--out=json"],
            text=True,
            capture_output=True,
            timeout=seconds,
            check=False,
            env=ENVIRONMENT,
        )
        assert salt_logs_a_traceback is ("Traceback" in done.stderr), done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def begin(self, store, *arguments):
        """Begin a deployment and return its record without waiting."""
        done = self.salt_run("store", store, "wait=False", *arguments)
        assert done.status == 0, done.stdout
        return done.answer

    def record(self, store):
        """Read the ledger, which costs less than a ``salt-run``."""
        with ledger.Ledger(STATE_DIR / "ledger.sqlite") as opened:
            return opened.get(store)

    def list(self):
        with ledger.Ledger(STATE_DIR / "ledger.sqlite") as opened:
            return opened.all()

    def history(self, store):
        with ledger.Ledger(STATE_DIR / "ledger.sqlite") as opened:
            return opened.history(store)

    def entered(self, store, state, seconds=180):
        """Wait until the deployment has entered a state; return the record."""

        def reached():
            record = self.record(store)
            last = record.generation if record else 0
            return any(c.state == state and c.generation == last for c in self.history(store))

        until(reached, seconds, lambda: f"store {store} is {state}: {self.told(store)}")
        return self.record(store)

    def told(self, store):
        """Say how far the deployment is, and why not further."""
        record = self.record(store)
        return record and f"{record.state}, {record.failed_in} {record.reason}"

    def ended(self, store, seconds=300):
        """Wait for the deployment's end and return the record."""

        def over():
            record = self.record(store)
            return record if record and not record.active else None

        return until(over, seconds, f"the deployment of store {store} ends")

    def deployed(self, store, seconds=300):
        record = self.ended(store, seconds)
        assert record.state == "deployed", f"{record.failed_in}: {record.reason}"
        return record

    def failed(self, done, state):
        """Check what an operator is told of a deployment that failed in a state; return why."""
        answer = done.answer
        told = done.status, answer.get("state"), answer.get("failed_in")
        assert told == (1, "failed", state), answer
        error, hint = done.sentences
        assert error == answer["reason"], answer
        assert hint, answer
        assert "\n" not in error + hint, answer
        assert " ".join(error.split()) in " ".join(done.stderr.split()), done.stderr
        assert not self.armed(answer["minion_id"]), "the autosign entry is still there"
        return error

    # From outside.

    def define(self, domain):
        """Define a domain by hand."""
        xml = "<domain type='qemu'><name>{}</name><memory>1024</memory><os><type>hvm</type></os>"
        with contextlib.closing(libvirt.open(stand_in.URI)) as connection:
            connection.defineXML(xml.format(domain) + "</domain>")

    def refuse_starts(self, domain, count):
        """Have libvirt refuse that many starts of a domain."""
        pathlib.Path("/etc/libvirt/hooks/refusals", domain).write_text(str(count))

    def reaches_its_highstate(self, hypervisor):
        """Do what the end of a hypervisor's highstate does."""
        assert self.ask(hypervisor, "saltutil.sync_all", seconds=60)
        assert self.ask(hypervisor, "state.apply", "store_hypervisor.ready", seconds=60)

    def pumped(self):
        """Wait until the engine has run in this master."""
        started = BUS.stat().st_mtime
        note = STATE_DIR / "pump.json"
        until(lambda: note.exists() and note.stat().st_mtime >= started, 30, "the pump runs")

    @contextlib.contextmanager
    def version(self, tree, without_ledger=False):
        """Have another version in the checkout's place, for a master that is started with it."""
        self.master.kill()
        for path in STATE_DIR.glob("ledger.sqlite*") if without_ledger else ():
            path.unlink()
        run("mount", "--bind", tree, CHECKOUT)
        try:
            self.master.start()
            yield
        finally:
            self.master.kill()
            run("umount", CHECKOUT)
            self.master.start()

    def at_rest(self, act):
        """Act while the master stands still and none of its processes has the ledger open."""

        def acted():
            os.killpg(self.master.process.pid, signal.SIGSTOP)
            try:
                if not (used := _users_of(STATE_DIR / "ledger.sqlite")):
                    act()
                return not used
            finally:
                os.killpg(self.master.process.pid, signal.SIGCONT)

        until(acted, 30, "nobody has the ledger open")

    @staticmethod
    def uses_the_ledger(pid):
        return str(pid) in _users_of(STATE_DIR / "ledger.sqlite")

    def bells(self):
        with ledger.Ledger(STATE_DIR / "ledger.sqlite") as opened:
            return opened.rung()

    @contextlib.contextmanager
    def rings(self):
        """Yield what returns all bells since: names, and whether of a ready hypervisor."""
        path = STATE_DIR / "ledger.sqlite"
        noted = "BEGIN INSERT INTO rings VALUES (NEW.name, NEW.ready); END"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("CREATE TABLE rings (name TEXT, ready INTEGER)")
            db.execute(f"CREATE TRIGGER ring AFTER INSERT ON bells {noted}")
            db.execute(f"CREATE TRIGGER ring_again AFTER UPDATE OF eager ON bells {noted}")
            try:
                yield lambda: db.execute("SELECT name, ready FROM rings").fetchall()
            finally:
                db.execute("DROP TRIGGER ring")
                db.execute("DROP TRIGGER ring_again")
                db.execute("DROP TABLE rings")

    def others(self):
        """What no deployment of another store may change."""
        record = self.record("0815")
        return {
            "autosign": self.armed("site-minion"),
            "domains": {
                name: run("virsh", "dumpxml", "--inactive", name)
                for name in set(domains()) & set(OTHERS)
            },
            "keys": {name: self.keys(name) for name in OTHERS},
            "record": record and record.revision,
        }

    def remains(self, minion):
        """Return what there is of a store's server, beside what was set aside."""
        aside = {"locks", "set-aside"}
        return [
            *({minion} & set(domains())),
            *(p for p in POOL.rglob("*") if minion in p.name and not aside & set(p.parts)),
            *self.keys(minion),
            *(["autosign"] if self.armed(minion) else []),
        ]

    def everything(self):
        """What a deployment of any store would change."""
        return {
            "autosign": AUTOSIGN.read_text(),
            "domains": {name: run("virsh", "dumpxml", "--inactive", name) for name in domains()},
            "keys": {path: path.read_text() for path in PKI.glob("minions*/*")},
            "pool": {path: path.stat().st_mtime_ns for path in POOL.rglob("*")},
            "records": self.list(),
        }

    def armed(self, minion):
        return re.escape(minion) in (AUTOSIGN.read_text().split() if AUTOSIGN.exists() else [])

    def keys(self, minion):
        """Return the public keys that the master has of a minion, by state."""
        paths = {path.name: path / minion for path in PKI.glob("minions*")}
        return {state: path.read_text().strip() for state, path in paths.items() if path.is_file()}

    @contextlib.contextmanager
    def busy_bus(self):
        """Fire events that are for nobody on the master's bus meanwhile."""
        opts = salt.config.master_config("/etc/salt/master")
        ended = threading.Event()
        with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as bus:

            def fire():
                while not ended.wait(0.02):
                    bus.fire_event({}, "site/nobody")

            firing = threading.Thread(target=fire)
            firing.start()
            try:
                yield
            finally:
                ended.set()
                firing.join()

    @contextlib.contextmanager
    def events(self, prefix):
        """Collect the events of the master's bus whose tag begins with ``prefix``."""
        heard, ended = [], threading.Event()
        opts = salt.config.master_config("/etc/salt/master")
        with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=True) as bus:

            def listen():
                while not ended.is_set():
                    # A hostile minion fires what cannot be read.
                    with contextlib.suppress(salt.exceptions.SaltDeserializationError):
                        event = bus.get_event(wait=0.2, tag=prefix, full=True)
                        if event:
                            heard.append((event["tag"], event["data"]))

            listener = threading.Thread(target=listen)
            listener.start()
            try:
                yield heard
            finally:
                ended.set()
                listener.join()


def on_private_machine():
    """Say whether this is a machine of tests/lab/machine."""
    return " /srv/store-deploy " in pathlib.Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def running():
    """Lay the lab's own files over the private machine, start a site there, and end it."""
    shutil.copytree(LAB, "/", dirs_exist_ok=True)
    run("ip", "address", "add", ADDRESS, "dev", "lo")
    hooks = pathlib.Path("/etc/libvirt/hooks")
    (hooks / "refusals").mkdir(parents=True)
    shutil.copy(HERE / "refuse-start", hooks / "qemu")
    # An image that QEMU can start; nothing is on it.
    image = POOL / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1G")
    run("qemu-io", "-c", "write -P 0x5a 0 1M", image)
    logd = subprocess.Popen(["virtlogd"])
    libvirtd, master = Libvirtd(), Master()
    stand_ins = stand_in.StandIns()
    libvirtd.start()
    master.start()
    stand_ins.follow()
    # The engine may have been first.
    STATE_DIR.mkdir(mode=0o700, exist_ok=True)
    site = Site(master, libvirtd, stand_ins, image)
    try:
        yield site
    finally:
        for daemon in (*site.hypervisors.values(), master, libvirtd):
            daemon.kill()
        for process in stand_ins.processes.values():
            process.kill()
        logd.kill()


def back_up(to):
    """Back the ledger up, as the README says."""
    ledger, copy = sqlite3.connect(STATE_DIR / "ledger.sqlite"), sqlite3.connect(to)
    with contextlib.closing(ledger), contextlib.closing(copy):
        ledger.backup(copy)


def restore(site, path, **configuration):
    """Restore the ledger, as the README says."""
    ledger = STATE_DIR / "ledger.sqlite"
    site.master.kill()
    for side in ("-wal", "-shm"):
        ledger.with_name(ledger.name + side).unlink(missing_ok=True)
    copy = ledger.with_name("copy")
    shutil.copy(path, copy)
    copy.chmod(0o600)
    # At once: tests read it meanwhile.
    copy.replace(ledger)
    site.master.start(**configuration)


def domains():
    """Return the names of all domains."""
    return run("virsh", "list", "--all", "--name").split()


def _users_of(path):
    """Return which processes have a file open whose path begins so."""
    users = set()
    for descriptor in pathlib.Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor).startswith(str(path)):
                users.add(descriptor.parts[2])
    return users


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
