# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A store's server is replaced by one with a static address, and then put back.

On its way the replacement suffers what a night can bring: :data:`PLAN`. That each fault in each
state ends well is for tests/faults to show; here it is one fault a state, on the real guest, and
in tests/night more of them.
"""

import json
import re
import subprocess
from types import SimpleNamespace

import pytest
from tests.e2e.faults import suffered
from tests.e2e.stores import GIB, MIB, OLD_SERVER, TAKINGS

from storemaster.deployment import lifecycle

STATIC = {
    "name": "eth0",
    "type": "user",
    "address": "10.0.2.20/24",
    "gateway": "10.0.2.2",
    "dns": ["10.0.2.3"],
}


def seen(stores):
    """What an order that is refused must leave as it is."""
    return {
        "domain": stores.xml("0815"),
        "keys": stores.keys("0815"),
        "guest": stores.identity("0815"),
        "record": stores.record("0815"),
    }


@pytest.fixture(scope="module")
def first(stores, guest):
    """The first server, before its replacement."""
    stores.describe(
        "0815",
        hostname="store-0815.example.com",
        data_disks=[{"name": "data", "size_gib": 1}],
        interfaces=[STATIC],
    )
    return SimpleNamespace(
        guest=guest,
        keys=stores.keys("0815"),
        uuid=stores.virsh("domuuid", "store-0815").strip(),
    )


PLAN = {
    "starting": "the master is killed",
    "booting": "libvirtd is killed",
    "rebooting": "the guest's power is cut",
    "configuring": "the guest's minion is killed",
    "restarting": "the hypervisor's minion is killed",
}
"""What happens as soon as the deployment is in each of these states."""


@pytest.fixture(scope="module")
def replaced(stores, first):
    """The outcome of the second deployment, which suffers all faults."""
    return suffered(stores, 2, PLAN)


@pytest.fixture(scope="module")
def second(stores, replaced):
    """What the second server tells of itself."""
    told = stores.identity("0815")
    assert told, "store-0815 does not answer"
    return told


@pytest.fixture(scope="module")
def set_aside(stores, replaced):
    """The folder with what was the first server."""
    (folder,) = (stores.pool / ".store-deploy/set-aside/store-0815").iterdir()
    return folder


def test_without_the_flag_it_is_refused_and_nothing_is_touched(stores, first):
    before = seen(stores)
    outcome = stores.deploy("0815")
    assert outcome.status == 1
    assert outcome.answer["error"] == "store 0815 is deployed"
    assert "redeploy=True" in outcome.answer["hint"]
    assert seen(stores) == before


def test_with_the_flag_the_store_gets_a_new_server(stores, first, replaced, second):
    assert (replaced.answer["state"], replaced.answer["generation"]) == ("deployed", 2)
    assert stores.virsh("domuuid", "store-0815").strip() != first.uuid
    for name in ("boot_id", "machine_id", "minion_key", "ssh_host_keys"):
        assert second[name] != first.guest[name], name


def test_faults_on_its_way_cost_time_and_nothing_else(stores, replaced):
    timeline = stores.salt_run("deploy.history", "'0815'").answer
    states = [row["state"] for row in timeline if row["generation"] == 2]
    assert states == [*(state.name for state in lifecycle.PATH), "deployed"]


def test_the_old_server_is_set_aside_as_a_whole(first, set_aside):
    assert re.fullmatch(r"0001-g1-\d{4}-\d\d-\d\dT\d{6}Z", set_aside.name)
    assert {path.name for path in set_aside.iterdir()} >= {"disk.qcow2", "domain.xml", "minion.pub"}
    assert first.uuid in (set_aside / "domain.xml").read_text()
    assert {"minions": (set_aside / "minion.pub").read_text().strip()} == first.keys
    assert json.loads((set_aside / "set-aside.json").read_text())["generation"] == 1


def test_the_set_aside_disk_is_sound_and_has_the_old_servers_files(set_aside):
    disk = set_aside / "disk.qcow2"
    subprocess.run(["qemu-img", "check", "-q", disk], check=True, timeout=120)
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", disk], check=True, capture_output=True, timeout=60
    )
    assert json.loads(info.stdout)["virtual-size"] == 6 * GIB
    assert disk.stat().st_blocks * 512 > 100 * MIB
    subprocess.run(["grep", "-q", "--fixed-strings", OLD_SERVER, disk], check=True, timeout=120)


def test_the_new_disk_has_none_of_them(stores, replaced):
    assert stores.sh("0815", "ls /srv") == "demo"


def test_the_new_key_is_the_only_one(stores, first, replaced):
    own = stores.sh("0815", "cat /etc/salt/pki/minion/minion.pub")
    assert stores.keys("0815") == {"minions": own}
    assert {"minions": own} != first.keys
    assert not stores.autosigned("0815")


def test_the_data_disk_is_attached_again_with_its_content(stores, replaced):
    assert "store-0815-data.qcow2" in stores.virsh("domblklist", "store-0815")
    read = "mount -o ro /dev/vdb /mnt && cat /mnt/takings; umount /mnt"
    assert stores.sh("0815", read) == TAKINGS


def test_it_runs_in_the_last_of_three_boots(replaced, second):
    boots = replaced.answer["evidence"]["boot_ids"]
    assert len(boots) == len(set(boots)) == 3
    assert second["boot_id"] == boots[-1]


def test_the_new_server_has_the_address_of_the_pillar(second):
    assert (second["address"], second["gateway"]) == ("10.0.2.20/24", "10.0.2.2")


def test_a_power_cut_later_it_is_the_same_server_at_the_same_address(stores, second):
    now = stores.restarted("0815", "destroy", "start")
    assert now.pop("boot_id") != second["boot_id"]
    assert now == {name: value for name, value in second.items() if name != "boot_id"}


@pytest.fixture(scope="module")
def rolled_back(stores, second):
    """The outcome of the rollback to the first server."""
    outcome = stores.salt_run("deploy.rollback", "'0815'", seconds=1500)
    assert outcome.status == 0, outcome
    return outcome


def test_a_rollback_brings_the_first_server_back_as_it_was(stores, first, rolled_back):
    assert stores.virsh("domuuid", "store-0815").strip() == first.uuid
    assert stores.keys("0815") == first.keys
    now = stores.identity("0815")
    assert now.pop("boot_id") != first.guest["boot_id"]
    assert now == {name: value for name, value in first.guest.items() if name != "boot_id"}
    assert OLD_SERVER in stores.sh("0815", "cat /srv/*", patience=60)


def test_what_the_rollback_replaced_is_set_aside(stores, rolled_back):
    (folder,) = (stores.pool / ".store-deploy/set-aside/store-0815").iterdir()
    assert folder.name.startswith("0002-g2-")
