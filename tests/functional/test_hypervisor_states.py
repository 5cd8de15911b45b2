# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The states of ``store_hypervisor``: what they are on each distribution, and what they do here.

The bridge under a live minion is in e2e/test_hypervisor_states.py, for it needs systemd.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from tests.functional.os_releases import OS_RELEASES

from storelib.hypervisor.setup import bridge, made

pytest_plugins = ["tests.functional.fake_guest"]

REPO = pathlib.Path(__file__).resolve().parents[2]
SLS = sorted(
    f"store_hypervisor.{path.stem}" for path in (REPO / "salt/store_hypervisor").glob("*.sls")
)
ALL = {"store_hypervisor": {"virt_type": "xen", "bridge": {"name": "br0", "port": "eth0"}}}

# Sources: xen-system-amd64 and the others of Debian by apt-cache on Debian 12, the same names in
# Debian 13 (tracker.debian.org/pkg/libvirt: the drivers are packages of their own there, and the
# one for Xen is installed no longer by itself); libvirt's daemons by SUSE's Virtualization Guide
# for 15 SP6, chapter "libvirt daemons"; libvirt-daemon-qemu, qemu-x86 on openSUSE by
# openSUSE's cockpit-machines and software.opensuse.org.
FAMILIES = {
    "Debian": {
        "kvm": {"libvirt-daemon-system", "qemu-system-x86", "qemu-utils", "xorriso"},
        "xen": {
            "xen-system-amd64",
            "linux-image-amd64",
            "libvirt-daemon-driver-xen",
            "qemu-system-xen",
        },
        "services": (["libvirtd"], ["libvirtd"]),
    },
    "Suse": {
        "kvm": {"libvirt-daemon-qemu", "qemu-x86", "qemu-tools", "xorriso"},
        "xen": {"xen", "xen-tools", "libvirt-daemon-xen", "kernel-default"},
        "services": (
            ["virtqemud", "virtnetworkd.socket", "virtstoraged.socket"],
            ["virtxend", "virtnetworkd.socket", "virtstoraged.socket"],
        ),
    },
}


@pytest.fixture(scope="module", params=OS_RELEASES)
def distribution(request, tmp_path_factory):
    """Render states as a minion of that distribution does: its os-release is this process's."""
    folder = tmp_path_factory.mktemp("distribution")
    settings = {
        "id": "hv-0815",
        "root_dir": str(folder),
        "file_client": "local",
        "file_roots": {"base": [str(REPO / "salt")]},
        "enable_fqdns_grains": False,
    }
    (folder / "minion").write_text(json.dumps(settings))
    (folder / "os-release").write_text(OS_RELEASES[request.param].lstrip())
    # Salt reads whichever is there; what this machine itself says must not be heard.
    mount = f"mount --bind {folder}/os-release $(readlink -f /etc/os-release)"

    def rendered(pillar, *names):
        script = f'{mount}; exec "$@"'
        program = [sys.executable, REPO / "tests/functional/rendered.py", folder]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *program, json.dumps(pillar), *names],
            text=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(REPO / "salt/_utils")},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return request.param, rendered


def low(shown, sls, function):
    return [each for each in shown[sls] if each["fun"] == function]


@pytest.mark.thorough
def test_every_distribution_gets_its_own_packages_and_services(distribution):
    name, rendered = distribution
    family = "Debian" if name.startswith("Debian") else "Suse"
    wanted = FAMILIES[family]
    for kind, services in zip(("kvm", "xen"), wanted["services"], strict=True):
        told = rendered({"store_hypervisor": {**ALL["store_hypervisor"], "virt_type": kind}}, *SLS)
        release = {"SLES 15 SP6": "15.6"}.get(name, name.split()[-1])
        assert told["grains"]["os_family"] == family
        assert told["grains"]["osrelease"] == release
        shown = told["shown"]
        assert {sls: type(each) for sls, each in shown.items()} == dict.fromkeys(SLS, list)
        (installed,) = low(shown, "store_hypervisor.packages", "installed")
        other = {"kvm": "xen", "xen": "kvm"}[kind]
        assert wanted[kind] <= set(installed["pkgs"])
        assert not (
            wanted[other]
            - wanted[kind]
            - {"qemu-x86", "xorriso", "qemu-utils", "qemu-tools", "libvirt-daemon-system"}
        ) & set(installed["pkgs"])
        running = low(shown, "store_hypervisor.libvirt", "running")
        assert [each["name"] for each in running] == services
        assert bool(low(shown, "store_hypervisor.boot", "booted_by_xen")) is (kind == "xen")
        assert low(shown, "store_hypervisor.bridge", "bridged")[0]["port"] == "eth0"


def test_all_of_them_look_first_and_tell_last(minion):
    shown = minion.modules["state.show_low_sls"]("store_hypervisor", pillar=ALL)
    ours = [each["__id__"] for each in sorted(shown, key=lambda each: each["order"])]
    assert ours[0] == "store_hypervisor-check-description"
    assert ours[-1] == "store_hypervisor-ready-reported"


def test_a_pillar_that_asks_for_no_bridge_gets_none(minion):
    shown = minion.modules["state.show_low_sls"]("store_hypervisor")
    assert {each["fun"] for each in shown} & {"bridged", "booted_by_xen"} == set()


def apply(minion, *args, **kwargs):
    """Apply states; return their results by state ID."""
    returned = minion.modules["state.apply"](*args, **kwargs)
    assert isinstance(returned, dict), returned
    return {result["__id__"]: result for result in returned.values()}


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing is noted before a test, nor after it."""
    made.NOTE.unlink(missing_ok=True)
    yield
    made.NOTE.unlink(missing_ok=True)


# Bad input


@pytest.fixture
def interfaces():
    """Interfaces of this machine: two cards, of which none is configured, and others."""
    commands = (
        "ip link add eth0 type veth peer name eth0-far",
        "ip link add eth1 type veth peer name eth1-far",
        "ip link add bare type bridge",
        "ip link add made type bridge",
        "ip link set eth1 master made",
    )
    for command in commands:
        subprocess.run(command.split(), check=True)
    yield
    for name in ("eth0", "eth1", "bare", "made"):
        subprocess.run(["ip", "link", "del", name], check=True)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"virt_type": "vmware"}, "virt_type is 'vmware', not one of auto, kvm, qemu, xen"),
        ({"colour": "red"}, "colour is not known"),
        ({"default_network": "off"}, "default_network is 'off', not true or false"),
        ({"pool": {"path": "images"}}, "pool.path is 'images', not an absolute path"),
        ({"pool": {"path": "/etc/hostname"}}, "pool.path is /etc/hostname, which is no folder"),
        ({"pool": {"size": 3}}, "pool.size is not known"),
        ({"bridge": "br0"}, "bridge is 'br0', not a mapping"),
        ({"bridge": {"mac": "keep"}}, "bridge.mac is not known; known are name, port"),
        ({"bridge": {"port": "eth7"}}, "bridge.port is 'eth7'; there are "),
        ({"bridge": {"port": "../eth0"}}, "bridge.port is '../eth0'; there are "),
        (
            {"bridge": {"name": "a-bridge-of-stores"}},
            "'a-bridge-of-stores', not a letter and at most",
        ),
        ({"bridge": {"name": "eth0"}}, "eth0 is there, and is no bridge"),
        ({"bridge": {"name": "bare", "port": "eth0"}}, "the bridge bare is there without eth0"),
        ({"bridge": {"port": "bare"}}, "bridge.port bare is a bridge, not a network card"),
        ({"bridge": {"port": "lo"}}, "bridge.port lo is no Ethernet, not a network card"),
        ({"bridge": {"port": "eth1"}}, "bridge.port eth1 is in made already"),
        ({"bridge": {"port": "eth0"}}, "eth0 is configured by none of NetworkManager, wicked, sys"),
        ({"bridge": {"name": "br0"}}, "the default route is over none, not over one"),
        (
            {"bridge": {"port": "eth0", "undo_after_s": 5}},
            "undo_after_s is 5, not a number from 20",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_touched(minion, interfaces, wrong, why):
    refused = apply(minion, "store_hypervisor", pillar={"store_hypervisor": wrong})
    ours = refused["store_hypervisor-check-description"]
    assert ours["result"] is False
    assert ours["comment"].startswith("store_hypervisor is not right: ")
    assert why in ours["comment"]
    assert ours["comment"].endswith(": correct the pillar")
    assert "\n" not in ours["comment"]
    others = {name: each["result"] for name, each in refused.items() if "check" not in name}
    assert set(others.values()) == {False}
    assert not made.NOTE.exists()


def test_all_that_is_wrong_is_told_at_once(minion, interfaces):
    wrong = {"virt_type": "vmware", "pool": {"path": "x"}, "bridge": {"port": "eth7"}}
    told = apply(minion, "store_hypervisor.check", pillar={"store_hypervisor": wrong})
    comment = told["store_hypervisor-check-description"]["comment"]
    assert all(part in comment for part in ("vmware", "pool.path", "eth7"))


def test_a_card_that_two_tools_configure_is_refused(minion, interfaces, tmp_path, monkeypatch):
    # NetworkManager as its command tells it, and ifupdown by what it notes.
    nmcli = tmp_path / "nmcli"
    nmcli.write_text("#!/bin/sh\necho 1f0c2a6e-6c0f-4d0b-9f0e-0b5a4c1d7e21\n")
    nmcli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    state = pathlib.Path("/run/network/ifstate")
    state.parent.mkdir(exist_ok=True)
    state.write_text("lo=lo\neth0=eth0\n")
    told = apply(
        minion, "store_hypervisor.check", pillar={"store_hypervisor": {"bridge": {"port": "eth0"}}}
    )
    state.unlink()
    comment = told["store_hypervisor-check-description"]["comment"]
    assert "eth0 is configured by NetworkManager and ifupdown at once" in comment


def test_a_bridge_that_has_its_card_is_left_alone(minion, interfaces):
    there = {"store_hypervisor": {"bridge": {"name": "made", "port": "eth1"}}}
    ours = apply(minion, "store_hypervisor.bridge", pillar=there)["store_hypervisor-bridge-made"]
    assert (ours["result"], ours["changes"]) == (True, {})
    assert not made.NOTE.exists()


def test_without_a_master_that_answers_the_network_is_not_touched(minion, interfaces, monkeypatch):
    monkeypatch.setattr(bridge, "tool_of", lambda port: bridge.wicked)
    monkeypatch.setattr(bridge.wicked, "plan", lambda of: bridge.Plan({}))
    there = {"store_hypervisor": {"bridge": {"name": "br0", "port": "eth0"}}}
    ours = apply(minion, "store_hypervisor.bridge", pillar=there)["store_hypervisor-bridge-made"]
    assert ours["result"] is False
    assert "the network is not touched, for its master is not reached even now" in ours["comment"]
    assert not made.NOTE.exists()


# Pool and network, with a real libvirt

POOL = "store_hypervisor-pool-running"


@pytest.fixture
def connection(libvirtd):
    import libvirt

    with libvirt.open("qemu:///system") as opened:
        yield opened


@pytest.fixture
def pool(connection, tmp_path):
    """Describe a pool that is not there yet."""
    path = tmp_path / "servers"
    yield {"store_hypervisor": {"pool": {"name": "servers", "path": str(path)}}}
    for each in connection.listAllStoragePools():
        if each.isActive():
            each.destroy()
        each.undefine()


def test_a_pool_is_made_and_a_second_run_changes_nothing(minion, connection, pool, tmp_path):
    would = apply(minion, "store_hypervisor.pool", pillar=pool, test=True)[POOL]
    assert would["result"] is None
    assert not (tmp_path / "servers").exists()
    assert not made.NOTE.exists()
    ours = apply(minion, "store_hypervisor.pool", pillar=pool)[POOL]
    assert ours["result"] is True, ours["comment"]
    assert (
        set(ours["changes"])
        == set(would["changes"])
        == {"folder", "defined", "active", "autostart"}
    )
    found = connection.storagePoolLookupByName("servers")
    assert (found.isActive(), found.autostart()) == (1, 1)
    for more in ({}, {"test": True}):
        again = apply(minion, "store_hypervisor.pool", pillar=pool, **more)[POOL]
        assert (again["result"], again["changes"]) == (True, {})


def test_a_pool_of_that_name_elsewhere_is_refused(minion, connection, pool, tmp_path):
    connection.storagePoolDefineXML(
        f"<pool type='dir'><name>servers</name><target><path>{tmp_path}</path></target></pool>"
    )
    ours = apply(minion, "store_hypervisor.pool", pillar=pool)[POOL]
    assert ours["result"] is False
    assert f"libvirt's pool servers is {tmp_path}, not {tmp_path}/servers" in ours["comment"]


NETWORK = """<network><name>default</name><bridge name="virbr9"/></network>"""
OFF = {"store_hypervisor": {"service": None}}
DEFAULT = "store_hypervisor-libvirt-default-network"


@pytest.fixture
def network(connection):
    """The network that libvirt's packages bring, started with libvirt."""
    found = connection.networkDefineXML(NETWORK)
    found.create()
    found.setAutostart(1)
    yield found
    if found.isActive():
        found.destroy()
    found.undefine()


def test_the_default_network_is_switched_off_and_comes_back(minion, network):
    would = apply(minion, "store_hypervisor.libvirt", pillar=OFF, test=True)[DEFAULT]
    assert (would["result"], network.isActive(), network.autostart()) == (None, 1, 1)
    ours = apply(minion, "store_hypervisor.libvirt", pillar=OFF)[DEFAULT]
    assert (ours["result"], network.isActive(), network.autostart()) == (True, 0, 0)
    again = apply(minion, "store_hypervisor.libvirt", pillar=OFF)[DEFAULT]
    assert (again["result"], again["changes"]) == (True, {})
    cleaned = apply(minion, "store_hypervisor.clean")["store_hypervisor-clean-made"]
    assert cleaned["result"] is True, cleaned["comment"]
    assert (network.isActive(), network.autostart()) == (1, 1)
    assert not made.NOTE.exists()


def test_what_was_made_is_taken_back_and_no_file_of_the_pool(minion, connection, pool, tmp_path):
    apply(minion, "store_hypervisor.pool", pillar=pool)
    file = tmp_path / "servers/notes.txt"
    file.write_text("notes")
    cleaned = apply(minion, "store_hypervisor.clean")["store_hypervisor-clean-made"]
    assert cleaned["result"] is True, cleaned["comment"]
    assert connection.listAllStoragePools() == []
    assert file.read_text() == "notes"
    again = apply(minion, "store_hypervisor.clean")["store_hypervisor-clean-made"]
    assert (again["result"], again["changes"]) == (True, {})


@pytest.mark.parametrize("what", ["domain", "disk", "set-aside server"])
def test_nothing_is_taken_back_while_something_of_a_server_is_there(
    minion, connection, pool, tmp_path, what
):
    apply(minion, "store_hypervisor.pool", pillar=pool)
    servers = tmp_path / "servers"
    domain = None
    if what == "domain":
        domain = connection.defineXML(
            "<domain type='qemu'><name>till</name><memory>32768</memory>"
            "<os><type>hvm</type></os></domain>"
        )
    elif what == "disk":
        command = ["qemu-img", "create", "-q", "-f", "qcow2", servers / "till.qcow2", "1M"]
        subprocess.run(command, check=True)
    else:
        (servers / ".store-deploy/set-aside/till/0001-g1").mkdir(parents=True)
    refused = apply(minion, "store_hypervisor.clean")
    if domain:
        domain.undefine()
    assert {each["result"] for each in refused.values()} == {False}
    assert f"for the {what} " in refused["store_hypervisor-clean-made"]["comment"]
    assert made.noted()["pool"]["name"] == "servers"
    assert connection.storagePoolLookupByName("servers").isActive()
