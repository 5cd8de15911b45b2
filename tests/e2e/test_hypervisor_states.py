# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The states of ``store_hypervisor``, applied for real: a minion becomes a hypervisor, and no more.

The guest runs Debian 12 with systemd-networkd, as the image of kiwi/ does, and has one network
card. Most packages are in its image already (tests/lab/hypervisor-image says why), and libvirt's
QEMU emulates there. The tests are one story, in their order.
"""

import json

import pytest
from tests.e2e.hypervisor import MAC, Hypervisor
from tests.e2e.stores import until

UNDO_S = 25
WANTED = {"store_hypervisor": {"virt_type": "qemu", "bridge": {"name": "br0"}}}
QUICK = {"store_hypervisor": {"bridge": {"name": "br0", "port": "eth0", "undo_after_s": UNDO_S}}}
BRIDGE = "store_hypervisor-bridge-made"

DEAF = "/etc/systemd/network/00-other.network"
"""A file of somebody's that comes before ours, and gives the bridge no address."""

MAKE_DEAF = f"printf '[Match]\\nName=br0\\n' > {DEAF}; sync"
FORGET = "rm -rf /var/lib/store-deploy/network; sync"
WHILE_PENDING = """
systemd-run --collect --quiet sh -c '
    until [ -d /var/lib/store-deploy/network/pending ] && [ -d /sys/class/net/br0 ]; do
        sleep 0.1
    done
    {}
'
"""

TO_IFUPDOWN = """
cat > /etc/network/interfaces <<'END'
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp
END
systemd-run --collect --quiet sh -c '
    systemctl disable --now systemd-networkd.service systemd-networkd.socket
    ip address flush dev eth0
    systemctl enable networking
    systemctl restart networking
'
"""

TO_NETWORKMANAGER = """
cat > /etc/NetworkManager/system-connections/lan.nmconnection <<'END'
[connection]
id=lan
uuid=0a4c3f6e-0000-4000-8000-000000000001
type=ethernet
interface-name=eth0

[ipv4]
method=auto
END
chmod 600 /etc/NetworkManager/system-connections/lan.nmconnection
systemd-run --collect --quiet sh -c '
    ifdown eth0
    echo > /etc/network/interfaces
    systemctl disable networking
    systemctl enable --now NetworkManager
'
"""

CONNECTED = "nmcli --get-values GENERAL.CONNECTION device show eth0"

LIBVIRT = [f"libvirtd{unit}" for unit in (".service", ".socket", "-ro.socket", "-admin.socket")]
DOMAIN = """<domain type="qemu"><name>till</name><memory unit="MiB">32</memory>
<os><type>hvm</type></os>
<devices><interface type="bridge"><source bridge="br0"/></interface></devices></domain>"""


@pytest.fixture(scope="module")
def hypervisor(request):
    """The guest, with its minion answering."""
    with Hypervisor.of_session(request, "hypervisor") as guest:
        # Debian enables what is installed; here that is left to the states.
        guest.sh(f"systemctl disable --now {' '.join(LIBVIRT)}")
        yield guest


def killed_in_between(hypervisor):
    """Have a bridge be made by a minion that is killed meanwhile, and await that it is undone."""
    until_undone = "until [ -d /var/lib/store-deploy/network/undone ]; do sleep 1; done"
    killed = (
        f"systemctl kill --signal=KILL salt-minion; {until_undone}; systemctl start salt-minion"
    )
    hypervisor.sh(FORGET + WHILE_PENDING.format(killed))
    hypervisor.order("store_hypervisor.bridge", QUICK)
    done = "ls -d /var/lib/store-deploy/network/undone"
    until(lambda: hypervisor.sh(done, 5).startswith("/var"), 300, "the bridge is undone", 2)


def made_and_taken_back(hypervisor, by):
    """Assert that a bridge is made by what has the network, stays, and is taken back."""
    ours = hypervisor.apply("store_hypervisor.bridge", QUICK)[BRIDGE]
    assert ours["result"] is True, ours["comment"]
    assert ours["changes"]["br0"]["new"] == f"bridge of eth0, by {by}"
    facts = hypervisor.facts()
    assert (facts["br0"], facts["eth0"]) == ("10.0.2.15/24", "")
    assert (facts["route"], facts["mac"], facts["ports"]) == ("10.0.2.2 br0", MAC, "eth0")
    again = hypervisor.apply("store_hypervisor.bridge", QUICK)[BRIDGE]
    assert (again["result"], again["changes"]) == (True, {})
    hypervisor.reboot()
    assert hypervisor.facts() == {**facts, "boot_id": hypervisor.facts()["boot_id"]}
    done = hypervisor.apply("store_hypervisor.clean", {})
    assert {name: each["comment"] for name, each in done.items() if not each["result"]} == {}
    as_it_was(hypervisor.facts())


def as_it_was(facts):
    """Assert that the network is the one that the guest booted with."""
    assert facts["eth0"] == "10.0.2.15/24"
    assert facts["route"] == "10.0.2.2 eth0"
    assert {name: facts[name] for name in ("br0", "ports", "files", "units")} == {
        "br0": "",
        "ports": "",
        "files": "",
        "units": "",
    }
    assert facts["timers"] == "0"


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(hypervisor):
    before = hypervisor.facts()
    as_it_was(before)
    would = hypervisor.apply("store_hypervisor", WANTED, "test=True")
    assert [name for name, each in would.items() if each["result"] is False] == []
    for name in ("packages-installed", "libvirt-libvirtd", "pool-running", "bridge-made"):
        assert would[f"store_hypervisor-{name}"]["result"] is None, name
    assert hypervisor.facts() == before
    assert "xorriso" not in hypervisor.sh("dpkg --get-selections")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [({"virt_type": "vmware", "bridge": {"port": "eth7"}}, "'vmware', not one of auto, kvm, qemu")],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(hypervisor, wrong, why):
    refused = hypervisor.apply("store_hypervisor", {"store_hypervisor": wrong})
    assert why in refused["store_hypervisor-check-description"]["comment"]
    assert {each["result"] for each in refused.values()} == {False}
    as_it_was(hypervisor.facts())
    assert hypervisor.facts()["note"] == ""


def test_a_bridge_that_leads_to_no_master_is_undone_by_itself(hypervisor):
    hypervisor.sh(MAKE_DEAF)
    ours = hypervisor.apply("store_hypervisor.bridge", QUICK)[BRIDGE]
    assert ours["result"] is False
    assert (
        f"was undone, for within {UNDO_S} s there was no default route over br0" in ours["comment"]
    )
    as_it_was(hypervisor.facts())
    assert hypervisor.facts()["note"] == ""


def test_it_is_undone_when_the_minion_is_killed_in_between(hypervisor):
    killed_in_between(hypervisor)
    as_it_was(hypervisor.facts())


def test_it_is_undone_at_the_next_boot_when_the_power_fails_in_between(hypervisor):
    before = hypervisor.facts()["boot_id"]
    # Long enough for its reboot, and nobody confirms it.
    late = {"store_hypervisor": {"bridge": {"name": "br0", "undo_after_s": 600}}}
    hypervisor.sh(FORGET + WHILE_PENDING.format("echo b > /proc/sysrq-trigger"))
    hypervisor.order("store_hypervisor.bridge", late)
    until(lambda: hypervisor.facts().get("boot_id", before) != before, 600, "another boot", 2)
    as_it_was(hypervisor.facts())
    assert "undone" in hypervisor.sh("ls /var/lib/store-deploy/network")
    hypervisor.sh(f"rm {DEAF}")


def test_a_minion_becomes_a_hypervisor_and_still_answers(hypervisor):
    made = hypervisor.apply("store_hypervisor", WANTED)
    assert {name: each["comment"] for name, each in made.items() if not each["result"]} == {}
    for name in ("packages-installed", "libvirt-libvirtd", "pool-running", "bridge-made"):
        assert made[f"store_hypervisor-{name}"]["changes"], name
    facts = hypervisor.facts()
    assert (facts["br0"], facts["eth0"]) == ("10.0.2.15/24", "")
    assert (facts["route"], facts["mac"], facts["ports"]) == ("10.0.2.2 br0", MAC, "eth0")
    assert (facts["units"], facts["timers"]) == ("", "0")
    assert "xorriso" in hypervisor.sh("dpkg --get-selections")
    assert hypervisor.sh("systemctl is-enabled libvirtd; systemctl is-active libvirtd") == (
        "enabled\nactive"
    )
    pool = hypervisor.sh("virsh pool-info default")
    assert "running" in pool
    assert hypervisor.sh("virsh net-list --name").strip() == ""


def test_a_second_run_changes_nothing_and_a_dry_run_says_so(hypervisor):
    for more in ((), ("test=True",)):
        again = hypervisor.apply("store_hypervisor", WANTED, *more)
        # The end of a highstate is told anew each time, and not in a dry run.
        ready = again.pop("store_hypervisor-ready-reported")
        assert ready["result"] is (None if more else True)
        assert {each["result"] for each in again.values()} == {True}
        assert {name: each["changes"] for name, each in again.items() if each["changes"]} == {}


def test_the_bridge_is_still_there_after_a_reboot(hypervisor):
    before = hypervisor.facts()
    hypervisor.reboot()
    now = hypervisor.facts()
    assert now.pop("boot_id") != before.pop("boot_id")
    assert now == before


def test_a_server_can_be_attached_to_the_bridge(hypervisor):
    hypervisor.sh(f"cat > /root/till.xml <<'END'\n{DOMAIN}\nEND\nvirsh define /root/till.xml")
    assert "started" in hypervisor.sh("virsh start till", 120)
    assert "vnet" in hypervisor.facts()["ports"]
    hypervisor.sh("virsh destroy till")


def test_nothing_is_taken_back_while_something_of_a_server_is_there(hypervisor):
    images = "/var/lib/libvirt/images"
    own = f"{images}/.store-deploy"
    there = {
        "the domain till": "virsh undefine till",
        f"the disk {images}/x.qcow2": f"rm {images}/x.qcow2",
        f"the set-aside server {own}/set-aside/x/1": f"rm -r {own}",
    }
    hypervisor.sh(
        f"qemu-img create -q -f qcow2 {images}/x.qcow2 1M; "
        f"mkdir -p {own}/set-aside/x/1; echo notes > {images}/notes.txt"
    )
    before = hypervisor.facts()
    for what, gone in there.items():
        refused = hypervisor.apply("store_hypervisor.clean", {})
        assert f"nothing is taken back, for {what} is there" in str(refused)
        assert {each["result"] for each in refused.values()} == {False}
        assert hypervisor.facts() == before
        hypervisor.sh(gone)


def test_what_was_made_is_taken_back_and_the_minion_still_answers(hypervisor):
    would = hypervisor.apply("store_hypervisor.clean", {}, "test=True")
    assert would["store_hypervisor-clean-made"]["result"] is None
    assert hypervisor.facts()["ports"] == "eth0"
    done = hypervisor.apply("store_hypervisor.clean", {})
    assert {name: each["comment"] for name, each in done.items() if not each["result"]} == {}
    as_it_was(hypervisor.facts())
    assert hypervisor.facts()["note"] == ""
    assert hypervisor.sh("cat /var/lib/libvirt/images/notes.txt") == "notes"
    assert hypervisor.sh("systemctl is-enabled libvirtd || :").splitlines()[-1] == "disabled"
    again = hypervisor.apply("store_hypervisor.clean", {})
    assert {json.dumps(each["changes"]) for each in again.values()} == {"{}"}


def test_with_ifupdown_the_bridge_is_made_and_taken_back_too(hypervisor):
    hypervisor.sh(TO_IFUPDOWN)
    until(lambda: hypervisor.sh("cat /run/network/ifstate", 5).endswith("eth0=eth0"), 120, "ifup")
    as_it_was(hypervisor.facts())
    made_and_taken_back(hypervisor, "ifupdown")
    assert hypervisor.sh("cat /etc/network/interfaces").endswith("iface eth0 inet dhcp")


def test_with_networkmanager_it_is_made_undone_and_taken_back_too(hypervisor):
    hypervisor.sh(TO_NETWORKMANAGER)
    until(lambda: hypervisor.sh(CONNECTED, 5).endswith("lan"), 180, "NetworkManager connects")
    as_it_was(hypervisor.facts())
    killed_in_between(hypervisor)
    as_it_was(hypervisor.facts())
    hypervisor.sh(FORGET)
    made_and_taken_back(hypervisor, "NetworkManager")
    assert hypervisor.sh("ls /etc/NetworkManager/system-connections") == "lan.nmconnection"
