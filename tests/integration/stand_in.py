# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Stand-ins for the guests: where a domain runs, a real minion process runs.

QEMU runs an empty disk. What a boot would prove is left to the end-to-end tests; here the seed of
the running domain is read from the CD in its drive, and its files are given to a minion in
namespaces of its own (``stand-in-init``), which lives as long as the domain does.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

HERE = pathlib.Path(__file__).parent
HOME = pathlib.Path("/srv/stand-ins")
IMAGE = HERE.parents[1] / "kiwi" / "root"
URI = "qemu:///system"
SHUTDOWN_S = 0.5


class StandIns:
    """One for each domain that runs."""

    def __init__(self):
        self.absent = set()
        """Names of domains in which nothing boots."""
        self.impostors = set()
        """Names of domains whose minion makes a key pair of its own."""
        self.misled = set()
        """Names of domains whose seed carries the key of another master."""
        self.minion = {}
        """Configuration of their minions, beside that of image and seed."""
        self.images = {}
        """What the image of a domain has in ``minion.d``: files' content by name, by domain."""
        self.with_modules = set()
        """Names of domains whose image has our modules, as that of ``kiwi/build`` has."""
        self.processes = {}
        self.inodes = {}
        """Inode numbers of the system disks whose files are in the domains' folders."""
        self.connection = None
        libvirt.registerErrorHandler(lambda *_: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._loop, daemon=True).start()

    @staticmethod
    def _loop():
        while True:
            libvirt.virEventRunDefaultImpl()

    def follow(self):
        """Listen to libvirt; again after it was restarted."""
        self.connection = libvirt.open(URI)
        lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self.connection.domainEventRegisterAny(None, lifecycle, self._changed, None)
        libvirt_qemu.qemuMonitorEventRegister(
            self.connection, None, "POWERDOWN", self._power_button, None
        )
        # What began or ended while nobody listened.
        running = {
            domain.name() for domain in self.connection.listAllDomains() if domain.isActive()
        }
        for name in set(self.processes) - running:
            self.processes.pop(name).kill()
        for name in running - set(self.processes) - self.absent:
            self._power_on(name)

    def _changed(self, _connection, domain, event, _detail, _opaque):
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED and domain.name() not in self.absent:
            threading.Thread(target=self._power_on, args=[domain.name()]).start()
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED and domain.name() in self.processes:
            self.processes.pop(domain.name()).kill()

    def _power_button(self, _connection, domain, *_):
        # An operating system would shut down in an orderly way.
        threading.Timer(SHUTDOWN_S, domain.destroy).start()

    def _power_on(self, name):
        self._put_in(name)
        iso = self._inserted_cd(name)
        if iso is not None:
            self._first_boot(name, iso)
        hostname = (self.disk(name) / "etc/hostname").read_text().strip()
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--mount-proc")
        unshare = ("unshare", *namespaces, "--fork", "--kill-child")
        self.processes[name] = subprocess.Popen(
            [*unshare, HERE / "stand-in-init", self.disk(name), hostname]
        )

    def kill_minion(self, name):
        """Kill the guest's minion with its jobs; its system starts it again."""
        self.signal_minion(name, signal.SIGKILL)

    def signal_minion(self, name, how):
        """Send a signal to the guest's minion and its jobs."""
        space = os.readlink(self._init(name) / "ns/pid")
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = os.readlink(path / "ns/pid") == space
                if ours and b"/salt-minion" in (path / "cmdline").read_bytes():
                    os.kill(int(path.name), how)

    def is_down(self, name):
        """Say whether the guest went down for a reboot and no boot followed (``stays-down``)."""
        return (self._init(name) / "comm").read_text() == "sleep\n"

    def _init(self, name):
        """The first process of the guest, as a folder of ``/proc``."""
        unshare = self.processes[name].pid
        (init,) = pathlib.Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        return pathlib.Path("/proc", init)

    def disk(self, name):
        """Folder of what a guest would have on its disk."""
        return HOME / name

    def _put_in(self, name):
        """Take the folder that belongs to the system disk of the domain, wherever that was."""
        described = ElementTree.fromstring(self.connection.lookupByName(name).XMLDesc())
        disk = described.find("devices/disk[@device='disk']/source").get("file")
        inode = pathlib.Path(disk).stat().st_ino
        present = self.inodes.get(name)
        if present not in (None, inode):
            self.disk(name).rename(HOME / f"disk-{present}")
        if (HOME / f"disk-{inode}").exists():
            (HOME / f"disk-{inode}").rename(self.disk(name))
        self.disk(name).mkdir(parents=True, exist_ok=True)
        self.inodes[name] = inode

    def _inserted_cd(self, name):
        domain = self.connection.lookupByName(name)
        described = ElementTree.fromstring(domain.XMLDesc())
        source = described.find("devices/disk[@device='cdrom']/source")
        return None if source is None else source.get("file")

    def _first_boot(self, name, iso):
        """Do with the seed what cloud-init does; on the disk is what the image has."""
        disk = self.disk(name)
        shutil.rmtree(disk)
        for folder in ("srv/bin", "var/cache", "var/lib/cloud/instance", "var/log", "var/tmp"):
            (disk / folder).mkdir(parents=True)
        (disk / "var/run").symlink_to("/run")
        subprocess.run(["cp", "-a", "--one-file-system", "/etc", disk], check=True)
        for masters in ("lab-pillar", "pki"):
            shutil.rmtree(disk / "etc/salt" / masters)
        shutil.copy("/etc/passwd", disk / "etc/passwd")
        shutil.copytree(IMAGE / "etc/salt", disk / "etc/salt", dirs_exist_ok=True)
        for file, content in {"80-stand-in.conf": self.minion, **self.images.get(name, {})}.items():
            (disk / "etc/salt/minion.d" / file).write_text(json.dumps(content))
        for kind in ("modules", "states", "utils") if name in self.with_modules else ():
            brought = disk / "var/cache/salt/minion/extmods" / kind
            shutil.copytree(HERE.parents[1] / "salt" / f"_{kind}", brought)
        shutil.copy(HERE / "systemd-run", disk / "srv/bin")
        seed = disk / "var/lib/cloud/instance"
        extract = ["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", seed]
        subprocess.run(extract, check=True, capture_output=True)
        # As cloud-init keeps it.
        (seed / "user-data").chmod(0o600)
        user_data = json.loads((seed / "user-data").read_text().removeprefix("#cloud-config\n"))
        for file in user_data["write_files"]:
            path = disk / file["path"].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file["permissions"], 8))
        (disk / "etc/hostname").write_text(user_data["fqdn"])
        keys = disk / "etc/salt/pki/minion"
        if name in self.impostors:
            for half in ("minion.pem", "minion.pub"):
                (keys / half).unlink()
        # In place of what the seed has: without any it would trust the first master that answers.
        if name in self.misled and (keys / "minion_master.pub").exists():
            # Any key will do that is not this master's.
            shutil.copy(keys / "minion.pub", keys / "minion_master.pub")
