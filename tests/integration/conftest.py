# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A site on the private machine that tests/lab/machine makes: nothing of Salt, libvirt and QEMU is
replaced, and the master's configuration is the shipped one. Only the guests are not what a store
has: stand_in.py says what is in their place.
"""

import logging
import pathlib
import shutil
import subprocess

import pytest
import salt._logging
import stand_in
import store_site

# It would print what was logged once more after pytest's last line.
salt._logging.shutdown_temp_handler()
# Or each look at the bus would be a line in the report of a failed test.
logging.getLogger("salt").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def machine():
    """The private machine, with the lab's own files laid over it."""
    if " /srv/store-deploy " not in pathlib.Path("/proc/self/mountinfo").read_text():
        pytest.fail("run this by `make integration`: it starts daemons at their usual paths")
    shutil.copytree(store_site.LAB, "/", dirs_exist_ok=True)
    subprocess.run(["ip", "address", "add", store_site.ADDRESS, "dev", "lo"], check=True)
    hooks = pathlib.Path("/etc/libvirt/hooks")
    (hooks / "refusals").mkdir(parents=True)
    shutil.copy(store_site.HERE / "refuse-start", hooks / "qemu")


@pytest.fixture(scope="session")
def image():
    """An image that QEMU can start; nothing is on it."""
    path = store_site.POOL / "image.qcow2"
    store_site.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
    store_site.run("qemu-io", "-c", "write -P 0x5a 0 1M", path)
    return path


@pytest.fixture(scope="session")
def site(machine, image):
    """The running site, with a minion, a domain and an autosign entry that are none of ours."""
    logd = subprocess.Popen(["virtlogd"])
    libvirtd, master = store_site.Libvirtd(), store_site.Master()
    stand_ins = stand_in.StandIns()
    libvirtd.start()
    master.start()
    stand_ins.follow()
    # The engine may have been first.
    store_site.STATE_DIR.mkdir(mode=0o700, exist_ok=True)
    store_site.AUTOSIGN.write_text("site-minion\n")
    store_site.AUTOSIGN.chmod(0o600)
    (store_site.PKI / "minions_pre" / "site-minion").write_text("a key\n")
    site = store_site.Site(master, libvirtd, stand_ins, image)
    site.define("site-domain")
    yield site
    for daemon in (*site.hypervisors.values(), master, libvirtd):
        daemon.kill()
    for process in stand_ins.processes.values():
        process.kill()
    logd.kill()


@pytest.fixture
def master(site):
    """The master, started anew with what a test wants, and in the end as shipped."""

    def restart(**how):
        site.master.kill()
        site.master.start(**how)

    yield restart
    restart()
