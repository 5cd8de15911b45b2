# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The guest's module, through the real loader, on a folder that stands for a guest's disk."""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess

import pytest
import salt.minion
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storelib import report, seed
from storelib.guest import deployment, leftovers, power

pytest_plugins = ["tests.functional.fake_guest"]

REBOOT_SOON = power.reboot_soon
MAC = "52:54:00:12:34:56"
KEY_LINE = base64.b64encode(b"this is not a key, it only looks like one....!").decode()
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\nMDEyMw==\n-----END PRIVATE KEY-----\n"


STEPS = {
    "boots": {},
    "reboot": {"after": "x"},
    "highstate": {},
    "settle": {},
    "probe": {"checks": []},
    "cleanup": {},
    "facts": {},
}


@pytest.mark.parametrize(("function", "kwargs"), STEPS.items())
def test_a_guest_of_another_deployment_refuses(call, machine, function, kwargs):
    other = {"store": "0816", "generation": 3}
    machine.write("/etc/store-deploy/bootstrap.json", json.dumps(other))
    before = machine.files()
    answer = call(function, **kwargs)
    assert not answer.ok
    assert "is of store 0816, deployment 3" in answer.error
    assert machine.files() == before


@pytest.mark.parametrize(("function", "kwargs"), STEPS.items())
def test_a_job_can_name_every_argument(minion, function, kwargs):
    """Salt 3006 refuses arguments that can only be named."""
    named = {"store": "0815", "generation": 1, **kwargs}
    args, rest = salt.minion.load_args_and_kwargs(
        minion.modules[f"provisioning_helper.{function}"], [{"__kwarg__": True, **named}], {}
    )
    assert (args, rest) == ([], named)


@pytest.mark.parametrize(("function", "kwargs"), STEPS.items())
def test_a_report_is_sealed_if_the_pillar_has_the_secret(
    minion, machine, monkeypatch, function, kwargs
):
    step = minion.modules[f"provisioning_helper.{function}"]
    arguments = {"store": "0816", "generation": 1, **kwargs}
    assert step(**arguments, nonce="jid-7")["seal"] == ""
    pillar = {"store_deploy": {"secret": "5ec7e7"}}
    monkeypatch.setitem(step.__globals__, "__pillar__", pillar)
    told = json.loads(json.dumps(step(**arguments, nonce="jid-7")))
    assert report.believed(told, ["jid-7"], "5ec7e7")
    assert not report.believed(told, ["jid-8"], "5ec7e7")
    assert not report.believed({**told, "ok": True, "error": ""}, ["jid-7"], "5ec7e7")


def test_a_disk_that_refuses_is_reported_in_one_sentence(call, machine):
    machine.write("/var/lib/store-deploy/boots/not-a-file", "")
    answer = call("boots")
    assert answer.error.startswith("boots failed in the guest: ")
    assert "\n" not in answer.error


# boots and reboot


def test_the_boots_are_listed_in_order(call, machine):
    deployment.note_boot()
    machine.boot()
    deployment.note_boot()
    deployment.note_boot()
    deployment.note_handing_over("0815", 1)
    answer = call("boots").facts
    assert answer["boots"] == machine.boot_ids
    assert answer["boot_id"] == machine.boot_ids[-1]
    assert answer["handed_over"] is True
    assert (answer["minion_id"], answer["hostname"]) == ("store-0815", "store-0815")


def test_what_a_guest_has_booted_with_is_on_its_disk_before_the_boot_is_noted(
    call, machine, monkeypatch
):
    noted, synced = machine.root / "var/lib/store-deploy/boots", []
    monkeypatch.setattr(os, "sync", lambda: synced.append(noted.exists()))
    assert call("boots").facts["boots"] == machine.boot_ids
    assert (synced, noted.exists()) == ([False], True)
    # Once a boot: the disk is slow.
    call("boots")
    assert synced == [False]


@pytest.mark.parametrize("question", [{"function": "boots"}, {"function": "reboot", "after": "x"}])
def test_a_boot_is_noted_by_whoever_asks_first(call, machine, question):
    """So the master need not wait for the boot's startup state."""
    answer = call(**question).facts
    assert answer["boots"] == [answer["boot_id"]] == machine.boot_ids
    assert deployment.note_boot() == machine.boot_ids
    assert not deployment.handed_over("0815", 1)


def test_a_server_that_was_deployed_notes_no_boots(call, machine):
    (machine.root / "etc/store-deploy/bootstrap.json").unlink()
    before = machine.files()
    assert call("boots").facts["boots"] == []
    assert machine.files() == before


def test_the_handing_over_of_an_older_deployment_does_not_count(call):
    deployment.note_handing_over("0815", 0)
    assert call("boots").facts["handed_over"] is False


def test_an_order_to_reboot_ends_one_boot_only(call, machine):
    order = machine.boot_ids[0]
    assert call("reboot", after=order).facts["rebooting"] is True
    machine.boot()
    assert call("reboot", after=order).facts["rebooting"] is False
    assert machine.reboots == 1


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put scripts before the machine's own commands; they note how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "calls"
    log.touch()

    def add(says="", **statuses):
        for name, status in statuses.items():
            script = folder / name.replace("_", "-")
            script.write_text(
                f'#!/bin/sh\necho "{script.name} $*" >>{log}\necho {says}\nexit {status}\n'
            )
            script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return add, lambda: log.read_text().splitlines()


def test_the_reboot_is_ordered_from_a_timer_of_the_system(commands):
    add, calls = commands
    add(systemd_run=0, shutdown=0)
    REBOOT_SOON()
    (order,) = calls()
    assert order.startswith("systemd-run --on-active=")
    assert order.endswith(" systemctl reboot")


def test_without_a_timer_the_machine_is_shut_down_in_a_minute(commands):
    add, calls = commands
    add(systemd_run=1, shutdown=0)
    REBOOT_SOON()
    assert calls()[1:] == ["shutdown -r +1"]


def test_a_machine_that_takes_no_order_to_reboot_is_a_fault(call, machine, commands, monkeypatch):
    add, _ = commands
    add(systemd_run=1, shutdown=1)
    monkeypatch.setattr(power, "reboot_soon", REBOOT_SOON)
    answer = call("reboot", after=machine.boot_ids[0])
    assert answer.error.startswith("no reboot: systemd-run: ")


def test_a_machine_that_is_going_down_has_its_order_already(call, machine, commands, monkeypatch):
    add, _ = commands
    # What systemd says of a new timer while it stops everything.
    add(says="stopping", systemd_run=1, shutdown=1, systemctl=1)
    monkeypatch.setattr(power, "reboot_soon", REBOOT_SOON)
    assert call("reboot", after=machine.boot_ids[0]).error == ""


# settle


@pytest.fixture
def network(machine):
    """The guest has one network card, named by cloud-init."""
    machine.write("/sys/class/net/eth0/device/vendor", "0x1af4\n")
    machine.write("/sys/class/net/eth0/address", MAC + "\n")
    machine.write("/sys/class/net/lo/address", "00:00:00:00:00:00\n")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/netplan/50-cloud-init.yaml", f"ethernets: {{a: {{match: {{macaddress: {MAC}}}}}}}"),
        ("/etc/network/interfaces.d/50-cloud-init", "auto eth0\niface eth0 inet dhcp\n"),
        ("/etc/NetworkManager/system-connections/a.nmconnection", f"mac-address={MAC.upper()}"),
        ("/etc/sysconfig/network-scripts/ifcfg-eth0", "BOOTPROTO=dhcp\n"),
        ("/etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO=dhcp\n"),
        ("/etc/systemd/network/10-cloud-init-eth0.network", "[Match]\nName=eth0\n"),
        ("/etc/systemd/network/80-dhcp.network", "[Match]\nName=en* eth*\n"),
    ],
)
def test_a_network_that_is_on_the_disk_is_settled(call, machine, network, path, text):
    machine.write(path, text)
    answer = call("settle")
    assert answer.ok, answer.error
    assert answer.facts == {
        "boot_id": machine.boot_ids[-1],
        "cloud_init_off": True,
        "hostname": "store-0815",
        "interfaces": {"eth0": [path]},
    }
    before = machine.files()
    assert call("settle").ok
    assert machine.files() == before


@pytest.mark.parametrize(
    "text", ["", "[Match]\nName=*\n", "[Match]\nName=eth1\n", "# eth0\n", "[Match]\nName=veth0\n"]
)
def test_a_network_that_would_vanish_is_a_fault(call, machine, network, text):
    machine.write("/etc/systemd/network/10-other.network", text)
    answer = call("settle")
    assert "interface eth0 has no configuration that outlives" in answer.error
    assert not machine.at("/etc/cloud/cloud-init.disabled").exists()


def test_the_interface_keeps_the_name_that_cloud_init_gave_it(call, machine, network):
    machine.write("/etc/systemd/network/10-cloud-init-eth0.network", "[Match]\nName=eth0\n")
    call("settle")
    link = machine.at("/etc/systemd/network/10-store-deploy-eth0.link").read_text()
    assert f"MACAddress={MAC}" in link
    assert "Name=eth0" in link


@pytest.fixture(params=["bridge", "ifb", "dummy"])
def on_top(request):
    """Make what has the interface's MAC and is no device, as a site's highstate may do."""
    name, kind = "top0", request.param
    add = ["ip", "link", "add", "name", name, "address", MAC, "type", kind]
    done = subprocess.run(add, check=False, capture_output=True, text=True)
    if "Unknown device type" in done.stderr:
        pytest.skip(f"this kernel has no {kind}")
    assert done.returncode == 0, done.stderr
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def test_udev_gives_the_interfaces_name_to_nothing_on_top_of_it(call, machine, network, on_top):
    machine.write("/etc/systemd/network/10-cloud-init-eth0.network", "[Match]\nName=eth0\n")
    call("settle")
    link = machine.at("/etc/systemd/network/10-store-deploy-eth0.link")
    place = pathlib.Path("/run/systemd/network", link.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(link, place)
    asked = ["udevadm", "test-builtin", "net_setup_link", f"/sys/class/net/{on_top}"]
    told = subprocess.run(asked, check=False, capture_output=True, text=True)
    place.unlink()
    assert "ID_NET_LINK_FILE=" in told.stdout, told.stderr
    assert f"ID_NET_LINK_FILE={place}" not in told.stdout


def test_the_hostname_becomes_static(call, machine):
    machine.write("/etc/hostname", "localhost\n")
    assert call("settle").facts["hostname"] == "store-0815"
    assert machine.at("/etc/hostname").read_text() == "store-0815\n"


# probe


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_serves_passes(call, port):
    checks = [{"tcp": port}, {"command": "test 1 = 1 && echo fine"}]
    answer = call("probe", checks=checks)
    assert answer.ok, answer.error
    assert [result["check"] for result in answer.facts["results"]] == checks
    assert "fine" in answer.facts["results"][1]["detail"]


@pytest.fixture
def ipv6_port():
    """A port that is served on the machine's own IPv6 address only."""
    address, local = "fd00::815", "fe80::815"
    for each in (address, local):
        # Not probed for a twin first: until then nobody can listen on it.
        subprocess.run(["ip", "-6", "address", "add", each, "dev", "lo", "nodad"], check=True)
    with socket.create_server((address, 0), family=socket.AF_INET6) as server:
        yield server.getsockname()[1]
    for each in (address, local):
        subprocess.run(["ip", "-6", "address", "del", each, "dev", "lo"], check=True)


def test_a_port_on_an_ipv6_address_only_takes_connections(call, ipv6_port):
    answer = call("probe", checks=[{"tcp": ipv6_port}])
    assert answer.ok, answer.error
    assert answer.facts["results"][0]["detail"].startswith("fd00::815 port ")
    assert "fd00::815" in answer.facts["addresses"]


def test_an_address_that_means_something_on_one_interface_only_is_not_tried(call, ipv6_port):
    assert "fe80" not in call("probe", checks=[{"tcp": 1}]).error


@pytest.mark.parametrize(
    ("check", "detail"),
    [
        ({"tcp": 1}, "refused"),
        ({"tcp": "http"}, "invalid literal"),
        ({"service": "no-such-service"}, "no-such-service does not run"),
        ({"command": "echo out; echo err >&2; exit 3"}, "status 3: out err"),
    ],
)
def test_each_check_can_fail(call, port, check, detail):
    answer = call("probe", checks=[{"tcp": port}, check])
    assert answer.error.startswith("1 of 2 checks failed")
    assert [result["ok"] for result in answer.facts["results"]] == [True, False]
    assert detail in answer.facts["results"][1]["detail"]


def test_a_service_that_runs_passes(call, stub):
    """No service manager runs on the machine of the tests: a stub answers for it."""
    stub("service.status", lambda name: name == "sshd")
    assert call("probe", checks=[{"service": "sshd"}]).ok


@pytest.mark.parametrize("check", [{"ping": "host"}, {}, {"tcp": 1, "service": "x"}, "tcp"])
def test_an_unknown_check_names_the_known_ones(call, tmp_path, check):
    touched = tmp_path / "touched"
    answer = call("probe", checks=[{"command": f"touch {touched}"}, check])
    assert answer.hint == "a check is one of command, service, tcp"
    assert not touched.exists()


# cleanup


KEPT = {
    "/etc/salt/pki/minion/minion.pem": PRIVATE_KEY,
    "/etc/salt/pki/minion/minion_master.pub": "master's key",
    "/etc/salt/minion_id": "store-0815",
    "/etc/salt/minion.d/10-store-deploy.conf": "master: salt",
    "/etc/ssh/ssh_host_ed25519_key": "host key",
    "/etc/systemd/network/10-cloud-init-eth0.network": "[Match]\nName=eth0\n",
}
REMOVED = {
    "/etc/salt/minion.d/~store-deploy-bootstrap.conf": "startup_states: sls",
    "/etc/venv-salt-minion/minion.d/~store-deploy-bootstrap.conf": "startup_states: sls",
    # Of an earlier version.
    "/etc/salt/minion.d/90-store-deploy-bootstrap.conf": "startup_states: sls",
    "/etc/venv-salt-minion/minion.d/90-store-deploy-bootstrap.conf": "startup_states: sls",
    "/var/lib/store-deploy/boots": "1\n2\n3\n",
    "/var/lib/cloud/instances/store-0815-g1/user-data.txt": PRIVATE_KEY,
    "/var/lib/cloud/instances/store-0815-g1/obj.pkl": PRIVATE_KEY,
    "/var/lib/cloud/seed/nocloud/user-data": PRIVATE_KEY,
    "/var/lib/cloud/data/status.json": "{}",
    "/run/cloud-init/instance-data-sensitive.json": json.dumps(PRIVATE_KEY),
    "/run/cloud-init/combined-cloud-config.json": json.dumps(PRIVATE_KEY),
    "/var/log/cloud-init.log": "a log",
    "/var/log/cloud-init-output.log.1.gz": "a log",
}


@pytest.fixture
def disk(machine):
    """A guest whose deployment is about to end."""
    for path, text in {**KEPT, **REMOVED}.items():
        machine.write(path, text)
    link = machine.at("/var/lib/cloud/instance")
    link.symlink_to("instances/store-0815-g1")
    return machine


def test_bootstrap_data_and_every_copy_of_the_seed_go_and_all_else_stays(call, disk):
    answer = call("cleanup")
    assert answer.ok, answer.error
    assert answer.facts == {"left": [], "registration": []}
    assert {path: disk.at(path).read_text() for path in KEPT} == KEPT
    assert not [path for path in REMOVED if disk.at(path).exists()]
    assert list(disk.at("/var/lib/cloud").iterdir()) == []
    assert not disk.at("/etc/store-deploy").exists()
    assert disk.at("/etc/cloud/cloud-init.disabled").exists()
    holders = [path for path, data in disk.files().items() if KEY_LINE.encode() in data]
    assert holders == [disk.at("/etc/salt/pki/minion/minion.pem")]


def test_a_second_cleanup_changes_nothing(call, disk):
    call("cleanup")
    before = disk.files()
    assert call("cleanup").ok
    assert disk.files() == before


def test_a_cleanup_that_was_killed_is_ended_by_the_next_one(call, disk, monkeypatch):
    """Killed before each removal in turn; in between the guest boots, and must not hand over."""
    real = leftovers._remove
    for _ in range(20):

        def one_then_killed(path, removed=[]):  # noqa: B006
            if removed:
                raise KeyboardInterrupt
            removed.append(path)
            real(path)

        monkeypatch.setattr(leftovers, "_remove", one_then_killed)
        try:
            leftovers.clean()
            break
        except KeyboardInterrupt:
            assert not (leftovers.startup_configured() and not deployment.boots())
    monkeypatch.setattr(leftovers, "_remove", real)
    assert call("cleanup").facts["left"] == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_keys_for_uyuni_are_read_back_as_gone_from_the_grains(
    call, disk, minion, stub, monkeypatch, elsewhere
):
    """The minion that runs has them since its start; the order to refresh them is a stub."""
    refreshed = []
    stub("saltutil.refresh_grains", lambda: refreshed.append(True))
    held = {"susemanager": {"management_key": "re-1-cafe", "activation_key": "1-store"}}
    grains = {**minion.opts["grains"], **held}
    monkeypatch.setitem(
        minion.modules["provisioning_helper.cleanup"].__globals__, "__grains__", grains
    )
    config = pathlib.Path(minion.opts["conf_file"]).parent / "minion.d/90-other.conf"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"grains": held} if elsewhere else {}))
    answer = call("cleanup")
    config.unlink()
    assert refreshed
    assert answer.facts["registration"] == (sorted(held["susemanager"]) if elsewhere else [])
    assert "re-1-cafe" not in str(answer)


def test_a_key_that_is_somewhere_else_is_reported(call, disk):
    disk.write("/etc/cloud/cloud.cfg.d/99-copy.cfg", f"key: |\n   {KEY_LINE}\n")
    answer = call("cleanup")
    assert answer.facts == {"left": ["/etc/cloud/cloud.cfg.d/99-copy.cfg"]}
    assert "could not be removed: /etc/cloud/cloud.cfg.d/99-copy.cfg" in answer.error


def test_a_mounted_seed_is_unmounted(call, disk):
    """A tmpfs is mounted for the seed's CD-ROM: a mount is a mount."""
    device, folder = disk.at("/dev/sr0"), disk.at("/mnt")
    label = disk.at("/dev/disk/by-label/cidata")
    disk.write("/dev/sr0", "")
    label.parent.mkdir(parents=True)
    label.symlink_to(device)
    folder.mkdir()
    disk.at("/proc/self").symlink_to("/proc/self")
    subprocess.run(["mount", "-t", "tmpfs", device, folder], check=True)
    try:
        assert str(folder) in call("facts").facts["left"]
        assert call("cleanup").ok
        assert not os.path.ismount(folder)
    finally:
        subprocess.run(["umount", folder], check=False, capture_output=True)


# facts


def test_the_facts_tell_one_guest_from_another(call, disk):
    public = Ed25519PrivateKey.generate().public_key()
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    disk.write("/etc/ssh/ssh_host_ed25519_key.pub", f"{line} root@store\n")
    disk.write("/etc/ssh/ssh_host_rsa_key.pub", "cut off by a power cut")
    disk.write("/etc/machine-id", "0123456789abcdef\n")
    found = call("facts").facts
    digest = base64.b64encode(hashlib.sha256(base64.b64decode(line.split()[1])).digest()).decode()
    assert found["host_keys"] == {"ssh_host_ed25519_key.pub": f"SHA256:{digest.rstrip('=')}"}
    assert found["machine_id"] == "0123456789abcdef"
    assert found["root_size_mib"] > 0
    assert found["startup_configured"] is True
    call("cleanup")
    after = call("facts").facts
    assert (after["startup_configured"], after["left"]) == (False, [])
    assert {**after, "startup_configured": True, "left": found["left"]} == found


def test_the_module_knows_the_files_that_the_seed_writes():
    spec = {
        "store": "0815",
        "minion_id": "store-0815",
        "hostname": "store-0815",
        "master": "salt",
        "interfaces": [],
    }
    for minion in seed.CONFIG:
        text = seed.documents({**spec, "minion": minion}, 1, "k", "p", "m")["user-data"]
        written = {file["path"] for file in json.loads(text.split("\n", 1)[1])["write_files"]}
        assert seed.BOOTSTRAP in written
        assert written & set(leftovers.bootstrap_configs())
        assert str(pathlib.PurePath(seed.CONFIG[minion], "minion_id")) in written


AFTERWARDS = {
    "master: elsewhere": {"master": "elsewhere"},
    "master: ['a', 'b']": {"master": ["a", "b"]},
    "id: other": {"id": "other"},
    "id: store-0815.example.com": {"append_domain": "example.com"},
    "master: elsewhere, id: other": {"master": "elsewhere", "id": "other"},
}


@pytest.fixture
def configured(minion):
    """Put a file into the minion's own configuration."""
    folder = pathlib.Path(minion.opts["conf_file"]).parent / "minion.d"
    folder.mkdir(exist_ok=True)
    ours, sites = folder / "~store-deploy-bootstrap.conf", folder / "susemanager.conf"
    bootstrap = {"master": minion.opts["master"], "id": minion.opts["id"], "append_domain": ""}
    ours.write_text(json.dumps(bootstrap))
    yield lambda config: sites.write_text(json.dumps(config))
    for path in (ours, sites):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(("told", "config"), AFTERWARDS.items(), ids=AFTERWARDS)
def test_a_guest_that_would_call_elsewhere_afterwards_says_so_and_nothing_is_removed(
    call, disk, configured, told, config
):
    configured(config)
    before = disk.files()
    answer = call("cleanup")
    assert answer.error == f"without the bootstrap data this minion would go by {told}"
    assert disk.files() == before


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"startup_states": "highstate", "saltenv": "site"},
        {"master": ["salt", "b"]},
        {"append_domain": ""},
    ],
)
def test_what_else_a_site_configures_is_its_own_afterwards(call, disk, configured, config):
    configured(config)
    assert call("cleanup").ok


def test_a_configuration_that_salt_cannot_read_is_passed_over_as_salt_does(
    call, disk, configured, minion
):
    configured({})
    main = pathlib.Path(minion.opts["conf_file"])
    before = main.read_text()
    main.write_text("{")
    try:
        assert call("cleanup").ok
    finally:
        main.write_text(before)


def test_a_guest_tells_by_which_settings_it_goes(call, minion):
    assert call("boots").facts["config"] == {
        "master": "salt",
        "id": "store-0815",
        "saltenv": None,
        "sls_list": [],
        "startup_states": "",
    }
