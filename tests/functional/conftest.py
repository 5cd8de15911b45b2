# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A real libvirt and Salt's real loader, on the private machine that tests/lab/machine makes."""

import pathlib
import shutil
import subprocess
import time

import libvirt
import pytest
import salt._logging
import salt.config
import salt.loader
from tests.uyuni.api import certificate

REPO = pathlib.Path(__file__).resolve().parents[2]

# It would print what was logged once more after pytest's last line.
salt._logging.shutdown_temp_handler()


class Libvirtd:
    """The machine's libvirt daemon, which a test may stop and start again."""

    def __init__(self):
        libvirt.registerErrorHandler(lambda *_: None, None)
        shutil.copy(REPO / "tests/lab/root/etc/libvirt/qemu.conf", "/etc/libvirt")
        self.logd = subprocess.Popen(["virtlogd"])
        self.daemon = None

    def start(self):
        self.daemon = subprocess.Popen(["libvirtd"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                libvirt.open("qemu:///system").close()
                return
            except libvirt.libvirtError:
                assert time.monotonic() < deadline, "libvirtd does not answer"
                time.sleep(0.1)

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait()

    def close(self):
        with libvirt.open("qemu:///system") as connection:
            for domain in connection.listAllDomains():
                if domain.isActive():
                    domain.destroy()
        self.stop()
        self.logd.terminate()
        self.logd.wait()


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """The certificate of a server on this machine, and its key."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def libvirtd():
    """Run libvirt as a hypervisor would."""
    if " /srv/store-deploy " not in pathlib.Path("/proc/self/mountinfo").read_text():
        pytest.fail("run this inside tests/lab/machine: it starts libvirtd")
    daemon = Libvirtd()
    daemon.start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="session")
def minion_opts(tmp_path_factory):
    """Options of a minion without a master that serves its own files from ``files``."""
    root = tmp_path_factory.mktemp("minion")
    (root / "files").mkdir()
    opts = salt.config.apply_minion_config(
        {
            "id": "hv-0815",
            "root_dir": str(root),
            "file_client": "local",
            "file_roots": {"base": [str(root / "files")]},
            "pillar_roots": {"base": [str(root / "pillar")]},
            "module_dirs": [str(REPO)],
            # Made in a moment, and not the default: a guest's key must have this size.
            "keysize": 1024,
        }
    )
    opts["grains"] = salt.loader.grains(opts)
    return opts


@pytest.fixture(scope="module")
def context():
    """What the execution modules see as ``__context__``."""
    return {}


@pytest.fixture(scope="module")
def modules(minion_opts, context):
    """Execution modules as a minion loads them."""
    return salt.loader.minion_mods(minion_opts, context=context)
