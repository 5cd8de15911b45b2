# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""One store, from nothing to a verified server that gets its address by DHCP."""

import json
import re
import stat
import subprocess
from xml.etree import ElementTree

import pytest
from tests.e2e.stores import GIB, OLD_SERVER, TAKINGS

from storemaster.deployment import lifecycle

TABLE = "echo ', +' | sfdisk --quiet --force --no-reread --no-tell-kernel --partno 1 /dev/vdb"
SMALL_ON_LARGE = """
set -e
echo 'start=2048, size=204800' | sfdisk --quiet --label dos /dev/vdb
udevadm settle --timeout=30
mkfs.ext4 -q -F /dev/vdb1
mount /dev/vdb1 /mnt
{earlier}
echo begun
"""
"""A file system of 100 MiB, and what an earlier growing of it has come to."""

SLOW_GROWTH = """
mkdir -p /run/systemd/system/grow-root.service.d
cat > /run/systemd/system/grow-root.service.d/slow.conf <<END
[Service]
ExecStartPre=sleep 10
ExecStartPost=sh -c 'echo grown > /srv/grown; sync'
END
systemctl daemon-reload && systemctl start --no-block grow-root && echo begun
"""
"""A reboot has to wait for its end."""


def _size(stores, mounted):
    """Size of a file system of the server, in bytes."""
    blocks, of_bytes = stores.sh("0815", f"stat -f -c '%b %S' {mounted}").split()
    return int(blocks) * int(of_bytes)


def test_one_command_ends_with_a_deployed_store(deployed):
    assert deployed.answer["state"] == "deployed"
    assert (deployed.answer["store"], deployed.answer["generation"]) == ("0815", 1)


def test_the_operator_saw_each_state_as_it_was_entered(deployed):
    shown = re.findall(r"^ *[\d.]+ s  (\w+)  ", deployed.progress, re.MULTILINE)
    assert shown == [*(state.name for state in lifecycle.PATH), "deployed"]


def test_the_domain_runs_and_starts_with_its_hypervisor(stores, deployed):
    told = stores.virsh("dominfo", "store-0815")
    assert re.search(r"^State: +running$", told, re.MULTILINE)
    assert re.search(r"^Autostart: +enable$", told, re.MULTILINE)
    assert re.search(r"^Persistent: +yes$", told, re.MULTILINE)


@pytest.mark.parametrize("which", [[], ["--inactive"]], ids=["running", "defined"])
def test_the_seed_is_in_no_drive(stores, deployed, which):
    disks = stores.virsh("domblklist", "store-0815", *which)
    assert "store-0815.qcow2" in disks
    assert "store-0815-data.qcow2" in disks
    assert "seed" not in stores.xml("0815", *which)


def test_the_seed_is_gone_from_the_hypervisors_disk(stores, deployed):
    # Also not half written.
    assert not list(stores.pool.rglob("*store-0815*seed*"))
    assert "store-0815" not in stores.read("ls", "-A", "/run")


def test_the_disk_is_an_independent_one_of_the_size_asked_for(stores, deployed):
    read = ["qemu-img", "info", "--force-share", "--output=json", stores.disk("0815")]
    told = json.loads(subprocess.run(read, check=True, capture_output=True, timeout=60).stdout)
    assert (told["format"], told["virtual-size"]) == ("qcow2", 6 * GIB)
    assert "backing-filename" not in told
    assert stat.S_IMODE(stores.disk("0815").stat().st_mode) == 0o600


def test_the_guest_uses_the_whole_disk(stores, deployed):
    assert _size(stores, "/") > 5 * GIB


def test_nothing_of_the_domain_listens_on_the_network(stores, deployed):
    devices = ElementTree.fromstring(stores.xml("0815")).find("devices")
    assert devices.find("graphics") is None
    assert {each.get("type") for each in devices.iter("serial")} == {"pty"}
    assert {each.get("type") for each in devices.iter("console")} == {"pty"}
    listening = stores.read("ss", "--listening", "--tcp", "--numeric", "--processes")
    assert "127.0.0.1:4506" in listening
    assert "qemu" not in listening


def test_the_accepted_key_is_the_guests_own_and_the_only_one(stores, deployed):
    own = stores.sh("0815", "cat /etc/salt/pki/minion/minion.pub")
    assert stores.keys("0815") == {"minions": own}


def test_the_guest_has_the_key_that_its_seed_brought(stores, deployed, private_key):
    own = stores.sh("0815", "sha256sum < /etc/salt/pki/minion/minion.pem")
    brought = subprocess.run(["sha256sum"], input=private_key, text=True, capture_output=True)
    assert own == brought.stdout.strip()


def test_the_door_is_shut(stores, deployed):
    assert not stores.autosigned("0815")


def test_the_guest_trusts_the_master_that_deployed_it(stores, deployed):
    trusted = stores.sh("0815", "cat /etc/salt/pki/minion/minion_master.pub")
    assert trusted == stores.master_key().strip()


def test_it_was_switched_on_once_and_booted_three_times(stores, deployed):
    # The log of the console begins anew when a domain is started.
    assert stores.console("0815").count("Loading Linux") == 3


def test_it_runs_in_the_last_of_three_boots(deployed, guest):
    boots = deployed.answer["evidence"]["boot_ids"]
    assert len(boots) == len(set(boots)) == 3
    assert guest["boot_id"] == boots[-1]


def test_it_got_its_address_by_dhcp_and_its_name_from_the_pillar(guest, deployed):
    assert (guest["address"], guest["gateway"]) == ("10.0.2.15/24", "10.0.2.2")
    # What would stand in the DNS.
    assert "10.0.2.15" in deployed.answer["evidence"]["probes"]["addresses"]
    assert guest["hostname"] in ("store-0815", "store-0815.example.com")


def test_its_highstate_used_the_stores_own_pillar(stores, deployed):
    assert stores.sh("0815", "cat /srv/demo/hello") == "Hello from store 0815"
    known = stores.ask("0815", "pillar.ls")
    assert "greeting" in known
    assert "store_server" not in known


def test_nothing_of_the_bootstrap_is_left_in_the_guest(stores, deployed):
    left = stores.sh(
        "0815",
        "find /etc/store-deploy/bootstrap.json /etc/salt/minion.d/*bootstrap* "
        "/var/lib/store-deploy /var/lib/cloud /run/cloud-init /var/log/cloud-init* 2>/dev/null",
    )
    assert set(left.split()) <= {"/var/lib/cloud", "/run/cloud-init"}
    # On the disk: the minion that runs was started with them.
    assert stores.sh("0815", "grep -rls startup_states /etc/salt || :") == ""
    assert stores.sh("0815", "test -e /etc/cloud/cloud-init.disabled && echo off") == "off"


def test_the_private_key_is_in_one_file_of_the_guest(stores, deployed):
    # The guest looks for it: it must not become a job's argument.
    found = stores.sh(
        "0815",
        "line=$(sed -n 2p /etc/salt/pki/minion/minion.pem); [ ${#line} -ge 60 ] || exit 1\n"
        'grep --recursive --files-with-matches --fixed-strings --devices=skip -e "$line" '
        "/etc /home /opt /root /run /srv /tmp /var 2>/dev/null",
    )
    assert found == "/etc/salt/pki/minion/minion.pem"


def test_the_private_key_is_nowhere_outside_the_guest(stores, deployed, private_key):
    line = private_key.splitlines()[1]
    assert len(line) >= 60
    look = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--devices=skip"]
    own = stores.disk("0815").name
    found = subprocess.run(
        [*look, f"--exclude={own}", "-e", line, stores.lab.folder],
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert found.stdout == ""


def test_root_is_locked(stores, deployed):
    assert re.match(r"root:[!*]", stores.sh("0815", "getent shadow root"))


def test_another_reboot_brings_the_same_server_back(stores, guest):
    stores.sh("0815", f"echo '{OLD_SERVER}' > /srv/old-server; sync")
    assert stores.sh("0815", SLOW_GROWTH) == "begun"
    now = stores.restarted("0815", "reboot")
    assert stores.sh("0815", "cat /srv/grown; rm /srv/grown") == "grown"
    assert now.pop("boot_id") != guest["boot_id"]
    assert now == {name: value for name, value in guest.items() if name != "boot_id"}


@pytest.mark.parametrize(
    "earlier",
    ["true", TABLE, f"{TABLE}; partx --update --nr 1 /dev/vdb"],
    ids=["no earlier run", "ended after the table", "ended before the file system"],
)
def test_a_disk_is_grown_to_its_end_whatever_an_earlier_boot_left_half_done(
    stores, deployed, earlier
):
    # On the data disk, which nobody uses yet; a guest was rebooted in between once.
    begun = stores.sh("0815", SMALL_ON_LARGE.format(earlier=earlier))
    grown = stores.sh("0815", "/usr/lib/store-deploy/grow-root /mnt && echo grown")
    size = _size(stores, "/mnt")
    clean = stores.sh("0815", "umount /mnt && wipefs --all --force /dev/vdb && echo clean")
    assert begun.endswith("begun")
    assert grown.endswith("grown")
    assert clean.endswith("clean")
    assert size > 0.9 * GIB


def test_its_data_disk_can_be_used(stores, deployed):
    used = stores.sh(
        "0815",
        "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && "
        f"echo '{TAKINGS}' > /mnt/takings && umount /mnt && echo done",
    )
    assert used == "done"
