# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Stores in a lab, seen from outside: by libvirt, by the guests themselves, by files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.lab import Lab

MIB = 1024**2
GIB = 1024**3

PATIENT = {"booting": 1500, "rebooting": 1200, "restarting": 1200}
"""Deadlines, for a guest without KVM on a busy machine takes its time."""

TAKINGS = "the takings of today, on a disk that outlives the server"
OLD_SERVER = "this is the first server of store 0815"

IDENTITY = r"""
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
echo "hostname=$(hostname)"
echo "machine_id=$(cat /etc/machine-id)"
echo "address=$(ip -4 -oneline address show dev eth0 | sed -E 's/.* inet ([^ ]+) .*/\1/')"
echo "gateway=$(ip route show default | sed -E 's/.* via ([^ ]+) .*/\1/')"
echo "minion_key=$(sha256sum < /etc/salt/pki/minion/minion.pem)"
echo "ssh_host_keys=$(cat /etc/ssh/ssh_host_*_key.pub | sha256sum)"
"""
"""What a guest tells of itself; all but the boot ID outlives a reboot."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a command of the operator."""

    status: int
    answer: dict[str, Any]
    progress: str


def until(
    fact: Callable[[], Any], seconds: float, what: str | Callable[[], str], pause: float = 0.5
) -> Any:
    """Wait for a fact and return it; ``what`` it is is a text, or a function that returns one."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(pause)
    return found


class Stores:
    """The stores of a running lab. A store's server is store-ID, its hypervisor's minion hv-ID."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pool = lab.root / "var/lib/libvirt/images"
        self.pki = lab.root / "etc/salt/pki/master"
        self.autosign = lab.root / "var/lib/salt/store-deploy/autosign.conf"

    def run(self, *argv: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on the lab's machine, for that long at most."""
        # timeout(1) ends it on that machine; to kill nsenter would not.
        return self.lab.run("timeout", "--kill-after=5", str(seconds), *argv)

    def read(self, *argv: str, seconds: float = 60) -> str:
        """Run a command that has to succeed, and return what it printed."""
        done = self.run(*argv, seconds=seconds)
        assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def virsh(self, *argv: str) -> str:
        return self.read("virsh", *argv)

    def salt_run(self, *argv: str, seconds: float = 60) -> Outcome:
        """Give an order to the runner, as an operator does."""
        done = self.run("salt-run", "--out=json", *argv, seconds=seconds)
        return Outcome(done.returncode, json.loads(done.stdout or "{}"), done.stderr)

    # Faults.

    def kill(self, daemon: str) -> None:
        """End a daemon, with all its processes, as a power cut would."""
        # More than once, for what is killed may be forking.
        script = """
            session=$(ps -o sid= -p "$(cat "/run/$1.pid")" | tr -d " ")
            [ -n "$session" ] || exit
            while ps -o stat= -s "$session" | grep -q "^[^Z]"; do
                pkill --signal KILL --session "$session"
                sleep 0.05
            done
        """
        self.read("bash", "-c", script, "kill", daemon)

    def kill_and_start(self, daemon: str) -> None:
        self.kill(daemon)
        self.lab.start(daemon, "-d")

    # A store.

    def entered(self, store: str, generation: int, *states: str, seconds: float = 1500) -> None:
        """Wait until a deployment of the store is in one of the states, and has not left it."""
        database = self.lab.root / "var/lib/salt/store-deploy/ledger.sqlite"

        def there() -> bool:
            with contextlib.closing(
                sqlite3.connect(f"file:{database}?mode=ro", uri=True)
            ) as connection:
                query = "SELECT state FROM deployments WHERE store = ? AND generation = ?"
                found = connection.execute(query, (store, generation)).fetchone()
                return found is not None and found[0] in states

        until(there, seconds, f"store {store} is {' or '.join(states)}", 0.1)

    def describe(self, store: str, hypervisor: str = "", **store_server: Any) -> None:
        """Write the pillar of the store's hypervisor, over what all stores of the lab share."""
        hypervisor = hypervisor or f"hv-{store}"
        folder = self.lab.root / "etc/salt/lab-pillar"
        own = f"own-{hypervisor}"
        (folder / f"{own}.sls").write_text(
            json.dumps({"store_server": {"store": store, **store_server}})
        )
        hypervisors = [path.stem.removeprefix("own-") for path in folder.glob("own-*.sls")]
        top = {each: ["hypervisor", "image", f"own-{each}"] for each in hypervisors}
        (folder / "top.sls").write_text(json.dumps({"base": top}))

    def deploy(self, store: str, *options: str, seconds: float = 5400) -> Outcome:
        """Deploy and watch to the end."""
        return self.salt_run("deploy.store", f"'{store}'", *options, seconds=seconds)

    def record(self, store: str) -> dict[str, Any]:
        """Return what the product itself says of the store."""
        return self.salt_run("deploy.status", f"'{store}'").answer

    def keys(self, store: str) -> dict[str, str]:
        """Return the server's public keys by the folder of the master's pki_dir."""
        found = self.pki.glob(f"minions*/store-{store}")
        return {path.parent.name: path.read_text().strip() for path in found}

    def master_key(self) -> str:
        """Return the master's public key."""
        # Salt 3008 makes it a link that leads somewhere on that machine only.
        return self.read("cat", "/etc/salt/pki/master/master.pub")

    def autosigned(self, store: str) -> bool:
        """Return whether the autosign file has a line that may mean the store's server."""
        return self.autosign.exists() and store in self.autosign.read_text()

    def disk(self, store: str, name: str = "") -> Path:
        """Return the path of the server's system disk, or of the data disk of that name."""
        return self.pool / f"store-{store}{name and '-'}{name}.qcow2"

    def seed(self, store: str) -> Path:
        return self.pool / f"store-{store}-seed.iso"

    def console(self, store: str) -> str:
        """Return what the server wrote to its serial console since it was switched on."""
        log = self.lab.root / f"var/log/libvirt/store-deploy/store-{store}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def xml(self, store: str, *options: str) -> str:
        return self.virsh("dumpxml", f"store-{store}", *options)

    # Its guest.

    def ask(self, store: str, function: str, *arguments: str, patience: int = 60) -> Any:
        """Ask the guest's minion, and return what it says within ``patience`` seconds."""
        minion = f"store-{store}"
        argv = ["salt", "--static", "--out=json", f"--timeout={patience}", minion, function]
        done = self.run(*argv, *arguments, seconds=4 * patience + 30)
        said = done.stdout.strip()
        return json.loads(said).get(minion) if said.startswith("{") else None

    def sh(self, store: str, script: str, patience: int = 60) -> str:
        """Run a shell script in the guest and return what it printed, faults included."""
        return str(self.ask(store, "cmd.run", f"true\n{script}", patience=patience)).strip()

    def identity(self, store: str, patience: int = 60) -> dict[str, str]:
        """Return what the guest tells of itself, nothing if it is away."""
        lines = self.sh(store, IDENTITY, patience).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def restarted(self, store: str, *commands: str) -> dict[str, str]:
        """Restart the server by virsh's commands; return its identity when its minion is back."""
        before = self.identity(store)["boot_id"]
        for command in commands:
            self.virsh(command, f"store-{store}")

        def back() -> dict[str, str]:
            now = self.identity(store, patience=10)
            return now if now.get("boot_id", before) != before else {}

        return until(back, 400, f"store-{store} is back after virsh {' and '.join(commands)}", 5)
