# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How each tool is told to make a bridge, and the change that undoes itself."""

import subprocess

import pytest

from storelib import files
from storelib.errors import Fault
from storelib.hypervisor.setup.network import change, ifupdown, networkd, networkmanager, wicked
from storelib.hypervisor.setup.network import plan as plans
from storelib.hypervisor.setup.network.plan import Bridge, File, Plan, now, of_plain

BRIDGE = Bridge("br0", "eth0", "52:54:00:12:34:56")


# systemd-networkd


def test_networkd_gets_a_copy_of_the_ports_file_for_the_bridge():
    match = "[Match]\nName=eth0\nMACAddress=52:54:00:12:34:56\n"
    own = f"{match}\n[Network]\nDHCP=ipv4\n[Link]\nMTUBytes=9000\n"
    plan = networkd.made(BRIDGE, own, "")
    text = plan.files["/etc/systemd/network/00-store-deploy-br0.network"].text
    assert "[Match]\nName=br0\n" in text
    assert "[Network]\nDHCP=ipv4\n[Link]\nMTUBytes=9000\n" in text
    assert "eth0" not in text
    port = plan.files["/etc/systemd/network/00-store-deploy-br0-port.network"].text
    assert "[Match]\nName=eth0\n\n[Network]\nBridge=br0\n" in port
    assert BRIDGE.mac in plan.files["/etc/systemd/network/00-store-deploy-br0.netdev"].text


def test_networkd_asks_for_its_lease_by_the_number_that_the_port_had():
    lease = "ADDRESS=10.0.2.15\nCLIENTID=ffb6220feb00020000ab11\nT1=3600\n"
    number = networkd._client(lease)
    assert int(number) == 0xB6220FEB
    text = (
        networkd.made(BRIDGE, "", number)
        .files["/etc/systemd/network/00-store-deploy-br0.network"]
        .text
    )
    assert f"[DHCPv4]\nIAID={number}\n" in text


@pytest.mark.parametrize("lease", ["", "CLIENTID=01525400123456\n", "CLIENTID=ff\n"])
def test_a_lease_by_another_identifier_needs_no_number(lease):
    assert networkd._client(lease) == ""


# ifupdown

STATIC = """\
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

auto lo eth0 eth1
allow-hotplug eth0
iface eth0 inet static
    address 192.0.2.7/24
    gateway 192.0.2.1
iface eth0 inet6 auto
iface eth0.5 inet manual
"""


def test_with_ifupdown_the_ports_stanzas_become_the_bridges():
    lines = ifupdown.rewritten(STATIC, BRIDGE).splitlines()
    assert "iface br0 inet static" in lines
    assert "    address 192.0.2.7/24" in lines
    assert "iface br0 inet6 auto" in lines
    assert "iface eth0.5 inet manual" in lines
    assert "auto lo eth1" in lines
    assert "auto br0" in lines
    assert not [line for line in lines if "allow-hotplug" in line]
    made = [line for line in lines if "type bridge" in line]
    assert len(made) == 1
    assert BRIDGE.mac in made[0]


def test_ifupdown_leaves_a_file_without_the_port_as_it_is():
    text = "auto eth1\niface eth1 inet dhcp\n"
    assert ifupdown.rewritten(text, BRIDGE) == text


def test_ifupdown_is_followed_to_the_files_that_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(ifupdown, "INTERFACES", tmp_path / "interfaces")
    (tmp_path / "interfaces.d").mkdir()
    (tmp_path / "interfaces").write_text("source interfaces.d/*\n")
    (tmp_path / "interfaces.d/eth0").write_text("auto eth0\niface eth0 inet dhcp\n")
    plan = ifupdown.plan(BRIDGE)
    assert list(plan.files) == [str(tmp_path / "interfaces.d/eth0")]


# wicked


def test_with_wicked_the_ports_configuration_becomes_the_bridges(tmp_path, monkeypatch):
    monkeypatch.setattr(wicked, "FOLDER", tmp_path)
    (tmp_path / "ifcfg-eth0").write_text("BOOTPROTO='static'\nIPADDR='192.0.2.7/24'\n")
    (tmp_path / "ifroute-eth0").write_text("default 192.0.2.1 - eth0\n")
    plan = wicked.plan(BRIDGE)
    bridge = plan.files[str(tmp_path / "ifcfg-br0")].text
    assert "IPADDR='192.0.2.7/24'\n" in bridge
    assert "BRIDGE='yes'\nBRIDGE_PORTS='eth0'\n" in bridge
    assert "BOOTPROTO='none'" in plan.files[str(tmp_path / "ifcfg-eth0")].text
    assert plan.files[str(tmp_path / "ifroute-br0")].text == "default 192.0.2.1 - br0\n"
    assert plan.files[str(tmp_path / "ifroute-eth0")] is None


# NetworkManager

PROFILE = """\
[connection]
id=Wired connection 1
uuid=2f0c2a6e-6c0f-4d0b-9f0e-0b5a4c1d7e21
type=ethernet
interface-name=eth0

[ethernet]

[ipv4]
address1=192.0.2.7/24,192.0.2.1
dns=192.0.2.53;
method=manual

[ipv6]
method=auto
"""


def test_networkmanager_gets_two_profiles_and_its_own_stays():
    plan = networkmanager.made(BRIDGE, PROFILE, "2f0c2a6e-6c0f-4d0b-9f0e-0b5a4c1d7e21")
    bridge, port = plan.files.values()
    assert "type=bridge\ninterface-name=br0\n" in bridge.text
    assert "address1=192.0.2.7/24,192.0.2.1\ndns=192.0.2.53;\nmethod=manual\n" in bridge.text
    assert f"cloned-mac-address={BRIDGE.mac}" in bridge.text
    assert (
        "interface-name=eth0\nautoconnect-priority=100\nmaster=br0\nslave-type=bridge\n"
        in port.text
    )
    # NetworkManager reads no profile that others may.
    assert {file.mode for file in plan.files.values()} == {0o600}
    assert plan.undo_up[-1][-1] == "2f0c2a6e-6c0f-4d0b-9f0e-0b5a4c1d7e21"


# The change


@pytest.mark.parametrize(
    "plan",
    [
        networkd.made(BRIDGE, "[Match]\nName=eth0\n", ""),
        networkmanager.made(BRIDGE, PROFILE, "2f0c2a6e"),
        Plan({"/a": None, "/b": File("b", 0o600)}, (("a", "b"),), (("c",),), (("d",),), (("e",),)),
    ],
)
def test_a_plan_comes_back_from_its_note_and_can_be_turned_round(plan):
    assert of_plain(plan.plain()) == plan
    before = {path: File("as it was") for path in plan.files}
    assert plan.reversed(before).reversed(plan.files) == plan


class Killed(BaseException):
    """The process is gone, no handler runs."""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A plan for files here, which notes its commands; systemd's commands only say yes."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("systemctl", "systemd-run"):
        (commands / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/said\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setattr(change, "HOME", tmp_path / "home")
    monkeypatch.setattr(change, "UNITS", tmp_path / "units")
    said = tmp_path / "said"
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "changed").write_text("as it was\n")
    (etc / "changed").chmod(0o640)
    (etc / "gone").write_text("it was here\n")
    plan = Plan(
        {
            str(etc / "changed"): File("ours\n"),
            str(etc / "gone"): None,
            str(etc / "new"): File("ours, too\n", 0o600),
        },
        down=(("sh", "-c", f"echo down >> {said}"),),
        up=(("sh", "-c", f"echo up >> {said}"),),
        undo_down=(("sh", "-c", f"echo undo-down >> {said}"),),
        undo_up=(("sh", "-c", f"echo undo-up >> {said}"),),
    )
    return plan, said


def undo(*how):
    """Run the way back as systemd does."""
    script = change.HOME / "undo"
    return subprocess.run(["sh", script, *how], check=False).returncode if script.exists() else 0


def made_and_confirmed(plan):
    change.make(plan, 60)
    change.confirm()


def commands(said):
    return [line for line in said.read_text().splitlines() if not line.startswith("system")]


def test_a_change_that_is_confirmed_stays_and_nothing_of_its_way_back(network):
    plan, said = network
    change.make(plan, 60)
    assert change.pending()
    assert commands(said) == ["down", "up"]
    armed = [line for line in said.read_text().splitlines() if line.startswith("systemd-run")]
    assert len(armed) == 1
    assert "--on-active=60" in armed[0]
    assert change.confirm()
    assert undo() == 0
    assert plans.before(plan.files) == plan.files
    assert not change.HOME.exists()
    assert list(change.UNITS.iterdir()) == []
    assert not change.confirm()


@pytest.mark.parametrize("how", [(), ("boot",)], ids=["in time", "at the next boot"])
def test_a_change_that_nobody_confirms_is_undone(network, how):
    plan, said = network
    before = plans.before(plan.files)
    change.make(plan, 60)
    assert plans.before(plan.files) == plan.files
    assert undo(*how) == 0
    assert plans.before(plan.files) == before
    assert not change.pending()
    assert not change.confirm()
    assert list(change.UNITS.iterdir()) == []
    # At boot nothing is up that could be taken down.
    assert commands(said)[2:] == ([] if how else ["undo-down", "undo-up"])
    assert undo(*how) == 0
    assert plans.before(plan.files) == before


@pytest.mark.parametrize("line", range(12))
def test_killed_anywhere_a_change_is_whole_or_can_be_undone(network, monkeypatch, line):
    plan, _ = network
    before = plans.before(plan.files)
    count = iter(range(100))

    def dying(real):
        def done(*args, **kwargs):
            if next(count) == line:
                raise Killed
            return real(*args, **kwargs)

        return done

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", dying(files.write))
        patched.setattr(change, "run", dying(change.run))
        patched.setattr(change.os, "rename", dying(change.os.rename))
        with pytest.raises(Killed):
            made_and_confirmed(plan)
    if not change.pending() and not (change.HOME / "confirmed").exists():
        assert plans.before(plan.files) == before, "nothing was touched without a way back"
    undo()
    if not (change.HOME / "confirmed").exists():
        assert plans.before(plan.files) == before
    # What is left does not keep the next change from being made.
    change.make(plan, 60)
    assert change.confirm()
    assert plans.before(plan.files) == plan.files


def test_an_undoing_that_was_cut_off_goes_on_at_the_next_boot(network):
    plan, _ = network
    before = plans.before(plan.files)
    change.make(plan, 60)
    (change.HOME / "pending").rename(change.HOME / "undoing")
    assert not change.confirm(), "it has begun"
    assert undo("boot") == 0
    assert plans.before(plan.files) == before


def test_without_its_way_back_the_network_is_not_touched(network, tmp_path):
    plan, said = network
    before = plans.before(plan.files)
    (tmp_path / "bin/systemd-run").write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    with pytest.raises(Fault, match="not touched, for its way back cannot be armed"):
        change.make(plan, 60)
    assert plans.before(plan.files) == before
    assert commands(said) == []
    assert not change.pending()
    assert list(change.UNITS.iterdir()) == []


def test_a_file_keeps_its_mode_on_its_way_back(network, tmp_path):
    plan, _ = network
    change.make(plan, 60)
    undo()
    assert now(str(tmp_path / "etc/changed")).mode == 0o640
