# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A stub of Salt's master as :mod:`storemaster.deployment.master_api` has it, with one hypervisor and
one guest.

It answers with reports as the modules make them, has a time of its own that leaps to whatever
comes next, a clock that can be set wrong, and can be killed at any point. That Salt really behaves
so is for tests/integration to show: there the master and its minions are real.
"""

import heapq
import itertools
import re
from collections import Counter, defaultdict

from storelib import orders, report, seal
from storemaster.deployment import engine, lifecycle, requests, verbs
from storemaster.deployment.ledger import LOOK_AGAIN_S, Ledger
from storemaster.deployment.master_api import ACCEPTED, Returned
from storemaster.deployment.spec import from_pillar

HYPERVISOR = "hv-0815"
GUEST = "store-0815"
GIB = 1024**3
PILLAR = {
    "store": "0815",
    "image": {"source": "salt://images/store-server.qcow2", "sha256": "5e" * 32},
    "master": "salt.example.com",
    "verify": [{"tcp": 22}],
}
BEGAN = 1_000_000.0
PATH = [state.name for state in lifecycle.PATH]
BOOTS_IN_S = 40
CALLS_EVERY_S = 10
OFF_FOR_S = 2.5
"""How long the old server has been off when its clearing is over."""

ASKING = ("facts", "boots", "reboot", "console", "sync_all", "refresh_pillar", "job", "noted")
"""Functions that may be sent again while they run: they only ask, or order at most once."""


def hypervisor_facts():
    """Return facts of a hypervisor that suffices, as ``store_hypervisor.facts`` shapes them."""
    return {
        "machine_id": "3d1219c7c4c5404aaa1f6d2a48adfda4",
        "boot_id": "hv-boot-1",
        "cpus": 4,
        "marker": {"boot_id": "hv-boot-1", "finished_at": "2026-11-22T14:34:14Z", "result": True},
        "virt_module": True,
        "tools_missing": [],
        "libvirt": {"uri": "qemu:///system", "version": 9000000, "reachable": True, "why": ""},
        "virt_types": ["qemu"],
        "virt_type": "qemu",
        "free_memory_mib": 8192,
        "sources_missing": [],
        "domain": {"exists": False},
        "pool_error": "",
        "pool": {"path": "/var/lib/libvirt/images", "exists": True, "free_mib": 100_000},
        "disk": {"path": "/pool/store-0815.qcow2", "exists": False},
        "seed": {"path": "/pool/store-0815-seed.iso", "exists": False},
        "image": {"path": "/pool/.store-deploy/images/5e.qcow2", "exists": False, "sha256": None},
        "set_asides": [],
    }


def pem(name):
    """Return something that looks like a public key."""
    return f"-----BEGIN PUBLIC KEY-----\n{name}\n-----END PUBLIC KEY-----\n"


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing of ours handles it."""


class KillableLedger(Ledger):
    """The real ledger, around whose writing the process can be killed."""

    def __init__(self, path, master):
        super().__init__(path)
        self.master = master
        # Only a power cut would show the difference, and there is none here.
        self._db.execute("PRAGMA synchronous=OFF")

    def save(self, record, *args, **kwargs):
        with self.master.point("save"):
            return super().save(record, *args, **kwargs)


class _Point:
    """A place before and a place after an act, at each of which the process can be killed."""

    def __init__(self, master, name):
        self.master, self.name = master, name

    def _pass(self, side):
        record = self.master.witness.get(PILLAR["store"])
        self.master.points.append((record.state if record else "", f"{side} {self.name}"))
        if self.master.kill_at == len(self.master.points) - 1:
            raise Killed

    def __enter__(self):
        self._pass("before")

    def __exit__(self, error, *_):
        if error is None:
            self._pass("after")


class FakeMaster:
    """
    See above. What a test changes is public; ``wrong`` collects what must never happen.

    ``others`` are the facts of hypervisors beside the one that all else happens on.
    ``instead`` changes what a minion finds and seals, ``forged`` what the master then receives.
    """

    def __init__(self, path):
        self.path = path
        self.time = BEGAN
        self.uyuni, self.uyuni_says, self.uyuni_keys = [], [], ["management_key"]
        """What was asked of it, and what it raises next."""
        self.ahead_s = 0.0
        """What the master's clock shows beyond ``time``."""
        self.kernel, self.kernel_began = "master-boot-1", BEGAN - 3600
        self.acts = []
        self.events = []
        self.published = []
        self.acknowledged = []
        """Minions that were told that their bell was heard, which is no deployment's job."""
        self.wrong = []
        self.points = []
        self.kill_at = None
        self.known_keys = {HYPERVISOR: {ACCEPTED: pem("hypervisor")}}
        self.entries = set()
        self.autoreject = set()
        self.pillars = {HYPERVISOR: PILLAR}
        self.environments = {}
        self.facts = hypervisor_facts()
        self.others = {}
        self.hypervisor_key = pem("hypervisor")
        self.booted = []
        self.cleaned = False
        self.up = False
        self.guest_key = None
        self.prepared = None
        self.calls = True
        self.config = {
            "master": PILLAR["master"],
            "id": GUEST,
            "saltenv": None,
            "startup_states": "sls",
            "sls_list": "provisioning_helper.firstboot",
        }
        self.comes_back = True
        self.away = set()
        self.lost = Counter()
        self.takes_s = defaultdict(lambda: 1)
        self.instead = {}
        self.forged = {}
        self.secretless = set()
        self.console = []
        self.notes = {}
        self.runs = 1
        self._later = []
        self._order = itertools.count(1)
        self._returns = {}
        self._running = {}
        self.ledger = KillableLedger(path, self)
        self.witness = Ledger(path)

    # A test's own verbs

    def begin(self, redeploy=False, by="operator", hypervisor=HYPERVISOR):
        """Begin a deployment of the store that the hypervisor's pillar describes."""
        made = from_pillar(self.pillars[hypervisor], hypervisor)
        return requests.begin(self.ledger, self.time, made, hypervisor, by, redeploy)

    def run(self, until=lambda record: False, store="0815", max_active=50):
        """Do what engine and schedule do: advance what is due or rung, until it ends."""
        for _ in range(500):
            record = engine.advance(self, self.ledger, store, max_active)
            if not record.active or until(record):
                return record
            # As Ledger.due has it; who is queued is looked at by the sweep, once a slot is free.
            due = record.due if record.due is not None else self.now() + LOOK_AGAIN_S
            due = due if due <= self.now() + LOOK_AGAIN_S or record.state == "queued" else 0
            due = min(due, self.now() + LOOK_AGAIN_S)
            self.wait(max(due - self.ahead_s, self.time + 0.25))
        raise AssertionError(f"{record.state} never ends: {record.reason}")

    def nobody_looks(self, seconds):
        """Let time pass and the minions go on, while nothing of ours runs on the master."""
        until = self.time + seconds
        while self._later and self._later[0][0] <= until:
            self.wait(until)
        self.time = until

    def reboots(self, seconds):
        """Let the master's kernel be started again, so many seconds ago."""
        self.kernel, self.kernel_began = "master-boot-2", self.time - seconds

    def restart(self):
        """Let another process take over from one that was killed."""
        self.kill_at = None
        self.ledger.__exit__()
        self.ledger = KillableLedger(self.path, self)

    def end(self):
        """Close the ledger."""
        self.ledger.__exit__()
        self.witness.__exit__()

    def wait(self, until):
        """Let time pass until something happens; bells are for a test to ring."""
        if not self._later or self._later[0][0] > until:
            self.time = until
            return
        at, _, happens = heapq.heappop(self._later)
        # A test may have let time pass meanwhile.
        self.time = max(self.time, at)
        happens()

    def later(self, seconds, happens):
        """Let ``happens`` be called in so many seconds."""
        heapq.heappush(self._later, (self.time + seconds, next(self._order), happens))

    def point(self, name):
        """Return a place at which the process can be killed."""
        return _Point(self, name)

    def functions(self, name):
        """Return the arguments of each job of a function that was published."""
        return [arguments for function, arguments in self.published if function == name]

    # storemaster.deployment.master_api.MasterApi

    def now(self):
        return self.time + self.ahead_s

    def uptime(self):
        return self.kernel, self.time - self.kernel_began

    def incarnation(self):
        return f"run {self.runs}"

    def new_jid(self):
        return f"jid-{next(self._order)}"

    def publish(self, jid, minion, function, arguments):
        if function == "store_hypervisor.acknowledge":
            self.acknowledged.append(minion)
            return
        with self.point(f"publish {function}"):
            records = self.witness.all()
            jobs = [record.job for record in records if record.job]
            looks = [record.evidence.look for record in records]
            known = [each for job in jobs for each in (job.jid, job.probe)]
            known += [each for look in looks for each in (*look.get("jids", []), look.get("mend"))]
            if jid not in known:
                self.wrong.append(f"{function} was published before it was in the record")
            name = function.partition(".")[2]
            if name not in ASKING and (minion, function) in self._running.values():
                self.wrong.append(f"{function} was published while it was running")
            self.published.append((function, dict(arguments)))
            self.later(0.1, lambda: self._heard(jid, minion, function, arguments))

    def returned(self, jid, minion):
        return self._returns.get((jid, minion))

    def keys(self, minion):
        return dict(self.known_keys.get(minion, {}))

    def autorejected(self, minion):
        return minion in self.autoreject

    def purge_key(self, minion):
        with self.point("purge"):
            if self.known_keys.pop(minion, None):
                self.acts.append(f"purge {minion}")

    def accept_key(self, minion, public_key):
        with self.point("accept"):
            self.known_keys[minion] = {ACCEPTED: public_key}
            self.acts.append(f"accept {minion}")

    def arm(self, minion):
        with self.point("arm"):
            if minion not in self.entries:
                self.entries.add(minion)
                self.acts.append(f"arm {minion}")

    def disarm(self, minion):
        with self.point("disarm"):
            if minion in self.entries:
                self.entries.remove(minion)
                self.acts.append(f"disarm {minion}")

    def armed(self, minion):
        return minion in self.entries

    def arrange_registration(self, record):
        self._registers("arrange", record)

    def end_registration(self, record):
        self._registers("end", record)

    def registration_keys(self, record):
        return list(self.uyuni_keys)

    def forget_registration(self, record):
        self.uyuni.append(f"forget {record.store}")

    def _registers(self, act, record):
        self.uyuni.append(f"{act} {record.store}")
        if self.uyuni_says:
            raise self.uyuni_says.pop(0)

    def rewrite_autosign(self):
        with self.point("rewrite"):
            self.acts.append("rewrite autosign")

    def master_public_key(self):
        return pem("master")

    def looked_at(self, deployment, hypervisor, store_server):
        """Here a pillar costs nothing."""

    def store_server(self, hypervisor, environment=None, deployment=""):
        if environment is not None:
            self.environments[hypervisor] = environment
        return self.pillars.get(hypervisor)

    def same_key(self, one, other):
        return "".join(one.split()) == "".join(other.split())

    def secret(self, minion, public_key):
        return seal.secret(b"the master's own", minion, public_key)

    def announce(self, tag, data):
        with self.point("announce"):
            self.events.append((tag, dict(data)))

    # Minions

    def _heard(self, jid, minion, function, arguments):
        if minion in self.away or (minion == GUEST and not self._connected()):
            return
        if function.endswith(".job"):
            value = self._value(minion, function, arguments)
            value = self.instead.get(function, dict)(value)
            value = self._sealed(minion, value, arguments)
            value = self.forged.get(function, lambda sealed: sealed)(value)
            self._return(jid, minion, function, value)
            return
        self._running[jid] = (minion, function)
        self.later(self.takes_s[function], lambda: self._ended(jid, minion, function, arguments))

    def _ended(self, jid, minion, function, arguments):
        del self._running[jid]
        self.acts.append(f"run {function}")
        value = self._value(minion, function, arguments)
        if function in self.instead:
            value = self.instead[function](value)
        if function == "saltutil.refresh_pillar":
            self.secretless.discard(minion)
        elif isinstance(value, dict) and "nonce" in arguments:
            value = self._sealed(minion, value, arguments)
        self._return(jid, minion, function, value)

    def _sealed(self, minion, value, arguments):
        key = self.guest_key if minion == GUEST else self.hypervisor_key
        shared = "" if minion in self.secretless else self.secret(minion, key)
        return report.sealed(value, arguments["nonce"], shared)

    def _return(self, jid, minion, function, value):
        if function in self.forged:
            value = self.forged[function](value)
        if self.lost[function]:
            self.lost[function] -= 1
            return
        self._returns[jid, minion] = Returned(value)

    def _value(self, minion, function, arguments):
        module, _, step = function.partition(".")
        if module == "saltutil":
            return {}
        store = arguments.get("store") or arguments["spec"]["store"]
        generation = arguments["generation"]
        rest = {k: v for k, v in arguments.items() if k not in ("store", "generation", "nonce")}
        if module == "store_hypervisor":
            return self._of_hypervisor(minion, store, generation, step, rest)
        return report.made(store, generation, step, getattr(self, f"do_{step}")(generation, **rest))

    def _of_hypervisor(self, minion, store, generation, step, rest):
        order, machine = rest.pop("order", None), self.facts["machine_id"]
        error, hint, facts = "", "", self.others.get(minion)
        if order:
            try:
                domain = self.facts["domain"]
                there = domain.get("deployment") if domain["exists"] else None
                orders.check(self.notes.get(machine), order, step, there)
                self.notes[machine] = {**order, "step": step}
            except orders.Behind as err:
                error, hint, facts = (
                    f"store {store} has gone on: {err}",
                    f"salt-run deploy.adopt {store}",
                    {"behind": True},
                )
        self.deployment = order["deployment"] if order else None
        facts = facts or getattr(self, f"do_{step}")(generation, **rest)
        facts = {"machine_id": machine, "note": self.notes.get(machine), **facts}
        return report.made(store, generation, step, facts, error, hint)

    def do_noted(self, generation, spec):
        return {}

    def do_job(self, generation, jid, spec=None):
        return {"running": jid in self._running}

    def do_facts(self, generation, spec=None):
        # The guest's own function of that name tells less.
        return dict(self.facts) if spec else {"minion_id": GUEST, "boot_id": self.booted[-1]}

    def do_stage(self, generation, spec):
        image = {"path": "/pool/5e.qcow2", "exists": True, "format": "qcow2", "backing": None}
        image |= {"virtual_size": GIB, "sha256": spec["image"]["sha256"]}
        self.facts["image"] = {k: image[k] for k in ("path", "exists", "sha256")}
        return {"image": image}

    def do_prepare(self, generation, spec, master_public_key, registration=()):
        disk = {
            "path": "/pool/.store-deploy/prepared/store-0815/disk.qcow2",
            "exists": True,
            "format": "qcow2",
            "virtual_size": spec["disk_gib"] * GIB,
            "backing": "/pool/5e.qcow2" if spec["clone"] == "cow" else None,
        }
        self.prepared = pem(f"guest of deployment {generation}")
        made = {"disk": disk, "public_key": self.prepared, "trial": None}
        return {
            **made,
            "registration": [*registration, *(["activation_key"] if registration else [])],
        }

    def do_clear(self, generation, spec, public_key=None):
        old = self.facts["domain"]
        off = {"off_for_s": OFF_FOR_S} if old.get("state") == "running" else {}
        self.up = False
        self.facts["domain"] = {"exists": False}
        self.facts["disk"] = {"path": "/pool/store-0815.qcow2", "exists": False}
        aside = None
        if old["exists"]:
            aside = {"path": f"/pool/g{old['generation']}", "generation": old["generation"]}
            whose = {key: old.get(key) for key in ("public_key", "deployment")}
            self.facts["set_asides"].append({**aside, **whose})
        return {
            **{key: self.facts[key] for key in ("domain", "disk", "seed")},
            **off,
            "set_aside": aside,
            "set_asides": [
                {"path": each["path"], "generation": each["generation"]}
                for each in self.facts["set_asides"]
            ],
        }

    def do_define(self, generation, spec, master_public_key, registration=()):
        # A deployment that began before an update has nothing prepared.
        self.guest_key = self.prepared or pem(f"guest of deployment {generation}")
        self.prepared = None
        self.facts["domain"] = {
            "exists": True,
            "state": "shut off",
            "store": spec["store"],
            "generation": generation,
            "deployment": self.deployment,
            "public_key": self.guest_key,
            "ours": True,
        }
        self.facts["disk"] = {
            "path": "/pool/store-0815.qcow2",
            "exists": True,
            "format": "qcow2",
            "virtual_size": spec["disk_gib"] * GIB,
            "backing": "/pool/5e.qcow2" if spec["clone"] == "cow" else None,
        }
        self.facts["seed"] = {"path": "/pool/store-0815-seed.iso", "exists": True}
        return {
            **{key: self.facts[key] for key in ("domain", "disk", "seed")},
            "data_disks": [],
            "public_key": self.guest_key,
        }

    def do_restore(self, generation, spec, of):
        for aside in self.facts["set_asides"]:
            if aside["generation"] == of:
                self.facts["set_asides"].remove(aside)
                self.guest_key = aside["public_key"]
                self.facts["domain"] = {
                    "exists": True,
                    "state": "shut off",
                    "store": spec["store"],
                    "generation": of,
                    "deployment": aside["deployment"],
                    "public_key": self.guest_key,
                    "ours": True,
                }
                self.facts["disk"] = {**self.facts["disk"], "exists": True}
                break
        facts = {key: self.facts[key] for key in ("domain", "disk")}
        return {**facts, "public_key": self.guest_key, "set_aside": f"/pool/g{of}"}

    def do_retire(self, generation, spec, data_disks, remove):
        found = [{"what": "set_aside", "path": each["path"]} for each in self.facts["set_asides"]]
        if self.facts["domain"]["exists"]:
            found.append({"what": "domain", "path": GUEST})
        if remove:
            self.up = False
            self.facts |= {"domain": {"exists": False}, "set_asides": []}
            self.facts["disk"] = {**self.facts["disk"], "exists": False}
        kept = [] if data_disks else [{"what": "data_disk", "path": "/pool/store-0815-data.qcow2"}]
        return {"found": found, "removed": found if remove else [], "left": [], "kept": kept}

    def do_start(self, generation, spec, of=None):
        if not self.facts["domain"]["exists"]:
            return {"attempts": 1, "errors": [], "started_at": None, "state": None, "id": None}
        if self.facts["domain"]["state"] != "running":
            self.facts["domain"] |= {"state": "running"}
            self.booted = []
            self.cleaned = False
            self.later(BOOTS_IN_S, self._boot)
        return {"attempts": 1, "errors": [], "started_at": "x", "state": "running", "id": 7}

    def do_finish(self, generation, spec):
        self.facts["seed"] = {**self.facts["seed"], "exists": False}
        return {
            "domain": self.facts["domain"],
            "seed": {"path": "/pool/store-0815-seed.iso", "exists": False},
            "inserted": False,
            "defined": False,
            "autostart": True,
        }

    def do_discard(self, generation, spec):
        self.prepared = None
        if self.facts["domain"].get("generation") == generation:
            self.up = False
            self.facts["domain"] = {"exists": False}
            for what in ("disk", "seed"):
                self.facts[what] = {**self.facts[what], "exists": False}
        return {**{key: self.facts[key] for key in ("domain", "disk", "seed")}, "left": []}

    def do_console(self, generation, spec, lines):
        return {"path": "/var/log/x", "lines": self.console[-lines:]}

    # The guest

    def _boot(self):
        if self.facts["domain"].get("state") != "running":
            return
        self.up = True
        self.booted.append(f"boot-{len(self.booted) + 1}")
        self._call()

    def _call(self):
        """Do what a minion does until its master knows its key."""
        if not (self.up and self.calls):
            return
        keys = self.known_keys.setdefault(GUEST, {})
        if GUEST in self.entries and not {ACCEPTED, "rejected"} & set(keys) | self.autoreject:
            self.known_keys[GUEST] = keys = {ACCEPTED: self.guest_key}
        if self._connected():
            if len(self.booted) == 1 and self.facts["seed"]["exists"]:
                self.later(5, self._reboot)  # firstboot
            return
        if not keys:
            state = "rejected" if GUEST in self.autoreject else "pending"
            self.known_keys[GUEST] = {state: self.guest_key}
        self.later(CALLS_EVERY_S, self._call)

    def _connected(self):
        return self.up and self.known_keys.get(GUEST, {}).get(ACCEPTED) == self.guest_key

    def _reboot(self):
        self.up = False
        if self.comes_back:
            self.later(BOOTS_IN_S, self._boot)

    def do_boots(self, generation):
        identity = {"boot_id": self.booted[-1], "machine_id": "m", "hostname": GUEST}
        boots = {"boots": [] if self.cleaned else list(self.booted), "cleaned": self.cleaned}
        found = {**boots, "handed_over": True, **identity, "minion_id": GUEST}
        return {**found, "config": dict(self.config)}

    def do_reboot(self, generation, after):
        current = self.booted[-1]
        if current == after:
            self.later(3, self._reboot)
        boots = {"boots": [] if self.cleaned else list(self.booted), "cleaned": self.cleaned}
        return {**boots, "boot_id": current, "rebooting": current == after}

    def do_highstate(self, generation, test=False):
        return {
            "total": 3,
            "changed": 0 if test else 3,
            "failed": [],
            "would_change": [],
            "errors": [],
            "not_yet": False,
            "duration_s": 2.0,
        }

    def do_settle(self, generation):
        settled = {"cloud_init_off": True, "interfaces": {"eth0": ["x.network"]}}
        return {**settled, "boot_id": self.booted[-1], "hostname": GUEST}

    def do_probe(self, generation, checks):
        return {"results": [{"check": check, "ok": True, "detail": "x"} for check in checks]}

    def do_cleanup(self, generation):
        self.cleaned = True
        return {"left": [], "registration": []}


# What tests say of it


def deployed(master, **how):
    master.begin(**how)
    record = master.run()
    assert record.state == "deployed", record.reason
    return record


def failed(master, state, reason):
    """Run to the end, which must be this failure and leave nothing open."""
    record = master.run()
    assert (record.state, record.failed_in) == ("failed", state)
    assert reason in record.reason
    assert record.reason.isprintable()
    assert record.next_action
    for verb in re.findall(r"salt-run deploy\.(\w+) 0815", record.next_action):
        assert verb in {*verbs.offered(record, master.ledger), "adopt"}, record.next_action
    assert not record.active
    assert record.due is record.deadline is record.job is None
    assert not master.armed(GUEST), "the autosign entry is gone"
    return record


def waits(master, reason):
    """Run for ten minutes and more, until this is what the deployment waits for."""
    return master.run(
        until=lambda record: record.reason.startswith(reason) and master.time > BEGAN + 600
    )


def ran(master):
    return [act.removeprefix("run ") for act in master.acts if act.startswith("run ")]


def told(master):
    return [data["state"] for _, data in master.events]


def report_of(**changes):
    return lambda value: {**value, **changes}


def with_facts(**changes):
    return lambda value: {**value, "facts": {**value["facts"], **changes}}


def not_ok(error, hint="mend it"):
    return report_of(ok=False, error=error, hint=hint)
