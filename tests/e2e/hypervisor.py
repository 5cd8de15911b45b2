# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A guest of the lab that is to become a hypervisor: with systemd, and one way to its master."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.stores import Stores, until
from tests.lab.lab import REPO, Lab, built_image, output

from storelib import seed
from storelib.hypervisor import seed_iso

ID = "hv-9001"
MAC = "52:54:00:90:01:01"
SPEC = {
    "store": "9001",
    "minion": "salt-minion",
    "minion_id": ID,
    "hostname": ID,
    "master": "10.0.2.2",
    "interfaces": [{"name": "eth0", "mac": MAC, "address": "dhcp"}],
}
PLAIN = ("-machine", "pc", "-m", "2048", "-smp", "1")
UNDER_XEN = ("-machine", "q35", "-cpu", "Nehalem", "-m", "3072", "-smp", "2")
"""QEMU's machine. With its default CPU, Xen's Dom0 does not start under emulation."""

BOOT_S = 600
"""How long a boot may take without KVM on a busy machine."""

FACTS = r"""
boot_id=$(cat /proc/sys/kernel/random/boot_id)
printf 'boot_id=%s\n' "$boot_id"
for each in eth0 br0; do
    address=$(ip -4 -oneline address show dev $each 2>/dev/null | sed -E 's/.* inet ([^ ]+) .*/\1/')
    printf '%s=%s\n' "$each" "$address"
done
printf 'route=%s\n' "$(ip route show default | sed -E 's/.* via ([^ ]+) dev ([^ ]+) .*/\1 \2/')"
printf 'mac=%s\n' "$(cat /sys/class/net/br0/address 2>/dev/null)"
printf 'ports=%s\n' "$(ls /sys/class/net/br0/brif 2>/dev/null | tr '\n' ' ')"
printf 'files=%s\n' "$(cd /etc/systemd/network && ls -d *store-deploy* 2>/dev/null | tr '\n' ' ')"
printf 'units=%s\n' "$(ls /etc/systemd/system | grep store-deploy-network | tr '\n' ' ')"
printf 'timers=%s\n' "$(systemctl list-timers --all --no-legend | grep -c store-deploy-network)"
printf 'note=%s\n' "$(ls /var/lib/store-deploy/made.json 2>/dev/null)"
"""
"""What the guest tells of its network."""


class Hypervisor:
    """The guest, which QEMU's user network alone connects with its master."""

    def __init__(self, lab: Lab, salt: str, machine: tuple[str, ...] = PLAIN) -> None:
        self.lab = lab
        self.machine = machine
        self.stores = Stores(lab)
        self.folder = lab.root / "srv" / ID
        self.salt = salt

    def start(self) -> None:
        """Make the guest and wait until its minion answers."""
        image = os.environ.get("STORE_DEPLOY_IMAGE") or built_image(self.salt)
        image = output(REPO / "tests/lab/hypervisor-image", image)
        self.folder.mkdir(parents=True)
        private, public = seed_iso.key_pair(2048)
        (self.stores.pki / "minions" / ID).write_text(public)
        self._write_seed(seed.documents(SPEC, 1, private, public, self.stores.master_key()))
        overlay = ["-f", "qcow2", "-F", "qcow2", "-b", image, self.folder / "disk.qcow2"]
        subprocess.run(["qemu-img", "create", "-q", *overlay], check=True)
        here = f"/srv/{ID}"
        usable = Path("/dev/kvm").exists() and "vmx" in Path("/proc/cpuinfo").read_text()
        self.lab.start(
            *("qemu-system-x86_64", "-accel", "kvm" if usable else "tcg", *self.machine),
            *("-display", "none", "-daemonize"),
            *("-drive", f"file={here}/disk.qcow2,if=virtio"),
            # Not a CD: q35 has those behind a driver that the image has not got.
            *("-drive", f"file={here}/seed.iso,if=virtio,format=raw,readonly=on"),
            *("-netdev", "user,id=one", "-device", f"virtio-net-pci,netdev=one,mac={MAC}"),
            *("-serial", f"file:{here}/console.log", "-pidfile", f"{here}/pid"),
        )
        self.answers()

    def answers(self, seconds: float = BOOT_S) -> None:
        """Wait until the minion answers."""
        until(lambda: self.stores_ask("test.ping") is True, seconds, f"{ID} answers", 1)

    def reboot(self) -> None:
        """Have it boot once more, and wait until its minion answers."""
        before = self.facts()["boot_id"]
        self.stores.read("salt", "--async", ID, "cmd.run", "systemctl reboot")
        what = f"another boot of {ID}"
        until(lambda: self.facts().get("boot_id", before) != before, BOOT_S, what, 2)

    def stores_ask(self, function: str, *arguments: str, patience: int = 15) -> Any:
        argv = ["salt", "--static", "--out=json", f"--timeout={patience}", ID, function]
        said = self.stores.run(*argv, *arguments, seconds=4 * patience + 60).stdout.strip()
        return json.loads(said).get(ID) if said.startswith("{") else None

    def sh(self, script: str, patience: int = 60) -> str:
        """Run a shell script in the guest and return what it printed, faults included."""
        return str(self.stores_ask("cmd.run", f"true\n{script}", patience=patience)).strip()

    def facts(self) -> dict[str, str]:
        """Return what the guest tells of its network."""
        lines = self.sh(FACTS).splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        return {key: value.strip() for key, value in found.items()}

    def order(self, sls: str, pillar: dict[str, Any], *more: str) -> str:
        """Order that states are applied; return the job's ID."""
        argv = ["salt", "--async", ID, "state.apply", sls, f"pillar={json.dumps(pillar)}", *more]
        return self.stores.read(*argv).split()[-1]

    def outcome(self, jid: str, seconds: float = 600) -> dict[str, Any]:
        """Wait for what came of a job: the states' results by their IDs."""

        def returned() -> Any:
            said = self.stores.run("salt-run", "--out=json", "jobs.lookup_jid", jid).stdout
            return said.strip().startswith("{") and json.loads(said).get(ID)

        found = until(returned, seconds, f"job {jid} returns", 1)
        assert isinstance(found, dict), found
        return {each["__id__"]: each for each in found.values()}

    def apply(self, sls: str, pillar: dict[str, Any], *more: str, seconds: float = 600) -> Any:
        """Apply states, and return their results by their IDs."""
        return self.outcome(self.order(sls, pillar, *more), seconds)

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace")

    @classmethod
    @contextlib.contextmanager
    def of_session(
        cls, request: Any, name: str, machine: tuple[str, ...] = PLAIN
    ) -> Iterator[Hypervisor]:
        """
        Yield one in a lab of its own, with its minion answering and its modules there.

        The logs of a session that failed are kept in artifacts/ under that name.
        """
        # However the session is ended, the lab ends with it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        lab = Lab(f"/var/tmp/store-deploy-{name}.{os.getpid()}")
        salt = os.environ.get("SALT", "3008")
        try:
            lab.up(salt, "root", "none")
            guest = cls(lab, salt, machine)
            guest.start()
            guest.stores_ask("saltutil.sync_all", patience=120)
            yield guest
        finally:
            if request.session.testsfailed and lab.folder.exists():
                kept = REPO / "artifacts" / name
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(lab.root / "var/log", kept)
                shutil.copy(lab.root / "srv" / ID / "console.log", kept)
            lab.down()

    def _write_seed(self, documents: dict[str, str]) -> None:
        head, _, text = documents["user-data"].partition("\n")
        user = json.loads(text)
        # No store server, but a plain minion.
        ours = (seed.BOOTSTRAP, seed.BOOTSTRAP_CONFIG)
        files = [each for each in user["write_files"] if not each["path"].endswith(ours)]
        plain = {**documents, "user-data": f"{head}\n{json.dumps({**user, 'write_files': files})}"}
        with tempfile.TemporaryDirectory() as folder:
            for name, content in plain.items():
                Path(folder, name).write_text(content)
            make = ["xorrisofs", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"]
            subprocess.run(
                [*make, self.folder / "seed.iso", folder], check=True, capture_output=True
            )
