# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A store from the data of Uyuni's forms to verified, in a real guest.

What Uyuni has beside ours are the stand-ins of ``tests/uyuni``; the registration of the guest is
done by the test, as soon as its deployment waits for that.
"""

import json
import os
import shutil
import signal

import pytest
from tests.e2e.stores import PATIENT, Stores, until
from tests.lab.lab import IMAGE, REPO, Lab
from tests.uyuni.site import SILENT, SUSEMANAGER_CONF, UyuniSite

MASTER = "10.0.2.2"
"""Nobody resolves a name there."""


@pytest.fixture(scope="module")
def lab():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab(f"/var/tmp/store-deploy-uyuni.{os.getpid()}")
    try:
        lab.up(os.environ.get("SALT", "3008"), "root", os.environ.get("STORE_DEPLOY_IMAGE"))
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def theirs(lab):
    """The lab's master, as Uyuni's, and the pages of one store."""
    etc = lab.root / "etc/salt"
    image = json.loads((etc / "lab-pillar/image.sls").read_text())["store_server"]["image"]
    for path in (etc / "lab-pillar").iterdir():
        path.unlink()
    master_d = etc / "master.d"
    master_d.unlink()
    master_d.mkdir()
    shutil.copy(SUSEMANAGER_CONF, master_d)
    for path in (REPO / "master.d").glob("*.conf"):
        name = path.name.replace("50-", "zz-")
        (master_d / name).symlink_to(f"/srv/store-deploy/master.d/{path.name}")
    (master_d / "90-listen.conf").write_text("interface: 0.0.0.0\n")
    site = UyuniSite(lab.root)
    assert image["source"] == f"salt://{IMAGE}"
    timeouts = {key: PATIENT[key] for key in ("booting",)}
    defaults = {
        **{"image": image, "cpus": 1, "memory_mib": 1024, "disk_gib": 6, "master": MASTER},
        **{"minion": "salt-minion", "timeouts": timeouts},
        "verify": {"tcp": [22], "command": ["grep -q '^Hello' /srv/demo/hello"]},
    }
    address = {"source": "br0", "address": "10.0.2.15/24", "gateway": MASTER}
    own = {"store": "0815", "auto_deploy": True, "interfaces": {"eth0": address}}
    site.describe("hv-0815", defaults, own)
    return site


@pytest.fixture(scope="module")
def stores(lab, theirs):
    """The store's deployment, begun by the end of its hypervisor's highstate."""
    stores = Stores(lab)
    for words in (
        "link add br0 type bridge",
        f"address add {MASTER}/24 dev br0",
        "link set br0 up",
    ):
        stores.read("ip", *words.split())
    stores.kill_and_start("salt-master")
    until(
        lambda: stores.run("salt", "hv-0815", "test.ping").returncode == 0, 120, "hv-0815 answers"
    )
    stores.read("salt", "--timeout=60", "hv-0815", "saltutil.sync_all", seconds=200)
    stores.read("salt", "--timeout=60", "hv-0815", "state.apply", seconds=200)
    return stores


def test_form_data_in_deployed_out(stores, theirs):
    stores.entered("0815", 1, "configuring")
    until(lambda: SILENT in stores.record("0815").get("reason", ""), 300, "it waits for Uyuni", 5)
    theirs.register("store-0815", pillar={"greeting": "Hello from Uyuni's page"})
    stores.entered("0815", 1, "deployed", "failed")
    record = stores.record("0815")
    assert record["state"] == "deployed", record
    assert stores.sh("0815", "cat /srv/demo/hello") == "Hello from Uyuni's page"
    assert stores.identity("0815")["address"] == "10.0.2.15/24"
